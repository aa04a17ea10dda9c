//! Leases: how they are got and kept.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{ClaimToken, JobId, JobSpec, Kind, LimitKeys, QueueName, Timestamp, WorkerId};

/// A worker's free slots for one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindSlots {
    /// The kind.
    pub kind: Kind,
    /// How many jobs of it the worker can start now. With 0 it gets none, and if jobs of the kind
    /// are ready, another waiting worker is woken for them.
    pub slots: u32,
    /// Keys that its jobs need on this worker beside their own, such as the provider that the
    /// worker's executor calls.
    pub limits: LimitKeys,
}

impl KindSlots {
    /// Free slots for a kind, without keys.
    #[must_use]
    pub const fn new(kind: Kind, slots: u32) -> Self {
        Self { kind, slots, limits: LimitKeys::NONE }
    }
}

/// A worker asks for jobs.
///
/// # Which jobs it gets
///
/// A *lane* is the ready jobs of one queue, kind, priority and list of limit keys, first in first
/// out. A store-wide clock, the *turn*, ticks when an empty lane gets its first job and when a
/// lane is served, and stamps that lane. A lane is *eligible* if it holds jobs, its kind has free
/// slots, and each of its keys and of the keys that the worker adds for its kind has
/// [`Room`](crate::Room). For each queue, in the request's order, while jobs are missing:
///
/// 1. Of the eligible lanes, the 32 with the lowest (priority, turn) are looked at; of these the
///    ones of the best priority form the group.
/// 2. Each lane of the group, in the order of turns, gives up to its share of the missing jobs
///    from its head, as far as the slots of its kind and the room of the keys reach, of which it
///    leaves one place if there are more, so that it need not wait for it. Its share is
///    `ceil(missing × its weight / weight of the group)`; a lane weighs as much as the heaviest of
///    its own keys ([`LimitSettings::weight`](crate::LimitSettings::weight)), and 1 without any. A
///    lane that still holds jobs after serving gets a new turn, unless it weighs more than it has
///    given and [`is_turn_over`](crate::is_turn_over) lets it keep the one it has.
/// 3. Again from 1 until nothing is missing or no lane can serve.
///
/// Lanes have a price in some stores. If a worker says by `round_jobs` that its jobs are
/// short, such a store may look at fewer lanes in step 1, so that each of them gives up to 32 jobs, as long as
/// a turn of all lanes of the queue, one after the other, takes no more than `round_jobs` jobs.
///
/// A job that is given holds all these keys until it ends, and counts for their rates. A store may
/// look at more than 500 lanes that turn out not to be eligible in several calls, and says
/// [`Claim::more`] then.
///
/// A job that is met after its `expires_at` is dead with reason `expired` and not counted. Paused
/// queues are passed over. A store may give fewer jobs than that, but at least one, and say
/// [`Claim::more`], when their payloads have [`CLAIM_MAX_BYTES`](crate::backend::CLAIM_MAX_BYTES) together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequest {
    /// A fresh random token; the same one again for a repeat.
    pub token: ClaimToken,
    /// Who asks, for people to see.
    pub worker: WorkerId,
    /// The queues, first one first; no duplicates.
    pub queues: Vec<QueueName>,
    /// The kinds it can run; no duplicates.
    pub kinds: Vec<KindSlots>,
    /// The most jobs it wants, 1 to [`PASS_MAX`](crate::backend::PASS_MAX).
    pub max: u32,
    /// How many jobs one turn of each lane may have together if their jobs are known to be short, or 0:
    /// see above.
    pub round_jobs: u32,
    /// How long it holds them without renewal; whole milliseconds, at least 1.
    pub lease: Duration,
}

/// A running job in the hands of the worker that claimed it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Lease {
    /// What its producer said.
    pub spec: JobSpec,
    /// The claim's token.
    pub token: ClaimToken,
    /// Attempts that ended in failure before this one.
    pub failures: u16,
    /// Leases of this job that expired.
    pub stalls: u8,
    /// A number that is greater than that of every earlier lease of the store, for downstream
    /// systems that can refuse writes with an older one.
    pub fence: u64,
    /// When the store took the job in, as in [`JobRecord`](crate::JobRecord).
    pub enqueued_at: Timestamp,
    /// Since when the job could run.
    pub due_at: Timestamp,
    /// The store's time of the claim.
    pub claimed_at: Timestamp,
}

impl Lease {
    /// A lease of a first attempt, for stores to fill in.
    #[must_use]
    pub fn new(spec: JobSpec, token: ClaimToken, fence: u64, claimed_at: Timestamp) -> Self {
        Self {
            spec,
            token,
            failures: 0,
            stalls: 0,
            fence,
            enqueued_at: claimed_at,
            due_at: claimed_at,
            claimed_at,
        }
    }

    /// The number of this attempt, from 1.
    #[must_use]
    pub fn attempt(&self) -> u16 {
        self.failures.saturating_add(1)
    }
}

/// The answer to a claim.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Claim {
    /// The jobs, in the order in which they were chosen (in any order for a repeat).
    pub leases: Vec<Lease>,
    /// Asking again at once may give more: the claim stopped at a bound, not for lack of jobs.
    pub more: bool,
    /// How long until there may be work without anybody doing anything: until the next scheduled
    /// or retrying job of the store is due, or, if that is earlier, until a lane of the request's
    /// queues and kinds that has no room now has room again. A store may name an earlier time, and
    /// while there is [`Claim::more`], or other work with room is left, it need not look for such lanes.
    pub next_due: Option<Duration>,
    /// Whether [`Backend::maintain`](crate::backend::Backend::maintain) has something to do now.
    pub maintain: bool,
    /// Jobs whose `expires_at` had passed and that this claim made dead, for metrics: a repeat does
    /// not name them again.
    pub expired: BTreeMap<(QueueName, Kind), u64>,
    /// Whether nobody waits for the places of these jobs: each limit key that they hold has room for as
    /// many more as this claim gave of it, and nothing of it is limited but how many jobs run at once or
    /// are live. A worker may hold some back then. Not for a repeat.
    pub spare: bool,
    /// Whether the store has other data than that which claims are made from: it gave nothing, and gives
    /// nothing to this program until that has adopted it
    /// ([`Backend::adopt`](crate::backend::Backend::adopt)).
    pub was_reset: bool,
}

/// A worker extends claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewRequest {
    /// The claims; no duplicates, at most [`PASS_MAX`](crate::backend::PASS_MAX).
    pub tokens: Vec<ClaimToken>,
    /// How long from now they shall last at least; whole milliseconds.
    pub lease: Duration,
}

/// What became of one claim of a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Renewal {
    /// It holds jobs and lasts at least as long as asked for.
    Held {
        /// Those of its jobs that somebody asked to cancel, in any order.
        cancel_requested: Vec<JobId>,
    },
    /// It holds no jobs: all settled, or reaped.
    Lost,
}
