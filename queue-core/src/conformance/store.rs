//! What the cases are told with: a store, its clock, and short words for the usual calls.

use std::time::Duration;

use super::Harness;
use crate::backend::PASS_MAX;
use crate::{
    Backend, CancelOutcome, Claim, ClaimRequest, ClaimToken, Durability, EnqueueOutcome, Enqueued,
    ErrorKind, JobError, JobId, JobRecord, JobState, Kind, KindSlots, Lease, NewJob, Outcome,
    Payload, QueueName, RenewRequest, Renewal, SettleRequest, Settled, Settlement, Timestamp,
    WorkerId,
};

/// 2100-01-01, far ahead of the real time.
const START: Timestamp = Timestamp::from_ms(4_102_444_800_000);

/// The lease of a claim unless a case says otherwise.
pub(super) const LEASE: Duration = Duration::from_secs(10);

pub(super) struct Store<'a, H: Harness> {
    harness: &'a H,
    pub(super) backend: H::Backend,
    now: std::sync::Mutex<Timestamp>,
}

pub(super) fn job(kind: &str) -> NewJob {
    NewJob::new(Kind::new(kind).unwrap(), Payload::raw(kind.to_owned()))
}

/// A claim of kinds `a` and `b` from the queue `default`.
pub(super) fn claim_request(max: u32) -> ClaimRequest {
    let kind = |name| KindSlots::new(Kind::new(name).unwrap(), PASS_MAX);
    ClaimRequest {
        token: ClaimToken::random(),
        worker: WorkerId::new("tester").unwrap(),
        queues: vec![QueueName::default()],
        kinds: vec![kind("a"), kind("b")],
        max,
        round_jobs: 0,
        lease: LEASE,
    }
}

pub(super) fn failure() -> JobError {
    JobError::new(ErrorKind::Failed, "it did not work")
}

pub(super) fn ids(claim: &Claim) -> Vec<JobId> {
    claim.leases.iter().map(|lease| lease.spec.id).collect()
}

/// Enqueues with the least durability, and forgets how much more the store gave.
pub(super) async fn enqueue_on(backend: &impl Backend, jobs: &[NewJob]) -> Vec<EnqueueOutcome> {
    let outcomes = backend.enqueue(jobs, Durability::Memory).await.unwrap();
    outcomes.into_iter().map(without_durability).collect()
}

pub(super) fn without_durability(outcome: EnqueueOutcome) -> EnqueueOutcome {
    match outcome {
        EnqueueOutcome::Done(enqueued) => {
            EnqueueOutcome::Done(enqueued.with_durability(Durability::Memory))
        }
        conflict => conflict,
    }
}

impl<'a, H: Harness> Store<'a, H> {
    pub(super) async fn new(harness: &'a H) -> Self {
        let backend = harness.fresh(START).await;
        Self { harness, backend, now: std::sync::Mutex::new(START) }
    }

    pub(super) fn now(&self) -> Timestamp {
        *self.now.lock().unwrap()
    }

    pub(super) async fn advance(&self, by: Duration) {
        let now = self.now().after(by);
        *self.now.lock().unwrap() = now;
        self.harness.set_clock(&self.backend, now).await;
    }

    /// The store as another process would reach it, or the same handle if there is no such thing.
    pub(super) async fn other(&self) -> Option<H::Backend> {
        self.harness.reconnect(&self.backend).await
    }

    pub(super) async fn try_enqueue(&self, job: &NewJob) -> EnqueueOutcome {
        enqueue_on(&self.backend, std::slice::from_ref(job)).await.remove(0)
    }

    pub(super) async fn enqueue(&self, job: &NewJob) -> Enqueued {
        match self.try_enqueue(job).await {
            EnqueueOutcome::Done(enqueued) => enqueued,
            conflict => panic!("{conflict:?}"),
        }
    }

    pub(super) async fn claim(&self, max: u32) -> Claim {
        self.backend.claim(&claim_request(max)).await.unwrap()
    }

    /// Claims one job, which must be there.
    pub(super) async fn claim_one(&self) -> Lease {
        self.claim(1).await.leases.pop().expect("a job is ready")
    }

    pub(super) async fn settle(&self, lease: &Lease, outcome: Outcome) -> Settled {
        let settlements = vec![Settlement {
            id: lease.spec.id,
            token: lease.token,
            outcome,
            elapsed: Duration::from_millis(42),
        }];
        let request = SettleRequest { settlements, claim: None };
        self.backend.settle(&request).await.unwrap().settled[0]
    }

    pub(super) async fn complete(&self, lease: &Lease) -> Settled {
        self.settle(lease, Outcome::Completed { result: None }).await
    }

    pub(super) async fn renew(&self, lease: &Lease, for_time: Duration) -> Renewal {
        let request = RenewRequest { tokens: vec![lease.token], lease: for_time };
        self.backend.renew(&request).await.unwrap().remove(0)
    }

    pub(super) async fn cancel(&self, id: JobId) -> CancelOutcome {
        self.backend.cancel(&[id]).await.unwrap()[0]
    }

    pub(super) async fn get(&self, id: JobId) -> Option<JobRecord> {
        self.backend.get(&[id]).await.unwrap().remove(0)
    }

    pub(super) async fn record(&self, id: JobId) -> JobRecord {
        self.get(id).await.expect("the store knows the job")
    }

    pub(super) async fn state(&self, id: JobId) -> JobState {
        self.record(id).await.state
    }

    pub(super) async fn maintain(&self) -> crate::Maintained {
        self.backend.maintain(PASS_MAX).await.unwrap()
    }

    /// Promise P4.
    pub(super) async fn audit(&self) {
        assert_eq!(self.backend.audit(false).await.unwrap(), []);
    }

    /// How many jobs are in a state, over all queues.
    pub(super) async fn count(&self, state: JobState) -> u64 {
        let stats = self.backend.stats().await.unwrap();
        stats.iter().filter_map(|row| row.jobs.get(&state)).sum()
    }
}
