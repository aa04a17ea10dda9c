//! [`RedisBackend`]: the store behind [`Backend`].

mod claim;
mod enqueue;
mod fsync;
mod read;
mod settle;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use queue_core::backend::{CheckFinding, PASS_MAX, Violation};
use queue_core::{
    Backend, CancelOutcome, Claim, ClaimRequest, EnqueueOutcome, Error, Interest, JobId, JobRecord,
    Maintained, Namespace, NewJob, QueueStats, RenewRequest, Renewal, SettleReply, SettleRequest,
    Wake,
};

use crate::connect::Link;
use crate::keys::Keys;
use crate::record::state_of;
use crate::reply::{self, Items, unexpected};
use crate::scripts;
use crate::store::{self, Call, Repeat};
use crate::wait::Waiters;
use crate::{audit, check};

/// A namespace of one Redis server (7.0 or later).
///
/// Cheap to share behind an `Arc`; calls of one tokio runtime share a connection and travel in
/// one pipeline. Every call tries again for about 2.5 s when the server does not answer or is not
/// ready, and then answers [`Error::Unavailable`].
#[derive(Debug)]
pub struct RedisBackend {
    link: Arc<Link>,
    keys: Arc<Keys>,
    namespace: Namespace,
    waiters: Waiters,
    /// The random name of this store's data, made with it. If it changes, the data is gone.
    epoch: Mutex<Vec<u8>>,
}

impl RedisBackend {
    /// Connects to `redis://[user:password@]host[:port][/database]`, `rediss://…` (TLS) or
    /// `redis+unix:///path/to/socket[?db=…&user=…&pass=…]`.
    ///
    /// # Errors
    /// [`Error::Refused`] if the server cannot keep the promises (older than 7.0, a replica, an
    /// eviction policy that drops keys, data of a newer version) or refuses the credentials, or
    /// if the URL is wrong; [`Error::Unavailable`] if it does not answer. No message holds the
    /// URL, which may hold a password.
    pub async fn connect(url: &str, namespace: Namespace) -> Result<Self, Error> {
        let link = Arc::new(Link::new(url)?);
        let keys = Arc::new(Keys::new(&namespace));
        check::refuse_unfit(&link).await?;
        let epoch = check::open_namespace(&link, &keys).await?;
        let waiters = Waiters::new(link.clone(), keys.clone());
        Ok(Self { link, keys, namespace, waiters, epoch: Mutex::new(epoch) })
    }

    /// The namespace it was opened with.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Says so loudly if the store is not the one that was opened.
    async fn note_epoch(&self, seen: &[u8]) {
        let lock = || self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        if *lock() == seen {
            return;
        }
        tracing::error!(
            event = "store.reset",
            "the store was reset: its data is not the data that this program has opened"
        );
        if let Ok(epoch) = check::open_namespace(&self.link, &self.keys).await {
            *lock() = epoch;
        }
    }
}

impl Backend for RedisBackend {
    async fn enqueue(&self, jobs: &[NewJob]) -> Result<Vec<EnqueueOutcome>, Error> {
        enqueue::run(self, jobs).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Error> {
        claim::run(self, request).await
    }

    async fn renew(&self, request: &RenewRequest) -> Result<Vec<Renewal>, Error> {
        settle::renew(self, request).await
    }

    async fn settle(&self, request: &SettleRequest) -> Result<SettleReply, Error> {
        settle::run(self, request).await
    }

    async fn wait(&self, interest: &Interest, timeout: Duration) -> Result<Wake, Error> {
        Ok(self.waiters.wait(interest, timeout).await)
    }

    async fn cancel(&self, ids: &[JobId]) -> Result<Vec<CancelOutcome>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut cmd = scripts::cancel.call(&self.keys, ids.len(), ids.len() * 24);
        for id in ids {
            cmd.arg(id.as_bytes().as_slice());
        }
        let call = Call::script(&scripts::cancel, cmd);
        let letters = reply::bytes(store::one(&self.link, call, Repeat::Freely).await?)?;
        if letters.len() != ids.len() * 2 {
            return Err(unexpected("not one answer per job"));
        }
        letters.chunks(2).map(|pair| cancelled(pair[0], pair[1])).collect()
    }

    async fn get(&self, ids: &[JobId]) -> Result<Vec<Option<JobRecord>>, Error> {
        read::get(self, ids).await
    }

    async fn stats(&self) -> Result<Vec<QueueStats>, Error> {
        read::stats(self).await
    }

    async fn maintain(&self, budget: u32) -> Result<Maintained, Error> {
        let mut cmd = scripts::maintain.call(&self.keys, 1, 16);
        cmd.arg(budget.min(PASS_MAX));
        let call = Call::script(&scripts::maintain, cmd);
        let mut items = Items::of(store::one(&self.link, call, Repeat::Freely).await?)?;
        let mut done = Maintained::default();
        done.promoted = items.count()?;
        done.reaped = items.count()?;
        done.crash_loops = items.count()?;
        done.dropped = items.count()?;
        done.more = items.flag()?;
        claim::log_quarantined(&items.ids()?);
        Ok(done)
    }

    async fn audit(&self) -> Result<Vec<Violation>, Error> {
        audit::run(&self.link, &self.keys).await
    }

    async fn check(&self) -> Result<Vec<CheckFinding>, Error> {
        check::run(&self.link, &self.keys).await
    }
}

fn cancelled(letter: u8, state: u8) -> Result<CancelOutcome, Error> {
    match letter {
        b'c' => Ok(CancelOutcome::Cancelled),
        b'r' => Ok(CancelOutcome::Requested),
        b'n' => Ok(CancelOutcome::NotFound),
        b'f' => state_of(state.wrapping_sub(b'0'))
            .map(CancelOutcome::AlreadyFinished)
            .ok_or_else(|| unexpected("an unknown state")),
        _ => Err(unexpected("an unknown letter")),
    }
}
