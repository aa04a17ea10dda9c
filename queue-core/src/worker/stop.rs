//! From start to stop: what a running worker is to its owner.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::cycle::Cycle;
use super::leases::Leases;
use super::maintain::{Upkeep, maintain};
use super::presence::Presence;
use super::renew::{Renewals, Renewer};
use super::reopen::reopen;
use super::run::Conditions;
use super::slots::Slots;
use super::starts::Starts;
use super::{CONCURRENCY_MAX, StartError, Worker, in_range};
use crate::duration::deadline;
use crate::{CancelReason, KindLimits, QueueName, WorkerId, telemetry};

/// How long at least a stopping worker goes on trying to tell the store once everything has ended.
pub(super) const LAST_WORDS_MAX: Duration = Duration::from_secs(5);

/// How far a worker is on its way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It claims and runs.
    Running,
    /// It claims no more; what runs may finish.
    Draining,
    /// What runs is told to stop; what did not is given back.
    Stopping {
        /// When the worker ends even if not everything is reported.
        give_up_at: Instant,
    },
}

/// A worker at work. Dropping it stops it at once, as [`RunningWorker::stop_now`] does, without
/// waiting for the end.
#[derive(Debug)]
#[must_use = "dropping a running worker stops it"]
pub struct RunningWorker {
    id: WorkerId,
    phase: watch::Sender<Phase>,
    over: watch::Receiver<Option<StopReport>>,
    abort: CancellationToken,
    cancel_grace: Duration,
    status: Arc<Status>,
}

/// What became of the jobs that ran when a worker was asked to stop, and of those before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopReport {
    /// Attempts whose outcome the store has taken, over the worker's life.
    pub finished: usize,
    /// Jobs given back with their attempt refunded.
    pub released: usize,
    /// Attempts whose outcome did not count: the lease was over, or the store could not be told.
    /// These jobs run again when their lease expires, or have done so.
    pub lost: usize,
    /// Of the lost ones, those that the worker held when it gave up telling the store.
    pub untold: usize,
}

impl StopReport {
    /// Counts attempts that the store is not told of any more.
    pub(super) fn give_up(&mut self, attempts: usize) {
        self.lost += attempts;
        self.untold += attempts;
    }
}

/// How a worker is doing.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// Jobs that run now.
    pub running: usize,
    /// The most jobs that may run at a time.
    pub slots: usize,
    /// Whether it was asked to stop.
    pub draining: bool,
    /// When it last went through its cycle: at least every few seconds unless it is stuck.
    pub last_progress: Instant,
    /// Whether its last call reached the store.
    pub store_up: bool,
    /// Whether only another process can use the store again ([`Error::NeedsRestart`](crate::Error)).
    pub store_needs_restart: bool,
    /// Whether it takes no jobs because the store has lost its data and is not prepared again
    /// ([`Queue::on_reset`](crate::Queue::on_reset)).
    pub store_was_reset: bool,
}

/// The part of the status that the cycle keeps.
#[derive(Debug)]
pub(super) struct Status {
    running: AtomicUsize,
    /// How many of them others were told of last.
    running_told: AtomicUsize,
    running_changed: Notify,
    /// How many jobs may run.
    slots: AtomicUsize,
    slots_changed: Notify,
    /// How many jobs of each queue run.
    queues: Vec<(QueueName, AtomicUsize)>,
    store_up: AtomicBool,
    /// Whether the last call was told that this process cannot use the store any more.
    needs_restart: AtomicBool,
    /// Whether the store has lost its data and is not prepared again.
    was_reset: AtomicBool,
    reset_noticed: Notify,
    last_progress: Mutex<Instant>,
}

impl Status {
    pub(super) fn new(slots: usize, queues: Vec<QueueName>) -> Self {
        Self {
            queues: queues.into_iter().map(|queue| (queue, AtomicUsize::new(0))).collect(),
            running: AtomicUsize::new(0),
            running_told: AtomicUsize::new(0),
            running_changed: Notify::new(),
            slots: AtomicUsize::new(slots),
            slots_changed: Notify::new(),
            store_up: AtomicBool::new(false),
            needs_restart: AtomicBool::new(false),
            was_reset: AtomicBool::new(false),
            reset_noticed: Notify::new(),
            last_progress: Mutex::new(Instant::now()),
        }
    }

    pub(super) fn slots(&self) -> usize {
        self.slots.load(Ordering::Relaxed)
    }

    fn set_slots(&self, slots: usize) {
        self.slots.store(slots, Ordering::Relaxed);
        self.slots_changed.notify_one();
    }

