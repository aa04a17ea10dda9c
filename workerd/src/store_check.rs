//! What is wrong with the store that `workerd run` works on, told once in its log.

use std::time::Duration;

use queue::Queue;
use queue::backend::{CheckFinding, Verdict};
use tokio::time::timeout;

/// How long the store has to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Checks the store and logs what breaks a promise or weakens it. Nothing is stopped for it: what
/// no worker may run on, connecting has refused.
///
/// # Cancel safety
/// Safe to drop: it only reads.
pub(crate) async fn tell(queue: Queue) {
    match timeout(PATIENCE, queue.check()).await {
        Ok(Ok(findings)) => findings.iter().for_each(log),
        Ok(Err(error)) => tracing::warn!(event = "store_check_failed", %error),
        Err(_) => tracing::warn!(event = "store_check_failed", error = "no answer in 10 s"),
    }
}

fn log(finding: &CheckFinding) {
    let CheckFinding { name, verdict, found, remedy, .. } = finding;
    match verdict {
        Verdict::Good => tracing::debug!(event = "store_check", name, found),
        Verdict::Warning => tracing::warn!(event = "store_check", name, found, remedy),
        Verdict::Bad => tracing::error!(event = "store_check", name, found, remedy),
    }
}
