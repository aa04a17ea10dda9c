//! Counting jobs, and what time asks for.

use std::collections::BTreeMap;

use crate::{JobState, Kind, QueueName};

/// Jobs per state.
pub type StateCounts = BTreeMap<JobState, u64>;

/// The jobs of one queue and kind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// The queue.
    pub queue: QueueName,
    /// The kind.
    pub kind: Kind,
    /// How many jobs are in each state; states without jobs are left out.
    pub jobs: StateCounts,
}

impl QueueStats {
    /// The counts of one queue and kind.
    #[must_use]
    pub const fn new(queue: QueueName, kind: Kind, jobs: StateCounts) -> Self {
        Self { queue, kind, jobs }
    }
}

/// The name of a store's data, random, made with it. If it changes, the data is gone: somebody has
/// flushed the store, or it came back without its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch(Vec<u8>);

impl Epoch {
    /// A name as the store has it.
    #[must_use]
    pub const fn new(name: Vec<u8>) -> Self {
        Self(name)
    }

    /// The name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What one maintenance pass did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Maintained {
    /// Jobs made ready because their time had come.
    pub promoted: u64,
    /// Jobs taken back from expired leases.
    pub reaped: u64,
    /// The reaped jobs by their queues, but for those that cannot be read.
    pub reaped_of: BTreeMap<QueueName, u64>,
    /// Of the reaped jobs, those that are dead with reason `crash_loop` now.
    pub crash_loops: u64,
    /// Finished records dropped.
    pub dropped: u64,
    /// A bound was reached: another pass has work at once.
    pub more: bool,
}
