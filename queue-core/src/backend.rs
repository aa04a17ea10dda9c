//! The seam between the queue and its stores.
//!
//! A [`Backend`] is a store that can make the moves of the state machine
//! ([`TRANSITIONS`](crate::state::TRANSITIONS)), each in one atomic step. Whoever writes one runs
//! [`conformance`](mod@crate::conformance) against it.
//!
//! # What every implementation must keep
//!
//! - **Batches.** Every call takes many jobs and answers for each of them, in order. One job that
//!   is refused does not stop the others.
//! - **Repeatable.** Every call may be sent again after a lost reply, with the same arguments, and
//!   then changes nothing more and answers the same in substance.
//! - **Fenced.** Only the token that holds a running job changes it.
//! - **Bounded.** No call does more than about [`PASS_MAX`] items of work besides what it was
//!   asked for, and none scans the backlog.
//! - **Its own clock.** Only the store's clock counts, and it never goes back: the time of a call
//!   is the later of the clock and the latest time the store has used before.

mod erased;
mod types;

use std::time::Duration;

use tokio::sync::oneshot;

pub use erased::DynBackend;
pub use types::{
    CancelOutcome, CheckFinding, Claim, ClaimRequest, Cursor, DeleteOutcome, Durability,
    EnqueueOutcome, Enqueued, Epoch, Interest, InvalidCursor, KindLimits, KindSlots, LaneSummary,
    Lanes, Lease, ListRequest, LiveWorker, Maintained, Outcome, PLACE_MAX, Page, Place, Placement,
    QuarantinedJob, QueueStats, RecoverOutcome, RenewRequest, Renewal, Report, Reported,
    RetryOutcome, RetryRequest, SettleReply, SettleRequest, Settled, Settlement, StateCounts,
    Verdict, Violation, WORKERS_MAX, Wake, WatchRequest, Watched, Woken, WorkerInfo, WorkerKind,
};

use crate::{
    Error, JobId, JobRecord, JobState, LimitKey, LimitSettings, LimitStatus, LimitTarget, NewJob,
    QueueName, WorkerId,
};

/// The most items that a call handles beyond what it was asked for, and the most jobs of one claim.
pub const PASS_MAX: u32 = 500;

/// Finished records kept per queue, for completed, cancelled and dead jobs each.
pub const FINISHED_MAX: u64 = 10_000;

/// Once the payloads of a claim's jobs have so many bytes together, a store may stop there.
pub const CLAIM_MAX_BYTES: usize = 8 * 1024 * 1024;

/// The most settings of limits that a store takes.
pub const LIMITS_MAX: usize = 10_000;

