//! What the engine's tests need: jobs, a backend that loses calls and replies, and a gate.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use queue_core::backend::{CheckFinding, Epoch, QuarantinedJob, Violation};
use queue_core::{
    Backend, CancelOutcome, Claim, ClaimRequest, DeleteOutcome, Durability, EnqueueOutcome, Error,
    Interest, Job, JobId, JobRecord, JobState, Lanes, LimitKey, LimitSettings, LimitStatus,
    LimitTarget, ListRequest, LiveWorker, Maintained, MemoryBackend, NewJob, Page, Placement,
    Queue, QueueName, QueueStats, RecoverOutcome, RenewRequest, Renewal, Report, Reported,
    RetryOutcome, RetryRequest, SettleReply, SettleRequest, Wake, WatchRequest, Watched, Woken,
    WorkerInfo,
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub(crate) const LONG: Duration = Duration::from_secs(20);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Number {
    pub(crate) n: u32,
}

impl Job for Number {
    const KIND: &'static str = "number";
}

pub(crate) fn number(n: u32) -> NewJob {
    NewJob::of(&Number { n }).unwrap()
}

pub(crate) async fn finished(queue: &Queue, id: JobId) -> JobRecord {
    let record = queue.wait_finished(id, LONG).await.unwrap().expect("the job exists");
    assert!(record.state.is_finished(), "still {}", record.state);
    record
}

/// Waits until `condition` holds, which must happen.
pub(crate) async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Once open, open for all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(CancellationToken);

impl Gate {
    pub(crate) fn open(&self) {
        self.0.cancel();
    }

    pub(crate) async fn passed(&self) {
        self.0.cancelled().await;
    }
}

/// A memory backend behind a bad network.
#[derive(Debug, Clone)]
pub(crate) struct Faulty(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    backend: MemoryBackend,
    cut_off: AtomicBool,
    lose_every: AtomicU64,
    calls: AtomicU64,
    /// Waits for jobs that are out.
    listening: AtomicU64,
    reports: AtomicU64,
    enqueues: Mutex<Vec<usize>>,
    trouble: Mutex<Trouble>,
}

/// What goes wrong besides lost calls and replies.
#[derive(Debug, Default)]
struct Trouble {
    /// No settle that carries this job is taken.
    unreadable: Option<JobId>,
    /// No enqueue that carries this job is taken.
    refused: Option<JobId>,
    /// Every settle is refused, as by a server whose permissions were changed.
    refuses: bool,
    /// Settles of more than one outcome do not fit.
    nearly_full: bool,
    /// So many settles do not fit.
    full_for: u32,
    /// Settles never come back.
    settle_hangs: bool,
    /// So many renewals never come back.
    renewals_hang: u32,
    /// So many renewals panic.
    renewals_panic: u32,
    /// The next claim panics.
    claim_panics: bool,
    /// Every claim is told that the next job is due at once.
    always_due: bool,
    /// Waits make the claims that stand behind them.
    claims_stand: bool,
    /// Every settle waits for the gate.
    settles_wait: Option<Gate>,
    /// Every settle takes as long as a few other tasks.
    lags: bool,
    /// The jobs that settles report that are out, and what they ask for: the most jobs of each claim.
    settles_out: Vec<(Vec<JobId>, u32)>,
    most_settles_out: usize,
    most_round_jobs: u32,
    /// The next enqueue waits for the gate.
    enqueue_waits: Option<Gate>,
    /// The next look for the place of a job waits for the gate.
    place_waits: Option<Gate>,
    /// Looks at jobs never come back.
    looks_hang: bool,
    /// The data is not what claims are made from.
    was_reset: bool,
    /// Claims that were told so.
    claims_in_vain: u32,
}

impl Faulty {
    pub(crate) fn new(backend: MemoryBackend) -> Self {
        let inner = Inner {
            backend,
            cut_off: AtomicBool::new(false),
            lose_every: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            listening: AtomicU64::new(0),
            reports: AtomicU64::new(0),
            enqueues: Mutex::default(),
            trouble: Mutex::default(),
        };
        Self(Arc::new(inner))
    }

    /// No call arrives while this is set.
    pub(crate) fn cut_off(&self, cut_off: bool) {
        self.0.cut_off.store(cut_off, Ordering::SeqCst);
    }

    /// Of `n` calls one is lost, in turns before and after it took effect; none for 0.
    pub(crate) fn lose_every(&self, n: u64) {
        self.0.lose_every.store(n, Ordering::SeqCst);
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.0.trouble.lock().unwrap()
    }

    pub(crate) fn unreadable(&self, id: JobId) {
        self.trouble().unreadable = Some(id);
    }

    pub(crate) fn refuses_enqueue(&self, id: JobId) {
        self.trouble().refused = Some(id);
    }

    pub(crate) fn refuses(&self, refuses: bool) {
        self.trouble().refuses = refuses;
    }

    pub(crate) fn nearly_full(&self) {
        self.trouble().nearly_full = true;
    }

    pub(crate) fn full_for(&self, settles: u32) {
        self.trouble().full_for = settles;
    }

    pub(crate) fn settle_hangs(&self) {
        self.trouble().settle_hangs = true;
    }

    pub(crate) fn renewals_fail(&self, hang: u32, panic: u32) {
        let mut trouble = self.trouble();
        (trouble.renewals_hang, trouble.renewals_panic) = (hang, panic);
    }

    pub(crate) fn always_due(&self) {
        self.trouble().always_due = true;
    }

    /// From now on waits make the claims that stand behind them.
    pub(crate) fn claims_stand(&self) {
        self.trouble().claims_stand = true;
    }

    /// From now on settles wait for the gate.
    pub(crate) fn settles_wait(&self) -> Gate {
        self.trouble().settles_wait.insert(Gate::default()).clone()
    }

    /// From now on other tasks run while a settle is out.
    pub(crate) fn lags(&self) {
        self.trouble().lags = true;
    }

    /// What the settles that wait ask for: the most jobs of each claim.
    pub(crate) fn settles_out(&self) -> Vec<u32> {
        self.trouble().settles_out.iter().map(|(_, asked)| *asked).collect()
    }

    /// How many attempts the settles report that wait.
    pub(crate) fn settles_report(&self) -> Vec<usize> {
        self.settles_about().iter().map(Vec::len).collect()
    }

    /// The jobs that the settles report that wait.
    pub(crate) fn settles_about(&self) -> Vec<Vec<JobId>> {
        self.trouble().settles_out.iter().map(|(reported, _)| reported.clone()).collect()
    }

    /// The most jobs that a claim has allowed for a turn of every lane.
    pub(crate) fn most_round_jobs(&self) -> u32 {
        self.trouble().most_round_jobs
    }

    /// The most settles that ever waited at the same time.
    pub(crate) fn most_settles_out(&self) -> usize {
        self.trouble().most_settles_out
    }

    /// The next enqueue, and no other, waits for the gate.
    pub(crate) fn enqueue_waits(&self) -> Gate {
        self.trouble().enqueue_waits.insert(Gate::default()).clone()
    }

    /// The next look for the place of a job, and no other, waits for the gate.
    pub(crate) fn place_waits(&self) -> Gate {
        self.trouble().place_waits.insert(Gate::default()).clone()
    }

    /// From now on looks at jobs never come back.
    pub(crate) fn looks_hang(&self) {
        self.trouble().looks_hang = true;
    }

    /// How many jobs each enqueue had that has begun.
    pub(crate) fn enqueues(&self) -> Vec<usize> {
        self.0.enqueues.lock().unwrap().clone()
    }

    /// How many calls there have been.
    pub(crate) fn calls(&self) -> u64 {
        self.0.calls.load(Ordering::SeqCst)
    }

    /// From now on claims get nothing until the data is adopted.
    pub(crate) fn reset(&self) {
        self.trouble().was_reset = true;
    }

    /// How many claims have got nothing since the data was not known.
    pub(crate) fn claims_in_vain(&self) -> u32 {
        self.trouble().claims_in_vain
    }

    pub(crate) fn claim_panics(&self) {
        self.trouble().claim_panics = true;
    }

    /// How many waits for jobs are out now.
    pub(crate) fn listening(&self) -> u64 {
        self.0.listening.load(Ordering::SeqCst)
    }

    /// How many calls have reported what attempts told, also those that were lost.
    pub(crate) fn reports(&self) -> u64 {
        self.0.reports.load(Ordering::SeqCst)
    }

    /// Looks past the network.
    pub(crate) async fn record(&self, id: JobId) -> JobRecord {
        self.0.backend.get(&[id]).await.unwrap().remove(0).unwrap()
    }

    async fn over_network<T>(
        &self,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let lost = |what: &str| Err(Error::Unavailable(format!("{what} was lost")));
        let n = self.0.lose_every.load(Ordering::SeqCst);
        let count = self.0.calls.fetch_add(1, Ordering::SeqCst);
        let loses = n > 0 && count.is_multiple_of(n);
        if self.0.cut_off.load(Ordering::SeqCst) || (loses && count.is_multiple_of(2 * n)) {
            return lost("the call");
        }
        let answer = call.await?;
        if loses || self.0.cut_off.load(Ordering::SeqCst) {
            return lost("the reply");
        }
        Ok(answer)
    }
}

impl Backend for Faulty {
    async fn enqueue(
        &self,
        jobs: &[NewJob],
        durability: Durability,
    ) -> Result<Vec<EnqueueOutcome>, Error> {
        self.0.enqueues.lock().unwrap().push(jobs.len());
        let gate = self.trouble().enqueue_waits.take();
        if let Some(gate) = gate {
            gate.passed().await;
        }
        let refused = self.trouble().refused;
        if jobs.iter().any(|job| Some(job.spec.id) == refused) {
            return Err(Error::Corrupt("a record cannot be read".to_owned()));
        }
        self.over_network(self.0.backend.enqueue(jobs, durability)).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Error> {
        let panics = std::mem::take(&mut self.trouble().claim_panics);
        assert!(!panics, "a bug in the backend");
        {
            let mut trouble = self.trouble();
            if trouble.was_reset {
                trouble.claims_in_vain += 1;
                let mut nothing = Claim::default();
                nothing.was_reset = true;
                return Ok(nothing);
            }
        }
        let mut claim = self.over_network(self.0.backend.claim(request)).await?;
        if self.trouble().always_due {
            claim.next_due = Some(Duration::ZERO);
        }
        Ok(claim)
    }

    async fn renew(&self, request: &RenewRequest) -> Result<Vec<Renewal>, Error> {
        let take = |count: &mut u32| {
            let some = *count > 0;
            *count = count.saturating_sub(1);
            some
        };
        let hangs = take(&mut self.trouble().renewals_hang);
        if hangs {
            std::future::pending::<()>().await;
        }
        assert!(!take(&mut self.trouble().renewals_panic), "a bug in the backend");
        self.over_network(self.0.backend.renew(request)).await
    }

    async fn settle(&self, request: &SettleRequest) -> Result<SettleReply, Error> {
        let (gate, lags) = {
            let mut trouble = self.trouble();
            let round_jobs = request.claim.as_ref().map_or(0, |claim| claim.round_jobs);
            trouble.most_round_jobs = trouble.most_round_jobs.max(round_jobs);
            (trouble.settles_wait.clone(), trouble.lags)
        };
        if gate.is_some() || lags {
            {
                let mut trouble = self.trouble();
                let asked = request.claim.as_ref().map_or(0, |claim| claim.max);
                let jobs = request.settlements.iter().map(|settlement| settlement.id);
                trouble.settles_out.push((jobs.collect(), asked));
                trouble.most_settles_out = trouble.most_settles_out.max(trouble.settles_out.len());
            }
            match gate {
                Some(gate) => gate.passed().await,
                None => {
                    for _ in 0..20 {
                        tokio::task::yield_now().await;
                    }
                }
            }
            self.trouble().settles_out.pop();
        }
        let hangs = self.trouble().settle_hangs;
        if hangs {
            std::future::pending::<()>().await;
        }
        if self.trouble().refuses {
            return Err(Error::Refused("no permission".to_owned()));
        }
        let left = self.trouble().full_for.checked_sub(1);
        if let Some(left) = left {
            self.trouble().full_for = left;
            return Err(Error::StoreFull("no room".to_owned()));
        }
        if self.trouble().nearly_full && request.settlements.len() > 1 {
            return Err(Error::StoreFull("no room for so much".to_owned()));
        }
        let unreadable = self.trouble().unreadable;
        if request.settlements.iter().any(|settlement| Some(settlement.id) == unreadable) {
            return Err(Error::Corrupt("a record cannot be read".to_owned()));
        }
        self.over_network(self.0.backend.settle(request)).await
    }

    async fn wait(&self, interest: &Interest, timeout: Duration) -> Result<Wake, Error> {
        let _listening = (!interest.kinds.is_empty()).then(|| Listening::new(&self.0.listening));
        self.over_network(self.0.backend.wait(interest, timeout)).await
    }

    async fn wait_and_claim(
        &self,
        interest: &Interest,
        request: &ClaimRequest,
        revoked: oneshot::Receiver<()>,
        timeout: Duration,
    ) -> Result<Woken, Error> {
        let wake = tokio::select! {
            wake = self.wait(interest, timeout) => wake?,
            _ = revoked => return Ok(Woken::without_claim(Wake::Timeout)),
        };
        if !self.trouble().claims_stand {
            return Ok(Woken::without_claim(wake));
        }
        let claim = self.0.backend.claim(request).await?;
        Ok(Woken::with_claim(wake, claim, Duration::ZERO))
    }

    async fn cancel(&self, ids: &[JobId]) -> Result<Vec<CancelOutcome>, Error> {
        self.over_network(self.0.backend.cancel(ids)).await
    }

    async fn get(&self, ids: &[JobId]) -> Result<Vec<Option<JobRecord>>, Error> {
        let hangs = self.trouble().looks_hang;
        if hangs {
            std::future::pending::<()>().await;
        }
        // Never lost: this is how the tests look.
        self.0.backend.get(ids).await
    }

    async fn stats(&self) -> Result<Vec<QueueStats>, Error> {
        self.0.backend.stats().await
    }

    async fn maintain(&self, budget: u32) -> Result<Maintained, Error> {
        self.over_network(self.0.backend.maintain(budget)).await
    }

    async fn list(&self, request: &ListRequest) -> Result<Page, Error> {
        self.over_network(self.0.backend.list(request)).await
    }

    async fn retry(&self, request: &RetryRequest) -> Result<Vec<RetryOutcome>, Error> {
        self.over_network(self.0.backend.retry(request)).await
    }

    async fn delete(&self, jobs: &[(JobId, JobState)]) -> Result<Vec<DeleteOutcome>, Error> {
        self.over_network(self.0.backend.delete(jobs)).await
    }

    async fn quarantined(&self, ids: &[JobId]) -> Result<Vec<Option<QuarantinedJob>>, Error> {
        self.over_network(self.0.backend.quarantined(ids)).await
    }

    async fn recover(&self, ids: &[JobId]) -> Result<Vec<RecoverOutcome>, Error> {
        self.over_network(self.0.backend.recover(ids)).await
    }

    async fn set_paused(&self, queue: &QueueName, paused: bool) -> Result<bool, Error> {
        self.over_network(self.0.backend.set_paused(queue, paused)).await
    }

    async fn paused(&self) -> Result<Vec<QueueName>, Error> {
        self.over_network(self.0.backend.paused()).await
    }

    async fn report(&self, reports: &[Report]) -> Result<Vec<Reported>, Error> {
        self.0.reports.fetch_add(1, Ordering::SeqCst);
        self.over_network(self.0.backend.report(reports)).await
    }

    async fn watch(&self, requests: &[WatchRequest]) -> Result<Vec<Option<Watched>>, Error> {
        self.over_network(self.0.backend.watch(requests)).await
    }

    async fn set_limit(
        &self,
        target: &LimitTarget,
        settings: Option<&LimitSettings>,
    ) -> Result<bool, Error> {
        self.over_network(self.0.backend.set_limit(target, settings)).await
    }

    async fn reset_limit(&self, key: &LimitKey) -> Result<bool, Error> {
        self.over_network(self.0.backend.reset_limit(key)).await
    }

    async fn limits(&self) -> Result<Vec<(LimitTarget, LimitSettings)>, Error> {
        self.over_network(self.0.backend.limits()).await
    }

    async fn limit_status(&self, keys: &[LimitKey]) -> Result<Vec<LimitStatus>, Error> {
        self.over_network(self.0.backend.limit_status(keys)).await
    }

    async fn announce(&self, worker: &WorkerInfo, believed_for: Duration) -> Result<(), Error> {
        self.over_network(self.0.backend.announce(worker, believed_for)).await
    }

    async fn workers(&self) -> Result<Vec<LiveWorker>, Error> {
        self.over_network(self.0.backend.workers()).await
    }

    async fn place(&self, id: JobId) -> Result<Placement, Error> {
        let gate = self.trouble().place_waits.take();
        if let Some(gate) = gate {
            gate.passed().await;
        }
        self.over_network(self.0.backend.place(id)).await
    }

    async fn lanes(&self, queue: &QueueName) -> Result<Lanes, Error> {
        self.over_network(self.0.backend.lanes(queue)).await
    }

    async fn audit(&self, repair: bool) -> Result<Vec<Violation>, Error> {
        self.0.backend.audit(repair).await
    }

    async fn other_epoch(&self) -> Result<Option<Epoch>, Error> {
        Ok(self.trouble().was_reset.then(|| Epoch::new(b"another".to_vec())))
    }

    async fn adopt(&self, _: &Epoch) -> Result<(), Error> {
        self.trouble().was_reset = false;
        Ok(())
    }

    async fn check(&self) -> Result<Vec<CheckFinding>, Error> {
        self.0.backend.check().await
    }
}

/// Counts a wait until it ends or is dropped.
struct Listening<'c>(&'c AtomicU64);

impl<'c> Listening<'c> {
    fn new(count: &'c AtomicU64) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
