//! What a store knows about a job.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{AttemptRecord, JobSpec, Progress, shortened};
use crate::{DeadReason, JobState, Payload, Timestamp, WorkerId};

/// Everything a store knows about one job.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct JobRecord {
    /// What its producer said.
    pub spec: JobSpec,
    /// Where it stands.
    pub state: JobState,
    /// Why it is dead; `None` in every other state.
    pub dead_reason: Option<DeadReason>,
    /// Attempts that ended in failure.
    pub failures: u16,
    /// Leases that expired.
    pub stalls: u8,
    /// Times its handler asked to run later.
    pub snoozes: u32,
    /// When the store took it in, by the store's clock. Of a job that can run at once a store may note
    /// when it was sent instead, if that was less than a second before.
    pub enqueued_at: Timestamp,
    /// When it could or can run: the end of its delay or of its last wait, else `enqueued_at`.
    pub due_at: Timestamp,
    /// When it was finished; `None` before that.
    pub finished_at: Option<Timestamp>,
    /// When its lease ends unless renewed; `None` unless running.
    pub lease_until: Option<Timestamp>,
    /// Who runs it; `None` unless running.
    pub worker: Option<WorkerId>,
    /// Whether somebody asked to cancel the attempt that is running.
    pub cancel_requested: bool,
    /// Why the last failed attempt failed.
    pub last_error: Option<JobError>,
    /// What the completed attempt answered.
    pub result: Option<Payload>,
    /// How long the attempt that finished the job took; `None` unless a worker finished it.
    pub elapsed: Option<Duration>,
    /// The last progress that it reported, in whichever attempt.
    pub progress: Option<Progress>,
    /// Its attempts that failed or were lost, oldest first; the last
    /// [`HISTORY_MAX`](crate::HISTORY_MAX).
    pub history: Vec<AttemptRecord>,
}

impl JobRecord {
    /// A record of a job that was just enqueued, for stores that read one back.
    #[must_use]
    pub fn new(spec: JobSpec, state: JobState, enqueued_at: Timestamp) -> Self {
        Self {
            spec,
            state,
            dead_reason: None,
            failures: 0,
            stalls: 0,
            snoozes: 0,
            enqueued_at,
            due_at: enqueued_at,
            finished_at: None,
            lease_until: None,
            worker: None,
            cancel_requested: false,
            last_error: None,
            result: None,
            elapsed: None,
            progress: None,
            history: Vec::new(),
        }
    }

    /// The number of the attempt that runs or was the last to end: failures, plus one while an
    /// attempt runs or if the last one completed. Throttling, snoozes, shutdowns and crashes are
    /// not counted.
    #[must_use]
    pub fn attempt(&self) -> u16 {
        let unfailed = matches!(self.state, JobState::Running | JobState::Completed);
        self.failures.saturating_add(u16::from(unfailed))
    }
}

/// The most bytes of an error's message that are kept.
pub const ERROR_MAX_BYTES: usize = 8 * 1024;

/// What kind of failure ended an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The handler or executor answered with an error.
    Failed,
    /// The handler panicked.
    Panicked,
    /// The attempt took longer than its timeout.
    TimedOut,
    /// The payload is not what the handler expects.
    Undecodable,
    /// Failed on this side, and not because of what the job depends on: no breaker counts it.
    Internal,
    /// Something that only a later version of this program has a name for.
    #[serde(other)]
    Other,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobError {
    /// What kind of failure it was.
    pub kind: ErrorKind,
    /// What the handler said, cut to [`ERROR_MAX_BYTES`].
    pub message: String,
}

impl JobError {
    /// An error; a message that is too long is cut at a character boundary.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = shortened(&message.into(), ERROR_MAX_BYTES);
        Self { kind, message }
    }

    /// The same error with a message of at most `max_bytes`.
    #[must_use]
    pub fn shortened(&self, max_bytes: usize) -> Self {
        Self { kind: self.kind, message: shortened(&self.message, max_bytes) }
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).unwrap_or_default()
    }

    /// Reads the stored form back.
    ///
    /// # Errors
    /// What is wrong with the bytes, without the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        rmp_serde::from_slice(bytes).map_err(|_| "job error is not valid MessagePack".to_owned())
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stores hold these bytes: what changes them must still read the old ones.
    #[test]
    fn the_stored_form_is_this_one_and_a_later_one_can_be_read() {
        let error = JobError::new(ErrorKind::TimedOut, "too slow");
        let golden = b"\x82\xa4kind\xa9timed_out\xa7message\xa8too slow";
        assert_eq!(error.encode(), golden);
        assert_eq!(JobError::decode(golden).unwrap(), error);
        let later = b"\x83\xa4kind\xa6bitten\xa7message\xa3dog\xa3new\x07";
        assert_eq!(JobError::decode(later).unwrap(), JobError::new(ErrorKind::Other, "dog"));
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let error = JobError::new(ErrorKind::Failed, "ä".repeat(ERROR_MAX_BYTES));
        assert!(error.message.len() <= ERROR_MAX_BYTES && error.message.ends_with("ä…"));
        assert_eq!(JobError::decode(&error.encode()).unwrap(), error);
    }
}
