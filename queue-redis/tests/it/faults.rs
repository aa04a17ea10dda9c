//! Answers that are lost after the server has applied the call (promise P3).

use queue_core::{
    Backend, CancelOutcome, ConflictReason, DeleteOutcome, Durability, EnqueueOutcome, Error,
    JobState, OnConflict, QueueName, RenewRequest, Renewal, Report, Reported, RetryOutcome,
    RetryRequest, Settled, WatchRequest,
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
    let outcomes = backend.enqueue(&jobs, Durability::Memory).await.unwrap();
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
    assert!(matches!(backend.enqueue(&jobs, Durability::Memory).await, Err(Error::Unavailable(_))));
    let outcomes = backend.enqueue(&jobs, Durability::Memory).await.unwrap();
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

/// Operators' calls and reports that are sent again do nothing twice.
#[tokio::test]
async fn lost_answers_of_the_other_calls_are_asked_for_again() {
    let harness = RedisHarness::new();
    let (proxy, backend) = behind_proxy(&harness).await;
    let ids = enqueue(&backend, &[job("a"), job("a")]).await;
    let leases = claim(&backend, &["a"], 2).await;
    let (id, token) = (ids[0], leases[0].token);
    let lines = vec!["one".to_owned()];
    let report = Report { id, token, progress: None, lines_before: 0, lines };
    proxy.arm(LOST);
    assert_eq!(backend.report(&[report]).await.unwrap(), [Reported::Applied]);
    let watch = [WatchRequest { id, after_line: 0 }];
    assert_eq!(backend.watch(&watch).await.unwrap()[0].as_ref().unwrap().lines.len(), 1);

    settle(&backend, &leases, &completed()).await;
    let record = backend.get(&[id]).await.unwrap().remove(0).unwrap();
    let jobs = vec![(id, record.finished_at.unwrap())];
    proxy.arm(LOST);
    let retried = backend.retry(&RetryRequest { jobs, keep_counts: false }).await.unwrap();
    assert_eq!(retried, [RetryOutcome::Unchanged(JobState::Ready)]);
    proxy.arm(LOST);
    let deleted = backend.delete(&[(ids[1], JobState::Completed)]).await.unwrap();
    assert_eq!(deleted, [DeleteOutcome::NotFound]);
    let queue = QueueName::default();
    proxy.arm(LOST);
    assert!(!backend.set_paused(&queue, true).await.unwrap());
    assert_eq!(backend.paused().await.unwrap(), [queue]);

    proxy.arm(LOST);
    backend.audit(true).await.unwrap();
    assert!(!proxy.is_armed());
    assert_sound(&backend).await;
}

/// The repeat of a replacement is a duplicate and replaces nothing more.
#[tokio::test]
async fn a_lost_replacement_replaces_once() {
    let harness = RedisHarness::new();
    let (proxy, backend) = behind_proxy(&harness).await;
    let old = enqueue(&backend, &[job("a").idempotency_key("k")]).await;
    let new = job("a").idempotency_key("k").on_conflict(OnConflict::Replace);
    proxy.arm(LOST);
    let outcomes = backend.enqueue(std::slice::from_ref(&new), Durability::Memory).await.unwrap();
    assert!(!proxy.is_armed());
    let EnqueueOutcome::Done(done) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!((done.id, done.state, done.duplicate), (new.job_id(), JobState::Ready, true));
    let records = backend.get(&[old[0], new.job_id()]).await.unwrap();
    let states: Vec<_> = records.iter().flatten().map(|record| record.state).collect();
    assert_eq!(states, [JobState::Cancelled, JobState::Ready]);
    assert_sound(&backend).await;
}
