//! [`RedisBackend`]: the store behind [`Backend`].

mod claim;
mod durability;
mod enqueue;
mod inspect;
mod limits;
mod list;
mod operate;
mod quarantine;
mod read;
mod report;
#[cfg(test)]
mod sent;
#[cfg(test)]
#[path = "../tests/support/server.rs"]
#[allow(unreachable_pub, clippy::expect_used, dead_code, reason = "shared with the tests")]
mod server;
mod settle;
#[cfg(test)]
mod skew;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::claim::{
    Answer as ClaimAnswer, cmd as claim_cmd, give_back, read as read_claim,
};

use queue_core::backend::{CheckFinding, Epoch, PASS_MAX, QuarantinedJob, Violation};
use queue_core::{
    Backend, CancelOutcome, Claim, ClaimRequest, DeleteOutcome, Durability, EnqueueOutcome, Error,
    Interest, JobId, JobRecord, JobState, Lanes, LimitKey, LimitSettings, LimitStatus, LimitTarget,
    ListRequest, LiveWorker, Maintained, Namespace, NewJob, Page, Placement, QueueName, QueueStats,
    RecoverOutcome, RenewRequest, Renewal, Report, Reported, RetryOutcome, RetryRequest,
    SettleReply, SettleRequest, Wake, WatchRequest, Watched, Woken, WorkerId, WorkerInfo,
};

use redis::Value;
use tokio::sync::oneshot;

use crate::clock::ServerClock;
use crate::connect::Link;
use crate::durability::Groups;
use crate::epoch::Known;
use crate::keys::Keys;
use crate::reply::{self, Items};
use crate::scripts;
use crate::store::{self, Call, Repeat};
use crate::wait::Waiters;
use crate::{RedisOptions, audit, check};

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
    /// Enqueues that are to survive more than the server's memory.
    groups: Groups,
    epoch: Arc<Known>,
    clock: ServerClock,
}

impl RedisBackend {
    /// Connects to `redis://[user:password@]host[:port][/database]`, `rediss://…` (TLS) or
    /// `redis+unix:///path/to/socket[?db=…&user=…&pass=…]`.
    ///
    /// # Errors
    /// [`Error::Refused`] if the server cannot keep the promises (older than 7.0, an eviction policy
    /// that drops keys, data of another version) or refuses the credentials, or if the URL is
    /// wrong; [`Error::Unavailable`] if it does not answer or is not ready for work, which may pass
    /// (a replica, as during a fail-over). No message holds the URL, which may hold a password.
    pub async fn connect(url: &str, namespace: Namespace) -> Result<Self, Error> {
        Self::connect_with(url, RedisOptions::default().namespace(namespace)).await
    }

    /// The same with other options.
    ///
    /// # Errors
    /// As [`RedisBackend::connect`].
    pub async fn connect_with(url: &str, options: RedisOptions) -> Result<Self, Error> {
        let RedisOptions { namespace, answer_within, confirm_within } = options;
        let link = Arc::new(Link::new(url, answer_within)?);
        let keys = Arc::new(Keys::new(&namespace));
        check::refuse_unfit(&link).await?;
        link.want_master();
        let epoch = Arc::new(Known::new(check::open_namespace(&link, &keys).await?));
        let waiters = Waiters::new(link.clone(), keys.clone(), epoch.clone());
        let groups = Groups::new(link.clone(), confirm_within);
        let clock = ServerClock::new();
        Ok(Self { link, keys, namespace, waiters, groups, epoch, clock })
    }

