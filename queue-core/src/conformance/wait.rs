//! Promise P9: who waits is woken.

use std::time::Duration;

use super::Harness;
use super::store::{LEASE, Store, job};
use crate::{Backend, Interest, Kind, QueueName, Wake, WorkerId};

/// Long enough that only a wake-up that was lost for good reaches it.
const LONG: Duration = Duration::from_secs(20);

fn interest(kinds: &[&str]) -> Interest {
    Interest {
        worker: WorkerId::new("tester").unwrap(),
        queues: vec![QueueName::default()],
        kinds: kinds.iter().map(|kind| Kind::new(kind).unwrap()).collect(),
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
        let (woken, enqueued) = tokio::join!(wait, producer.enqueue(&jobs));
        enqueued.unwrap();
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
    let (woken, enqueued) = tokio::join!(wait, store.backend.enqueue(&jobs));
    enqueued.unwrap();
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
        let (woken, enqueued) = tokio::join!(other.wait(&waiter, LONG), other.enqueue(&jobs));
        enqueued.unwrap();
        assert_eq!(woken.unwrap(), Wake::Work);
        store.complete(&store.claim_one().await).await;
    }
}
