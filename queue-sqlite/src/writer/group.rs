//! Group commit.

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use queue_core::Error;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tokio::sync::mpsc;

use super::call::Pending;
use super::checkpoint::{Checkpoints, has_failed_sync};
use super::line::{Calls, Line};
use crate::Durability;
use crate::errors::Fault;
use crate::open::{Patience, Place, Room, with_patience};
use crate::session::{Memory, Session};
use crate::watch::Watch;

/// How often a transaction is tried when another process keeps the lock, each time for as long as
/// a connection waits.
const BUSY_TRIES_MAX: u32 = 2;
/// How long at least between two looks for room for the reserve.
const TEND_PAUSE: Duration = Duration::from_secs(1);

/// What a group of calls meets besides its connection.
#[derive(Debug)]
pub(crate) struct Outside {
    pub(crate) place: Arc<Place>,
    pub(crate) room: Room,
    pub(crate) watch: Arc<Watch>,
    /// What every commit survives.
    pub(crate) durability: Durability,
    /// What the connection is set to, as far as is known.
    set: Cell<Option<Durability>>,
    /// What transactions remember for later ones.
    memory: RefCell<Memory>,
    /// [`commit`], or what a test puts in its place.
    pub(crate) commit: fn(&Connection) -> Result<(), Fault>,
}

impl Outside {
    pub(crate) fn new(
        place: Arc<Place>,
        room: Room,
        watch: Arc<Watch>,
        durability: Durability,
    ) -> Self {
        let (set, memory) = (Cell::new(None), RefCell::default());
        Self { place, room, watch, durability, set, memory, commit }
    }
}

fn commit(conn: &Connection) -> Result<(), Fault> {
    execute(conn, "COMMIT")
}

/// Serves calls until nobody can make any; says whether a sync has failed.
pub(super) fn run(
    conn: &mut Connection,
    waiting: mpsc::Receiver<Box<dyn Pending>>,
    outside: &Outside,
    checkpoints: &mut Checkpoints,
) -> bool {
    let thread_failed_sync = checkpoints.failed_sync();
    let mut failed_sync = false;
    let mut tended = None;
    let mut line = Line::new(waiting);
    while let Some(calls) = line.next_group() {
        failed_sync |= thread_failed_sync();
        if failed_sync {
            fail_all(calls, || Error::NeedsRestart(FAILED_SYNC.to_owned()));
            continue;
        }
        // Once a sync has failed, what the log holds may be nowhere else.
        failed_sync = commit_group(conn, calls, outside, &mut |calls| line.more(calls))
            || checkpoints.committed(conn)
            || tend(conn, outside, &mut tended);
    }
    failed_sync
}

/// Makes the reserve again if it was used, as soon as there is room. Looks now and then only. Says
/// whether a sync has failed.
fn tend(conn: &mut Connection, outside: &Outside, tended: &mut Option<Instant>) -> bool {
    let soon = tended.is_some_and(|last| last.elapsed() < TEND_PAUSE);
    if soon {
        return false;
    }
    *tended = Some(Instant::now());
    if !outside.room.is_tight() || outside.place.check().is_err() {
        return false;
    }
    // The log may be large and hold nothing any more.
    if has_failed_sync(with_patience(conn, Patience::None, empty_log)) {
        return true;
    }
    outside.room.keep_reserve();
    false
}