    /// The namespace it was opened with.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

impl Backend for RedisBackend {
    async fn enqueue(
        &self,
        jobs: &[NewJob],
        durability: Durability,
    ) -> Result<Vec<EnqueueOutcome>, Error> {
        enqueue::run(self, jobs, durability).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Error> {
        claim::run(self, request).await
    }

    async fn wait_reconnected(&self, seen: u64) -> Result<u64, Error> {
        Ok(self.link.reconnected(seen).await)
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

    async fn wait_and_claim(
        &self,
        interest: &Interest,
        request: &ClaimRequest,
        revoked: oneshot::Receiver<()>,
        timeout: Duration,
    ) -> Result<Woken, Error> {
        claim::wait(self, interest, request, revoked, timeout).await
    }

    async fn revoke_standing(&self, worker: &WorkerId) -> Result<(), Error> {
        self.waiters.revoke(worker).await
    }

    async fn cancel(&self, ids: &[JobId]) -> Result<Vec<CancelOutcome>, Error> {
        operate::cancel(self, ids).await
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
        let quarantined = items.ids()?;
        let mut counted = reply::array(items.value()?)?.into_iter();
        while let (Some(queue), Some(Value::Int(jobs))) = (counted.next(), counted.next()) {
            let queue = QueueName::new(reply::string(queue)?);
            done.reaped_of.extend(queue.ok().zip(u64::try_from(jobs).ok()));
        }
        quarantine::log(self, &quarantined).await;
        Ok(done)
    }

    async fn list(&self, request: &ListRequest) -> Result<Page, Error> {
        list::run(self, request).await
    }

    async fn retry(&self, request: &RetryRequest) -> Result<Vec<RetryOutcome>, Error> {
        operate::retry(self, request).await
    }

    async fn delete(&self, jobs: &[(JobId, JobState)]) -> Result<Vec<DeleteOutcome>, Error> {
        operate::delete(self, jobs).await
    }

    async fn quarantined(&self, ids: &[JobId]) -> Result<Vec<Option<QuarantinedJob>>, Error> {
        quarantine::read(self, ids).await
    }

    async fn recover(&self, ids: &[JobId]) -> Result<Vec<RecoverOutcome>, Error> {
        quarantine::recover(self, ids).await
    }

    async fn set_paused(&self, queue: &QueueName, paused: bool) -> Result<bool, Error> {
        operate::set_paused(self, queue, paused).await
    }

    async fn paused(&self) -> Result<Vec<QueueName>, Error> {
        operate::paused(self).await
    }

    async fn report(&self, reports: &[Report]) -> Result<Vec<Reported>, Error> {
        report::run(self, reports).await
    }

    async fn watch(&self, requests: &[WatchRequest]) -> Result<Vec<Option<Watched>>, Error> {
        report::watch(self, requests).await
    }

    async fn set_limit(
        &self,
        target: &LimitTarget,
        settings: Option<&LimitSettings>,
    ) -> Result<bool, Error> {
        limits::set(self, target, settings).await
    }

    async fn reset_limit(&self, key: &LimitKey) -> Result<bool, Error> {
        limits::reset(self, key).await
    }

    async fn limits(&self) -> Result<Vec<(LimitTarget, LimitSettings)>, Error> {
        limits::all(self).await
    }

    async fn limit_status(&self, keys: &[LimitKey]) -> Result<Vec<LimitStatus>, Error> {
        limits::status(self, keys).await
    }

    async fn announce(&self, worker: &WorkerInfo, believed_for: Duration) -> Result<(), Error> {
        inspect::announce(self, worker, believed_for).await
    }

    async fn workers(&self) -> Result<Vec<LiveWorker>, Error> {
        inspect::workers(self).await
    }

    async fn place(&self, id: JobId) -> Result<Placement, Error> {
        inspect::place(self, id).await
    }

    async fn lanes(&self, queue: &QueueName) -> Result<Lanes, Error> {
        inspect::lanes(self, queue).await
    }

    async fn audit(&self, repair: bool) -> Result<Vec<Violation>, Error> {
        audit::run(&self.link, &self.keys, repair).await
    }

    async fn other_epoch(&self) -> Result<Option<Epoch>, Error> {
        let epoch = check::open_namespace(&self.link, &self.keys).await?;
        Ok(Some(epoch).filter(|epoch| *epoch != *self.epoch.current()))
    }

    async fn adopt(&self, epoch: &Epoch) -> Result<(), Error> {
        self.epoch.set(epoch.clone());
        Ok(())
    }

    async fn check(&self) -> Result<Vec<CheckFinding>, Error> {
        check::run(&self.link, &self.keys, &self.epoch.current()).await
    }
}
