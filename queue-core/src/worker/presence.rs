//! The worker's word that it is there, so that people and explanations know who runs what.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use super::stop::Status;
use crate::{Queue, WorkerInfo};

/// How often the worker says that it is there.
const INTERVAL: Duration = Duration::from_secs(15);
/// How long it is believed: two of its words may be lost.
const BELIEVED_FOR: Duration = Duration::from_secs(45);
/// The most time that a worker which has stopped takes to say so.
const LAST_WORD_MAX: Duration = Duration::from_secs(1);

/// Says so for ever, and at once when its slots have changed.
pub(super) async fn announce(
    queue: Queue,
    mut info: WorkerInfo,
    status: Arc<Status>,
) -> Infallible {
    loop {
        info.concurrency = u32::try_from(status.slots()).unwrap_or(u32::MAX);
        info.running = u32::try_from(status.running()).unwrap_or(u32::MAX);
        if let Err(error) = queue.backend().announce_boxed(&info, BELIEVED_FOR).await {
            tracing::debug!(event = "announce_failed", %error);
        }
        // Whichever comes first.
        let _ = tokio::time::timeout(INTERVAL, status.slots_changed()).await;
    }
}

/// Says that the worker is gone.
pub(super) async fn retire(queue: &Queue, info: &WorkerInfo) {
    let word = queue.backend().announce_boxed(info, Duration::ZERO);
    // Without it the store forgets the worker a little later.
    let _ = tokio::time::timeout(LAST_WORD_MAX, word).await;
}