fn empty_log(conn: &Connection) -> rusqlite::Result<()> {
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

/// Closes the connection. If a sync has failed, the log stays as it is: the file may lack what a checkpoint
/// has written, and a sync that succeeds now would not say so.
pub(super) fn close(mut conn: Connection, failed_sync: bool) {
    // The file alone is then the whole store. Other processes may keep the log from being
    // emptied, which does no harm and is not waited for.
    let failed_sync =
        failed_sync || has_failed_sync(with_patience(&mut conn, Patience::None, empty_log));
    if failed_sync
        && let Err(error) = conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
    {
        tracing::warn!(event = "log_not_kept", %error, "the write-ahead log may be lost");
    }
    if let Err((_, error)) = conn.close() {
        tracing::warn!(event = "close_failed", %error, "the connection was not closed cleanly");
    }
}

const FAILED_SYNC: &str = "a sync of the file failed, so what it holds is unknown; check the disk \
     and start this process again";

/// Runs calls in one transaction, and what there is `more` once these have run, and answers them; says
/// whether the file must not be written any more.
fn commit_group(
    conn: &mut Connection,
    mut calls: Calls,
    outside: &Outside,
    more: &mut More<'_>,
) -> bool {
    if let Err(error) = outside.place.check() {
        fail_all(calls, || copy_of(&error));
        return false;
    }
    let (mut tries, mut undoing) = (0, Undoing::All);
    let mut stopped = false;
    while !calls.is_empty() {
        // A group that begins again is not made longer: who was told of a failure may have come again.
        let more: &mut More<'_> = if stopped { &mut |_| None } else { &mut *more };
        let stop = match transact(conn, &mut calls, outside, undoing, more) {
            Ok(news) => {
                for call in calls.drain(..) {
                    call.finish();
                }
                if news {
                    outside.watch.look();
                }
                return false;
            }
            Err(stop) => stop,
        };
        roll_back(conn);
        stopped = true;
        if stop.begins_again {
            undoing = Undoing::Each;
            continue;
        }
        if stop.fault.is_full() {
            if calls.len() > 1 {
                return commit_each(conn, calls, outside);
            }
            if !stop.takes_in && outside.room.release_reserve() {
                continue;
            }
        }
        tries += 1;
        if stop.fault.is_busy() && tries < BUSY_TRIES_MAX {
            continue;
        }
        let failed_sync = stop.fault.is_failed_sync();
        let error = Error::from(stop.fault);
        match stop.failed {
            // The failed call took the transaction down with it: the others begin again.
            Some(index) if !failed_sync => calls.remove(index).fail(error),
            _ => {
                fail_all(calls, || copy_of(&error));
                return failed_sync;
            }
        }
    }
    false
}

/// Runs each call in a transaction of its own: the disk is full, and those that make room or need
/// little must not fail with the others.
fn commit_each(conn: &mut Connection, calls: Calls, outside: &Outside) -> bool {
    let mut failed_sync = false;
    for call in calls {
        if failed_sync {
            call.fail(Error::NeedsRestart(FAILED_SYNC.to_owned()));
        } else {
            failed_sync = commit_group(conn, vec![call], outside, &mut |_| None);
        }
    }
    failed_sync
}

/// What is undone when a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undoing {
    /// The transaction, which then begins again with [`Undoing::Each`]: calls fail seldom, and to be
    /// able to undo one costs a copy of each page that it changes.
    All,
    /// That call: each has a savepoint.
    Each,
}

/// Why a transaction ended early.
struct Stop {
    fault: Fault,
    /// The call that failed, unless none of them can go on.
    failed: Option<usize>,
    /// It held new jobs.
    takes_in: bool,
    /// A call failed that could not be undone alone.
    begins_again: bool,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self { fault, failed: None, takes_in: false, begins_again: false }
    }
}

/// What may join a group of calls that have run.
type More<'m> = dyn FnMut(&Calls) -> Option<Box<dyn Pending>> + 'm;

