//! Jobs, claims and ends, as short as tests want them.

use std::time::Duration;

use queue_core::conformance::Harness;
use queue_core::{
    Backend, ClaimRequest, ClaimToken, Durability, EnqueueOutcome, Interest, JobId, Kind,
    KindLimits, KindSlots, Lease, LimitKeys, LimitSettings, LimitTarget, NewJob, Outcome, Payload,
    QueueName, Rate, Retention, SettleRequest, Settled, Settlement, Timestamp, WorkerId,
};
use queue_redis::RedisBackend;

use super::harness::RedisHarness;

pub fn job(kind: &str) -> NewJob {
    NewJob::new(Kind::new(kind).unwrap(), Payload::raw("payload"))
}

/// A job whose record is dropped in the step that finishes it.
pub fn transient(kind: &str) -> NewJob {
    job(kind).retention(Retention { completed: Duration::ZERO, dead: Duration::ZERO })
}

pub fn request(kinds: &[&str], max: u32) -> ClaimRequest {
    let slots = |kind: &&str| KindSlots::new(Kind::new(kind).unwrap(), max);
    ClaimRequest {
        token: ClaimToken::random(),
        worker: WorkerId::new("tester").unwrap(),
        queues: vec![QueueName::default()],
        kinds: kinds.iter().map(slots).collect(),
        max,
        round_jobs: 0,
        lease: Duration::from_secs(30),
    }
}

pub fn interest(worker: &str, kinds: &[&str]) -> Interest {
    Interest {
        worker: WorkerId::new(worker).unwrap(),
        queues: vec![QueueName::default()],
        kinds: kinds.iter().map(|kind| KindLimits::new(Kind::new(kind).unwrap())).collect(),
    }
}

pub async fn enqueue(backend: &RedisBackend, jobs: &[NewJob]) -> Vec<JobId> {
    let outcomes = backend.enqueue(jobs, Durability::Memory).await.unwrap();
    let id = |outcome: EnqueueOutcome| match outcome {
        EnqueueOutcome::Done(done) => done.id,
        other => panic!("not enqueued: {other:?}"),
    };
    outcomes.into_iter().map(id).collect()
}

pub async fn claim(backend: &RedisBackend, kinds: &[&str], max: u32) -> Vec<Lease> {
    backend.claim(&request(kinds, max)).await.unwrap().leases
}

/// Goes on with the data that the store has now, if that is not what the backend knows.
pub async fn adopt(backend: &RedisBackend) {
    if let Some(epoch) = backend.other_epoch().await.unwrap() {
        backend.adopt(&epoch).await.unwrap();
    }
}

/// A claim of a worker that adds a key to the kind.
pub async fn claim_with(backend: &RedisBackend, kind: &str, key: &str, max: u32) -> Vec<Lease> {
    let mut request = request(&[kind], max);
    request.kinds[0].limits = LimitKeys::parse([key]).unwrap();
    backend.claim(&request).await.unwrap().leases
}

pub fn ends(leases: &[Lease], outcome: &Outcome) -> SettleRequest {
    let end = |lease: &Lease| Settlement {
        id: lease.spec.id,
        token: lease.token,
        outcome: outcome.clone(),
        elapsed: Duration::from_millis(5),
    };
    SettleRequest { settlements: leases.iter().map(end).collect(), claim: None }
}

pub fn completed() -> Outcome {
    Outcome::Completed { result: None }
}

pub async fn settle(backend: &RedisBackend, leases: &[Lease], outcome: &Outcome) -> Vec<Settled> {
    backend.settle(&ends(leases, outcome)).await.unwrap().settled
}

/// Fails with the list if any index disagrees with the records.
pub async fn assert_sound(backend: &RedisBackend) {
    let violations = backend.audit(false).await.unwrap();
    assert!(violations.is_empty(), "{violations:#?}");
}

pub async fn set_limit(backend: &RedisBackend, target: &str, settings: &LimitSettings) {
    let target = LimitTarget::new(target).unwrap();
    settings.validate(&target).unwrap();
    backend.set_limit(&target, Some(settings)).await.unwrap();
}

/// Some that run, some that wait at a key, one that is open, one that waits for its time.
pub async fn limited_populace(harness: &RedisHarness, start: Timestamp) -> RedisBackend {
    let backend = harness.fresh(start).await;
    let two = LimitSettings { concurrency: Some(2), ..LimitSettings::default() };
    set_limit(&backend, "tenant:*", &two).await;
    let rate = Some(Rate::new(1, Duration::from_secs(60)));
    set_limit(&backend, "provider:x", &LimitSettings { rate, ..LimitSettings::default() }).await;
    let of = |tenant: &str| job("a").limit(tenant);
    let jobs = [of("tenant:a"), of("tenant:a"), of("tenant:a"), of("tenant:b")];
    enqueue(&backend, &jobs).await;
    let of_x = || job("b").limit("provider:x");
    enqueue(&backend, &[of_x(), of_x(), of("tenant:c").delay(Duration::from_secs(60))]).await;
    assert_eq!(claim(&backend, &["a", "b"], 9).await.len(), 4);
    assert!(claim(&backend, &["a", "b"], 9).await.is_empty());
    enqueue(&backend, &[of("tenant:d"), job("a")]).await;
    assert_sound(&backend).await;
    backend
}
