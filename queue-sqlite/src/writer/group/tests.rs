//! What one group of calls does when some of them go wrong.

use std::path::Path;

use queue_core::{EnqueueOutcome, JobState, NewJob, Payload};
use rusqlite::OptionalExtension;
use tempfile::TempDir;

use super::super::Answer;
use super::super::call::Call;
use super::*;
use crate::SqliteOptions;
use crate::open::{Opened, beside, prepare};
use crate::session::{End, Finish};

const STORED: queue_core::Durability = queue_core::Durability::Fsync;

fn store() -> (TempDir, Connection, Outside) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let Opened { place, room, conn, .. } = prepare(&path, &SqliteOptions::default()).unwrap();
    let outside = Outside::new(place, room, Arc::default(), Durability::Fsync);
    (directory, conn, outside)
}

fn checkpoints(conn: &Connection, outside: &Outside) -> Checkpoints {
    let path = Path::new(conn.path().unwrap());
    Checkpoints::start(path, Arc::clone(&outside.place), mpsc::channel(1).0).unwrap()
}

fn commit_group(conn: &mut Connection, calls: Calls, outside: &Outside) -> bool {
    super::commit_group(conn, calls, outside, &mut |_| None)
}

/// A call that writes `duplicates`, which is easy to look at, and then does something else.
fn call(
    then: impl Fn(&mut Session<'_>) -> Result<(), Fault> + Send + 'static,
) -> (Box<dyn Pending>, Answer<i64>) {
    let (call, answer) = Call::new(1, move |session| {
        session.store.duplicates += 1;
        session.conn.execute("UPDATE store SET turn = turn + 0", [])?;
        then(session)?;
        Ok(session.store.duplicates)
    });
    (call, answer)
}

fn saved(conn: &Connection) -> i64 {
    conn.query_row("SELECT duplicates FROM store", [], |row| row.get(0)).unwrap()
}

/// Counts a ready job more in a lane; says how many there were in the file afterwards.
fn count_one(conn: &mut Connection, outside: &Outside) -> rusqlite::Result<i64> {
    let (one, _answer) = call(|session| {
        let job = NewJob::new("k".parse().unwrap(), Payload::raw("x")).limit("tenant:a");
        let lane = session.lanes.of_job(&job.spec)?;
        session.push(lane, End::Tail)?;
        Ok(())
    });
    commit_group(conn, vec![one], outside);
    conn.query_row("SELECT ready FROM lane", [], |row| row.get(0))
}

fn live(conn: &Connection) -> i64 {
    conn.query_row("SELECT live FROM limit_key WHERE name = 'tenant:a'", [], |row| row.get(0))
        .unwrap()
}

#[test]
fn rows_are_known_until_another_connection_commits() {
    let (_directory, mut conn, outside) = store();
    assert_eq!(count_one(&mut conn, &outside), Ok(1));
    assert_eq!(count_one(&mut conn, &outside), Ok(2));
    let other = Connection::open(conn.path().unwrap()).unwrap();
    other.execute_batch("UPDATE lane SET ready = 7; UPDATE limit_key SET live = 7").unwrap();
    assert_eq!((count_one(&mut conn, &outside), live(&conn)), (Ok(8), 8));
    assert_eq!((count_one(&mut conn, &outside), live(&conn)), (Ok(9), 9));
    // Their turn is their place among others: nobody's commit makes them known as they were.
    other.execute_batch("DELETE FROM lane; DELETE FROM limit_key").unwrap();
    assert_eq!((count_one(&mut conn, &outside), live(&conn)), (Ok(1), 1));
}

#[test]
fn what_was_undone_is_not_known() {
    let (_directory, mut conn, mut outside) = store();
    assert_eq!(count_one(&mut conn, &outside), Ok(1));
    outside.commit = |_| Err(failure(rusqlite::ffi::SQLITE_FULL));
    assert_eq!((count_one(&mut conn, &outside), live(&conn)), (Ok(1), 1));
    outside.commit = commit;
    assert_eq!((count_one(&mut conn, &outside), live(&conn)), (Ok(2), 2));
}

/// An enqueue of a job of this tenant that says how many ready jobs its lane has in the file.
fn joined(outside: &Outside, tenant: &str) -> (Box<dyn Pending>, Answer<Option<i64>>) {
    let room = outside.room.clone();
    let new =
        NewJob::new("k".parse().unwrap(), Payload::raw("x")).limit(format!("tenant:{tenant}"));
    let limits = format!("tenant:{tenant}");
    let (call, answer) = Call::new(1, move |session| {
        let jobs = [new.clone()];
        crate::backend::enqueue_for_tests(session, &jobs, STORED, &room)?;
        let mut written =
            session.conn.prepare_cached("SELECT ready FROM lane WHERE limits = ?1")?;
        Ok(written.query_row([&limits], |row| row.get(0)).optional()?)
    });
    (call.joining(), answer)
}

#[test]
fn enqueues_of_a_group_write_what_their_jobs_share_once() {
    let (_directory, mut conn, outside) = store();
    let (one, mut first) = joined(&outside, "a");
    let (two, mut second) = joined(&outside, "a");
    // Others see it in the file.
    let (look, mut seen) = call(|session| {
        let ready: i64 = session.conn.query_row("SELECT ready FROM lane", [], |row| row.get(0))?;
        assert_eq!(ready, 2);
        Ok(())
    });
    let (three, mut third) = joined(&outside, "a");
    assert!(!commit_group(&mut conn, vec![one, two, look, three], &outside));
    let answers = [first.try_recv(), second.try_recv(), third.try_recv()];
    assert_eq!(answers.map(|answer| answer.unwrap().unwrap()), [Some(0), Some(0), Some(2)]);
    assert_eq!(seen.try_recv().unwrap().unwrap(), 1);
    let ready: i64 = conn.query_row("SELECT ready FROM lane", [], |row| row.get(0)).unwrap();
    assert_eq!((ready, live(&conn), saved(&conn)), (3, 3, 1));
}

#[test]
fn what_enqueues_leave_and_cannot_be_written_fails_those_it_is_due_to() {
    let (_directory, mut conn, outside) = store();
    let (one, mut first) = joined(&outside, "a");
    let (two, mut failed) = Call::new(1, |session: &mut Session<'_>| {
        session.store.duplicates = -1; // which the table does not allow
        Ok(())
    });
    let (three, mut third) = joined(&outside, "a");
    assert!(!commit_group(&mut conn, vec![one, two.joining(), three], &outside));
    assert!(failed.try_recv().unwrap().is_err());
    assert!(first.try_recv().unwrap().is_ok() && third.try_recv().unwrap().is_ok());
    let ready: i64 = conn.query_row("SELECT ready FROM lane", [], |row| row.get(0)).unwrap();
    assert_eq!((ready, live(&conn), saved(&conn)), (2, 2, 0));
}

