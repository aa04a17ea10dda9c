//! How values of the queue stand in columns.
//!
//! Nothing here fails for what it finds in a column: a damaged record is that record's trouble,
//! and an error of SQLite is everybody's.

pub(crate) mod history;
pub(crate) mod limit_state;

use std::hash::{Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;
use hashbrown::Equivalent;
use queue_core::{
    Codec, DeadReason, ErrorKind, Hold, IdempotencyKey, JobError, JobOptions, JobSpec, JobState,
    Kind, LimitKey, LimitKeys, Payload, Priority, QueueName, Timestamp,
};
use rusqlite::Row;

use crate::session::Head;

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
pub(crate) fn state_of(number: i64) -> Option<JobState> {
    let index = usize::try_from(number.checked_sub(1)?).ok()?;
    COUNTED_STATES.get(index).copied()
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

/// A whole number of a column; `None` for NULL. What is no number at all, which STRICT tables do
/// not allow, is one that no rule allows.
pub(crate) fn whole(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<i64>> {
    Ok(row.get_ref(column)?.as_i64_or_null().unwrap_or(Some(i64::MIN)))
}

/// As [`whole`], for a column without NULLs.
pub(crate) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<i64> {
    Ok(whole(row, column)?.unwrap_or(i64::MIN))
}

/// Sixteen bytes of a column; `None` for anything else.
pub(crate) fn sixteen(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<[u8; 16]>> {
    let found = row.get_ref(column)?.as_bytes_or_null().unwrap_or_default();
    Ok(found.and_then(|bytes| bytes.try_into().ok()))
}

/// A text of a column; `None` for NULL and for what is no text.
pub(crate) fn text<'r>(row: &'r Row<'_>, column: usize) -> rusqlite::Result<Option<&'r str>> {
    Ok(row.get_ref(column)?.as_str_or_null().unwrap_or_default())
}

/// The bytes of a column; `None` for NULL and for a number.
pub(crate) fn bytes<'r>(row: &'r Row<'_>, column: usize) -> rusqlite::Result<Option<&'r [u8]>> {
    Ok(row.get_ref(column)?.as_bytes_or_null().unwrap_or_default())
}

/// How a job holds its key, as a column; `None` stands for [`Hold::Kept`].
pub(crate) fn hold_ms(hold: Hold) -> Option<i64> {
    match hold {
        Hold::Kept => None,
        Hold::Live => Some(-1),
        Hold::AtLeast(time) => Some(duration_ms(time)),
    }
}

pub(crate) fn hold_of(ms: Option<i64>) -> Hold {
    match ms {
        None => Hold::Kept,
        Some(-1) => Hold::Live,
        Some(ms) => Hold::AtLeast(duration_of_ms(ms)),
    }
}

/// What is wrong with stored bytes, without the bytes.
pub(crate) type Unreadable = String;

/// The columns that [`spec`] reads.
macro_rules! spec_columns {
    () => {
        "job.key, ifnull(job.codec, body.codec), ifnull(job.options, body.options), \
         ifnull(job.payload, body.payload)"
    };
}
pub(crate) use spec_columns;

/// Joins the table `body`, which has a row for those jobs only that do not carry what they carry
/// themselves.
macro_rules! body_join {
    () => {
        " LEFT JOIN body ON body.job = CASE WHEN job.codec IS NULL THEN job.job END "
    };
}
pub(crate) use body_join;

/// How many columns [`spec_columns`] are.
pub(crate) const SPEC_COLUMNS: usize = 4;

/// The spec of a row in which [`spec_columns`] stand from column `first` on; the inner error says
/// why this one record cannot be read.
pub(crate) fn spec(
    row: &Row<'_>,
    first: usize,
    head: &Head,
    lane: &LaneName,
) -> rusqlite::Result<Result<JobSpec, Unreadable>> {
    let at = |offset: usize| first + offset;
    let Some(codec) = whole(row, at(1))? else {
        return Ok(Err("its body is missing".to_owned()));
    };
    let (Some(carried), Some(stored)) = (bytes(row, at(3))?, bytes(row, at(2))?) else {
        return Ok(Err("its body is not made of bytes".to_owned()));
    };
    let payload = match payload(codec, carried) {
        Ok(payload) => payload,
        Err(reason) => return Ok(Err(reason)),
    };
    let options = match options(stored) {
        Ok(options) => options,
        Err(reason) => return Ok(Err(reason)),
    };
    let Ok(key) = row.get_ref(at(0))?.as_str_or_null() else {
        return Ok(Err("its idempotency key is not text".to_owned()));
    };
    let Ok(idempotency_key) = key.map(IdempotencyKey::new).transpose() else {
        return Ok(Err("its idempotency key is not valid".to_owned()));
    };
    let LaneName { queue, kind, priority, limits } = lane.clone();
    let mut spec = JobSpec::new(head.id, queue, kind, payload);
    spec.priority = priority;
    spec.limits = limits;
    spec.max_attempts = head.max_attempts;
    spec.max_stalls = head.max_stalls;
    spec.expires_at = head.expires_at;
    spec.retention = head.retention;
    spec.idempotency_key = idempotency_key;
    spec.hold = head.hold;
    spec.options = options;
    Ok(Ok(spec))
}

/// The bytes and codec of a payload or result.
pub(crate) fn payload(codec: i64, bytes: &[u8]) -> Result<Payload, Unreadable> {
    let known = u8::try_from(codec).ok().and_then(Codec::from_number);
    let codec = known.ok_or_else(|| format!("codec {codec} is not known"))?;
    Ok(Payload::from_parts(codec, Bytes::copy_from_slice(bytes)))
}

fn options(bytes: &[u8]) -> Result<JobOptions, Unreadable> {
    /// An empty map: the options of nearly every job.
    const DEFAULT: &[u8] = &[0x80];
    if bytes == DEFAULT { Ok(JobOptions::default()) } else { JobOptions::decode(bytes) }
}

/// A stored error. One that cannot be read says so: it is for people, and no reason to stop a job.
pub(crate) fn error_of(bytes: &[u8]) -> JobError {
    JobError::decode(bytes).unwrap_or_else(|reason| {
        JobError::new(ErrorKind::Failed, format!("(the stored error cannot be read: {reason})"))
    })
}

/// What tells a lane from others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LaneName {
    pub(crate) queue: QueueName,
    pub(crate) kind: Kind,
    pub(crate) priority: Priority,
    /// The limit keys of its jobs.
    pub(crate) limits: LimitKeys,
}

impl LaneName {
    /// The lane of a job.
    pub(crate) fn of(spec: &JobSpec) -> Self {
        let JobSpec { queue, kind, priority, limits, .. } = spec;
        let (queue, kind, limits) = (queue.clone(), kind.clone(), limits.clone());
        Self { queue, kind, priority: *priority, limits }
    }
}

/// The name of a job's lane, to look it up.
#[derive(Debug)]
pub(crate) struct LaneOf<'s>(pub(crate) &'s JobSpec);

// As that of a lane's name.
impl Hash for LaneOf<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let JobSpec { queue, kind, priority, limits, .. } = self.0;
        (queue, kind, priority, limits).hash(state);
    }
}

