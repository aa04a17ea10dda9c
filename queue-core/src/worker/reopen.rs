//! Going on with a store that has lost its data.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;

use super::panics::caught;
use super::stop::{Phase, Status};
use crate::Queue;

/// The pauses between two tries grow from the first to the second.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Prepares the store each time when a claim finds that it has lost its data, for ever. The cycle makes
/// no claim meanwhile: it would get nothing.
pub(super) async fn reopen(
    queue: Queue,
    status: &Status,
    phase: watch::Sender<Phase>,
) -> Infallible {
    loop {
        status.reset_noticed().await;
        let mut pause = PAUSE_FIRST;
        loop {
            let error = match caught(queue.reopen()).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => error.to_string(),
                Err(panic) => panic,
            };
            let advice = "no job is claimed until this has worked; it is tried again";
            tracing::error!(event = "store_not_prepared", error, advice);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        status.set_reset(false);
        // The cycle looks whenever the phase is set, also to what it was.
        phase.send_modify(|_| {});
    }
}
