//! Reading jobs.

use queue_core::{Error, JobError, JobId, JobRecord, Kind, Priority, QueueName, WorkerId};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::errors::Fault;
use crate::rows::{
    AFTER_SPEC, Unreadable, decoded, duration_of_ms, payload, reason_of, spec, spec_columns,
    state_of, time,
};

pub(super) const SELECT_RECORD: &str = concat!(
    "SELECT ",
    spec_columns!(),
    ", lane.queue, lane.kind, lane.priority, job.state, job.dead_reason, job.failures, \
     job.stalls, job.snoozes, job.enqueued_ms, job.due_ms, job.finished_ms, claim.until_ms, \
     claim.worker, job.cancel_requested, note.error, note.result_codec, note.result, \
     job.elapsed_ms \
     FROM job LEFT JOIN lane ON lane.lane = job.lane LEFT JOIN body ON body.job = job.job \
     LEFT JOIN note ON note.job = job.job LEFT JOIN claim ON claim.claim = job.claim \
     WHERE job.id = ?1"
);

/// Reads jobs; `None` for an unknown id.
///
/// A record that cannot be read is an error if it is all that was asked for; among others it is
/// `None`, so that it does not hide them.
pub(super) fn get(conn: &Connection, ids: &[JobId]) -> Result<Vec<Option<JobRecord>>, Fault> {
    let mut select = conn.prepare_cached(SELECT_RECORD)?;
    let mut records = Vec::with_capacity(ids.len());
    for id in ids {
        match select.query_row([id.as_bytes()], |row| decoded(read(row))).optional()? {
            None => records.push(None),
            Some(Ok(record)) => records.push(Some(record)),
            Some(Err(reason)) if ids.len() == 1 => {
                return Err(Error::Corrupt(format!("job {id}: {reason}")).into());
            }
            Some(Err(_)) => records.push(None),
        }
    }
    Ok(records)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Result<JobRecord, Unreadable>> {
    let at = |offset: usize| AFTER_SPEC + offset;
    let name = |offset| row.get::<_, Option<String>>(at(offset)).map(Option::unwrap_or_default);
    let queue = QueueName::new(name(0)?);
    let kind = Kind::new(name(1)?);
    let priority = row.get::<_, Option<u8>>(at(2))?.and_then(Priority::new);
    let (Ok(queue), Ok(kind), Some(priority)) = (queue, kind, priority) else {
        return Ok(Err("its lane is missing or has an illegal name".to_owned()));
    };
    let spec = match spec(row, queue, kind, priority)? {
        Ok(spec) => spec,
        Err(reason) => return Ok(Err(reason)),
    };
    let mut record = JobRecord::new(spec, state_of(row.get(at(3))?), time(row.get(at(8))?));
    record.dead_reason = row.get::<_, Option<i64>>(at(4))?.and_then(reason_of);
    record.failures = row.get(at(5))?;
    record.stalls = row.get(at(6))?;
    record.snoozes = row.get(at(7))?;
    record.due_at = time(row.get(at(9))?);
    record.finished_at = row.get::<_, Option<i64>>(at(10))?.map(time);
    record.lease_until = row.get::<_, Option<i64>>(at(11))?.map(time);
    // A label for people: one that cannot be read is left out.
    record.worker = row.get::<_, Option<String>>(at(12))?.and_then(|w| WorkerId::new(w).ok());
    record.cancel_requested = row.get(at(13))?;
    record.elapsed = row.get::<_, Option<i64>>(at(17))?.map(duration_of_ms);
    if let Some(error) = row.get_ref(at(14))?.as_blob_or_null()? {
        match JobError::decode(error) {
            Ok(error) => record.last_error = Some(error),
            Err(reason) => return Ok(Err(reason)),
        }
    }
    if let Some(codec) = row.get::<_, Option<i64>>(at(15))? {
        match payload(codec, row.get(at(16))?) {
            Ok(result) => record.result = Some(result),
            Err(reason) => return Ok(Err(reason)),
        }
    }
    Ok(Ok(record))
}
