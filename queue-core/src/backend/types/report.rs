//! What running jobs tell about themselves, and who listens.

use crate::{ClaimToken, JobId, JobState, LogLine, Progress, Timestamp};

/// What a running attempt has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The job.
    pub id: JobId,
    /// The token of the claim that holds it.
    pub token: ClaimToken,
    /// How far it is, if that has changed.
    pub progress: Option<Progress>,
    /// How many lines this attempt has reported before the ones below. Lines that the store has
    /// seen are not written twice, so a report is safe to repeat.
    pub lines_before: u64,
    /// New lines of its log, each at most [`LOG_LINE_MAX_BYTES`](crate::LOG_LINE_MAX_BYTES).
    pub lines: Vec<String>,
}

/// What became of a [`Report`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reported {
    /// It was written.
    Applied,
    /// No effect: the token does not hold the job (any more).
    Stale,
}

/// Asks what has become of a job since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchRequest {
    /// The job.
    pub id: JobId,
    /// Only log lines with a higher [`LogLine::number`].
    pub after_line: u64,
}

/// A look at a job that is being watched.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Watched {
    /// Its state.
    pub state: JobState,
    /// Attempts that ended in failure.
    pub failures: u16,
    /// When it was finished; `None` before that.
    pub finished_at: Option<Timestamp>,
    /// The last progress that it reported.
    pub progress: Option<Progress>,
    /// The lines of its log after the one named in the request, as far as they are kept.
    pub lines: Vec<LogLine>,
}

impl Watched {
    /// A look at a job without progress and lines, for stores to fill in.
    #[must_use]
    pub const fn new(state: JobState, failures: u16) -> Self {
        Self { state, failures, finished_at: None, progress: None, lines: Vec::new() }
    }
}
