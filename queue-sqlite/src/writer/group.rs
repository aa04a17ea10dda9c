//! Group commit.

#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use queue_core::Error;
use rusqlite::Connection;
use tokio::sync::mpsc;

use super::call::Pending;
use crate::errors::Fault;
use crate::session::Session;
use crate::watch::Watch;

/// The most calls of one group.
const CALLS_MAX: usize = 256;
/// A group takes no more calls once they touch so many jobs together: the first of them waits for
/// the last.
const JOBS_MAX: usize = 4096;
/// How often a transaction is tried when another process keeps the lock, each time for as long as
/// a connection waits.
const BUSY_TRIES_MAX: u32 = 2;

type Calls = Vec<Box<dyn Pending>>;

/// Serves calls until nobody can make any.
pub(super) fn run(
    conn: &mut Connection,
    mut waiting: mpsc::Receiver<Box<dyn Pending>>,
    watch: &Watch,
) {
    let mut failed_sync = false;
    while let Some(first) = waiting.blocking_recv() {
        let calls = gather(first, &mut waiting);
        if failed_sync {
            fail_all(calls, || Error::Refused(FAILED_SYNC.to_owned()));
            continue;
        }
        failed_sync = commit_group(conn, calls, watch);
    }
}

/// Closes the connection.
pub(super) fn close(conn: Connection) {
    // The file alone is then the whole store. Other processes may keep the log from being
    // emptied, which does no harm and is not waited for.
    let emptied = conn
        .busy_timeout(Duration::ZERO)
        .and_then(|()| conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
    if let Err(error) = emptied {
        tracing::debug!(%error, "the write-ahead log was not emptied at the end");
    }
    if let Err((_, error)) = conn.close() {
        tracing::warn!(%error, "the connection was not closed cleanly");
    }
}

const FAILED_SYNC: &str = "a sync of the file failed, so what it holds is unknown; check the disk \
     and start this process again";

/// The calls that wait now.
fn gather(first: Box<dyn Pending>, waiting: &mut mpsc::Receiver<Box<dyn Pending>>) -> Calls {
    let mut jobs = first.jobs();
    let mut calls = vec![first];
    while calls.len() < CALLS_MAX && jobs < JOBS_MAX {
        let Ok(next) = waiting.try_recv() else { break };
        jobs += next.jobs();
        calls.push(next);
    }
    calls
}

/// Runs calls in one transaction and answers them; says whether the file must not be written any
/// more.
fn commit_group(conn: &mut Connection, mut calls: Calls, watch: &Watch) -> bool {
    let mut tries = 0;
    while !calls.is_empty() {
        match transact(conn, &mut calls) {
            Ok(news) => {
                for call in calls.drain(..) {
                    call.finish();
                }
                if news {
                    watch.look();
                }
            }
            Err(Stop::Whole(fault)) => {
                roll_back(conn);
                tries += 1;
                if fault.is_busy() && tries < BUSY_TRIES_MAX {
                    continue;
                }
                let failed_sync = fault.is_failed_sync();
                let error = Error::from(fault);
                fail_all(calls, || copy_of(&error));
                return failed_sync;
            }
            // The failed call took the transaction down with it: the others begin again.
            Err(Stop::One(index, fault)) => {
                roll_back(conn);
                let failed_sync = fault.is_failed_sync();
                calls.remove(index).fail(fault.into());
                if failed_sync {
                    fail_all(calls, || Error::Refused(FAILED_SYNC.to_owned()));
                    return true;
                }
            }
        }
    }
    false
}

/// Why a transaction ended early.
enum Stop {
    /// None of the calls can go on.
    Whole(Fault),
    /// This call failed, and the transaction is gone.
    One(usize, Fault),
}

impl<E: Into<Fault>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Whole(error.into())
    }
}

/// One transaction. Calls that fail are answered and leave `calls`; says whether there is news for
/// waiting workers.
fn transact(conn: &Connection, calls: &mut Calls) -> Result<bool, Stop> {
    execute(conn, "BEGIN IMMEDIATE")?;
    let mut session = Session::new(conn)?;
    let mut index = 0;
    while let Some(call) = calls.get_mut(index) {
        execute(conn, "SAVEPOINT step")?;
        match run_call(call.as_mut(), &mut session) {
            Ok(()) => {
                execute(conn, "RELEASE step")?;
                index += 1;
            }
            // SQLite may roll the whole transaction back itself, as when the disk is full.
            Err(fault) if conn.is_autocommit() => return Err(Stop::One(index, fault)),
            Err(fault) => {
                execute(conn, "ROLLBACK TO step")?;
                execute(conn, "RELEASE step")?;
                session.reload()?;
                calls.remove(index).fail(fault.into());
            }
        }
    }
    execute(conn, "COMMIT")?;
    Ok(session.has_news())
}

/// A panic in one call is a bug that its caller has to hear of, and that must not end the thread
/// that everybody depends on.
fn run_call(call: &mut dyn Pending, session: &mut Session<'_>) -> Result<(), Fault> {
    catch_unwind(AssertUnwindSafe(|| call.run(session))).unwrap_or_else(|_| {
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
        tracing::error!(%error, "a transaction could not be rolled back");
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
        Error::Corrupt(what) => Error::Corrupt(what.clone()),
        Error::Unavailable(what) => Error::Unavailable(what.clone()),
        other => Error::Unavailable(other.to_string()),
    }
}