#[test]
fn who_fails_and_comes_again_does_not_make_a_group_longer() {
    let (_directory, mut conn, outside) = store();
    let (one, mut first) = call(|_| Ok(()));
    let (mut offered, mut refusals) = (0, Vec::new());
    let failed_sync = super::commit_group(&mut conn, vec![one], &outside, &mut |_| {
        offered += 1;
        let (next, refusal) = call(|_| Err(Error::Unsupported("this".to_owned()).into()));
        refusals.push(refusal);
        Some(next)
    });
    assert!(!failed_sync && first.try_recv().unwrap().is_ok());
    assert!(refusals[0].try_recv().unwrap().is_err());
    assert_eq!((offered, refusals.len(), saved(&conn)), (1, 1, 1));
}

#[test]
fn a_call_that_fails_or_panics_is_undone_alone() {
    let (_directory, mut conn, outside) = store();
    let fails = |_: &mut Session<'_>| Err(Error::Unsupported("this".to_owned()).into());
    let (one, mut first) = call(|_| Ok(()));
    let (two, mut failed) = call(fails);
    let (three, mut panicked) = call(|_| panic!("a bug"));
    let (four, mut last) = call(|_| Ok(()));
    assert!(!commit_group(&mut conn, vec![one, two, three, four], &outside));
    assert_eq!(first.try_recv().unwrap().unwrap(), 1);
    assert!(matches!(failed.try_recv().unwrap(), Err(Error::Unsupported(_))));
    assert!(matches!(panicked.try_recv().unwrap(), Err(Error::Unavailable(_))));
    assert_eq!(last.try_recv().unwrap().unwrap(), 2);
    assert_eq!(saved(&conn), 2);
}