/// A store of jobs. See the [module](self) for what every implementation must keep.
///
/// Implementors write plain `async fn`. Callers hold a [`Queue`](crate::Queue), which wraps any
/// backend.
///
/// # Errors
///
/// Every call may answer [`Error::Unavailable`] (outcome unknown, safe to repeat),
/// [`Error::Refused`], [`Error::NeedsRestart`] or [`Error::Corrupt`]. Other errors are named at the call.
///
/// # Cancel safety
///
/// A dropped future may or may not have taken effect, just as with a lost reply; all calls are
/// therefore safe to drop *and repeat*. A `claim` that is dropped and not repeated leaves jobs
/// running that nobody runs until their lease ends: run it in a task of its own.
pub trait Backend: Send + Sync + 'static {
    /// Takes jobs in (T1), in order, or finds the jobs that have their id or idempotency key (T2).
    ///
    /// The jobs are valid ([`NewJob::validate`]) and at most [`PASS_MAX`]. An id or key that
    /// occurs twice in the batch meets the first occurrence like any existing job. A batch is one
    /// atomic step, unless its payloads have many megabytes: then it may be several, in order, and
    /// after an error other than the ones below a part of it may have been taken in.
    ///
    /// The acknowledgement survives at least what `durability` names; a store that cannot give
    /// that answers [`Error::Unsupported`] before it writes anything. If it can but did not in
    /// time (too few replicas confirmed), the answer is [`Error::Unavailable`]: the jobs are in
    /// the store, and a repeat waits for the same confirmation.
    ///
    /// # Errors
    /// [`Error::StoreFull`]: none of the jobs was taken in. [`Error::Unsupported`].
    fn enqueue(
        &self,
        jobs: &[NewJob],
        durability: Durability,
    ) -> impl Future<Output = Result<Vec<EnqueueOutcome>, Error>> + Send;

    /// Takes in one chunk of a bulk, such as those of [`Queue::enqueue_all`](crate::Queue::enqueue_all): as
    /// [`Backend::enqueue`], but calls that others wait for may go first. Chunks keep their order.
    fn enqueue_chunk(
        &self,
        jobs: &[NewJob],
        durability: Durability,
    ) -> impl Future<Output = Result<Vec<EnqueueOutcome>, Error>> + Send {
        self.enqueue(jobs, durability)
    }

    /// How many chunks of a bulk are worth having on their way at a time: unless a store takes several in
    /// together, one that it works at and one in the making.
    fn chunks_under_way(&self) -> usize {
        2
    }

    /// Leases jobs that the worker can run (T4), after making due ones ready (T3).
    ///
    /// The rule by which jobs are chosen is in [`ClaimRequest`]. A request whose token already
    /// holds jobs is a repeat: it answers with just these jobs, takes no others, and extends their
    /// lease as a renewal would, because nobody was there to renew it. A job that cannot be read
    /// is left out of the answer; an error other than [`Error::Unavailable`] means that nothing
    /// was leased.
    ///
    /// A claim is made from the data that this program has opened or adopted, which the store checks in
    /// the same step: a store that has lost it gives nothing ([`Claim::was_reset`]), since what it was
    /// told of limits is gone as well.
    ///
    /// A repeat that arrives after the claim's jobs were settled is a new claim to the store. The
    /// engine sends none: it repeats only what was not answered. A copy that was still on its way
    /// when its connection was given up can be one; its jobs then wait for the end of their
    /// lease. (If a copy of their settlement is on its way, too, and arrives after that one, it
    /// takes effect again: `tests/state_space.rs` shows it.)
    fn claim(&self, request: &ClaimRequest) -> impl Future<Output = Result<Claim, Error>> + Send;

    /// Waits until the store was reached again by a new connection in the place of a broken one, more
    /// often than `seen` times; answers how often. What is there now may be older than what was: a worker
    /// that renews its leases at once learns which of its jobs may run again elsewhere.
    ///
    /// A store without connections is never reached again.
    fn wait_reconnected(&self, seen: u64) -> impl Future<Output = Result<u64, Error>> + Send {
        let _ = seen;
        std::future::pending()
    }

    /// Extends leases (T5) and learns of cancel requests; one answer per token, in order.
    fn renew(
        &self,
        request: &RenewRequest,
    ) -> impl Future<Output = Result<Vec<Renewal>, Error>> + Send;

    /// Ends attempts (T6–T10, T14), in order, and then claims, if the request carries a claim.
    ///
    /// The two are one round trip but two atomic steps: a store may have made the first and not
    /// the second when the reply is lost.
    fn settle(
        &self,
        request: &SettleRequest,
    ) -> impl Future<Output = Result<SettleReply, Error>> + Send;

    /// Waits until there may be work for this worker, at most `timeout`.
    ///
    /// Only a hint in both directions: correctness never depends on it. A wake-up that this call
    /// took and its caller never saw, because the future was dropped, must be passed on.
    fn wait(
        &self,
        interest: &Interest,
        timeout: Duration,
    ) -> impl Future<Output = Result<Wake, Error>> + Send;

    /// Waits as [`Backend::wait`] does, with a *standing claim*: where a store can, it makes the claim
    /// by itself as the wait ends, which spares the worker that it wakes a round trip. One that
    /// cannot, or not now, answers without, and whoever waits claims as after any other wait.
    ///
    /// `revoked` ends, or its sender is dropped, when the caller wants no jobs any more: the call
    /// then answers soon, with the jobs if the store was faster. `request` asks for what the caller
    /// could start at any moment of the wait.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: the claim may have been made. Only a repeat of `request`, by
    /// [`Backend::claim`], tells.
    ///
    /// # Cancel safety
    /// A dropped call is revoked, and gives back what its claim gets all the same.
    fn wait_and_claim(
        &self,
        interest: &Interest,
        request: &ClaimRequest,
        revoked: oneshot::Receiver<()>,
        timeout: Duration,
    ) -> impl Future<Output = Result<Woken, Error>> + Send {
        let _ = request;
        async move {
            tokio::select! {
                wake = self.wait(interest, timeout) => wake.map(Woken::without_claim),
                _ = revoked => Ok(Woken::without_claim(Wake::Timeout)),
            }
        }
    }

    /// Revokes the standing claim of a worker that cannot do so itself, because handlers block the threads of its
    /// runtime: no more is claimed for it after this answer. What was claimed before, a repeat of the claim tells.
    ///
    /// Called from another runtime than the wait, whose tasks may all stand still.
    fn revoke_standing(&self, worker: &WorkerId) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = worker;
        std::future::ready(Ok(()))
    }

    /// Cancels jobs that wait (T13) and asks for running ones to be stopped (T12).
    fn cancel(
        &self,
        ids: &[JobId],
    ) -> impl Future<Output = Result<Vec<CancelOutcome>, Error>> + Send;

    /// Reads jobs; `None` for an id that the store does not know.
    fn get(
        &self,
        ids: &[JobId],
    ) -> impl Future<Output = Result<Vec<Option<JobRecord>>, Error>> + Send;

    /// Lists jobs by state, in pages.
    ///
    /// Not a snapshot: a job that moves while pages are being read may be missed or be listed
    /// twice. While nothing moves, following [`Page::next`] to its end gives every job once.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a cursor that is not of this listing.
    fn list(&self, request: &ListRequest) -> impl Future<Output = Result<Page, Error>> + Send;

    /// Makes finished jobs ready again (T15), in order. Each joins the tail of its lane with due
    /// time now, takes its idempotency key back, and loses its result, [`JobRecord::finished_at`],
    /// [`JobRecord::elapsed`] and reason; its last error, history and log stay. It is not refused
    /// for a queue or key that is full, and counts there ([`LimitSettings::max_live`]).
    fn retry(
        &self,
        request: &RetryRequest,
    ) -> impl Future<Output = Result<Vec<RetryOutcome>, Error>> + Send;

    /// Deletes jobs (T16), in order: each only if it is in the state that is named with it, and
    /// never while running. At most [`PASS_MAX`].
    fn delete(
        &self,
        jobs: &[(JobId, JobState)],
    ) -> impl Future<Output = Result<Vec<DeleteOutcome>, Error>> + Send;

    /// Reads the raw bytes of quarantined jobs; `None` for an id that is not quarantined.
    fn quarantined(
        &self,
        ids: &[JobId],
    ) -> impl Future<Output = Result<Vec<Option<QuarantinedJob>>, Error>> + Send;

    /// Takes jobs out of quarantine that this program can read, in order: back to their finished
    /// state if they have a readable finished record, else ready.
    fn recover(
        &self,
        ids: &[JobId],
    ) -> impl Future<Output = Result<Vec<RecoverOutcome>, Error>> + Send;

    /// Pauses or resumes a queue, which need not have jobs; answers whether that was a change.
    ///
    /// Claims pass over a paused queue. Everything else goes on: enqueues, promotion, running
    /// jobs. Resuming wakes waiting workers.
    fn set_paused(
        &self,
        queue: &QueueName,
        paused: bool,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// The paused queues, ordered by name.
    fn paused(&self) -> impl Future<Output = Result<Vec<QueueName>, Error>> + Send;

    /// Takes the progress and log lines of running jobs, in order; at most [`PASS_MAX`] reports,
    /// no job twice. Of a job's log, the last [`LOG_LINES_MAX`](crate::LOG_LINES_MAX) lines are
    /// kept, and of these as many as have [`LOG_MAX_BYTES`](crate::LOG_MAX_BYTES) of text.
    fn report(
        &self,
        reports: &[Report],
    ) -> impl Future<Output = Result<Vec<Reported>, Error>> + Send;

    /// Looks at jobs that are being watched; `None` for an id that the store does not know.
    fn watch(
        &self,
        requests: &[WatchRequest],
    ) -> impl Future<Output = Result<Vec<Option<Watched>>, Error>> + Send;

    /// Sets what a limit key or a class allows, from the next claim on; `None` removes it. Answers
    /// whether that was a change. The settings are valid
    /// ([`LimitSettings::validate`]). Running jobs go on, also if more run than may now; waiting
    /// workers are woken.
    ///
    /// # Errors
    /// [`Error::BadRequest`] if there would be more than [`LIMITS_MAX`] settings.
    fn set_limit(
        &self,
        target: &LimitTarget,
        settings: Option<&LimitSettings>,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// All settings, ordered by target: keys before classes.
    fn limits(
        &self,
    ) -> impl Future<Output = Result<Vec<(LimitTarget, LimitSettings)>, Error>> + Send;

    /// Ends what has closed or narrowed a limit key for a time, whatever its settings are: the pause
    /// that a provider asked for, a breaker that is open or is being probed, with the failures that
    /// it has counted, and a reduced concurrency ([`LimitState::reset`](crate::LimitState::reset)).
    /// Answers whether there was anything to end. Waiting workers are woken, as by
    /// [`Backend::set_limit`].
    fn reset_limit(&self, key: &LimitKey) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Looks at limit keys, in order; at most [`PASS_MAX`]. A key that nobody uses has a status,
    /// too.
    fn limit_status(
        &self,
        keys: &[LimitKey],
    ) -> impl Future<Output = Result<Vec<LimitStatus>, Error>> + Send;

    /// Takes down what a worker says about itself, in the place of what it said before, to be
    /// believed for a time. With zero time the worker is forgotten.
    fn announce(
        &self,
        worker: &WorkerInfo,
        believed_for: Duration,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// The workers that are believed to be there, at most [`WORKERS_MAX`], in any order.
    fn workers(&self) -> impl Future<Output = Result<Vec<LiveWorker>, Error>> + Send;

    /// What is before a job.
    fn place(&self, id: JobId) -> impl Future<Output = Result<Placement, Error>> + Send;

    /// The lanes of a queue, blocked or not; at most [`PASS_MAX`].
    fn lanes(&self, queue: &QueueName) -> impl Future<Output = Result<Lanes, Error>> + Send;

    /// Counts jobs per queue, kind and state, ordered by queue and kind.
    fn stats(&self) -> impl Future<Output = Result<Vec<QueueStats>, Error>> + Send;

    /// Does what time asks for, at most `budget` items of each: makes due jobs ready (T3), reaps
    /// expired leases (T11; counted in jobs, whole claims at a time), drops finished records (T16).
    fn maintain(&self, budget: u32) -> impl Future<Output = Result<Maintained, Error>> + Send;

    /// Compares every index and counter with the records (promise P4) and lists what disagrees.
    /// Reads everything, in steps where that is much: it may take long, and others go on meanwhile.
    /// What changes under its eyes is looked at again rather than named.
    ///
    /// With `repair`, what can be put right without losing a job or an acknowledgement is put
    /// right, and marked so: counters are counted again, entries that lead nowhere are removed, a
    /// live job that is in no index becomes ready.
    fn audit(&self, repair: bool) -> impl Future<Output = Result<Vec<Violation>, Error>> + Send;

    /// The name of the store's data, if that is other data than claims are made from
    /// ([`Claim::was_reset`]). Data without a name gets one. A store that cannot lose its data while it
    /// is open has nothing to say.
    fn other_epoch(&self) -> impl Future<Output = Result<Option<Epoch>, Error>> + Send {
        async { Ok(None) }
    }

    /// From now on claims are made from the data of this name, and from no other: if it has been
    /// replaced meanwhile, they get nothing again.
    fn adopt(&self, epoch: &Epoch) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = epoch;
        async { Ok(()) }
    }

    /// Checks what a store must have so that the promises hold: version, settings, permissions.
    fn check(&self) -> impl Future<Output = Result<Vec<CheckFinding>, Error>> + Send;
}
