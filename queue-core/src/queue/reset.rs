//! Stores that turn out to have lost their data: what is to be there before work goes on.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;

use super::Queue;
use crate::Error;
use crate::backend::Epoch;

type Prepare = Arc<dyn Fn(Queue) -> BoxFuture<'static, Result<(), Error>> + Send + Sync>;

/// What the clones of a handle share about resets.
#[derive(Default)]
pub(super) struct Resets {
    prepare: Mutex<Vec<Prepare>>,
    /// Held while the store is prepared, which many workers may ask for: by one at a time. The data
    /// that the log has told of.
    told: tokio::sync::Mutex<Option<Epoch>>,
}

impl Queue {
    /// Has `prepare` run each time the store turns out to have lost its data: a server that was
    /// flushed, that came back without its data, or whose place was taken by an empty one. What it
    /// knew of limits and paused queues is gone then, too. Until `prepare` has answered `Ok`, the
    /// workers of this handle and its clones get no job from what is there now; it is tried again
    /// until it does. Without such a function work goes on at once, without any limit that nobody
    /// sets again.
    ///
    /// Say it before the first worker starts, together with what the program sets itself:
    ///
    /// ```
    /// use queue_core::{Error, LimitSettings, LimitTarget, Queue};
    ///
    /// async fn set_limits(queue: Queue) -> Result<(), Error> {
    ///     let two = LimitSettings { concurrency: Some(2), ..LimitSettings::default() };
    ///     let openai = LimitTarget::new("provider:openai").expect("a key");
    ///     queue.set_limit(&openai, &two).await.map(drop)
    /// }
    ///
    /// # async fn example(queue: Queue) -> Result<(), Error> {
    /// queue.on_reset(set_limits);
    /// set_limits(queue.clone()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// It may run in several programs at a time, and more than once. Only claims wait for it: jobs
    /// that are enqueued meanwhile are taken in without the limits of live jobs
    /// ([`LimitSettings::max_live`](crate::LimitSettings::max_live)). It may be dropped when its worker ends.
    pub fn on_reset<F, R>(&self, prepare: F)
    where
        F: Fn(Self) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Error>> + Send + 'static,
    {
        // The handle is handed in each time: one that is kept in here would keep itself alive.
        let prepare: Prepare = Arc::new(move |queue| Box::pin(prepare(queue)));
        self.resets.prepare.lock().unwrap_or_else(PoisonError::into_inner).push(prepare);
    }

    /// Goes on with the data that the store has now, once that is prepared, if it is not the data
    /// that claims are made from.
    ///
    /// # Errors
    /// Why that is not so yet: work goes on no sooner.
    ///
    /// # Cancel safety
    /// Safe to drop and call again.
    pub(crate) async fn reopen(&self) -> Result<(), Error> {
        let mut told = self.resets.told.lock().await;
        let Some(epoch) = self.backend.other_epoch_boxed().await? else { return Ok(()) };
        let prepare = self.resets.prepare.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if told.as_ref() != Some(&epoch) {
            let then = if prepare.is_empty() {
                "work goes on with what is there now, without a limit until somebody sets it again"
            } else {
                "nothing is claimed until this program has set its own again"
            };
            tracing::error!(
                event = "store_was_reset",
                "the store was reset: its data is not the data that this program has opened; jobs, \
                 limits and pauses of queues that were in it are gone, and {then}"
            );
            *told = Some(epoch.clone());
        }
        for prepare in &prepare {
            prepare(self.clone()).await?;
        }
        // The name from before: what was reset once more meanwhile is prepared once more.
        self.backend.adopt_boxed(&epoch).await?;
        if !prepare.is_empty() {
            tracing::info!(event = "store_prepared", "what this program sets is set; work goes on");
        }
        Ok(())
    }
}
