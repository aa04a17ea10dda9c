//! What an attempt knows about itself.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::Reporter;
use crate::{JobId, JobSpec, Lease, Progress};

/// One attempt of one job: what the job is, how long it has, and whether it should stop.
#[derive(Clone)]
pub struct Context {
    lease: Arc<Lease>,
    deadline: Instant,
    cancel: CancelSignal,
    states: Arc<States>,
    reporter: Reporter,
}

/// Why an attempt should stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CancelReason {
    /// Somebody asked to cancel the job.
    Requested,
    /// The lease is lost or about to end: another worker may run the job. What this attempt still
    /// reports counts if it reaches the store before the store has taken the job back, and
    /// changes nothing afterwards. What it does elsewhere may be done twice.
    LeaseLost,
    /// The attempt's time is over.
    TimedOut,
    /// The worker stops; the job will run elsewhere, with its attempt refunded.
    Shutdown,
}

impl Context {
    pub(crate) fn new(
        lease: Arc<Lease>,
        deadline: Instant,
        cancel: CancelSignal,
        states: Arc<States>,
        reporter: Reporter,
    ) -> Self {
        Self { lease, deadline, cancel, states, reporter }
    }

    /// The job's id.
    #[must_use]
    pub fn job_id(&self) -> JobId {
        self.lease.spec.id
    }

    /// What the job's producer said: kind, queue, payload, headers and so on.
    #[must_use]
    pub fn spec(&self) -> &JobSpec {
        &self.lease.spec
    }

    /// The number of this attempt, from 1. Snoozes, shutdowns and crashes are not counted.
    #[must_use]
    pub fn attempt(&self) -> u16 {
        self.lease.attempt()
    }

    /// A number greater than that of every earlier attempt of this job, for downstream systems
    /// that can refuse writes with an older one.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.lease.fence
    }

    /// When this attempt's time is over.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// How much of this attempt's time is left.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Waits until the attempt should stop, and says why.
    ///
    /// # Cancel safety
    /// Safe to drop and call again; made for `select!`.
    pub async fn cancelled(&self) -> CancelReason {
        self.cancel.fired().await
    }

    /// Why the attempt should stop, if it should.
    #[must_use]
    pub fn cancel_reason(&self) -> Option<CancelReason> {
        self.cancel.reason()
    }

    /// Says how far the job is, for whoever watches it. Costs next to nothing: it does not wait for
    /// the store, and of several reports within a tenth of a second only the last is sent.
    pub fn progress(&self, progress: Progress) {
        self.reporter.progress(progress);
    }

    /// Writes to the job's log, line by line, for whoever watches or looks the job up later. The
    /// last [`LOG_LINES_MAX`](crate::LOG_LINES_MAX) lines are kept; a line of more than
    /// [`LOG_LINE_MAX_BYTES`](crate::LOG_LINE_MAX_BYTES) is cut. Does not wait for the store; if
    /// that is away when the attempt ends, its last lines are lost.
    pub fn log(&self, text: impl AsRef<str>) {
        self.reporter.log(text.as_ref());
    }

    /// The value that [`Worker::state`](crate::Worker::state) was given for type `T`.
    #[must_use]
    pub fn state<T: Clone + Send + Sync + 'static>(&self) -> Option<T> {
        self.states.get::<T>()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("job_id", &self.job_id())
            .field("kind", &self.lease.spec.kind)
            .field("attempt", &self.attempt())
            .field("cancel_reason", &self.cancel_reason())
            .finish_non_exhaustive()
    }
}

/// Fires once, for a reason. Tells as well whether its attempt has begun.
#[derive(Debug, Clone, Default)]
pub(crate) struct CancelSignal(Arc<Signal>);

#[derive(Debug, Default)]
struct Signal {
    reason: OnceLock<CancelReason>,
    fired: Notify,
    /// [`WAITS`], and then one of the others for ever.
    stage: AtomicU8,
}

const WAITS: u8 = 0;
const BEGUN: u8 = 1;
const TAKEN_BACK: u8 = 2;

impl CancelSignal {
    /// Fires, unless it has fired before: the first reason stays.
    pub(crate) fn fire(&self, reason: CancelReason) {
        if self.0.reason.set(reason).is_ok() {
            self.0.fired.notify_waiters();
        }
    }

    pub(crate) fn reason(&self) -> Option<CancelReason> {
        self.0.reason.get().copied()
    }

    /// The signal of a job that was taken back.
    pub(crate) fn of_taken_back() -> Self {
        let signal = Self::default();
        signal.take_back();
        signal
    }

    /// Begins the attempt; not if its job was taken back.
    pub(crate) fn begin(&self) -> bool {
        self.leave_waiting(BEGUN)
    }

    /// Takes the job back, unless its attempt has begun.
    pub(crate) fn take_back(&self) -> bool {
        self.leave_waiting(TAKEN_BACK)
    }

    fn leave_waiting(&self, stage: u8) -> bool {
        self.0.stage.compare_exchange(WAITS, stage, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(crate) fn is_taken_back(&self) -> bool {
        self.0.stage.load(Ordering::Acquire) == TAKEN_BACK
    }

    pub(crate) async fn fired(&self) -> CancelReason {
        loop {
            // Hears of what comes from here on: the reason is looked for afterwards.
            let fired = self.0.fired.notified();
            if let Some(reason) = self.reason() {
                return reason;
            }
            fired.await;
        }
    }
}

/// The values of [`Worker::state`](crate::Worker::state), one per type.
#[derive(Default)]
pub struct States(HashMap<TypeId, Box<dyn Any + Send + Sync>>);

impl States {
    pub(crate) fn insert<T: Clone + Send + Sync + 'static>(&mut self, value: T) {
        self.0.insert(TypeId::of::<T>(), Box::new(value));
    }

    /// Whether there is one of type `T`.
    #[must_use]
    pub fn has<T: 'static>(&self) -> bool {
        self.0.contains_key(&TypeId::of::<T>())
    }

    fn get<T: Clone + 'static>(&self) -> Option<T> {
        self.0.get(&TypeId::of::<T>())?.downcast_ref::<T>().cloned()
    }
}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "States({})", self.0.len())
    }
}
