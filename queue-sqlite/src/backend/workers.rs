//! Who is there: what workers say about themselves.

use std::time::Duration;

use queue_core::backend::{PASS_MAX, WORKERS_MAX};
use queue_core::{LiveWorker, WorkerInfo};
use rusqlite::{Connection, params};

use super::limits::clock;
use crate::errors::Fault;
use crate::rows::{bytes, ms, number, time};
use crate::session::Session;

pub(super) const UPSERT_WORKER: &str = "INSERT INTO worker (id, instance, info, until_ms) \
     VALUES (?1, ?2, ?3, ?4) ON CONFLICT (id, instance) \
     DO UPDATE SET info = excluded.info, until_ms = excluded.until_ms";
pub(super) const DELETE_WORKER: &str = "DELETE FROM worker WHERE id = ?1 AND instance = ?2";
pub(super) const COUNT_WORKERS: &str = "SELECT count(*) FROM worker";
/// Those whose time is over first.
pub(super) const DELETE_FIRST_WORKERS: &str = "DELETE FROM worker WHERE (id, instance) IN \
     (SELECT id, instance FROM worker ORDER BY until_ms LIMIT ?1)";
/// Those whose time is over.
pub(super) const DELETE_PAST_WORKERS: &str = "DELETE FROM worker WHERE (id, instance) IN \
     (SELECT id, instance FROM worker WHERE until_ms <= ?1 ORDER BY until_ms LIMIT ?2)";
pub(super) const SELECT_WORKERS: &str =
    "SELECT info, until_ms FROM worker WHERE until_ms > ?1 LIMIT ?2";

/// Takes down what a worker says about itself; with zero time it is forgotten.
pub(super) fn announce(
    session: &mut Session<'_>,
    worker: &WorkerInfo,
    believed_for: Duration,
) -> Result<(), Fault> {
    forget_past(session)?;
    let name = (worker.id.as_str(), worker.instance.cast_signed());
    if believed_for.is_zero() {
        session.conn.prepare_cached(DELETE_WORKER)?.execute(name)?;
        return Ok(());
    }
    let until_ms = ms(session.now.after(believed_for));
    let mut upsert = session.conn.prepare_cached(UPSERT_WORKER)?;
    upsert.execute(params![name.0, name.1, worker.encode(), until_ms])?;
    let most = i64::try_from(WORKERS_MAX).unwrap_or(i64::MAX);
    let mut count = session.conn.prepare_cached(COUNT_WORKERS)?;
    let workers: i64 = count.query_row([], |row| row.get(0))?;
    if workers > most {
        session.conn.prepare_cached(DELETE_FIRST_WORKERS)?.execute([workers - most])?;
    }
    Ok(())
}

/// Forgets workers that have not been heard of; says whether there may be more of them.
pub(super) fn forget_past(session: &Session<'_>) -> Result<bool, Fault> {
    let mut delete = session.conn.prepare_cached(DELETE_PAST_WORKERS)?;
    Ok(delete.execute((ms(session.now), PASS_MAX))? >= PASS_MAX as usize)
}

/// The workers that are believed to be there.
pub(super) fn workers(conn: &Connection) -> Result<Vec<LiveWorker>, Fault> {
    let now = clock(conn)?;
    let most = i64::try_from(WORKERS_MAX).unwrap_or(i64::MAX);
    let mut select = conn.prepare_cached(SELECT_WORKERS)?;
    let found = select.query_map((ms(now), most), |row| {
        // Of one that a later program wrote nothing can be said.
        let info = bytes(row, 0)?.and_then(WorkerInfo::decode);
        let left = time(number(row, 1)?).since(now);
        Ok(info.map(|info| LiveWorker::new(info, left)))
    })?;
    let found: Vec<_> = found.collect::<Result<_, _>>()?;
    Ok(found.into_iter().flatten().collect())
}
