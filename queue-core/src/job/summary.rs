//! A job as listings show it.

use crate::{
    DeadReason, JobError, JobId, JobRecord, JobState, Kind, Priority, QueueName, Timestamp,
};

/// The most bytes of an error's message in a [`JobSummary`].
pub const SUMMARY_ERROR_MAX_BYTES: usize = 512;

/// What a listing shows of a job: everything small. [`Queue::get`](crate::Queue::get) has the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobSummary {
    /// See [`JobId`].
    pub id: JobId,
    /// Its queue.
    pub queue: QueueName,
    /// Its kind.
    pub kind: Kind,
    /// Its priority.
    pub priority: Priority,
    /// Where it stands.
    pub state: JobState,
    /// Why it is dead; `None` in every other state.
    pub dead_reason: Option<DeadReason>,
    /// Attempts that ended in failure.
    pub failures: u16,
    /// Leases that expired.
    pub stalls: u8,
    /// When the store took it in, as in [`JobRecord`](crate::JobRecord).
    pub enqueued_at: Timestamp,
    /// When it could or can run.
    pub due_at: Timestamp,
    /// When it was finished; `None` before that.
    pub finished_at: Option<Timestamp>,
    /// Why the last failed attempt failed, with the message cut to [`SUMMARY_ERROR_MAX_BYTES`].
    pub last_error: Option<JobError>,
}

impl JobSummary {
    /// A summary of a job in this state, for stores to fill in.
    #[must_use]
    pub const fn new(
        id: JobId,
        queue: QueueName,
        kind: Kind,
        state: JobState,
        enqueued_at: Timestamp,
    ) -> Self {
        Self {
            id,
            queue,
            kind,
            priority: Priority::FIRST,
            state,
            dead_reason: None,
            failures: 0,
            stalls: 0,
            enqueued_at,
            due_at: enqueued_at,
            finished_at: None,
            last_error: None,
        }
    }

    /// The summary of a record.
    #[must_use]
    pub fn of(record: &JobRecord) -> Self {
        let spec = &record.spec;
        let error = record.last_error.as_ref();
        Self {
            priority: spec.priority,
            dead_reason: record.dead_reason,
            failures: record.failures,
            stalls: record.stalls,
            due_at: record.due_at,
            finished_at: record.finished_at,
            last_error: error.map(|error| error.shortened(SUMMARY_ERROR_MAX_BYTES)),
            ..Self::new(
                spec.id,
                spec.queue.clone(),
                spec.kind.clone(),
                record.state,
                record.enqueued_at,
            )
        }
    }
}
