//! What earlier attempts of a job left behind.

use std::time::Duration;

use crate::{JobError, Timestamp, WorkerId};

/// The last so many attempts are kept in a job's history.
pub const HISTORY_MAX: usize = 20;

/// The most bytes of an error's message that are kept in the history. The last error is kept
/// whole beside it ([`JobRecord::last_error`](crate::JobRecord::last_error)).
pub const HISTORY_ERROR_MAX_BYTES: usize = 1024;

/// An attempt that failed or was lost. Attempts that were released, snoozed or throttled leave
/// no entry, and the one that completed is in the record itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttemptRecord {
    /// The number of the attempt, from 1. A lost attempt does not count, so the next one has the
    /// same number.
    pub number: u16,
    /// Who ran it, if that is known.
    pub worker: Option<WorkerId>,
    /// The store's time at its end.
    pub ended_at: Timestamp,
    /// How it ended.
    pub end: AttemptEnd,
}

/// How an attempt of the history ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttemptEnd {
    /// Its worker reported a failure.
    Failed {
        /// Why, with the message cut to [`HISTORY_ERROR_MAX_BYTES`].
        error: JobError,
        /// How long it took; whole milliseconds.
        elapsed: Duration,
    },
    /// Its lease ended without a report: the worker crashed, hung or was cut off.
    LeaseExpired,
}

impl AttemptRecord {
    /// An attempt that has just failed.
    #[must_use]
    pub fn failed(
        number: u16,
        worker: Option<WorkerId>,
        ended_at: Timestamp,
        error: &JobError,
        elapsed: Duration,
    ) -> Self {
        let error = error.shortened(HISTORY_ERROR_MAX_BYTES);
        Self { number, worker, ended_at, end: AttemptEnd::Failed { error, elapsed } }
    }

    /// An attempt whose lease has just expired.
    #[must_use]
    pub const fn lease_expired(number: u16, worker: Option<WorkerId>, ended_at: Timestamp) -> Self {
        Self { number, worker, ended_at, end: AttemptEnd::LeaseExpired }
    }
}
