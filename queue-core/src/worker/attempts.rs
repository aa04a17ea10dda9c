//! Attempts that have ended: from the task that ran them to the cycle that reports them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use crate::telemetry::{self, AttemptEnd, PairMetrics};
use crate::{ErrorKind, JobError, JobState, Lease, Outcome, Settled, Settlement};

/// An attempt that has ended and is not yet reported to the store.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) lease: Arc<Lease>,
    pub(super) settlement: Settlement,
    pub(super) at: Instant,
    /// Those of its queue and kind, if it was started.
    metrics: Option<Arc<PairMetrics>>,
}

impl Ended {
    pub(super) fn new(
        lease: Arc<Lease>,
        metrics: Option<Arc<PairMetrics>>,
        outcome: Outcome,
        elapsed: Duration,
    ) -> Self {
        Self::new_at(Instant::now(), lease, metrics, outcome, elapsed)
    }

    fn new_at(
        at: Instant,
        lease: Arc<Lease>,
        metrics: Option<Arc<PairMetrics>>,
        outcome: Outcome,
        elapsed: Duration,
    ) -> Self {
        let settlement = Settlement { id: lease.spec.id, token: lease.token, outcome, elapsed };
        Self { lease, settlement, at, metrics }
    }

    /// Whether the handler was called.
    pub(super) fn was_started(&self) -> bool {
        self.metrics.is_some()
    }

    /// Counts and logs what the store made of it.
    pub(super) fn settled(&self, settled: Settled) {
        let spec = &self.lease.spec;
        let looked_up;
        let metrics = match &self.metrics {
            Some(metrics) => metrics,
            None => {
                looked_up = telemetry::of_pair(&spec.queue, &spec.kind);
                &looked_up
            }
        };
        let end = self.end(settled);
        if end == AttemptEnd::LeaseLost && !self.was_started() {
            return; // given back before
        }
        if end == AttemptEnd::LeaseLost {
            metrics.stale_settles.increment(1);
        }
        let elapsed = self.settlement.elapsed.as_secs_f64();
        metrics.ended(end, elapsed);
        tracing::debug!(
            event = "attempt_ended",
            job_id = %spec.id,
            queue = %spec.queue,
            kind = %spec.kind,
            attempt = self.lease.attempt(),
            outcome = end.as_str(),
            elapsed_sec = elapsed,
        );
        self.log_failure(end);
    }

    fn log_failure(&self, end: AttemptEnd) {
        let (Outcome::Retry { error, .. } | Outcome::Dead { error }) = &self.settlement.outcome
        else {
            return;
        };
        let spec = &self.lease.spec;
        tracing::warn!(
            event = "attempt_failed",
            job_id = %spec.id,
            queue = %spec.queue,
            kind = %spec.kind,
            attempt = self.lease.attempt(),
            max_attempts = spec.max_attempts,
            outcome = end.as_str(),
            error_kind = ?error.kind,
        );
    }

    fn end(&self, settled: Settled) -> AttemptEnd {
        let (Settled::Applied(state) | Settled::AlreadyDone(state)) = settled else {
            return AttemptEnd::LeaseLost;
        };
        match (&self.settlement.outcome, state) {
            (Outcome::Completed { .. }, _) => AttemptEnd::Completed,
            (_, JobState::Cancelled) => AttemptEnd::Cancelled,
            (_, JobState::Dead) => AttemptEnd::Dead,
            (Outcome::Snoozed { .. }, _) => AttemptEnd::Snoozed,
            (Outcome::Throttled { .. }, _) => AttemptEnd::Throttled,
            (Outcome::Released | Outcome::Cancelled, _) => AttemptEnd::Released,
            (Outcome::Retry { .. } | Outcome::Dead { .. }, _) => AttemptEnd::Retried,
        }
    }
}

/// Where attempts report their ends, and how the cycle hears that many have, without being woken for
/// each.
#[derive(Debug)]
pub(super) struct Gathering {
    sender: mpsc::UnboundedSender<Ended>,
    /// How many have reported, and how many of those the cycle has taken.
    reported: AtomicU64,
    taken: AtomicU64,
    /// How many reports the cycle waits for, in all.
    awaited: AtomicU64,
    enough: Notify,
}

impl Gathering {
    pub(super) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Ended>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let gathering = Self {
            sender,
            reported: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            awaited: AtomicU64::new(u64::MAX),
            enough: Notify::new(),
        };
        (Arc::new(gathering), receiver)
    }

    fn report(&self, ended: Ended) {
        // Nobody listens only when the worker is gone; then the lease expires.
        let _ = self.sender.send(ended);
        // Behind the report, so that whoever is woken finds it.
        let reported = self.reported.fetch_add(1, Ordering::SeqCst) + 1;
        if reported >= self.awaited.load(Ordering::SeqCst) {
            self.awaited.store(u64::MAX, Ordering::SeqCst);
            self.enough.notify_one();
        }
    }

    /// Notes that the cycle has taken a report.
    pub(super) fn took(&self) {
        self.taken.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until so many reports are there that the cycle has not taken. Only the cycle waits. It may
    /// end sooner.
    ///
    /// # Cancel safety
    /// Safe to drop.
    pub(super) async fn reaches(&self, count: usize) {
        let awaited = self.taken.load(Ordering::SeqCst) + count as u64;
        self.awaited.store(awaited, Ordering::SeqCst);
        // Those who have reported before may not have seen it.
        if self.reported.load(Ordering::SeqCst) < awaited {
            self.enough.notified().await;
        }
    }
}

/// The duty to report the end of one attempt. Dropped without a report, as when the task is
/// dropped with its runtime or panics, it gives the job back: no slot and no lease is forgotten.
#[derive(Debug)]
pub(super) struct Report {
    lease: Arc<Lease>,
    metrics: Arc<PairMetrics>,
    started_at: Instant,
    ended: Option<Arc<Gathering>>,
}

impl Report {
    pub(super) fn new(lease: Arc<Lease>, metrics: Arc<PairMetrics>, ended: Arc<Gathering>) -> Self {
        Self { lease, metrics, started_at: Instant::now(), ended: Some(ended) }
    }

    pub(super) fn send(mut self, outcome: Outcome) {
        self.send_once(outcome);
    }

    /// The handler was not called.
    pub(super) fn send_not_begun(mut self) {
        if let Some(ended) = self.ended.take() {
            let lease = Arc::clone(&self.lease);
            ended.report(Ended::new(lease, None, Outcome::Released, Duration::ZERO));
        }
    }

    fn send_once(&mut self, outcome: Outcome) {
        if let Some(ended) = self.ended.take() {
            let now = Instant::now();
            let elapsed = now - self.started_at;
            let (lease, metrics) = (Arc::clone(&self.lease), Arc::clone(&self.metrics));
            ended.report(Ended::new_at(now, lease, Some(metrics), outcome, elapsed));
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return self.send_once(Outcome::Released);
        }
        // Our own bug, then; but a job that makes us panic must not come back for ever.
        let error = JobError::new(ErrorKind::Panicked, "the worker panicked beside the handler");
        let delay = self.lease.spec.options.backoff.wait(self.lease.attempt(), 0.5);
        self.send_once(Outcome::Retry { delay, error });
    }
}
