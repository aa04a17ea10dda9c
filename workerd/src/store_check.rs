//! What is wrong with the store that `workerd run` works on, told once in its log.

use std::time::Duration;

use queue::Queue;
use queue::backend::{CheckFinding, Verdict};
use tokio::time::timeout;

use crate::exit::{Exit, Failure};

/// How long the store has to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Checks the store and logs what breaks a promise or weakens it. Nothing is stopped for that but for
/// a user who may not do all that a worker does: its calls would leave half of their work. What else no
/// worker may run on, connecting has refused.
///
/// # Errors
/// What this user may not do.
///
/// # Cancel safety
/// Safe to drop: it only reads.
pub(crate) async fn tell(queue: &Queue) -> Result<(), Failure> {
    let findings = match timeout(PATIENCE, queue.check()).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) => {
            tracing::warn!(event = "store_check_failed", %error);
            return Ok(());
        }
        Err(_) => {
            tracing::warn!(event = "store_check_failed", error = "no answer in 10 s");
            return Ok(());
        }
    };
    findings.iter().for_each(log);
    let forbids =
        |finding: &&CheckFinding| finding.name == "permissions" && finding.verdict == Verdict::Bad;
    match findings.iter().find(forbids) {
        Some(CheckFinding { found, remedy, .. }) => {
            Err(Failure::new(Exit::Unavailable, found).advice(remedy))
        }
        None => Ok(()),
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
