//! The memory backend: the reference model behind a lock.
//!
//! `memory/model.rs` is the state machine with every rule written out once, plainly, without I/O; the real
//! stores are compared with it step by step. It loses everything when the process ends, so it is
//! for tests and for work that may be lost.

mod audit;
mod claim;
mod inspect;
mod limits;
mod model;
mod operate;
mod report;
mod settle;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::backend::{CheckFinding, QuarantinedJob, Violation};
use crate::{
    Backend, CancelOutcome, Claim, ClaimRequest, Clock, DeleteOutcome, Durability, EnqueueOutcome,
    Error, Interest, JobId, JobRecord, JobState, Lanes, LimitKey, LimitSettings, LimitStatus,
    LimitTarget, ListRequest, LiveWorker, Maintained, NewJob, Page, Placement, QueueName,
    QueueStats, RecoverOutcome, RenewRequest, Renewal, Report, Reported, RetryOutcome,
    RetryRequest, SettleReply, SettleRequest, SystemClock, Wake, WatchRequest, Watched, WorkerInfo,
};
use model::Model;

/// A store in this process's memory. Clones share it.
///
/// ```
/// use std::sync::Arc;
/// use queue_core::{ManualClock, MemoryBackend, Queue, Timestamp};
///
/// // A test that moves time itself:
/// let clock = Arc::new(ManualClock::new(Timestamp::from_ms(1_000)));
/// let queue = Queue::new(MemoryBackend::with_clock(clock.clone()));
/// # drop(queue);
/// ```
#[derive(Debug, Clone)]
pub struct MemoryBackend {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Arc<dyn Clock>,
    model: Mutex<Model>,
    /// Fires whenever a waiting worker may have something to do.
    changed: Notify,
}

