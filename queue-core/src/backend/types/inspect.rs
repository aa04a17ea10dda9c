//! What a store can say about why jobs wait: who could run them, and what is before them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Kind, LimitKeys, Priority, QueueName, StartRate, Timestamp, WorkerId};

/// The most workers that a store remembers; the ones whose time is over first make room.
pub const WORKERS_MAX: usize = 10_000;

/// What a worker says about itself, for people and for explanations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// What people see it called; several may have one name.
    pub id: WorkerId,
    /// A random number that tells it from others of its name.
    pub instance: u64,
    /// The queues it takes jobs from.
    pub queues: Vec<QueueName>,
    /// For each of them, when it is served: only if the queues of lower ranks have nothing for the worker.
    /// Queues of one rank take turns. Empty if that is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranks: Vec<u32>,
    /// The kinds it runs.
    pub kinds: Vec<WorkerKind>,
    /// The most jobs it runs at a time.
    pub concurrency: u32,
    /// How many it ran when it said so.
    pub running: u32,
}

/// A kind that a worker runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerKind {
    /// The kind.
    pub kind: Kind,
    /// The most jobs of it that the worker runs at a time.
    pub concurrency: u32,
    /// The limit keys that the worker adds for it.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub limits: LimitKeys,
}

fn is_empty(limits: &LimitKeys) -> bool {
    limits.is_empty()
}

impl WorkerInfo {
    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Names, numbers and lists of them always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the stored form back; `None` if a later program wrote something else there.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// A worker that is alive, as far as the store knows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LiveWorker {
    /// What it says about itself.
    pub info: WorkerInfo,
    /// How long the store goes on believing so without another word.
    pub believed_for: Duration,
}

impl LiveWorker {
    /// A worker and how long it is believed.
    #[must_use]
    pub const fn new(info: WorkerInfo, believed_for: Duration) -> Self {
        Self { info, believed_for }
    }
}

/// Where a job stands in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Placement {
    /// The store's time.
    pub now: Timestamp,
    /// What is before it; `None` unless it is ready.
    pub place: Option<Place>,
}

impl Placement {
    /// A placement, for stores to answer with.
    #[must_use]
    pub const fn new(now: Timestamp, place: Option<Place>) -> Self {
        Self { now, place }
    }
}

/// Where a ready job stands in its lane, and its lane among those that take turns with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// Jobs of its lane that are before it.
    pub jobs_ahead: u64,
    /// There may be more of them: the store looked at [`PLACE_MAX`].
    pub more: bool,
    /// The turn of its lane, as in [`LaneSummary::turn`].
    pub turn: u64,
}

/// The most jobs of a lane that a store looks at to find the place of one.
pub const PLACE_MAX: u64 = 10_000;

impl Place {
    /// A place, for stores to answer with.
    #[must_use]
    pub const fn new(jobs_ahead: u64, more: bool, turn: u64) -> Self {
        Self { jobs_ahead, more, turn }
    }
}

/// Ready jobs that are given out first in first out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LaneSummary {
    /// Their kind.
    pub kind: Kind,
    /// Their priority.
    pub priority: Priority,
    /// Their limit keys.
    pub limits: LimitKeys,
    /// How many there are.
    pub jobs: u64,
    /// For how long the first of them could have run.
    pub waiting: Duration,
    /// Whose turn it is among the lanes of a queue and priority: the lowest comes first. A lane that waits at a
    /// limit key keeps its turn. Nothing but the order means anything.
    pub turn: u64,
}

/// Lanes of a queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lanes {
    /// At most [`PASS_MAX`](crate::backend::PASS_MAX) of them, in any order.
    pub lanes: Vec<LaneSummary>,
    /// There are others.
    pub more: bool,
    /// How often jobs of the queue have started lately.
    pub starts: StartRate,
}

impl Lanes {
    /// Lanes, whether there are others, and how often jobs of their queue start.
    #[must_use]
    pub const fn new(lanes: Vec<LaneSummary>, more: bool, starts: StartRate) -> Self {
        Self { lanes, more, starts }
    }
}
