//! Waiting for work.

use crate::{Kind, LimitKeys, QueueName, WorkerId};

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
