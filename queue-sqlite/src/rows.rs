//! How values of the queue stand in columns.

use bytes::Bytes;
use queue_core::{
    Codec, DeadReason, IdempotencyKey, JobId, JobOptions, JobSpec, JobState, Kind, Payload,
    Priority, QueueName, Retention, Timestamp,
};
use rusqlite::Row;
use std::time::Duration;

/// The number of a state in the tables. Never reused for another state.
pub(crate) const fn state_number(state: JobState) -> i64 {
    match state {
        JobState::Scheduled => 1,
        JobState::Retrying => 2,
        JobState::Ready => 3,
        JobState::Running => 4,
        JobState::Completed => 5,
        JobState::Dead => 6,
        JobState::Cancelled => 7,
        JobState::Quarantined => 8,
    }
}

/// The columns of `lane` that count jobs, in the order of the states' numbers.
pub(crate) const COUNTED_STATES: [JobState; 8] = [
    JobState::Scheduled,
    JobState::Retrying,
    JobState::Ready,
    JobState::Running,
    JobState::Completed,
    JobState::Dead,
    JobState::Cancelled,
    JobState::Quarantined,
];

/// The state of a number; the CHECK of the table allows no other number.
pub(crate) fn state_of(number: i64) -> JobState {
    let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
    COUNTED_STATES.get(index).copied().unwrap_or(JobState::Quarantined)
}

pub(crate) const fn reason_number(reason: DeadReason) -> Option<i64> {
    match reason {
        DeadReason::AttemptsExhausted => Some(1),
        DeadReason::Failed => Some(2),
        DeadReason::CrashLoop => Some(3),
        DeadReason::Expired => Some(4),
        // A reason that this version cannot store: the CHECK refuses the row.
        _ => None,
    }
}

pub(crate) const fn reason_of(number: i64) -> Option<DeadReason> {
    match number {
        1 => Some(DeadReason::AttemptsExhausted),
        2 => Some(DeadReason::Failed),
        3 => Some(DeadReason::CrashLoop),
        4 => Some(DeadReason::Expired),
        _ => None,
    }
}

/// A time in a column. Times are at most 2^48 − 1.
pub(crate) fn ms(time: Timestamp) -> i64 {
    i64::try_from(time.as_ms()).unwrap_or(i64::MAX)
}

/// The time of a column; a negative one, which no version writes, is the beginning of time.
pub(crate) fn time(ms: i64) -> Timestamp {
    Timestamp::from_ms(u64::try_from(ms).unwrap_or(0))
}

pub(crate) fn duration_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

pub(crate) fn duration_of_ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

pub(crate) fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

pub(crate) fn duration_of_seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// An id of a column. The CHECK of the table allows no other length; a shorter one is filled up,
/// so that there is a name for a broken record.
pub(crate) fn id_of(row: &Row<'_>, column: usize) -> rusqlite::Result<JobId> {
    let mut bytes = [0; 16];
    let found = row.get_ref(column)?.as_bytes_or_null()?.unwrap_or_default();
    for (to, from) in bytes.iter_mut().zip(found) {
        *to = *from;
    }
    Ok(JobId::from_bytes(bytes))
}

/// A number of a column, or the nearest that the type can hold.
pub(crate) fn number<T>(row: &Row<'_>, column: usize, max: T) -> rusqlite::Result<T>
where
    T: TryFrom<i64> + Default,
{
    let found: i64 = row.get(column)?;
    Ok(T::try_from(found).unwrap_or(if found < 0 { T::default() } else { max }))
}

/// Tells a value that cannot be read, which is one record's trouble, from a failure of SQLite,
/// which is everybody's.
pub(crate) fn decoded<T>(
    read: rusqlite::Result<Result<T, Unreadable>>,
) -> rusqlite::Result<Result<T, Unreadable>> {
    use rusqlite::Error::{
        FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error,
    };
    match read {
        Err(
            FromSqlConversionFailure(column, ..)
            | IntegralValueOutOfRange(column, _)
            | InvalidColumnType(column, ..)
            | Utf8Error(column, _),
        ) => Ok(Err(format!("column {column} holds an illegal value"))),
        other => other,
    }
}

/// The columns that [`spec`] reads, from `job` and `body`; they come first in a SELECT.
macro_rules! spec_columns {
    () => {
        "job.id, job.max_attempts, job.max_stalls, job.expires_ms, job.keep_completed_s, \
         job.keep_dead_s, job.key, body.codec, body.options, body.payload"
    };
}
pub(crate) use spec_columns;

/// The index of the first column after those of [`spec_columns`].
pub(crate) const AFTER_SPEC: usize = 10;

/// What is wrong with stored bytes, without the bytes.
pub(crate) type Unreadable = String;

/// The spec of a row that starts with [`spec_columns`]; the inner error says why this one record
/// cannot be read.
pub(crate) fn spec(
    row: &Row<'_>,
    queue: QueueName,
    kind: Kind,
    priority: Priority,
) -> rusqlite::Result<Result<JobSpec, Unreadable>> {
    let id = id_of(row, 0)?;
    let Some(codec) = row.get::<_, Option<i64>>(7)? else {
        return Ok(Err("the body is missing".to_owned()));
    };
    let payload = match payload(codec, row.get(9)?) {
        Ok(payload) => payload,
        Err(reason) => return Ok(Err(reason)),
    };
    let options = match options(row.get_ref(8)?.as_blob()?) {
        Ok(options) => options,
        Err(reason) => return Ok(Err(reason)),
    };
    let Ok(key) = row.get_ref(6)?.as_str_or_null() else {
        return Ok(Err("the idempotency key is not UTF-8".to_owned()));
    };
    let Ok(idempotency_key) = key.map(IdempotencyKey::new).transpose() else {
        return Ok(Err("the idempotency key is too long".to_owned()));
    };
    let mut spec = JobSpec::new(id, queue, kind, payload);
    spec.priority = priority;
    spec.max_attempts = row.get(1)?;
    spec.max_stalls = row.get(2)?;
    spec.expires_at = row.get::<_, Option<i64>>(3)?.map(time);
    spec.retention = Retention {
        completed: duration_of_seconds(row.get(4)?),
        dead: duration_of_seconds(row.get(5)?),
    };
    spec.idempotency_key = idempotency_key;
    spec.options = options;
    Ok(Ok(spec))
}

/// The bytes and codec of a payload or result.
pub(crate) fn payload(codec: i64, bytes: Vec<u8>) -> Result<Payload, Unreadable> {
    let known = u8::try_from(codec).ok().and_then(Codec::from_number);
    let codec = known.ok_or_else(|| format!("codec {codec} is not known"))?;
    Ok(Payload::from_parts(codec, Bytes::from(bytes)))
}

fn options(bytes: &[u8]) -> Result<JobOptions, Unreadable> {
    /// An empty map: the options of nearly every job.
    const DEFAULT: &[u8] = &[0x80];
    if bytes == DEFAULT { Ok(JobOptions::default()) } else { JobOptions::decode(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_and_reason_has_a_number_of_its_own() {
        for state in JobState::ALL {
            assert_eq!(state_of(state_number(state)), state);
        }
        for reason in DeadReason::ALL {
            assert_eq!(reason_number(reason).and_then(reason_of), Some(reason));
        }
    }

    #[test]
    fn default_options_are_stored_as_an_empty_map() {
        assert_eq!(options(&JobOptions::default().encode()), Ok(JobOptions::default()));
        assert!(options(&[0xc1]).is_err());
    }
}
