//! Answers that are lost after the server has applied the call (promise P3).

use queue_core::{
    Backend, CancelOutcome, ConflictReason, EnqueueOutcome, Error, JobState, OnConflict,
    RenewRequest, Renewal, Settled,
};
use queue_redis::RedisBackend;
use std::time::Duration;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{assert_sound, claim, completed, ends, enqueue, job, request, settle};
use crate::support::proxy::{Cut, Proxy};

/// A backend behind a proxy that has made each call once, so that every script is known.
async fn behind_proxy(harness: &RedisHarness) -> (Proxy, RedisBackend) {
    let proxy = Proxy::start(harness.redis.socket()).await;
    let namespace = harness.now().await.namespace().clone();
    let backend = RedisBackend::connect(&proxy.url(), namespace).await.unwrap();
    let ids = enqueue(&backend, &[job("warm")]).await;
    let leases = claim(&backend, &["warm"], 1).await;
    let tokens = vec![leases[0].token];
    backend.renew(&RenewRequest { tokens, lease: Duration::from_secs(1) }).await.unwrap();
    settle(&backend, &leases, &completed()).await;
    backend.cancel(&ids).await.unwrap();
    backend.maintain(1).await.unwrap();
    (proxy, backend)
}

const LOST: Cut = Cut { after_bytes: 0 };

#[tokio::test]
async fn a_lost_enqueue_makes_one_job() {
    let harness = RedisHarness::new();
    let (proxy, backend) = behind_proxy(&harness).await;
    let jobs = [job("a"), job("a")];
    proxy.arm(LOST);
    let outcomes = backend.enqueue(&jobs).await.unwrap();
    assert!(!proxy.is_armed());
    for (outcome, job) in outcomes.iter().zip(&jobs) {
        let EnqueueOutcome::Done(done) = outcome else { panic!("{outcome:?}") };
        assert_eq!((done.id, done.state), (job.job_id(), JobState::Ready));
    }
    assert_eq!(claim(&backend, &["a"], 10).await.len(), 2);
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_lost_enqueue_that_may_be_rejected_is_left_to_its_caller() {
    let harness = RedisHarness::new();
    let (proxy, backend) = behind_proxy(&harness).await;
    let jobs = [job("a").on_conflict(OnConflict::Reject)];
    proxy.arm(LOST);
    assert!(matches!(backend.enqueue(&jobs).await, Err(Error::Unavailable(_))));
    let outcomes = backend.enqueue(&jobs).await.unwrap();
    let reason = ConflictReason::Rejected;
    assert_eq!(outcomes, [EnqueueOutcome::Conflict { existing: jobs[0].job_id(), reason }]);
}

#[tokio::test]
async fn a_lost_claim_gives_the_same_jobs_and_no_others() {
    let harness = RedisHarness::new();
    let (proxy, backend) = behind_proxy(&harness).await;
    let ids = enqueue(&backend, &[job("a"), job("a"), job("a")]).await;
    proxy.arm(LOST);
    let leases = claim(&backend, &["a"], 2).await;
    assert!(!proxy.is_armed());
    assert_eq!(leases.iter().map(|lease| lease.spec.id).collect::<Vec<_>>(), ids[..2]);
    assert_eq!(claim(&backend, &["a"], 9).await.len(), 1);
    assert_sound(&backend).await;
}

/// A connection cut at every byte of the answer: the settlement counts once.
#[tokio::test]
async fn a_settle_whose_answer_is_cut_anywhere_counts_once() {
    let harness = RedisHarness::new();
    let (proxy, backend) = behind_proxy(&harness).await;
    for after_bytes in 0.."$2\r\na4\r\n".len() {
        enqueue(&backend, &[job("a")]).await;
        let leases = claim(&backend, &["a"], 1).await;
        proxy.arm(Cut { after_bytes });
        let settled = settle(&backend, &leases, &completed()).await;
        assert!(!proxy.is_armed());
        assert_eq!(settled, [Settled::AlreadyDone(JobState::Completed)], "cut at {after_bytes}");
    }
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_lost_settle_with_a_claim_gives_both_answers() {
    let harness = RedisHarness::new();
    let (proxy, backend) = behind_proxy(&harness).await;
    let ids = enqueue(&backend, &[job("a"), job("a")]).await;
    let leases = claim(&backend, &["a"], 1).await;
    let mut both = ends(&leases, &completed());
    both.claim = Some(request(&["a"], 5));
    proxy.arm(LOST);
    let reply = backend.settle(&both).await.unwrap();
    assert!(!proxy.is_armed());
    assert_eq!(reply.settled, [Settled::AlreadyDone(JobState::Completed)]);
    let claimed = reply.claim.unwrap().leases;
    assert_eq!(claimed.iter().map(|lease| lease.spec.id).collect::<Vec<_>>(), ids[1..]);
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_lost_renewal_and_a_lost_cancel_are_repeated() {
    let harness = RedisHarness::new();
    let (proxy, backend) = behind_proxy(&harness).await;
    let ids = enqueue(&backend, &[job("a"), job("a")]).await;
    let leases = claim(&backend, &["a"], 1).await;
    proxy.arm(LOST);
    let outcomes = backend.cancel(&ids).await.unwrap();
    let late = CancelOutcome::AlreadyFinished(JobState::Cancelled);
    assert_eq!(outcomes, [CancelOutcome::Requested, late]);
    let renewal = RenewRequest { tokens: vec![leases[0].token], lease: Duration::from_secs(9) };
    proxy.arm(LOST);
    let renewed = backend.renew(&renewal).await.unwrap();
    assert!(!proxy.is_armed());
    assert_eq!(renewed, [Renewal::Held { cancel_requested: vec![ids[0]] }]);
    assert_sound(&backend).await;
}