#[test]
fn a_lost_transaction_begins_again_without_the_call_that_lost_it() {
    let (_directory, mut conn, outside) = store();
    let (one, mut first) = call(|_| Ok(()));
    // As SQLite does by itself after some errors.
    let (two, mut failed) = call(|session| {
        session.conn.execute_batch("ROLLBACK")?;
        Err(Error::StoreFull("disk".to_owned()).into())
    });
    let (three, mut last) = call(|_| Ok(()));
    assert!(!commit_group(&mut conn, vec![one, two, three], &outside));
    assert!(matches!(failed.try_recv().unwrap(), Err(Error::StoreFull(_))));
    assert_eq!(first.try_recv().unwrap().unwrap(), 1);
    assert_eq!(last.try_recv().unwrap().unwrap(), 2);
    assert_eq!(saved(&conn), 2);
}

#[test]
fn a_full_disk_is_told_and_small_writes_go_on() {
    let (_directory, mut conn, outside) = store();
    let pages: i64 = conn.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    let max = "PRAGMA max_page_count = ";
    conn.query_row(&format!("{max}{}", pages + 4), [], |_| Ok(())).unwrap();
    let (one, mut first) = call(|session| {
        session.conn.execute("UPDATE store SET namespace = hex(zeroblob(50000))", [])?;
        Ok(())
    });
    let (two, mut second) = call(|_| Ok(()));
    assert!(!commit_group(&mut conn, vec![one, two], &outside));
    assert!(matches!(first.try_recv().unwrap(), Err(Error::StoreFull(_))));
    assert_eq!(second.try_recv().unwrap().unwrap(), 1);
    assert_eq!(saved(&conn), 1);
}