impl Equivalent<LaneName> for LaneOf<'_> {
    fn equivalent(&self, name: &LaneName) -> bool {
        let JobSpec { queue, kind, priority, limits, .. } = self.0;
        let LaneName { queue: of_queue, kind: of_kind, priority: at, limits: with } = name;
        (limits, kind, queue, priority) == (with, of_kind, of_queue, at)
    }
}

/// The columns that [`names`] reads.
macro_rules! name_columns {
    () => {
        "lane.queue, lane.kind, lane.priority, lane.limits"
    };
}
pub(crate) use name_columns;

/// How many columns [`name_columns`] are.
pub(crate) const NAME_COLUMNS: usize = 4;

/// The name of a lane from its columns, if it is legal.
pub(crate) fn names(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<LaneName>> {
    let (queue, kind) = (text(row, first)?, text(row, first + 1)?);
    let level = u8::try_from(number(row, first + 2)?).ok();
    let (Some(queue), Some(kind), Some(level)) = (queue, kind, level) else { return Ok(None) };
    let (queue, kind) = (QueueName::new(queue), Kind::new(kind));
    let (Ok(queue), Ok(kind), Some(priority)) = (queue, kind, Priority::new(level)) else {
        return Ok(None);
    };
    let limits = text(row, first + 3)?.and_then(limits_of);
    Ok(limits.map(|limits| LaneName { queue, kind, priority, limits }))
}

/// Limit keys as a column: a space between two, which no key holds.
pub(crate) fn limits_text(limits: &[LimitKey]) -> String {
    let mut text = String::new();
    for key in limits {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(key.as_str());
    }
    text
}

/// The limit keys of a column, if they are legal and stand as [`limits_text`] writes them.
pub(crate) fn limits_of(text: &str) -> Option<LimitKeys> {
    if text.is_empty() {
        return Some(LimitKeys::NONE);
    }
    let limits = LimitKeys::parse(text.split(' ')).ok()?;
    (limits_text(&limits) == text).then_some(limits)
}

#[cfg(test)]
mod tests {
    use hashbrown::HashMap;
    use queue_core::NewJob;

    use super::*;

    #[test]
    fn a_lane_is_found_by_its_jobs() {
        let job = NewJob::new("k".parse().unwrap(), Payload::raw("x")).limit("tenant:a");
        let mut lanes = HashMap::new();
        lanes.insert(LaneName::of(&job.spec), 7);
        assert_eq!(lanes.get(&LaneOf(&job.spec)), Some(&7));
        let others = [
            job.clone().limit("provider:p"),
            job.clone().queue(QueueName::new("other").unwrap()),
            job.clone().priority(1),
            NewJob::new("other".parse().unwrap(), Payload::raw("x")).limit("tenant:a"),
        ];
        assert!(others.iter().all(|other| lanes.get(&LaneOf(&other.spec)).is_none()));
    }

    #[test]
    fn every_state_and_reason_has_a_number_of_its_own() {
        for state in JobState::ALL {
            assert_eq!(state_of(state_number(state)), Some(state));
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

    #[test]
    fn limit_keys_are_read_as_they_were_written_only() {
        for text in ["", "a:1", "a:1 b:x+y@z c:."] {
            assert_eq!(limits_text(&limits_of(text).unwrap()), text);
        }
        for text in [" ", "a", "a:1 ", "b:1 a:1", "a:1 a:1", "a:1 a:2 a:3 a:4 a:5", "queue:x"] {
            assert_eq!(limits_of(text), None, "{text:?}");
        }
    }
}
