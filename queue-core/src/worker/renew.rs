//! Keeps the leases alive, from a thread of its own: handlers that block every thread of the
//! runtime do not stop it. The same thread sees to it that no attempt waits behind such a handler, and
//! gives back what nobody can begin (rescue.rs).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::StartError;
use super::leases::Leases;
use super::panics::caught;
use super::starts::Starts;
use super::stop::Status;
use crate::backend::PASS_MAX;
use crate::{ClaimToken, Error, Queue, RenewRequest, WorkerId};

/// The thread that renews; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Renewer {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Everything is to be renewed now; the other wakes the thread for it.
    all_now: AtomicBool,
    wanted: Notify,
    end: CancellationToken,
}

impl Shared {
    fn renew_all_now(&self) {
        self.all_now.store(true, Ordering::SeqCst);
        self.wanted.notify_one();
    }
}

impl Renewer {
    pub(super) fn start(renewals: Renewals) -> Result<Self, StartError> {
        let refused = |error: std::io::Error| StartError::Thread(error.to_string());
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
        let shared = Arc::new(Shared::default());
        let told = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("queue-renew".to_owned())
            .spawn(move || runtime.block_on(renewals.run(&told)))
            .map_err(refused)?;
        Ok(Self { shared })
    }

    /// Renews everything at once: that is how a worker learns of cancel requests.
    pub(super) fn renew_all_now(&self) {
        self.shared.renew_all_now();
    }
}

impl Drop for Renewer {
    fn drop(&mut self) {
        // The thread ends after the call it is in; nobody has to wait for that.
        self.shared.end.cancel();
    }
}

/// What the thread works with.
pub(super) struct Renewals {
    pub(super) queue: Queue,
    pub(super) worker: WorkerId,
    pub(super) leases: Arc<Leases>,
    pub(super) starts: Arc<Starts>,
    pub(super) status: Arc<Status>,
    pub(super) lease: Duration,
}

impl Renewals {
    async fn run(self, shared: &Shared) {
        tokio::select! {
            () = shared.end.cancelled() => {}
            () = self.renew_for_ever(shared) => {}
            () = self.watch_for_ever() => {}
            () = self.starts.watch_for_ever() => {}
            () = self.rescue_for_ever() => {}
            () = self.follow_reconnects_for_ever(shared) => {}
        }
    }

    async fn renew_for_ever(&self, shared: &Shared) {
        let mut failures = 0_u32;
        loop {
            if failures > 0 {
                tokio::time::sleep(self.lease / 20).await;
            } else {
                self.until_due(shared).await;
            }
            let all_now = shared.all_now.swap(false, Ordering::SeqCst);
            let age = if all_now { Duration::ZERO } else { self.lease / 4 };
            // Without this thread every lease lapses: not even a panic may end it.
            let renewed = caught(self.renew(&self.leases.older_than(age))).await;
            match renewed.unwrap_or_else(|panic| Err(Error::Corrupt(panic))) {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    shared.all_now.fetch_or(all_now, Ordering::SeqCst);
                    // An outage fails all of them: the first is told, the second, the fourth, …
                    if failures.is_power_of_two() {
                        tracing::warn!(event = "renew_failed", failures, %error);
                    } else {
                        tracing::debug!(event = "renew_failed", failures, %error);
                    }
                }
            }
        }
    }

    /// Sleeps until a renewal is due or everything is to be renewed.
    async fn until_due(&self, shared: &Shared) {
        loop {
            let next = self.leases.next_renewal();
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => return,
                () = shared.wanted.notified() => return,
                () = self.leases.added() => {}
            }
        }
    }

    /// Renews every token that can be renewed; answers the last error, if any failed.
    async fn renew(&self, tokens: &[ClaimToken]) -> Result<(), Error> {
        let mut answer = Ok(());
        let mut batches: Vec<&[ClaimToken]> = tokens.chunks(PASS_MAX as usize).collect();
        while let Some(batch) = batches.pop() {
            match self.renew_batch(batch).await {
                Ok(()) => {}
                // One bad token must not take the others with it.
                Err(error) if error.is_about_items() && batch.len() > 1 => {
                    let (left, right) = batch.split_at(batch.len() / 2);
                    batches.extend([left, right]);
                }
                Err(error) => answer = Err(error),
            }
        }
        answer
    }

    async fn renew_batch(&self, tokens: &[ClaimToken]) -> Result<(), Error> {
        let request = RenewRequest { tokens: tokens.to_vec(), lease: self.lease };
        let sent_at = Instant::now();
        // A store that hangs must not keep us from asking again while the lease lasts.
        let renewals =
            tokio::time::timeout(self.lease / 4, self.queue.backend().renew_boxed(&request));
        let renewals = renewals.await.unwrap_or_else(|_| {
            Err(Error::Unavailable("no answer within a quarter of the lease".to_owned()))
        })?;
        for (token, renewal) in tokens.iter().zip(&renewals) {
            self.leases.renewed(*token, sent_at, renewal);
        }
        Ok(())
    }

    /// What a new connection leads to may know nothing of the leases, as a replica that was promoted or data that
    /// was restored: the sooner an attempt hears of that, the shorter it runs beside another one of its job.
    async fn follow_reconnects_for_ever(&self, shared: &Shared) {
        let mut seen = 0;
        loop {
            match caught(self.queue.backend().wait_reconnected_boxed(seen)).await {
                Ok(Ok(times)) => {
                    seen = times;
                    shared.renew_all_now();
                }
                _ => tokio::time::sleep(self.lease / 4).await,
            }
        }
    }

    /// Stops jobs whose lease may be over, even while a renewal hangs.
    async fn watch_for_ever(&self) {
        loop {
            tokio::time::sleep(self.lease / 20).await;
            self.leases.stop_lapsed();
        }
    }
}
