//! How attempts end.

use std::time::Duration;

use super::{Claim, ClaimRequest};
use crate::{ClaimToken, Ending, ErrorKind, JobError, JobId, JobState, LimitKeys, Payload};

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// Done (T6), with what the job answers, at most
    /// [`RESULT_MAX_BYTES`](crate::payload::RESULT_MAX_BYTES).
    Completed {
        /// What the job answers, if anything.
        result: Option<Payload>,
    },
    /// Failed; runs again after `delay` (T7), or is dead with `attempts_exhausted` if this was the
    /// last attempt (T8).
    Retry {
        /// How long it waits.
        delay: Duration,
        /// Why it failed.
        error: JobError,
    },
    /// Failed for good: dead with reason `failed` (T8).
    Dead {
        /// Why it failed.
        error: JobError,
    },
    /// Not run to its end for no fault of its own: back to the head of its lane (T9).
    Released,
    /// Asked to run later without having failed (T10). A zero delay goes to the tail of its lane.
    Snoozed {
        /// How long it waits.
        delay: Duration,
    },
    /// Turned away by what it depends on (T10): waits as if snoozed, and no job with one of
    /// `limits` starts before `delay` has passed. That holds even if the job was to be cancelled.
    Throttled {
        /// How long it waits.
        delay: Duration,
        /// The keys that are closed; the job need not have them.
        limits: LimitKeys,
    },
    /// Stopped because somebody asked to cancel it (T14). Without such a request in the store it
    /// counts as [`Outcome::Released`].
    Cancelled,
}

impl Outcome {
    /// Whether a circuit breaker counts it as a failure: the job is to be retried, because its
    /// handler failed or took too long. A panic, a payload that cannot be read, or a failure for
    /// good is not the provider's fault.
    #[must_use]
    pub fn is_blamed(&self) -> bool {
        matches!(self.ending(), Ending::Failed | Ending::TimedOut)
    }

    /// What it says about the providers whose keys the job held.
    #[must_use]
    pub fn ending(&self) -> Ending {
        match self {
            Self::Completed { .. } => Ending::Completed,
            Self::Retry { error, .. } => match error.kind {
                ErrorKind::Failed => Ending::Failed,
                ErrorKind::TimedOut => Ending::TimedOut,
                _ => Ending::Neutral,
            },
            _ => Ending::Neutral,
        }
    }
}

/// The end of one attempt. If somebody asked to cancel the job, every outcome but completed and
/// dead makes it cancelled.
#[derive(Debug, Clone, PartialEq)]
pub struct Settlement {
    /// The job.
    pub id: JobId,
    /// The token of the claim that holds it.
    pub token: ClaimToken,
    /// How the attempt ended.
    pub outcome: Outcome,
    /// How long the attempt took; kept in whole milliseconds.
    pub elapsed: Duration,
}

/// What became of a [`Settlement`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settled {
    /// It took effect; the job is in this state.
    Applied(JobState),
    /// It took effect before: the last settlement of this job was made with this token. The job
    /// is in this state now.
    AlreadyDone(JobState),
    /// No effect: the token does not hold the job, which is in this state.
    Stale(JobState),
    /// No effect: the store does not know the job (any more).
    Gone,
}

/// Ends attempts and may claim in the same round trip.
#[derive(Debug, Clone, PartialEq)]
pub struct SettleRequest {
    /// The attempts that ended; at most [`PASS_MAX`](crate::backend::PASS_MAX), no job twice.
    pub settlements: Vec<Settlement>,
    /// A claim to be made after them.
    pub claim: Option<ClaimRequest>,
}

/// The answer to a [`SettleRequest`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SettleReply {
    /// What became of each settlement, in order.
    pub settled: Vec<Settled>,
    /// The answer to the claim, if there was one.
    pub claim: Option<Claim>,
}

impl SettleReply {
    /// An answer.
    #[must_use]
    pub const fn new(settled: Vec<Settled>, claim: Option<Claim>) -> Self {
        Self { settled, claim }
    }
}
