//! Waiting for work.

use std::time::Duration;

use crate::{Claim, Kind, LimitKeys, QueueName, WorkerId};

/// What a waiting worker could run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interest {
    /// Who waits; a cancel request for one of its running jobs also wakes it.
    pub worker: WorkerId,
    /// The queues.
    pub queues: Vec<QueueName>,
    /// The kinds it has free slots for; may be empty.
    pub kinds: Vec<KindLimits>,
}

/// A kind that a worker could run, and the limit keys that it adds for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindLimits {
    /// The kind.
    pub kind: Kind,
    /// See [`KindSlots::limits`](crate::KindSlots::limits): without room for these, a job of the
    /// kind is no work for this worker.
    pub limits: LimitKeys,
}

impl KindLimits {
    /// A kind without keys.
    #[must_use]
    pub const fn new(kind: Kind) -> Self {
        Self { kind, limits: LimitKeys::NONE }
    }
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wake {
    /// There may be jobs to claim.
    Work,
    /// One of the worker's running jobs may have been asked to stop: renew to learn which.
    Cancel,
    /// Nothing was heard for the time of the wait.
    Timeout,
}

/// How a wait with a standing claim has ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Woken {
    /// Why.
    pub wake: Wake,
    /// The answer to the claim, if the store has made it.
    pub claim: Option<Claim>,
    /// How long ago the store made the claim, at most.
    pub claimed_ago: Duration,
}

impl Woken {
    /// A wait that the store has made no claim for.
    #[must_use]
    pub const fn without_claim(wake: Wake) -> Self {
        Self { wake, claim: None, claimed_ago: Duration::ZERO }
    }

    /// One for which the store has made the claim, at most `claimed_ago` ago.
    #[must_use]
    pub const fn with_claim(wake: Wake, claim: Claim, claimed_ago: Duration) -> Self {
        Self { wake, claim: Some(claim), claimed_ago }
    }
}
