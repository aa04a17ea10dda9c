//! What one group of calls does when some of them go wrong.

use queue_core::{EnqueueOutcome, NewJob, Payload};
use tempfile::TempDir;

use super::super::Answer;
use super::super::call::Call;
use super::*;
use crate::SqliteOptions;
use crate::open::prepare;

fn store() -> (TempDir, Connection) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let (_, conn) = prepare(&path, &SqliteOptions::default()).unwrap();
    (directory, conn)
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

#[test]
fn a_group_takes_what_waits_up_to_its_bounds() {
    let (calls, mut waiting) = mpsc::channel(1024);
    for _ in 0..300 {
        calls.try_send(call(|_| Ok(())).0).ok().unwrap();
    }
    let first = waiting.try_recv().ok().unwrap();
    assert_eq!(gather(first, &mut waiting).len(), CALLS_MAX);
    for _ in 0..3 {
        calls.try_send(Call::new(JOBS_MAX / 2, |_| Ok(())).0).ok().unwrap();
    }
    while waiting.len() > 3 {
        waiting.try_recv().ok().unwrap();
    }
    let first = waiting.try_recv().ok().unwrap();
    assert_eq!(gather(first, &mut waiting).len(), 2);
}

#[test]
fn a_call_that_fails_or_panics_is_undone_alone() {
    let (_directory, mut conn) = store();
    let fails = |_: &mut Session<'_>| Err(Error::Unsupported("this".to_owned()).into());
    let (one, mut first) = call(|_| Ok(()));
    let (two, mut failed) = call(fails);
    let (three, mut panicked) = call(|_| panic!("a bug"));
    let (four, mut last) = call(|_| Ok(()));
    assert!(!commit_group(&mut conn, vec![one, two, three, four], &Watch::default()));
    assert_eq!(first.try_recv().unwrap().unwrap(), 1);
    assert!(matches!(failed.try_recv().unwrap(), Err(Error::Unsupported(_))));
    assert!(matches!(panicked.try_recv().unwrap(), Err(Error::Unavailable(_))));
    assert_eq!(last.try_recv().unwrap().unwrap(), 2);
    assert_eq!(saved(&conn), 2);
}

#[test]
fn a_lost_transaction_begins_again_without_the_call_that_lost_it() {
    let (_directory, mut conn) = store();
    let (one, mut first) = call(|_| Ok(()));
    // As SQLite does by itself after some errors.
    let (two, mut failed) = call(|session| {
        session.conn.execute_batch("ROLLBACK")?;
        Err(Error::StoreFull("disk".to_owned()).into())
    });
    let (three, mut last) = call(|_| Ok(()));
    assert!(!commit_group(&mut conn, vec![one, two, three], &Watch::default()));
    assert!(matches!(failed.try_recv().unwrap(), Err(Error::StoreFull(_))));
    assert_eq!(first.try_recv().unwrap().unwrap(), 1);
    assert_eq!(last.try_recv().unwrap().unwrap(), 2);
    assert_eq!(saved(&conn), 2);
}

#[test]
fn a_full_disk_is_told_and_small_writes_go_on() {
    let (_directory, mut conn) = store();
    let pages: i64 = conn.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    let max = "PRAGMA max_page_count = ";
    conn.query_row(&format!("{max}{}", pages + 4), [], |_| Ok(())).unwrap();
    let (one, mut first) = call(|session| {
        session.conn.execute("UPDATE store SET namespace = hex(zeroblob(50000))", [])?;
        Ok(())
    });
    let (two, mut second) = call(|_| Ok(()));
    assert!(!commit_group(&mut conn, vec![one, two], &Watch::default()));
    assert!(matches!(first.try_recv().unwrap(), Err(Error::StoreFull(_))));
    assert_eq!(second.try_recv().unwrap().unwrap(), 1);
    assert_eq!(saved(&conn), 1);
}

#[test]
fn everybody_is_told_when_another_process_keeps_the_lock() {
    let (directory, mut conn) = store();
    conn.busy_timeout(Duration::from_millis(1)).unwrap();
    let lock = Connection::open(directory.path().join("queue.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (one, mut first) = call(|_| Ok(()));
    let (two, mut second) = call(|_| Ok(()));
    assert!(!commit_group(&mut conn, vec![one, two], &Watch::default()));
    for answer in [first.try_recv(), second.try_recv()] {
        assert!(matches!(answer.unwrap(), Err(Error::Unavailable(_))));
    }
    lock.execute_batch("ROLLBACK").unwrap();
    let (three, mut third) = call(|_| Ok(()));
    assert!(!commit_group(&mut conn, vec![three], &Watch::default()));
    assert_eq!(third.try_recv().unwrap().unwrap(), 1);
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged() {
    let (_directory, mut conn) = store();
    let (one, mut first) = call(|session| {
        session.conn.execute_batch("ROLLBACK")?;
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
        Err(rusqlite::Error::SqliteFailure(code, None).into())
    });
    assert!(commit_group(&mut conn, vec![one], &Watch::default()));
    assert!(matches!(first.try_recv().unwrap(), Err(Error::Unavailable(_))));
}

#[test]
fn a_step_that_fails_leaves_no_trace_in_what_the_next_one_counts() {
    let (directory, mut conn) = store();
    let room = crate::open::Room::new(&directory.path().join("queue.db"), None);
    let job = || NewJob::new("k".parse().unwrap(), Payload::raw("x"));
    let jobs = [job(), job()];
    let enqueue =
        move |session: &mut Session<'_>| crate::backend::enqueue_for_tests(session, &jobs, &room);
    let twice = enqueue.clone();
    let (failing, mut failed) = Call::new(2, move |session: &mut Session<'_>| {
        twice(session)?;
        Err::<(), Fault>(Error::Unsupported("this".to_owned()).into())
    });
    let (passing, mut passed) = Call::new(2, enqueue);
    let calls: Calls = vec![failing, passing];
    assert!(!commit_group(&mut conn, calls, &Watch::default()));
    assert!(failed.try_recv().unwrap().is_err());
    let created: Vec<EnqueueOutcome> = passed.try_recv().unwrap().unwrap();
    assert!(created.iter().all(|o| matches!(o, EnqueueOutcome::Done(e) if !e.duplicate)));
    let ready: i64 = conn.query_row("SELECT ready FROM lane", [], |row| row.get(0)).unwrap();
    assert_eq!(ready, 2);
}