    /// Waits for the next change of the slots, or one since the last call. One may wait.
    pub(super) async fn slots_changed(&self) {
        self.slots_changed.notified().await;
    }

    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// How many jobs run, which others are about to be told.
    pub(super) fn tell_running(&self) -> usize {
        let running = self.running();
        self.running_told.store(running, Ordering::Relaxed);
        running
    }

    /// Waits until others have been told of another number of running jobs.
    pub(super) async fn running_changed(&self) {
        self.running_changed.notified().await;
    }

    /// A worker has few queues: looking through them costs less than anything else about a job.
    fn of_queue(&self, queue: &QueueName) -> Option<&AtomicUsize> {
        self.queues.iter().find(|(of, _)| of == queue).map(|(_, running)| running)
    }

    pub(super) fn started(&self, queue: &QueueName) {
        if let Some(running) = self.of_queue(queue) {
            running.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn ended(&self, queue: &QueueName) {
        if let Some(running) = self.of_queue(queue) {
            running.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn is_store_up(&self) -> bool {
        self.store_up.load(Ordering::Relaxed)
    }

    pub(super) fn progress(&self, running: usize) {
        self.running.store(running, Ordering::Relaxed);
        // Wakes nobody while it is too soon for another word.
        if running != self.running_told.load(Ordering::Relaxed) {
            self.running_changed.notify_one();
        }
        *self.last_progress.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long ago the cycle turned.
    pub(super) fn stands_for(&self) -> Duration {
        self.last_progress.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    pub(super) fn was_reset(&self) -> bool {
        self.was_reset.load(Ordering::Relaxed)
    }

    pub(super) fn set_reset(&self, was_reset: bool) {
        self.was_reset.store(was_reset, Ordering::Relaxed);
        if was_reset {
            self.reset_noticed.notify_one();
        }
    }

    /// Waits until a claim finds that the store has lost its data, or one has since the last call.
    pub(super) async fn reset_noticed(&self) {
        self.reset_noticed.notified().await;
    }

    /// Notes whether the store answers; tells what was noted before.
    pub(super) fn set_store_up(&self, up: bool) -> bool {
        self.store_up.swap(up, Ordering::Relaxed)
    }

    /// Notes whether this process cannot use the store any more.
    pub(super) fn set_needs_restart(&self, needs_restart: bool) {
        self.needs_restart.store(needs_restart, Ordering::Relaxed);
    }
}

pub(super) fn start(worker: Worker) -> Result<RunningWorker, StartError> {
    let leases = Arc::new(Leases::new(worker.lease));
    let starts = Starts::new();
    let status = Arc::new(Status::new(worker.concurrency, worker.selection.names()));
    let renewer = Renewer::start(Renewals {
        queue: worker.queue.clone(),
        worker: worker.id.clone(),
        leases: Arc::clone(&leases),
        starts: Arc::clone(&starts),
        status: Arc::clone(&status),
        lease: worker.lease,
    })?;
    let abort = CancellationToken::new();
    let (phase, phase_seen) = watch::channel(Phase::Running);
    let (over_sender, over) = watch::channel(None);
    let upkeep = Arc::new(Upkeep::new());
    let (outbox, reports) = mpsc::unbounded_channel();
    let presence = Presence::of(&worker);
    let kinds = worker.routes.iter().map(|(kind, route)| {
        let limits = route.limits.clone();
        (KindLimits { kind: kind.clone(), limits }, route.concurrency)
    });
    let cycle = Cycle {
        slots: Slots::new(worker.concurrency, kinds),
        queue: worker.queue.clone(),
        id: worker.id.clone(),
        selection: worker.selection,
        lease: worker.lease,
        routes: worker.routes,
        leases: Arc::clone(&leases),
        renewer,
        starts,
        conditions: Arc::new(Conditions {
            states: Arc::new(worker.states),
            cancel_grace: worker.cancel_grace,
            lost_grace: worker.lease / 10,
            queue: worker.queue.clone(),
            outbox,
            abort: abort.clone(),
        }),
        phase: phase.clone(),
        phase_seen,
        status: Arc::clone(&status),
        upkeep: Arc::clone(&upkeep),
    };
    telemetry::store_up().set(0.0);
    let queue = worker.queue;
    let last_resort = abort.clone();
    let known = Arc::clone(&status);
    let waker = phase.clone();
    tokio::spawn(async move {
        let cycle = tokio::spawn(cycle.run());
        let side_work = async {
            let reports = super::reports::run(queue.clone(), reports);
            let announced = presence.announce(&queue, &known);
            let reopened = reopen(queue.clone(), &known, waker);
            tokio::join!(maintain(queue.clone(), &upkeep), reports, announced, reopened).0
        };
        let report = tokio::select! {
            report = cycle => report,
            never = side_work => match never {},
        };
        let report = report.unwrap_or_else(|error| {
            tracing::error!(event = "worker_panicked", %error);
            StopReport::default()
        });
        // Whatever still runs has nobody left to report to or to renew its lease.
        last_resort.cancel();
        leases.stop_all(CancelReason::LeaseLost);
        // Also if no claim has reached the store yet: the word that it is there may have.
        presence.retire(&queue).await;
        over_sender.send_replace(Some(report));
    });
    tracing::info!(event = "worker_started", worker = %worker.id, slots = worker.concurrency);
    Ok(RunningWorker {
        id: worker.id,
        phase,
        over,
        abort,
        cancel_grace: worker.cancel_grace,
        status,
    })
}

impl RunningWorker {
    /// What people see this worker called.
    #[must_use]
    pub fn id(&self) -> &WorkerId {
        &self.id
    }

    /// Changes how many jobs run at a time, from now on; those that run go on.
    ///
    /// # Errors
    /// [`StartError::OutOfRange`] for what [`Worker::concurrency`] would not take either.
    pub fn set_concurrency(&self, jobs: usize) -> Result<(), StartError> {
        in_range("concurrency", jobs, 1, CONCURRENCY_MAX)?;
        self.status.set_slots(jobs);
        // The cycle looks whenever the phase is set, also to what it was.
        self.phase.send_modify(|_| {});
        Ok(())
    }

    /// How many jobs of each of its queues run, in the order of the selection.
    #[must_use]
    pub fn running_of_queues(&self) -> Vec<(QueueName, usize)> {
        let of = |(queue, running): &(QueueName, AtomicUsize)| {
            (queue.clone(), running.load(Ordering::Relaxed))
        };
        self.status.queues.iter().map(of).collect()
    }

    /// Takes no more jobs and lets the running ones finish, for at most `grace`; then tells them
    /// to stop, drops those that do not within the worker's cancel grace, and gives back what did
    /// not finish, with its attempt refunded.
    ///
    /// # Cancel safety
    /// Safe to drop; the worker goes on draining, without the limit of `grace`.
    pub async fn drain(&self, grace: Duration) -> StopReport {
        self.advance(Phase::Draining);
        if let Ok(report) = tokio::time::timeout(grace, self.ended()).await {
            return report;
        }
        let give_up_at = deadline(self.cancel_grace.saturating_add(LAST_WORDS_MAX));
        self.advance(Phase::Stopping { give_up_at });
        self.ended().await
    }

    /// Stops at once: drops what runs and gives it back, with its attempt refunded. May be called
    /// while [`drain`](Self::drain) is waiting.
    ///
    /// # Cancel safety
    /// Safe to drop; the worker goes on stopping.
    pub async fn stop_now(&self) -> StopReport {
        self.abort();
        self.ended().await
    }

    fn abort(&self) {
        self.abort.cancel();
        self.advance(Phase::Stopping { give_up_at: Instant::now() + LAST_WORDS_MAX });
    }

    /// Moves on to `next`, never back; a sooner end replaces a later one.
    fn advance(&self, next: Phase) {
        self.phase.send_if_modified(|phase| {
            let moves = match (*phase, next) {
                (Phase::Running, next) => next != Phase::Running,
                (Phase::Draining, next) => matches!(next, Phase::Stopping { .. }),
                (Phase::Stopping { give_up_at }, Phase::Stopping { give_up_at: sooner }) => {
                    sooner < give_up_at
                }
                (Phase::Stopping { .. }, _) => false,
            };
            if moves {
                *phase = next;
            }
            moves
        });
    }

    /// Waits until the worker has ended: stopped by one of the above, or by itself, which only a
    /// bug can make it do.
    ///
    /// # Cancel safety
    /// Safe to drop and call again.
    pub async fn ended(&self) -> StopReport {
        let mut over = self.over.clone();
        match over.wait_for(Option::is_some).await {
            Ok(report) => report.unwrap_or_default(),
            // The task is gone without a report, as when its runtime was shut down.
            Err(_) => StopReport::default(),
        }
    }

    /// How the worker is doing.
    #[must_use]
    pub fn status(&self) -> WorkerStatus {
        let last_progress = &self.status.last_progress;
        WorkerStatus {
            running: self.status.running(),
            slots: self.status.slots(),
            draining: *self.phase.borrow() != Phase::Running,
            last_progress: *last_progress.lock().unwrap_or_else(PoisonError::into_inner),
            store_up: self.status.is_store_up(),
            store_needs_restart: self.status.needs_restart.load(Ordering::Relaxed),
            store_was_reset: self.status.was_reset(),
        }
    }
}

impl Drop for RunningWorker {
    fn drop(&mut self) {
        self.abort();
    }
}
