//! Leaves a store as it was: a demo is no reason to keep anything in it.

use std::time::{Duration, Instant};

use queue::backend::PASS_MAX;
use queue::{LimitTarget, Queue};

use super::plan::{Place, RETENTION_SHARED};
use super::progress::Seen;
use crate::exit::{Exit, Failure};

/// How long it may take beyond the time for which the store keeps finished jobs.
const TIME_MAX: Duration = Duration::from_secs(20);

const INTERVAL: Duration = Duration::from_millis(100);

/// Cancels what has not finished and waits until the store has forgotten all of it. The worker
/// has ended.
///
/// # Errors
/// What is left, and why.
pub(super) async fn clean_up(queue: &Queue, place: &Place, seen: &Seen) -> Result<(), Failure> {
    let name = &place.queue;
    queue.remove_limit(&LimitTarget::Key(place.limit.clone())).await?;
    for id in seen.unfinished() {
        queue.cancel(id).await?;
    }
    let deadline = Instant::now() + RETENTION_SHARED + TIME_MAX;
    loop {
        while queue.backend().maintain_boxed(PASS_MAX).await?.more {}
        let left = queue.stats().await?.into_iter().filter(|row| row.queue == *name);
        let left: u64 = left.flat_map(|row| row.jobs.into_values()).sum();
        if left == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let message = format!("{left} jobs of the demo are left in its queue {name}");
            return Err(Failure::new(Exit::Failed, message));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
