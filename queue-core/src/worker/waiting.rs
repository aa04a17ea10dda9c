//! The worker's one outstanding wait.

use futures_util::future::BoxFuture;
use std::time::Duration;

use crate::{Error, Interest, Queue, Wake};

/// How long one wait lasts. The worker asks the store once a second anyway; this only bounds how
/// long a wait hangs on a connection that died silently.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A wait that stays outstanding while the worker does other things, so that a worker that turns
/// between waiting and claiming does not pay for a new wait each time.
pub(super) struct Waiting {
    queue: Queue,
    outstanding: Option<(Interest, BoxFuture<'static, Result<Wake, Error>>)>,
}

impl Waiting {
    pub(super) fn new(queue: &Queue) -> Self {
        Self { queue: queue.clone(), outstanding: None }
    }

    /// Waits for `interest` from now on.
    pub(super) fn attach(&mut self, interest: Interest) {
        if self.outstanding.as_ref().is_some_and(|(current, _)| *current == interest) {
            return;
        }
        let queue = self.queue.clone();
        let wanted = interest.clone();
        let wait = Box::pin(async move { queue.backend().wait_boxed(&wanted, WAIT_MAX).await });
        self.outstanding = Some((interest, wait));
    }

    pub(super) fn is_attached(&self) -> bool {
        self.outstanding.is_some()
    }

    /// Stops waiting for jobs: a wake-up that comes now must go to another worker. A wait that is
    /// for cancel requests alone stays.
    pub(super) fn listen_for_cancels_at_most(&mut self) {
        self.outstanding.take_if(|(interest, _)| !interest.kinds.is_empty());
    }

    /// The end of the outstanding wait; never, if there is none.
    ///
    /// # Cancel safety
    /// Safe: the wait stays outstanding when this is dropped.
    pub(super) async fn woken(&mut self) -> Wake {
        let Some((_, wait)) = &mut self.outstanding else {
            return std::future::pending().await;
        };
        let woken = wait.await;
        self.outstanding = None;
        match woken {
            Ok(wake) => wake,
            Err(error) => {
                tracing::debug!(event = "wait_failed", %error);
                // Without wake-ups the worker lives on its question once a second.
                tokio::time::sleep(Duration::from_secs(1)).await;
                Wake::Timeout
            }
        }
    }
}
