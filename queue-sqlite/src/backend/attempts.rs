//! What failed and lost attempts leave behind.

use queue_core::{AttemptRecord, JobError, WorkerId};
use rusqlite::OptionalExtension;

use crate::errors::Fault;
use crate::rows::{bytes, history, text};
use crate::session::{Head, Session};

pub(super) const SELECT_HISTORY: &str = "SELECT history FROM note WHERE job = ?1";
pub(super) const UPSERT_HISTORY: &str = "INSERT INTO note (job, history, error) VALUES (?1, ?2, ?3) \
     ON CONFLICT (job) DO UPDATE SET history = excluded.history, \
     error = ifnull(excluded.error, error)";
pub(super) const SELECT_WORKER: &str = "SELECT worker FROM claim WHERE claim = ?1";

/// Adds an attempt to a job's history, and its error as the last one, if it has one.
pub(super) fn note_attempt(
    session: &Session<'_>,
    job: i64,
    attempt: &AttemptRecord,
    error: Option<&JobError>,
) -> Result<(), Fault> {
    let mut select = session.conn.prepare_cached(SELECT_HISTORY)?;
    let history =
        select.query_row([job], |row| Ok(history::with(bytes(row, 0)?, attempt))).optional()?;
    let history = history.unwrap_or_else(|| history::with(None, attempt));
    let mut upsert = session.conn.prepare_cached(UPSERT_HISTORY)?;
    upsert.execute((job, history, error.map(JobError::encode)))?;
    Ok(())
}

/// Who runs a job.
pub(super) fn worker_of(session: &Session<'_>, head: &Head) -> Result<Option<WorkerId>, Fault> {
    let mut select = session.conn.prepare_cached(SELECT_WORKER)?;
    let worker = select.query_row([head.claim], |row| {
        Ok(text(row, 0)?.and_then(|worker| WorkerId::new(worker).ok()))
    });
    Ok(worker.optional()?.flatten())
}
