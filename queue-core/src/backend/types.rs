//! What goes into and comes out of a [`Backend`](super::Backend).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{
    ClaimToken, ConflictReason, JobError, JobId, JobSpec, JobState, Kind, Payload, QueueName,
    Timestamp, WorkerId,
};

/// What became of one job of an enqueue.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnqueueOutcome {
    /// It is in the store now, or found the job that was there.
    Done(Enqueued),
    /// It was refused: its id or key belongs to `existing`.
    Conflict {
        /// The job that was there first.
        existing: JobId,
        /// What the two have in common.
        reason: ConflictReason,
    },
}

/// An acknowledged enqueue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Enqueued {
    /// The job: the new one, or the existing one that has the same id or idempotency key.
    pub id: JobId,
    /// Its state now.
    pub state: JobState,
    /// Whether it was there before.
    pub duplicate: bool,
}

impl Enqueued {
    /// The job is new.
    #[must_use]
    pub const fn created(id: JobId, state: JobState) -> Self {
        Self { id, state, duplicate: false }
    }

    /// The job was there.
    #[must_use]
    pub const fn duplicate(id: JobId, state: JobState) -> Self {
        Self { id, state, duplicate: true }
    }
}

/// A worker's free slots for one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindSlots {
    /// The kind.
    pub kind: Kind,
    /// How many jobs of it the worker can start now. With 0 it gets none, and if jobs of the kind
    /// are ready, another waiting worker is woken for them.
    pub slots: u32,
}

/// A worker asks for jobs.
///
/// # Which jobs it gets
///
/// A *lane* is the ready jobs of one queue, kind and priority, first in first out. A store-wide
/// clock, the *turn*, ticks when an empty lane gets its first job and when a lane is served, and
/// stamps that lane. For each queue, in the request's order, while jobs are missing:
///
/// 1. Of the lanes that hold jobs of a kind with free slots, the 32 with the lowest
///    (priority, turn) are looked at; of these the ones of the best priority form the group.
/// 2. Each lane of the group, in the order of turns, gives up to
///    `ceil(missing / size of the group)` jobs from its head, as far as the slots of its kind
///    reach. A lane that still holds jobs after serving gets a new turn.
/// 3. Again from 1 until nothing is missing or no lane can serve.
///
/// A job that is met after its `expires_at` is dead with reason `expired` and not counted.
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
    /// The most jobs it wants, 1 to [`PASS_MAX`](super::PASS_MAX).
    pub max: u32,
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
    /// When the store took the job in.
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
    /// How long until the next scheduled or retrying job of the store is due.
    pub next_due: Option<Duration>,
    /// Whether [`Backend::maintain`](super::Backend::maintain) has something to do now.
    pub maintain: bool,
}

/// A worker extends claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewRequest {
    /// The claims; no duplicates, at most [`PASS_MAX`](super::PASS_MAX).
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
    /// Stopped because somebody asked to cancel it (T14). Without such a request in the store it
    /// counts as [`Outcome::Released`].
    Cancelled,
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
    /// The attempts that ended; at most [`PASS_MAX`](super::PASS_MAX), no job twice.
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

/// What a waiting worker could run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interest {
    /// Who waits; a cancel request for one of its running jobs also wakes it.
    pub worker: WorkerId,
    /// The queues.
    pub queues: Vec<QueueName>,
    /// The kinds it has free slots for; may be empty.
    pub kinds: Vec<Kind>,
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

/// What one maintenance pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Maintained {
    /// Jobs made ready because their time had come.
    pub promoted: u64,
    /// Jobs taken back from expired leases.
    pub reaped: u64,
    /// Of the reaped jobs, those that are dead with reason `crash_loop` now.
    pub crash_loops: u64,
    /// Finished records dropped.
    pub dropped: u64,
    /// A bound was reached: another pass has work at once.
    pub more: bool,
}

/// Something in the store that breaks promise P4.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The job it is about, if it is about one.
    pub job: Option<JobId>,
    /// What disagrees with what.
    pub what: String,
}

impl Violation {
    /// A violation about a job.
    #[must_use]
    pub fn of_job(job: JobId, what: impl Into<String>) -> Self {
        Self { job: Some(job), what: what.into() }
    }

    /// A violation about the store.
    #[must_use]
    pub fn of_store(what: impl Into<String>) -> Self {
        Self { job: None, what: what.into() }
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Works, but something is weaker or odder than it should be.
    Warning,
    /// A promise would not hold.
    Bad,
}

/// One line of a start-up check.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckFinding {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it; empty if it is good.
    pub remedy: String,
}

impl CheckFinding {
    /// Something that is as it should be.
    #[must_use]
    pub fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Good, found: found.into(), remedy: String::new() }
    }

    /// Something that is weaker than it should be.
    #[must_use]
    pub fn warning(
        name: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { name, verdict: Verdict::Warning, found: found.into(), remedy: remedy.into() }
    }

    /// Something that breaks a promise.
    #[must_use]
    pub fn bad(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Bad, found: found.into(), remedy: remedy.into() }
    }
}
