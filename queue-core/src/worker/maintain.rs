//! The store's housekeeping, done by every worker that finds it due.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::Notify;

use super::panics::caught;
use crate::backend::PASS_MAX;
use crate::{Queue, telemetry};

/// How often a worker that makes no claims looks for itself: within this time plus a pass, the
/// jobs of a dead worker are ready again once their lease is over. Longer than the second after
/// which an idle worker claims anyway, so that it does not look twice.
const INTERVAL: Duration = Duration::from_millis(1250);

/// Runs for ever. `due` is notified when a claim's answer says that there is something to do;
/// `claimed` when a claim was made at all, which is as good as having looked.
pub(super) async fn maintain(queue: Queue, due: &Notify, claimed: &Notify) -> Infallible {
    loop {
        tokio::select! {
            biased;
            () = due.notified() => {}
            () = claimed.notified() => continue,
            () = tokio::time::sleep(INTERVAL) => {}
        }
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