#[test]
fn everybody_is_told_when_another_process_keeps_the_lock() {
    let (directory, mut conn, outside) = store();
    conn.busy_timeout(Duration::from_millis(1)).unwrap();
    let lock = Connection::open(directory.path().join("queue.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (one, mut first) = call(|_| Ok(()));
    let (two, mut second) = call(|_| Ok(()));
    assert!(!commit_group(&mut conn, vec![one, two], &outside));
    for answer in [first.try_recv(), second.try_recv()] {
        assert!(matches!(answer.unwrap(), Err(Error::Unavailable(_))));
    }
    lock.execute_batch("ROLLBACK").unwrap();
    let (three, mut third) = call(|_| Ok(()));
    assert!(!commit_group(&mut conn, vec![three], &outside));
    assert_eq!(third.try_recv().unwrap().unwrap(), 1);
}

#[test]
fn a_lock_that_is_free_at_the_second_attempt_is_no_error() {
    thread_local! {
        static LOCK: std::cell::RefCell<Option<Connection>> = const { std::cell::RefCell::new(None) };
        static MET: Cell<u32> = const { Cell::new(0) };
    }
    // Gives up at once the first time, and the second time the other one is done.
    fn wait(_: i32) -> bool {
        MET.set(MET.get() + 1);
        MET.get() > 1 && LOCK.take().is_some()
    }
    let (directory, mut conn, outside) = store();
    let lock = Connection::open(directory.path().join("queue.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    LOCK.set(Some(lock));
    conn.busy_handler(Some(wait)).unwrap();
    let (one, mut answer) = call(|_| Ok(()));
    assert!(!commit_group(&mut conn, vec![one], &outside));
    assert_eq!((answer.try_recv().unwrap().unwrap(), MET.get()), (1, 2));
}

fn failure(code: i32) -> Fault {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None).into()
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged() {
    let (_directory, mut conn, mut outside) = store();
    let (one, mut first) = call(|session| {
        session.conn.execute_batch("ROLLBACK")?;
        Err(failure(rusqlite::ffi::SQLITE_IOERR_FSYNC))
    });
    let (two, mut second) = call(|_| Ok(()));
    assert!(commit_group(&mut conn, vec![one, two], &outside));
    for answer in [first.try_recv(), second.try_recv()] {
        assert!(matches!(answer.unwrap(), Err(Error::Unavailable(_))));
    }
    // The usual place of a failed sync: the commit.
    outside.commit = |_| Err(failure(rusqlite::ffi::SQLITE_IOERR_FSYNC));
    let (calls, waiting) = mpsc::channel(8);
    let (one, first) = call(|_| Ok(()));
    calls.try_send(one as Box<dyn Pending>).ok().unwrap();
    let mut checkpoints = checkpoints(&conn, &outside);
    let worker = std::thread::spawn(move || run(&mut conn, waiting, &outside, &mut checkpoints));
    let answer = first.blocking_recv().unwrap();
    assert!(matches!(answer, Err(Error::Unavailable(_))));
    let (two, second) = call(|_| Ok(()));
    calls.try_send(two as Box<dyn Pending>).ok().unwrap();
    assert!(matches!(second.blocking_recv().unwrap(), Err(Error::NeedsRestart(_))));
    drop(calls);
    worker.join().unwrap();
}

#[test]
fn after_a_failed_sync_of_a_checkpoint_nothing_is_acknowledged() {
    let (_directory, mut conn, outside) = store();
    let mut checkpoints = checkpoints(&conn, &outside);
    checkpoints.fail();
    let (calls, waiting) = mpsc::channel(8);
    let (one, answer) = call(|_| Ok(()));
    calls.try_send(one as Box<dyn Pending>).ok().unwrap();
    drop(calls);
    assert!(run(&mut conn, waiting, &outside, &mut checkpoints));
    assert!(matches!(answer.blocking_recv().unwrap(), Err(Error::NeedsRestart(_))));
}

/// It may hold what a sync of the file has lost, which another one would not tell.
#[test]
fn after_a_failed_sync_the_log_stays() {
    let (_directory, mut conn, mut outside) = store();
    let path = Path::new(conn.path().unwrap()).to_owned();
    let log = || std::fs::metadata(beside(&path, "-wal")).unwrap().len();
    // Without it there is a reason to empty the log.
    std::fs::remove_file(beside(&path, "-reserve")).unwrap();
    conn.execute("UPDATE store SET turn = turn + 1", []).unwrap();
    let bytes = log();
    assert!(bytes > 0);
    outside.commit = |_| Err(failure(rusqlite::ffi::SQLITE_IOERR_FSYNC));
    let mut checkpoints = checkpoints(&conn, &outside);
    let (calls, waiting) = mpsc::channel(8);
    let (one, answer) = call(|_| Ok(()));
    calls.try_send(one as Box<dyn Pending>).ok().unwrap();
    drop(calls);
    let failed_sync = run(&mut conn, waiting, &outside, &mut checkpoints);
    assert!(failed_sync && answer.blocking_recv().unwrap().is_err());
    drop(checkpoints);
    close(conn, failed_sync);
    assert!(log() >= bytes);
    // It is emptied as usual when the store was opened again and is closed without trouble.
    let Opened { conn, .. } = prepare(&path, &SqliteOptions::default()).unwrap();
    close(conn, false);
    assert!(!beside(&path, "-wal").exists());
}

/// The system forgets that a sync has failed: another one may succeed without what was lost.
#[test]
fn a_failed_sync_is_not_tried_again() {
    thread_local!(static COMMITS: Cell<u32> = const { Cell::new(0) });
    let (_directory, mut conn, mut outside) = store();
    outside.commit = |conn| {
        COMMITS.set(COMMITS.get() + 1);
        if COMMITS.get() > 1 {
            return commit(conn);
        }
        Err(failure(rusqlite::ffi::SQLITE_IOERR_FSYNC))
    };
    let (one, mut first) = call(|_| Ok(()));
    assert!(commit_group(&mut conn, vec![one], &outside));
    assert!(matches!(first.try_recv().unwrap(), Err(Error::Unavailable(_))));
    assert_eq!((COMMITS.get(), saved(&conn)), (1, 0));
}

fn reserve_of(conn: &Connection) -> std::path::PathBuf {
    crate::open::beside(std::path::Path::new(conn.path().unwrap()), "-reserve")
}

/// A disk that is full as long as the reserve takes its space.
fn commit_if_released(conn: &Connection) -> Result<(), Fault> {
    if std::fs::metadata(reserve_of(conn)).is_ok_and(|reserve| reserve.len() > 0) {
        return Err(failure(rusqlite::ffi::SQLITE_FULL));
    }
    commit(conn)
}

fn enqueue_call(room: &Room) -> (Box<dyn Pending>, Answer<Vec<EnqueueOutcome>>) {
    let room = room.clone();
    let jobs = [NewJob::new("k".parse().unwrap(), Payload::raw("x"))];
    let (call, answer) = Call::new(1, move |session: &mut Session<'_>| {
        crate::backend::enqueue_for_tests(session, &jobs, STORED, &room)
    });
    (call, answer)
}

#[test]
fn a_full_disk_gets_the_reserve_for_all_but_new_jobs() {
    let (_directory, mut conn, mut outside) = store();
    outside.commit = commit_if_released;
    let reserve = reserve_of(&conn);
    let bytes = || std::fs::metadata(&reserve).unwrap().len();
    assert!(bytes() > 0);
    // Alone, and as the first of a group, new jobs do not get it.
    let (new, mut refused) = enqueue_call(&outside.room);
    assert!(!commit_group(&mut conn, vec![new], &outside));
    assert!(matches!(refused.try_recv().unwrap(), Err(Error::StoreFull(_))));
    assert!(bytes() > 0);
    let (new, mut refused) = enqueue_call(&outside.room);
    let (one, mut first) = call(|_| Ok(()));
    let (two, mut second) = call(|_| Ok(()));
    assert!(!commit_group(&mut conn, vec![new, one, two], &outside));
    assert!(matches!(refused.try_recv().unwrap(), Err(Error::StoreFull(_))));
    assert_eq!(first.try_recv().unwrap().unwrap(), 1);
    assert_eq!(second.try_recv().unwrap().unwrap(), 2);
    assert_eq!(bytes(), 0);
    assert_eq!(saved(&conn), 2);
    // It is made again as soon as there is room.
    assert!(outside.room.is_short());
    tend(&mut conn, &outside, &mut None);
    assert!(!outside.room.is_short() && bytes() > 0);
}

#[test]
fn a_call_that_still_finds_the_disk_full_fails_alone() {
    let (_directory, mut conn, mut outside) = store();
    // Only the second of these is small enough, say.
    outside.commit = |conn| match saved(conn) {
        1 => commit(conn),
        _ => Err(failure(rusqlite::ffi::SQLITE_FULL)),
    };
    let (one, mut first) = call(|session| {
        session.store.duplicates += 1;
        Ok(())
    });
    let (two, mut second) = call(|_| Ok(()));
    assert!(!commit_group(&mut conn, vec![one, two], &outside));
    assert!(matches!(first.try_recv().unwrap(), Err(Error::StoreFull(_))));
    assert_eq!(second.try_recv().unwrap().unwrap(), 1);
    assert_eq!(saved(&conn), 1);
}

#[test]
fn a_second_call_is_not_run_without_the_first() {
    let (_directory, mut conn, outside) = store();
    let pair = |fails: bool| {
        let (first, first_answer) = Call::new(1, move |session: &mut Session<'_>| {
            session.store.duplicates += 1;
            if fails { Err(Error::Unsupported("this".to_owned()).into()) } else { Ok(()) }
        });
        let (second, second_answer) = Call::new(1, move |session: &mut Session<'_>| {
            session.store.duplicates += 10;
            Ok(())
        });
        let second = second.after(&first);
        let calls: [Box<dyn Pending>; 2] = [first, second];
        (calls, first_answer, second_answer)
    };
    for together in [true, false] {
        let before = saved(&conn);
        let ([first, second], mut failed, mut not_run) = pair(true);
        if together {
            assert!(!commit_group(&mut conn, vec![first, second], &outside));
        } else {
            assert!(!commit_group(&mut conn, vec![first], &outside));
            assert!(!commit_group(&mut conn, vec![second], &outside));
        }
        assert!(failed.try_recv().unwrap().is_err() && not_run.try_recv().unwrap().is_err());
        assert_eq!(saved(&conn), before);
    }
    let (calls, mut first, mut second) = pair(false);
    assert!(!commit_group(&mut conn, Vec::from(calls), &outside));
    assert!(first.try_recv().unwrap().is_ok() && second.try_recv().unwrap().is_ok());
    assert_eq!(saved(&conn), 11);
}

#[test]
fn a_file_that_was_moved_is_not_written_any_more() {
    let (directory, mut conn, outside) = store();
    let path = directory.path().join("queue.db");
    let away = directory.path().join("away.db");
    std::fs::rename(&path, &away).unwrap();
    for round in 0..2 {
        let (one, mut refused) = call(|_| Ok(()));
        assert!(!commit_group(&mut conn, vec![one], &outside));
        let error = refused.try_recv().unwrap().unwrap_err();
        assert!(matches!(&error, Error::NeedsRestart(why) if why.contains("moved")), "{error}");
        // For good, even if it comes back.
        if round == 0 {
            std::fs::rename(&away, &path).unwrap();
        }
    }
    assert_eq!(saved(&conn), 0);
}

#[test]
fn no_space_is_kept_beside_a_file_that_was_moved() {
    let (directory, mut conn, outside) = store();
    let reserve = reserve_of(&conn);
    let bytes = || std::fs::metadata(&reserve).unwrap().len();
    assert!(outside.room.release_reserve());
    let path = directory.path().join("queue.db");
    std::fs::rename(&path, directory.path().join("away.db")).unwrap();
    tend(&mut conn, &outside, &mut None);
    assert_eq!(bytes(), 0);
}

#[test]
fn a_step_that_fails_leaves_no_trace_in_what_the_next_one_counts() {
    let (_directory, mut conn, outside) = store();
    let room = outside.room.clone();
    let job = || NewJob::new("k".parse().unwrap(), Payload::raw("x"));
    let jobs = [job(), job()];
    let enqueue = move |session: &mut Session<'_>| {
        crate::backend::enqueue_for_tests(session, &jobs, STORED, &room)
    };
    let twice = enqueue.clone();
    let (failing, mut failed) = Call::new(2, move |session: &mut Session<'_>| {
        twice(session)?;
        Err::<(), Fault>(Error::Unsupported("this".to_owned()).into())
    });
    let (passing, mut passed) = Call::new(2, enqueue);
    let calls: Calls = vec![failing, passing];
    assert!(!commit_group(&mut conn, calls, &outside));
    assert!(failed.try_recv().unwrap().is_err());
    let created: Vec<EnqueueOutcome> = passed.try_recv().unwrap().unwrap();
    assert!(created.iter().all(|o| matches!(o, EnqueueOutcome::Done(e) if !e.duplicate)));
    let ready: i64 = conn.query_row("SELECT ready FROM lane", [], |row| row.get(0)).unwrap();
    assert_eq!(ready, 2);
}

