//! What operators do to jobs and queues.

use crate::{JobId, JobState, Timestamp};

/// What became of one job of a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CancelOutcome {
    /// It waited and is cancelled now.
    Cancelled,
    /// It is running; its worker will be told.
    Requested,
    /// It was finished before, and stays in this state.
    AlreadyFinished(JobState),
    /// The store does not know it.
    NotFound,
}

/// Jobs to be run again (T15).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryRequest {
    /// The jobs, each with the time at which it was finished ([`JobRecord::finished_at`]): a job
    /// that was finished again since then is left alone, so the request is safe to repeat. At
    /// most [`PASS_MAX`](crate::backend::PASS_MAX).
    ///
    /// [`JobRecord::finished_at`]: crate::JobRecord::finished_at
    pub jobs: Vec<(JobId, Timestamp)>,
    /// Keeps the counts of failures, stalls and snoozes instead of starting from 0. A job that
    /// has no attempts left then gets one more.
    pub keep_counts: bool,
}

/// What became of one job of a [`RetryRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryOutcome {
    /// It is ready, at the tail of its lane.
    Ready,
    /// It is not finished, or was finished at another time, and stays in this state.
    Unchanged(JobState),
    /// Another job has its idempotency key now; it stays as it was.
    KeyTaken {
        /// The job that has the key.
        by: JobId,
    },
    /// Its `expires_at` has passed: it would not be started. It stays as it was.
    Expired,
    /// The store does not know it.
    NotFound,
}

/// What became of one job that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeleteOutcome {
    /// It is gone, with everything that belonged to it.
    Deleted,
    /// It is in this state and not in the one that was named, or it is running; it stays.
    Unchanged(JobState),
    /// The store does not know it.
    NotFound,
}

/// What became of one quarantined job that was to be recovered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecoverOutcome {
    /// It can be read now, and is in this state.
    Recovered(JobState),
    /// It still cannot be read, and stays in quarantine.
    Unreadable,
    /// It is not quarantined but in this state.
    Unchanged(JobState),
    /// The store does not know it.
    NotFound,
}

/// What the store holds of a job that it cannot read.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuarantinedJob {
    /// The job.
    pub id: JobId,
    /// Why it cannot be read, without its bytes.
    pub reason: String,
    /// The stored bytes by the place where they are stored.
    pub parts: Vec<(String, Vec<u8>)>,
}

impl QuarantinedJob {
    /// What a store found.
    #[must_use]
    pub fn new(id: JobId, reason: impl Into<String>, parts: Vec<(String, Vec<u8>)>) -> Self {
        Self { id, reason: reason.into(), parts }
    }
}

impl std::fmt::Debug for QuarantinedJob {
    /// The sizes of the parts only: they may hold a payload (promise P12).
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sizes: Vec<_> =
            self.parts.iter().map(|(name, bytes)| (name.as_str(), bytes.len())).collect();
        f.debug_struct("QuarantinedJob")
            .field("id", &self.id)
            .field("reason", &self.reason)
            .field("part_bytes", &sizes)
            .finish()
    }
}