/// One transaction. Calls that fail are answered and leave `calls`; says whether there is news for
/// waiting workers.
fn transact(
    conn: &Connection,
    calls: &mut Calls,
    outside: &Outside,
    undoing: Undoing,
    more: &mut More<'_>,
) -> Result<bool, Stop> {
    let wanted = match outside.durability {
        Durability::Memory if calls.iter().any(|call| call.is_synced()) => Durability::Fsync,
        usual => usual,
    };
    if outside.set.get() != Some(wanted) {
        outside.set.set(None);
        set_durability(conn, wanted)?;
        outside.set.set(Some(wanted));
    }
    execute(conn, "BEGIN IMMEDIATE")?;
    let mut session = Session::new(conn, &outside.memory)?;
    let mut index = 0;
    loop {
        if index == calls.len() {
            calls.extend(more(calls));
        }
        let Some(call) = calls.get_mut(index) else { break };
        let is_apart = undoing == Undoing::Each;
        if is_apart {
            execute(conn, "SAVEPOINT step")?;
        }
        match caught(|| call.run(&mut session, is_apart)) {
            Ok(()) => {
                if is_apart {
                    execute(conn, "RELEASE step")?;
                }
                index += 1;
            }
            // SQLite may roll the whole transaction back itself, as when the disk is full.
            Err(fault) if conn.is_autocommit() || fault.is_full() => {
                let (failed, takes_in) = (Some(index), session.takes_in);
                return Err(Stop { failed, takes_in, ..Stop::from(fault) });
            }
            Err(fault) if !is_apart => {
                return Err(Stop { begins_again: true, ..Stop::from(fault) });
            }
            Err(fault) => {
                execute(conn, "ROLLBACK TO step")?;
                execute(conn, "RELEASE step")?;
                session.reload()?;
                if fault.asks_for_care() && !session.careful {
                    // A damaged job is in the way: it is found and put aside the second time.
                    session.careful = true;
                } else {
                    calls.remove(index).fail(fault.into());
                }
            }
        }
    }
    let takes_in = session.takes_in;
    caught(|| session.write_out()).map_err(|fault| {
        // Which of the calls it is due to shows when each writes what it has changed.
        let is_about_calls = !fault.is_full() && !fault.is_failed_sync();
        let begins_again = undoing == Undoing::All && is_about_calls;
        Stop { takes_in, begins_again, ..Stop::from(fault) }
    })?;
    let committed = (outside.commit)(conn);
    committed.map_err(|fault| Stop { takes_in, ..Stop::from(fault) })?;
    Ok(session.committed())
}

/// Sets what the next commit survives, which is possible outside of transactions only. A sync
/// covers all commits before it, too.
fn set_durability(conn: &Connection, durability: Durability) -> Result<(), Fault> {
    let found = || -> Result<i64, Fault> {
        Ok(conn.prepare_cached("PRAGMA synchronous")?.query_row([], |row| row.get(0))?)
    };
    let level = durability.synchronous();
    if found()? == level {
        return Ok(());
    }
    conn.pragma_update(None, "synchronous", level)?;
    match found()? {
        set if set == level => Ok(()),
        kept => {
            let what = format!("SQLite keeps synchronous at {kept} instead of {level}");
            Err(Error::Refused(what).into())
        }
    }
}

/// A panic in one call is a bug that its caller has to hear of, and that must not end the thread
/// that everybody depends on.
fn caught(work: impl FnOnce() -> Result<(), Fault>) -> Result<(), Fault> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let what = "the SQLite backend panicked during this call, which is a bug; it was undone";
        Err(Error::Unavailable(what.to_owned()).into())
    })
}

fn execute(conn: &Connection, sql: &str) -> Result<(), Fault> {
    conn.prepare_cached(sql)?.execute([])?;
    Ok(())
}

fn roll_back(conn: &Connection) {
    if conn.is_autocommit() {
        return;
    }
    if let Err(error) = conn.execute_batch("ROLLBACK") {
        tracing::error!(
            event = "roll_back_failed",
            %error,
            "a transaction could not be rolled back"
        );
    }
}

fn fail_all(calls: Calls, error: impl Fn() -> Error) {
    for call in calls {
        call.fail(error());
    }
}

/// Errors have no `Clone`; these are the ones that can meet a whole group.
fn copy_of(error: &Error) -> Error {
    match error {
        Error::StoreFull(what) => Error::StoreFull(what.clone()),
        Error::Refused(what) => Error::Refused(what.clone()),
        Error::NeedsRestart(what) => Error::NeedsRestart(what.clone()),
        Error::Corrupt(what) => Error::Corrupt(what.clone()),
        Error::Unavailable(what) => Error::Unavailable(what.clone()),
        other => Error::Unavailable(other.to_string()),
    }
}
