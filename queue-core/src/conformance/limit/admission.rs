//! How many live jobs a queue or a key may have.

use super::*;
use crate::{EnqueueOutcome, OnConflict, RetryOutcome, RetryRequest};

fn live(most: u64) -> LimitSettings {
    LimitSettings { max_live: Some(most), ..LimitSettings::default() }
}

/// What is full; `None` if the job was taken in.
async fn full<H: Harness>(store: &Store<'_, H>, job: &NewJob) -> Option<String> {
    match store.try_enqueue(job).await {
        EnqueueOutcome::Full { limit, retry_after } => {
            let sensible = Duration::from_secs(1)..=Duration::from_secs(60);
            assert!(sensible.contains(&retry_after), "{retry_after:?}");
            Some(limit.to_string())
        }
        EnqueueOutcome::Done(_) => None,
        conflict => panic!("{conflict:?}"),
    }
}

pub async fn a_queue_takes_so_many_live_jobs<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("queue:default", &live(3)).await;
    let later = Duration::from_secs(60);
    assert_eq!(full(&store, &job("a").delay(later)).await, None);
    assert_eq!(full(&store, &job("a").max_attempts(1)).await, None);
    assert_eq!(full(&store, &job("b")).await, None);
    assert_eq!(full(&store, &job("b")).await.as_deref(), Some("queue:default"));
    assert_eq!(full(&store, &job("b").queue("other")).await, None, "another queue");
    // A running job is live, a retrying one too; a finished one is not.
    let running = store.claim_one().await;
    assert!(full(&store, &job("a")).await.is_some());
    let retry = Outcome::Retry { delay: later, error: failure() };
    store.settle(&running, Outcome::Released).await;
    assert!(full(&store, &job("a")).await.is_some());
    let running = store.claim_one().await;
    let dies = running.spec.max_attempts == 1;
    store.settle(&running, retry).await;
    assert_eq!(full(&store, &job("a")).await.is_some(), !dies);
    store.unlimit("queue:default").await;
    assert_eq!(full(&store, &job("a")).await, None);
    store.audit().await;
}

pub async fn a_job_that_is_run_again_is_not_refused<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("queue:default", &live(1)).await;
    store.limit("tenant:*", &live(1)).await;
    let of_a = || job("a").limit("tenant:a");
    let dead = store.enqueue(&of_a()).await.id;
    store.settle(&store.claim_one().await, Outcome::Dead { error: failure() }).await;
    let other = store.enqueue(&of_a()).await.id;
    let finished_at = store.record(dead).await.finished_at.expect("it is dead");
    let request = RetryRequest { jobs: vec![(dead, finished_at)], keep_counts: false };
    assert_eq!(store.backend.retry(&request).await.unwrap(), [RetryOutcome::Ready]);
    // It counts, and takes nobody's place.
    assert_eq!(store.status("tenant:a").await.live, 2);
    assert_eq!(full(&store, &job("a")).await.as_deref(), Some("queue:default"));
    assert_eq!(store.takes(9).await, [other, dead]);
    store.audit().await;
}

pub async fn a_key_takes_so_many_live_jobs<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("tenant:*", &live(2)).await;
    store.limit("tenant:large", &live(3)).await;
    let of = |tenant: &str| job("a").limit(format!("tenant:{tenant}"));
    for (tenant, most) in [("small", 2), ("large", 3)] {
        for _ in 0..most {
            assert_eq!(full(&store, &of(tenant)).await, None);
        }
        assert_eq!(full(&store, &of(tenant)).await, Some(format!("tenant:{tenant}")));
    }
    assert_eq!(full(&store, &job("a")).await, None);
    let status = store.status("tenant:large").await;
    assert_eq!((status.live, status.running), (3, 0));
    // Of several that are full the queue is named first, then the keys in their order.
    store.limit("queue:*", &live(6)).await;
    let both = of("small").limit("tenant:large");
    assert_eq!(full(&store, &both).await.as_deref(), Some("queue:default"));
    store.unlimit("queue:*").await;
    assert_eq!(full(&store, &both).await.as_deref(), Some("tenant:large"));
    let claim = store.claim(9).await;
    for lease in &claim.leases {
        store.complete(lease).await;
    }
    assert_eq!(full(&store, &both).await, None);
    assert_eq!(store.status("tenant:small").await.live, 1);
    store.audit().await;
}

pub async fn an_existing_job_is_not_refused<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("queue:default", &live(1)).await;
    let first = job("a").idempotency_key("k");
    assert_eq!(full(&store, &first).await, None);
    assert!(store.enqueue(&first).await.duplicate, "the same id");
    assert!(store.enqueue(&job("a").idempotency_key("k")).await.duplicate, "the same key");
    // One that takes the place of another needs no room more.
    let replacing = job("a").idempotency_key("k").on_conflict(OnConflict::Replace);
    assert_eq!(store.enqueue(&replacing).await.replaced, Some(first.job_id()));
    // But if it is refused for another reason, the other stays.
    store.limit("tenant:full", &live(1)).await;
    store.enqueue(&job("a").queue("other").limit("tenant:full")).await;
    let refused =
        job("b").idempotency_key("k").limit("tenant:full").on_conflict(OnConflict::Replace);
    assert_eq!(full(&store, &refused).await.as_deref(), Some("tenant:full"));
    assert_eq!(store.state(replacing.job_id()).await, JobState::Ready);
    // What a worker gives back is not refused either.
    let lease = store.claim_one().await;
    store.settle(&lease, Outcome::Released).await;
    assert_eq!(store.state(lease.spec.id).await, JobState::Ready);
    store.audit().await;
}

pub async fn racing_producers_are_counted_exactly<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("queue:default", &live(50)).await;
    store.limit("tenant:a", &live(30)).await;
    let other = store.other().await;
    let other = other.as_ref().unwrap_or(&store.backend);
    let produce = async |backend: &H::Backend| {
        let mut taken = 0;
        for _ in 0..8 {
            let jobs = [
                job("a").limit("tenant:a"),
                job("a").limit("tenant:a"),
                job("b").limit("tenant:a"),
                job("b"),
            ];
            let outcomes = enqueue_on(backend, &jobs).await;
            taken += outcomes.iter().filter(|o| matches!(o, EnqueueOutcome::Done(_))).count();
        }
        taken
    };
    let (one, two, three) = tokio::join!(produce(&store.backend), produce(other), produce(other));
    assert_eq!(one + two + three, 30 + 20);
    assert_eq!(store.status("tenant:a").await.live, 30);
    assert_eq!(store.status("queue:default").await.live, 50);
    store.audit().await;
}