#[test]
fn a_record_that_was_not_finished_after_all_is_on_no_shelf() {
    let (_directory, mut conn, outside) = store();
    let room = outside.room.clone();
    let job = NewJob::new("k".parse().unwrap(), Payload::raw("x"));
    let id = job.job_id();
    let jobs = [job];
    let (new, _) = Call::new(1, move |session: &mut Session<'_>| {
        crate::backend::enqueue_for_tests(session, &jobs, STORED, &room)
    });
    let finish = move |session: &mut Session<'_>| -> Result<(), Fault> {
        let head = session.head(id)?.unwrap();
        let end = Finish { state: JobState::Cancelled, reason: None, elapsed_ms: None };
        session.finish(&head, end)
    };
    let (failing, mut failed) = Call::new(1, move |session: &mut Session<'_>| {
        finish(session)?;
        Err::<(), Fault>(Error::Unsupported("this".to_owned()).into())
    });
    let (passing, mut passed) = Call::new(1, finish);
    let calls: Calls = vec![new, failing, passing];
    assert!(!commit_group(&mut conn, calls, &outside));
    assert!(failed.try_recv().unwrap().is_err() && passed.try_recv().unwrap().is_ok());
    let on_shelf = "SELECT records FROM shelf WHERE shelf = (SELECT shelf FROM job)";
    let records: i64 = conn.query_row(on_shelf, [], |row| row.get(0)).unwrap();
    assert_eq!(records, 1);
}

