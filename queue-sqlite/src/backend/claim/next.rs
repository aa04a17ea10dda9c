//! When a claim that found no room should be made again.

use queue_core::{ClaimRequest, KindSlots, QueueName, Timestamp};
use rusqlite::OptionalExtension;

use super::HAS_PAUSE;
use crate::errors::Fault;
use crate::rows::{number, time};
use crate::session::Session;
use crate::watch::SELECT_HAS_READY;

/// Whether lanes with limit keys do not wait.
pub(crate) const HAS_RUNNABLE: &str = "SELECT 1 FROM lane WHERE queue = ?1 AND kind = ?2 \
     AND limits <> '' AND ready > 0 AND blocked_by IS NULL LIMIT 1";
/// Whether lanes wait.
pub(crate) const HAS_WAITING: &str =
    "SELECT 1 FROM limit_wait WHERE queue = ?1 AND kind = ?2 AND opens_ms IS NOT NULL LIMIT 1";
/// When the first key has room at which lanes wait.
pub(crate) const SELECT_FIRST_OPEN: &str = "SELECT opens_ms FROM limit_wait \
     WHERE queue = ?1 AND kind = ?2 AND opens_ms IS NOT NULL ORDER BY opens_ms LIMIT 1";

/// When the first lane that the request could be served from may have room again by time alone.
/// `keyed` says whether lanes have limit keys.
pub(super) fn next_room(
    session: &mut Session<'_>,
    request: &ClaimRequest,
    keyed: bool,
) -> Result<Option<Timestamp>, Fault> {
    let mut first: Option<Timestamp> = None;
    for asked in request.kinds.iter().filter(|asked| asked.slots > 0) {
        if !keyed && asked.limits.is_empty() {
            continue;
        }
        for queue in &request.queues {
            let next = next_of(session, queue, asked)?;
            if let Some(next) = next
                && first.is_none_or(|first| next < first)
                && !session.conn.prepare_cached(HAS_PAUSE)?.exists([queue.as_str()])?
            {
                first = Some(next);
            }
        }
    }
    Ok(first)
}

fn next_of(
    session: &mut Session<'_>,
    queue: &QueueName,
    asked: &KindSlots,
) -> Result<Option<Timestamp>, Fault> {
    let name = (queue.as_str(), asked.kind.as_str());
    let conn = session.conn;
    if !session.limits.is_open(&asked.limits, session.now)? {
        let reopens = session.limits.reopens_at(&asked.limits, session.now)?;
        let has_jobs = conn.prepare_cached(HAS_RUNNABLE)?.exists(name)?
            || conn.prepare_cached(HAS_WAITING)?.exists(name)?
            || conn.prepare_cached(SELECT_HAS_READY)?.exists(name)?;
        return Ok(reopens.filter(|_| has_jobs));
    }
    // One that was not looked at may have room now.
    if conn.prepare_cached(HAS_RUNNABLE)?.exists(name)? {
        return Ok(Some(session.now));
    }
    let mut select = conn.prepare_cached(SELECT_FIRST_OPEN)?;
    let opens = select.query_row(name, |row| Ok(time(number(row, 0)?))).optional()?;
    Ok(opens.map(|opens| opens.max(session.now)))
}
