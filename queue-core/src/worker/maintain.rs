//! The store's housekeeping, done by every worker that finds it due.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::panics::caught;
use crate::backend::PASS_MAX;
use crate::{Queue, telemetry};

/// How often a worker that makes no claims looks for itself: within this time plus a pass, the
/// jobs of a dead worker are ready again once their lease is over. Longer than the second after
/// which an idle worker claims anyway, so that it does not look twice.
const INTERVAL: Duration = Duration::from_millis(1250);

/// What tells the housekeeping whether to look.
#[derive(Debug)]
pub(super) struct Upkeep {
    /// A claim's answer says that there is something to do.
    due: Notify,
    /// When the last claim was answered, which is as good as having looked. Read when the time
    /// comes: a busy worker claims too often to wake anybody each time.
    claimed_at: Mutex<Instant>,
}

impl Upkeep {
    pub(super) fn new() -> Self {
        Self { due: Notify::new(), claimed_at: Mutex::new(Instant::now()) }
    }

    /// Notes that a claim was answered, and whether its answer says that there is something to do.
    pub(super) fn claimed(&self, is_due: bool) {
        *self.claimed_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if is_due {
            self.due.notify_one();
        }
    }

    /// Ends when there is something to do, or nobody has looked for a while since `looked_at`.
    async fn is_time(&self, looked_at: Instant) {
        let silence = async {
            loop {
                let claimed_at = *self.claimed_at.lock().unwrap_or_else(PoisonError::into_inner);
                let at = claimed_at.max(looked_at) + INTERVAL;
                if Instant::now() >= at {
                    return;
                }
                tokio::time::sleep_until(at).await;
            }
        };
        tokio::select! {
            () = self.due.notified() => {}
            () = silence => {}
        }
    }
}

/// Runs for ever.
pub(super) async fn maintain(queue: Queue, upkeep: &Upkeep) -> Infallible {
    loop {
        upkeep.is_time(Instant::now()).await;
        if let Err(panic) = caught(pass(&queue)).await {
            tracing::error!(event = "maintain_panicked", panic);
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

/// Works until nothing is due.
async fn pass(queue: &Queue) {
    loop {
        match queue.backend().maintain_boxed(PASS_MAX).await {
            Ok(done) => {
                if done.reaped > 0 {
                    let (reaped, crash_loops) = (done.reaped, done.crash_loops);
                    let mut of_unknown = reaped;
                    for (queue, jobs) in &done.reaped_of {
                        telemetry::leases_expired(Some(queue), *jobs);
                        of_unknown = of_unknown.saturating_sub(*jobs);
                    }
                    if of_unknown > 0 {
                        telemetry::leases_expired(None, of_unknown);
                    }
                    tracing::warn!(event = "leases_expired", jobs = reaped, crash_loops);
                }
                if !done.more {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(event = "maintain_failed", %error);
                tokio::time::sleep(INTERVAL).await;
                return;
            }
        }
    }
}
