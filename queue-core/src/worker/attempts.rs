//! Attempts that have ended: from the task that ran them to the cycle that reports them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

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
        let settlement = Settlement { id: lease.spec.id, token: lease.token, outcome, elapsed };
        Self { lease, settlement, at: Instant::now(), metrics }
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

/// The duty to report the end of one attempt. Dropped without a report, as when the task is
/// dropped with its runtime or panics, it gives the job back: no slot and no lease is forgotten.
#[derive(Debug)]
pub(super) struct Report {
    lease: Arc<Lease>,
    metrics: Arc<PairMetrics>,
    started_at: Instant,
    ended: Option<mpsc::UnboundedSender<Ended>>,
}

impl Report {
    pub(super) fn new(
        lease: Arc<Lease>,
        metrics: Arc<PairMetrics>,
        ended: mpsc::UnboundedSender<Ended>,
    ) -> Self {
        Self { lease, metrics, started_at: Instant::now(), ended: Some(ended) }
    }

    pub(super) fn send(mut self, outcome: Outcome) {
        self.send_once(outcome);
    }

    fn send_once(&mut self, outcome: Outcome) {
        if let Some(ended) = self.ended.take() {
            let elapsed = self.started_at.elapsed();
            // Nobody listens only when the worker is gone; then the lease expires.
            let (lease, metrics) = (Arc::clone(&self.lease), Arc::clone(&self.metrics));
            let _ = ended.send(Ended::new(lease, Some(metrics), outcome, elapsed));
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
