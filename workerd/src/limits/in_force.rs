//! The limits that the configuration named when it was last read.

use std::sync::Arc;

use queue::{Error, Queue};
use tokio::sync::Mutex;

use super::write;
use crate::config::Limits;

/// Written by one at a time: a store that was reset while the configuration is read again gets the
/// new ones.
#[derive(Debug, Clone)]
pub(crate) struct InForce(Arc<Mutex<Limits>>);

impl InForce {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self(Arc::new(Mutex::new(limits.clone())))
    }

    /// Writes them to the store, as [`write()`] does.
    ///
    /// # Errors
    /// As [`write()`].
    pub(crate) async fn write(&self, queue: &Queue) -> Result<usize, Error> {
        write(queue, &*self.0.lock().await).await
    }

    /// Writes others, which are those in force once they are written. Answers as [`write()`] does,
    /// and with the ones before.
    ///
    /// # Errors
    /// As [`write()`]; those before stay in force.
    pub(crate) async fn replace(
        &self,
        queue: &Queue,
        again: Limits,
    ) -> Result<(usize, Limits), Error> {
        let mut limits = self.0.lock().await;
        let changed = write(queue, &again).await?;
        Ok((changed, std::mem::replace(&mut *limits, again)))
    }

    /// Has them written again before work goes on with a store that has lost its data.
    pub(crate) fn outlive_resets_of(&self, queue: &Queue) {
        let limits = self.clone();
        queue.on_reset(move |queue| {
            let limits = limits.clone();
            async move {
                let limits = limits.0.lock().await;
                let changed = write(&queue, &limits).await?;
                let advice = if limits.is_empty() {
                    "the configuration names no limits, so work goes on without those that were set; set \
                     them, and pauses of queues, again"
                } else {
                    "limits and pauses of queues that were set by hand are gone: set them again"
                };
                tracing::warn!(event = "limits_written_again", changed, advice);
                Ok(())
            }
        });
    }
}
