//! Promise P9: who waits is woken.

use std::time::Duration;

use super::Harness;
use super::store::{LEASE, Store, enqueue_on, job};
use crate::{Backend, Interest, Kind, KindLimits, QueueName, Wake, WorkerId};

/// Long enough that only a wake-up that was lost for good reaches it.
const LONG: Duration = Duration::from_secs(20);

fn interest(kinds: &[&str]) -> Interest {
    Interest {
        worker: WorkerId::new("tester").unwrap(),
        queues: vec![QueueName::default()],
        kinds: kinds.iter().map(|kind| KindLimits::new(Kind::new(kind).unwrap())).collect(),
    }
}

pub async fn a_new_job_wakes_a_waiter<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let other = store.other().await;
    let producer = other.as_ref().unwrap_or(&store.backend);
    for _ in 0..20 {
        // First an empty claim: what a worker does before it waits.
        assert!(store.claim(1).await.leases.is_empty());
        let jobs = [job("a")];
        let waiter = interest(&["a", "b"]);
        let wait = store.backend.wait(&waiter, LONG);
        let (woken, _) = tokio::join!(wait, enqueue_on(producer, &jobs));
        assert_eq!(woken.unwrap(), Wake::Work);
        store.complete(&store.claim_one().await).await;
    }
    let short = Duration::from_millis(20);
    store.claim(1).await;
    let nothing = store.backend.wait(&interest(&["c"]), short).await.unwrap();
    assert_eq!(nothing, Wake::Timeout);
}

pub async fn a_job_that_is_there_is_not_waited_for<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    assert!(store.claim(1).await.leases.is_empty());
    store.enqueue(&job("a")).await;
    assert_eq!(store.backend.wait(&interest(&["a"]), LONG).await.unwrap(), Wake::Work);
}

pub async fn an_earlier_job_wakes_a_sleeper<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.enqueue(&job("a").delay(Duration::from_secs(60))).await;
    while store.backend.wait(&interest(&["a"]), Duration::from_millis(50)).await.unwrap()
        == Wake::Work
    {
        store.claim(1).await;
    }
    let jobs = [job("a").delay(Duration::from_secs(5))];
    let waiter = interest(&["a"]);
    let wait = store.backend.wait(&waiter, LONG);
    let (woken, _) = tokio::join!(wait, enqueue_on(&store.backend, &jobs));
    assert_eq!(woken.unwrap(), Wake::Work);
    assert_eq!(store.claim(1).await.next_due, Some(Duration::from_secs(5)));
}

pub async fn a_cancel_request_wakes_its_worker<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let id = store.enqueue(&job("a")).await.id;
    let lease = store.claim_one().await;
    let waiter = interest(&[]);
    let cancels = [id];
    let wait = store.backend.wait(&waiter, LONG);
    let (woken, cancelled) = tokio::join!(wait, store.backend.cancel(&cancels));
    cancelled.unwrap();
    assert_eq!(woken.unwrap(), Wake::Cancel);
    let renewal = store.renew(&lease, LEASE).await;
    assert_eq!(renewal, crate::Renewal::Held { cancel_requested: vec![id] });
}

pub async fn a_dropped_wait_loses_no_job<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let other = store.other().await;
    let other = other.as_ref().unwrap_or(&store.backend);
    for _ in 0..10 {
        store.claim(1).await;
        let waiter = interest(&["a"]);
        let dropped =
            tokio::time::timeout(Duration::from_millis(5), store.backend.wait(&waiter, LONG));
        assert!(dropped.await.is_err());
        // The waiter that went away must not swallow the wake-up of this one.
        let jobs = [job("a")];
        let waiter = Interest { worker: WorkerId::new("other").unwrap(), ..interest(&["a"]) };
        let (woken, _) = tokio::join!(other.wait(&waiter, LONG), enqueue_on(other, &jobs));
        assert_eq!(woken.unwrap(), Wake::Work);
        store.complete(&store.claim_one().await).await;
    }
}

