//! Reading jobs.

use queue_core::{Error, JobId, JobRecord, Progress, WorkerId};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::errors::Fault;
use crate::rows::{
    NAME_COLUMNS, SPEC_COLUMNS, body_join, bytes, error_of, history, name_columns, names, number,
    payload, spec, spec_columns, text, time, whole,
};
use crate::session::{HEAD_COLUMNS, Head, head_columns};

pub(super) const SELECT_RECORD: &str = concat!(
    "SELECT ",
    head_columns!(),
    ", ",
    spec_columns!(),
    ", ",
    name_columns!(),
    ", claim.until_ms, claim.worker, note.error, \
     note.result_codec, note.result, note.percent, note.doing, note.history, quarantine.reason \
     FROM job LEFT JOIN lane ON lane.lane = job.lane",
    body_join!(),
    "LEFT JOIN note ON note.job = job.job LEFT JOIN claim ON claim.claim = job.claim \
     LEFT JOIN quarantine ON quarantine.job = job.job WHERE job.id = ?1"
);

/// A job that cannot be given as a record.
#[derive(Debug)]
pub(super) enum Unread {
    /// It is quarantined.
    Aside(String),
    /// It should be.
    Broken {
        /// Its rowid.
        job: i64,
        reason: String,
    },
}

/// What was read of some jobs.
#[derive(Debug, Default)]
pub(super) struct Got {
    pub(super) records: Vec<Option<JobRecord>>,
    /// The rowids of jobs that cannot be read and are not quarantined.
    pub(super) broken: Vec<i64>,
    /// Why the only job that was asked for cannot be given.
    pub(super) error: Option<Error>,
}

/// Reads jobs; `None` for an unknown id.
///
/// A record that cannot be read is an error if it is all that was asked for; among others it is
/// `None`, so that it does not hide them.
pub(super) fn get(conn: &Connection, ids: &[JobId]) -> Result<Got, Fault> {
    let mut select = conn.prepare_cached(SELECT_RECORD)?;
    let mut got = Got::default();
    for id in ids {
        let reason = match select.query_row([id.as_bytes()], read).optional()? {
            None => None,
            Some(Ok(record)) => {
                got.records.push(Some(record));
                continue;
            }
            Some(Err(Unread::Aside(reason))) => Some(format!("job {id} is quarantined: {reason}")),
            Some(Err(Unread::Broken { job, reason })) => {
                got.broken.push(job);
                Some(format!("job {id}: {reason}"))
            }
        };
        got.records.push(None);
        got.error = reason.filter(|_| ids.len() == 1).map(Error::Corrupt);
    }
    Ok(got)
}

/// The record of a row of [`SELECT_RECORD`].
pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Result<JobRecord, Unread>> {
    let at = |offset: usize| HEAD_COLUMNS + SPEC_COLUMNS + offset;
    let broken = |job: i64, reason: String| Ok(Err(Unread::Broken { job, reason }));
    let head = match Head::read(row)? {
        Ok(head) => head,
        Err(found) => return broken(found.job, found.reason),
    };
    if head.state == queue_core::JobState::Quarantined {
        let reason = text(row, at(NAME_COLUMNS + 8))?.unwrap_or("nobody noted why");
        return Ok(Err(Unread::Aside(reason.to_owned())));
    }
    let Some(lane) = names(row, at(0))? else {
        return broken(head.job, "its lane is missing or cannot be read".to_owned());
    };
    let at = |offset: usize| at(NAME_COLUMNS + offset);
    let spec = match spec(row, HEAD_COLUMNS, &head, &lane)? {
        Ok(spec) => spec,
        Err(reason) => return broken(head.job, reason),
    };
    let mut record = JobRecord::new(spec, head.state, head.enqueued_at);
    record.dead_reason = head.dead_reason;
    record.failures = head.failures;
    record.stalls = head.stalls;
    record.snoozes = head.snoozes;
    record.due_at = head.due_at;
    record.finished_at = head.finished_at;
    record.lease_until = whole(row, at(0))?.map(time);
    // A label for people: one that cannot be read is left out, as are progress and history.
    record.worker = text(row, at(1))?.and_then(|worker| WorkerId::new(worker).ok());
    record.cancel_requested = head.cancel_requested;
    record.elapsed = head.elapsed;
    record.last_error = bytes(row, at(2))?.map(error_of);
    match result(row, at(3))? {
        Ok(result) => record.result = result,
        Err(reason) => return broken(head.job, reason),
    }
    record.progress = progress(row, at(5))?;
    let history = bytes(row, at(7))?.map(history::decode);
    record.history = history.and_then(Result::ok).unwrap_or_default();
    Ok(Ok(record))
}

/// A job's result, from its codec and bytes, which stand from column `first` on.
pub(super) fn result(
    row: &Row<'_>,
    first: usize,
) -> rusqlite::Result<Result<Option<queue_core::Payload>, String>> {
    Ok(match (whole(row, first)?, bytes(row, first + 1)?) {
        (None, None) => Ok(None),
        (Some(codec), Some(stored)) => {
            payload(codec, stored).map(Some).map_err(|reason| format!("its result: {reason}"))
        }
        _ => Err("half of its result is missing".to_owned()),
    })
}

/// Progress from its two columns, which stand from column `first` on.
pub(super) fn progress(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<Progress>> {
    if whole(row, first)?.is_none() {
        return Ok(None);
    }
    let percent = u8::try_from(number(row, first)?.clamp(0, 100)).unwrap_or(0);
    Ok(Some(Progress::new(percent, text(row, first + 1)?.unwrap_or_default())))
}
