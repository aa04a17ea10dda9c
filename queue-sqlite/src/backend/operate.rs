//! What operators do: T15 and T16 by hand, and pausing queues.

use queue_core::{
    DeleteOutcome, JobId, JobState, QueueName, RetryOutcome, RetryRequest, Timestamp,
};
use rusqlite::{Connection, params};

use crate::errors::Fault;
use crate::rows::{ms, text};
use crate::session::{End, Head, Session};

pub(super) const SELECT_KEY: &str = "SELECT key FROM job WHERE job = ?1";
pub(super) const UPDATE_RETRIED: &str = "UPDATE job SET state = 3, position = ?2, due_ms = ?3, \
     failures = ?4, stalls = ?5, snoozes = ?6, holds_key = ?7, shelf = NULL, finished_ms = NULL, \
     expiry_ms = NULL, elapsed_ms = NULL, dead_reason = NULL WHERE job = ?1";
pub(super) const UPDATE_NO_RESULT: &str =
    "UPDATE note SET result_codec = NULL, result = NULL WHERE job = ?1";
pub(super) const INSERT_PAUSE: &str = "INSERT OR IGNORE INTO pause (queue) VALUES (?1)";
pub(super) const DELETE_PAUSE: &str = "DELETE FROM pause WHERE queue = ?1";
pub(super) const SELECT_PAUSED: &str = "SELECT queue FROM pause ORDER BY queue";

/// Makes finished jobs ready again, in order.
pub(super) fn retry(
    session: &mut Session<'_>,
    request: &RetryRequest,
) -> Result<Vec<RetryOutcome>, Fault> {
    let one = |&(id, finished_at)| retry_one(session, id, finished_at, request.keep_counts);
    request.jobs.iter().map(one).collect()
}

fn retry_one(
    session: &mut Session<'_>,
    id: JobId,
    finished_at: Timestamp,
    keep_counts: bool,
) -> Result<RetryOutcome, Fault> {
    let Some(head) = session.head(id)? else { return Ok(RetryOutcome::NotFound) };
    if !head.state.is_finished() || head.finished_at != Some(finished_at) {
        return Ok(RetryOutcome::Unchanged(head.state));
    }
    if head.expires_at.is_some_and(|expires_at| expires_at <= session.now) {
        return Ok(RetryOutcome::Expired);
    }
    match holder_of_key(session, &head)? {
        KeyHolder::None => {}
        KeyHolder::Other(by) => return Ok(RetryOutcome::KeyTaken { by }),
        KeyHolder::Unreadable => {
            session.put_aside(&head.broken("its idempotency key is not text".to_owned()))?;
            return Ok(RetryOutcome::Unchanged(JobState::Quarantined));
        }
    }
    let (failures, stalls, snoozes) =
        if keep_counts { (head.failures, head.stalls, head.snoozes) } else { (0, 0, 0) };
    session.leave(head.lane, head.state)?;
    let position = session.push(head.lane, End::Tail)?;
    session.conn.prepare_cached(UPDATE_RETRIED)?.execute(params![
        head.job,
        position,
        ms(session.now),
        failures,
        stalls,
        snoozes,
        head.has_key,
    ])?;
    session.conn.prepare_cached(UPDATE_NO_RESULT)?.execute([head.job])?;
    if let Some(shelf) = head.shelf {
        session.shelves.remove(shelf, 1)?;
    }
    Ok(RetryOutcome::Ready)
}

/// Who has the idempotency key of a job.
pub(super) enum KeyHolder {
    /// Nobody, or the job itself, or it has no key.
    None,
    Other(JobId),
    /// The key is not text.
    Unreadable,
}

pub(super) fn holder_of_key(session: &mut Session<'_>, head: &Head) -> Result<KeyHolder, Fault> {
    if !head.has_key {
        return Ok(KeyHolder::None);
    }
    let mut select = session.conn.prepare_cached(SELECT_KEY)?;
    let key = select.query_row([head.job], |row| Ok(text(row, 0)?.map(str::to_owned)))?;
    let Some(key) = key else { return Ok(KeyHolder::Unreadable) };
    let holder = session.key_holder(&key)?.filter(|holder| holder.job != head.job);
    Ok(holder.map_or(KeyHolder::None, |holder| KeyHolder::Other(holder.id)))
}

/// Deletes jobs, in order.
pub(super) fn delete(
    session: &mut Session<'_>,
    jobs: &[(JobId, JobState)],
) -> Result<Vec<DeleteOutcome>, Fault> {
    let mut outcomes = Vec::with_capacity(jobs.len());
    for (id, in_state) in jobs {
        outcomes.push(match session.head(*id)? {
            None => DeleteOutcome::NotFound,
            Some(head) if head.state != *in_state || head.state == JobState::Running => {
                DeleteOutcome::Unchanged(head.state)
            }
            Some(head) => {
                session.remove(&head)?;
                DeleteOutcome::Deleted
            }
        });
    }
    Ok(outcomes)
}

/// Pauses or resumes a queue; says whether that was a change.
pub(super) fn set_paused(
    session: &mut Session<'_>,
    queue: &QueueName,
    paused: bool,
) -> Result<bool, Fault> {
    let sql = if paused { INSERT_PAUSE } else { DELETE_PAUSE };
    let changed = session.conn.prepare_cached(sql)?.execute([queue.as_str()])? > 0;
    if changed && !paused {
        session.announce();
    }
    Ok(changed)
}

/// The paused queues, in order.
pub(super) fn paused(conn: &Connection) -> Result<Vec<QueueName>, Fault> {
    let mut select = conn.prepare_cached(SELECT_PAUSED)?;
    let queues = select
        .query_map([], |row| Ok(text(row, 0)?.and_then(|queue| QueueName::new(queue).ok())))?;
    let queues: Vec<_> = queues.collect::<Result<_, _>>()?;
    Ok(queues.into_iter().flatten().collect())
}
