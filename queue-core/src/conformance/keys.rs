//! Idempotency keys: they live and die with their job.

use std::time::Duration;

use super::Harness;
use super::store::{Store, enqueue_on, failure, job};
use crate::{
    ConflictReason, EnqueueOutcome, Enqueued, IdempotencyKey, JobState, Kind, NewJob, Outcome,
    Payload, Retention,
};

fn keyed() -> NewJob {
    job("a").idempotency_key("once")
}

pub async fn a_key_finds_the_first_job<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let first = store.enqueue(&keyed()).await.id;
    assert_eq!(store.enqueue(&keyed()).await, Enqueued::duplicate(first, JobState::Ready));
    let lease = store.claim_one().await;
    assert_eq!(store.enqueue(&keyed()).await, Enqueued::duplicate(first, JobState::Running));
    store.complete(&lease).await;
    assert_eq!(store.enqueue(&keyed()).await, Enqueued::duplicate(first, JobState::Completed));
    store.audit().await;
}

pub async fn another_payload_conflicts<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let first = store.enqueue(&keyed()).await.id;
    let other = NewJob::new(Kind::new("a").unwrap(), Payload::raw("x")).idempotency_key("once");
    let outcome = store.try_enqueue(&other).await;
    let reason = ConflictReason::IdempotencyKey;
    assert_eq!(outcome, EnqueueOutcome::Conflict { existing: first, reason });
    assert!(store.get(other.job_id()).await.is_none());
    store.audit().await;
}

pub async fn a_retry_keeps_its_key<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let first = store.enqueue(&keyed()).await.id;
    let lease = store.claim_one().await;
    let delay = Duration::from_secs(5);
    store.settle(&lease, Outcome::Retry { delay, error: failure() }).await;
    assert_eq!(store.enqueue(&keyed()).await, Enqueued::duplicate(first, JobState::Retrying));
    store.audit().await;
}

pub async fn dead_and_cancelled_jobs_free_their_key<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let first = store.enqueue(&keyed()).await.id;
    let lease = store.claim_one().await;
    store.settle(&lease, Outcome::Dead { error: failure() }).await;
    let second = store.enqueue(&keyed()).await;
    assert!(!second.duplicate);
    store.cancel(second.id).await;
    let third = store.enqueue(&keyed()).await;
    assert!(!third.duplicate);
    let states = [store.state(first).await, store.state(second.id).await];
    assert_eq!(states, [JobState::Dead, JobState::Cancelled]);
    store.audit().await;
}

pub async fn racing_keys_make_one_job<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let Some(other) = store.other().await else { return };
    for round in 0..100 {
        let job = || job("a").idempotency_key(format!("round-{round}"));
        let (left, right) = ([job()], [job()]);
        let (left, right) =
            tokio::join!(enqueue_on(&store.backend, &left), enqueue_on(&other, &right));
        let ids = [left, right].map(|mut outcomes| match outcomes.remove(0) {
            EnqueueOutcome::Done(enqueued) => enqueued.id,
            conflict => panic!("{conflict:?}"),
        });
        assert_eq!(ids[0], ids[1]);
    }
    assert_eq!(store.count(JobState::Ready).await, 100);
    store.audit().await;
}

pub async fn a_dropped_record_frees_its_key<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let kept = Duration::from_secs(60);
    let first = keyed().retention(Retention { completed: kept, dead: kept });
    store.enqueue(&first).await;
    let lease = store.claim_one().await;
    store.complete(&lease).await;
    store.advance(kept).await;
    assert_eq!(store.maintain().await.dropped, 1);
    assert!(!store.enqueue(&keyed()).await.duplicate);
    store.audit().await;
}

pub async fn any_text_is_a_key<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let longest = "ä".repeat(crate::IDEMPOTENCY_KEY_MAX_BYTES / 2);
    for text in ["\0", "\0x", "x\0y", "x\0z", " ", "{}", "'\";--", "ä", longest.as_str()] {
        let keyed = || job("a").idempotency_key(text);
        let first = store.enqueue(&keyed()).await;
        assert!(!first.duplicate, "{text:?}");
        assert_eq!(store.enqueue(&keyed()).await, Enqueued::duplicate(first.id, JobState::Ready));
        let key = store.record(first.id).await.spec.idempotency_key;
        assert_eq!(key.as_ref().map(IdempotencyKey::as_str), Some(text));
    }
    store.audit().await;
}