impl MemoryBackend {
    /// An empty store that takes its time from the operating system.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// An empty store that takes its time from `clock`.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        let model = Mutex::new(Model::default());
        Self { shared: Arc::new(Shared { clock, model, changed: Notify::new() }) }
    }

    /// A store of its own that holds the same now.
    #[cfg(feature = "conformance")]
    pub(crate) fn fork(&self) -> Self {
        let clock = Arc::clone(&self.shared.clock);
        let model = Mutex::new(self.lock().clone());
        Self { shared: Arc::new(Shared { clock, model, changed: Notify::new() }) }
    }

    /// Runs one atomic step at the store's time and wakes the waiting workers if it made work.
    fn step<T>(&self, step: impl FnOnce(&mut Model) -> T) -> T {
        let mut model = self.lock();
        model.set_now(self.shared.clock.now());
        let answer = step(&mut model);
        let news = model.take_news();
        drop(model);
        if news {
            self.shared.changed.notify_waiters();
        }
        answer
    }

    fn lock(&self) -> MutexGuard<'_, Model> {
        // A panic inside a step is a bug that the panicking caller has seen; the others go on.
        self.shared.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl Backend for MemoryBackend {
    async fn enqueue(
        &self,
        jobs: &[NewJob],
        durability: Durability,
    ) -> Result<Vec<EnqueueOutcome>, Error> {
        if durability != Durability::Memory {
            return Err(Error::Unsupported(format!(
                "durability {durability}: jobs live in this process's memory; use sqlite: or redis:"
            )));
        }
        Ok(self.step(|model| jobs.iter().map(|job| model.enqueue(job)).collect()))
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Error> {
        Ok(self.step(|model| model.claim(request)))
    }

    async fn renew(&self, request: &RenewRequest) -> Result<Vec<Renewal>, Error> {
        Ok(self.step(|model| {
            request.tokens.iter().map(|token| model.renew(*token, request.lease)).collect()
        }))
    }

    async fn settle(&self, request: &SettleRequest) -> Result<SettleReply, Error> {
        let settled =
            self.step(|model| request.settlements.iter().map(|s| model.settle(s)).collect());
        let claim = request.claim.as_ref().map(|claim| self.step(|model| model.claim(claim)));
        Ok(SettleReply { settled, claim })
    }

    async fn wait(&self, interest: &Interest, timeout: Duration) -> Result<Wake, Error> {
        let woken = async {
            loop {
                // Listening starts before looking, so nothing between the two is missed.
                let changed = self.shared.changed.notified();
                let mut changed = std::pin::pin!(changed);
                changed.as_mut().enable();
                if let Some(wake) = self.lock().wake_for(interest) {
                    return wake;
                }
                changed.await;
            }
        };
        Ok(tokio::time::timeout(timeout, woken).await.unwrap_or(Wake::Timeout))
    }

    async fn cancel(&self, ids: &[JobId]) -> Result<Vec<CancelOutcome>, Error> {
        Ok(self.step(|model| ids.iter().map(|id| model.cancel(*id)).collect()))
    }

    async fn get(&self, ids: &[JobId]) -> Result<Vec<Option<JobRecord>>, Error> {
        let model = self.lock();
        Ok(ids.iter().map(|id| model.get(*id)).collect())
    }

    async fn stats(&self) -> Result<Vec<QueueStats>, Error> {
        Ok(self.lock().stats())
    }

    async fn maintain(&self, budget: u32) -> Result<Maintained, Error> {
        Ok(self.step(|model| model.maintain(budget)))
    }

    async fn list(&self, request: &ListRequest) -> Result<Page, Error> {
        self.step(|model| model.list(request))
    }

    async fn retry(&self, request: &RetryRequest) -> Result<Vec<RetryOutcome>, Error> {
        Ok(self.step(|model| {
            let retry = |&(id, finished_at)| model.retry(id, finished_at, request.keep_counts);
            request.jobs.iter().map(retry).collect()
        }))
    }

    async fn delete(&self, jobs: &[(JobId, JobState)]) -> Result<Vec<DeleteOutcome>, Error> {
        Ok(self.step(|model| jobs.iter().map(|&(id, state)| model.delete(id, state)).collect()))
    }

    async fn quarantined(&self, ids: &[JobId]) -> Result<Vec<Option<QuarantinedJob>>, Error> {
        Ok(ids.iter().map(|_| None).collect())
    }

    async fn recover(&self, ids: &[JobId]) -> Result<Vec<RecoverOutcome>, Error> {
        let model = self.lock();
        Ok(ids.iter().map(|id| model.recover(*id)).collect())
    }

    async fn set_paused(&self, queue: &QueueName, paused: bool) -> Result<bool, Error> {
        Ok(self.step(|model| model.set_paused(queue, paused)))
    }

    async fn paused(&self) -> Result<Vec<QueueName>, Error> {
        Ok(self.lock().paused.iter().cloned().collect())
    }

    async fn report(&self, reports: &[Report]) -> Result<Vec<Reported>, Error> {
        Ok(self.step(|model| reports.iter().map(|report| model.report(report)).collect()))
    }

    async fn watch(&self, requests: &[WatchRequest]) -> Result<Vec<Option<Watched>>, Error> {
        let model = self.lock();
        Ok(requests.iter().map(|request| model.watch(*request)).collect())
    }

    async fn set_limit(
        &self,
        target: &LimitTarget,
        settings: Option<&LimitSettings>,
    ) -> Result<bool, Error> {
        self.step(|model| model.set_limit(target, settings))
    }

    async fn reset_limit(&self, key: &LimitKey) -> Result<bool, Error> {
        Ok(self.step(|model| model.reset_limit(key)))
    }

    async fn limits(&self) -> Result<Vec<(LimitTarget, LimitSettings)>, Error> {
        let model = self.lock();
        Ok(model.limits.iter().map(|(target, set)| (target.clone(), set.clone())).collect())
    }

    async fn limit_status(&self, keys: &[LimitKey]) -> Result<Vec<LimitStatus>, Error> {
        Ok(self.step(|model| keys.iter().map(|key| model.limit_status(key)).collect()))
    }

    async fn announce(&self, worker: &WorkerInfo, believed_for: Duration) -> Result<(), Error> {
        self.step(|model| model.announce(worker, believed_for));
        Ok(())
    }

    async fn workers(&self) -> Result<Vec<LiveWorker>, Error> {
        Ok(self.step(|model| model.live_workers()))
    }

    async fn place(&self, id: JobId) -> Result<Placement, Error> {
        Ok(self.step(|model| model.placement(id)))
    }

    async fn lanes(&self, queue: &QueueName) -> Result<Lanes, Error> {
        Ok(self.lock().lanes_of(queue))
    }

    async fn audit(&self, _repair: bool) -> Result<Vec<Violation>, Error> {
        Ok(self.lock().audit())
    }

    async fn check(&self) -> Result<Vec<CheckFinding>, Error> {
        Ok(vec![CheckFinding::warning(
            "durability",
            "jobs live in this process's memory",
            "use sqlite: or redis: for jobs that must survive the process",
        )])
    }
}