/// Waits as `worker` for kinds `a` and `b`, and claims one job when woken.
async fn wait_and_claim<H: Harness>(
    store: &Store<'_, H>,
    backend: &H::Backend,
    worker: &str,
) -> usize {
    let worker = WorkerId::new(worker).unwrap();
    let waiter = Interest { worker, ..interest(&["a", "b"]) };
    assert_eq!(backend.wait(&waiter, LONG).await.unwrap(), Wake::Work);
    store.claim(1).await.leases.len()
}

pub async fn a_batch_wakes_as_many_waiters_as_it_needs<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let other = store.other().await;
    let other = other.as_ref().unwrap_or(&store.backend);
    for _ in 0..5 {
        store.claim(1).await;
        let jobs = [job("a"), job("a")];
        let (first, second, _) = tokio::join!(
            wait_and_claim(&store, &store.backend, "first"),
            wait_and_claim(&store, other, "second"),
            enqueue_on(&store.backend, &jobs),
        );
        assert_eq!((first, second), (1, 1));
    }
}

pub async fn a_claim_that_leaves_a_kind_wakes_another<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let other = store.other().await;
    let other = other.as_ref().unwrap_or(&store.backend);
    store.enqueue(&job("a")).await;
    // Whoever hears of it first has no slot left for it.
    assert_eq!(store.backend.wait(&interest(&["a"]), LONG).await.unwrap(), Wake::Work);
    let mut request = super::store::claim_request(1);
    request.kinds[0].slots = 0;
    assert!(store.backend.claim(&request).await.unwrap().leases.is_empty());
    assert_eq!(wait_and_claim(&store, other, "second").await, 1);
}

pub async fn whatever_becomes_ready_wakes_a_waiter<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let waiter = interest(&["a", "b"]);
    store.enqueue(&job("a")).await;
    let lease = store.claim_one().await;
    store.claim(1).await;
    let released = async { store.settle(&lease, crate::Outcome::Released).await };
    let (woken, _) = tokio::join!(store.backend.wait(&waiter, LONG), released);
    assert_eq!(woken.unwrap(), Wake::Work);

    store.claim_one().await;
    store.claim(1).await;
    store.advance(LEASE).await;
    let (woken, reaped) = tokio::join!(store.backend.wait(&waiter, LONG), store.maintain());
    assert_eq!((woken.unwrap(), reaped.reaped), (Wake::Work, 1));

    store.complete(&store.claim_one().await).await;
    store.enqueue(&job("a").delay(Duration::from_secs(5))).await;
    let short = Duration::from_millis(50);
    while store.backend.wait(&waiter, short).await.unwrap() == Wake::Work {
        store.claim(1).await;
    }
    store.advance(Duration::from_secs(5)).await;
    let (woken, done) = tokio::join!(store.backend.wait(&waiter, LONG), store.maintain());
    assert_eq!((woken.unwrap(), done.promoted), (Wake::Work, 1));
}

pub async fn jobs_of_another_kind_or_queue_are_no_work<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.enqueue(&job("c")).await;
    store.enqueue(&job("a").queue("other")).await;
    let woken = store.backend.wait(&interest(&["a", "b"]), Duration::from_millis(50)).await;
    assert_eq!(woken.unwrap(), Wake::Timeout);
}

pub async fn a_cancel_before_the_wait_is_seen_by_it<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let id = store.enqueue(&job("a")).await.id;
    store.claim_one().await;
    store.cancel(id).await;
    assert_eq!(store.backend.wait(&interest(&[]), LONG).await.unwrap(), Wake::Cancel);
}

pub async fn a_dropped_wait_passes_its_wake_up_on<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let other = store.other().await;
    let other = other.as_ref().unwrap_or(&store.backend);
    for _ in 0..5 {
        store.claim(1).await;
        let waiter = interest(&["a"]);
        let mut wait = Box::pin(store.backend.wait(&waiter, LONG));
        let pause = Duration::from_millis(20);
        assert!(tokio::time::timeout(pause, &mut wait).await.is_err());
        store.enqueue(&job("a")).await;
        // Time for the wake-up to reach the wait; nobody looks at it any more.
        tokio::time::sleep(pause).await;
        drop(wait);
        assert_eq!(wait_and_claim(&store, other, "second").await, 1);
    }
}