/// Answers what `PRAGMA synchronous` is when its transaction is made.
fn synchronous_call(synced: bool) -> (Box<dyn Pending>, Answer<i64>) {
    let (call, answer) = Call::new(1, |session: &mut Session<'_>| {
        session.store.duplicates += 1;
        Ok(session.conn.pragma_query_value(None, "synchronous", |row| row.get(0))?)
    });
    if synced { (call.synced(), answer) } else { (call, answer) }
}

#[test]
fn a_group_is_synced_if_one_of_its_calls_asks_for_it_and_the_next_is_not() {
    let (_directory, mut conn, mut outside) = store();
    outside.durability = Durability::Memory;
    for synced in [false, true, false, true] {
        let (plain, mut plain_answer) = synchronous_call(false);
        let (asking, mut asking_answer) = synchronous_call(synced);
        assert!(!commit_group(&mut conn, vec![plain, asking], &outside));
        let expected = if synced { 2 } else { 1 };
        assert_eq!(plain_answer.try_recv().unwrap().unwrap(), expected);
        assert_eq!(asking_answer.try_recv().unwrap().unwrap(), expected);
    }
    // A store that always syncs never stops doing so.
    outside.durability = Durability::Fsync;
    let (plain, mut answer) = synchronous_call(false);
    assert!(!commit_group(&mut conn, vec![plain], &outside));
    assert_eq!(answer.try_recv().unwrap().unwrap(), 2);
}
