//! An operator knows better: what closes a key for a time ends by hand.

use super::breaker::{COOLDOWN, breaker, calls, failed};
use super::wake::{LONG, interest};
use super::*;
use crate::{Adaptive, Blocked, ErrorKind, Wake};

const PAUSE: Duration = Duration::from_secs(3600);

/// A provider turns a job away and asks for an hour.
async fn turned_away<H: Harness>(store: &Store<'_, H>, lease: &Lease) {
    let outcome = Outcome::Throttled { delay: PAUSE, limits: keys(&["provider:x"]) };
    assert!(matches!(store.settle(lease, outcome).await, Settled::Applied(_)));
}

pub async fn a_reset_ends_a_pause<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    assert!(!store.reset("provider:x").await, "nobody knows it");
    let sent = store.enqueue_all(&calls(3)).await;
    turned_away(&store, &store.claim_one().await).await;
    assert_eq!(store.claim(9).await.next_due, Some(PAUSE));
    assert!(!store.reset("provider:y").await, "another one");
    assert_eq!(store.takes(9).await, []);
    assert!(store.reset("provider:x").await && !store.reset("provider:x").await);
    store.audit().await;
    assert_eq!(store.status("provider:x").await.blocked, []);
    assert_eq!(store.takes(9).await, sent[1..], "the job itself waits as long as it was told to");
    // A rate goes on counting.
    store.limit("provider:x", &rate(1, PAUSE, 1)).await;
    store.enqueue_all(&calls(2)).await;
    assert_eq!(store.takes(9).await.len(), 1);
    assert!(!store.reset("provider:x").await);
    assert_eq!(store.takes(9).await, []);
    store.audit().await;
}

pub async fn a_reset_closes_a_breaker<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("provider:x", &breaker()).await;
    store.enqueue_all(&calls(12)).await;
    let fail = async |lease: &Lease| store.settle(lease, failed(ErrorKind::Failed)).await;
    let early = store.claim(4).await.leases;
    fail(&early[0]).await;
    // A failure that counted does not any more.
    assert!(store.reset("provider:x").await);
    fail(&early[1]).await;
    assert_eq!(store.status("provider:x").await.blocked, []);
    fail(&early[2]).await;
    assert_eq!(store.takes(9).await, []);
    assert!(store.reset("provider:x").await && !store.reset("provider:x").await);
    let some = store.claim(2).await.leases;
    assert_eq!(some.len(), 2);
    store.audit().await;
    // While it is probed; the probe is a job like any other then.
    for lease in &some {
        fail(lease).await;
    }
    store.advance(COOLDOWN).await;
    let probe = store.claim_one().await;
    assert_eq!(store.takes(9).await, []);
    assert!(store.reset("provider:x").await);
    let other = store.claim_one().await;
    fail(&probe).await;
    assert_eq!(store.status("provider:x").await.blocked, [], "one failure");
    fail(&other).await;
    // The cool-down that had grown begins anew.
    let until = store.now().after(COOLDOWN);
    assert_eq!(store.status("provider:x").await.blocked, [Blocked::Open { until }]);
    store.audit().await;
}

pub async fn a_reset_ends_a_reduction<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let settings = LimitSettings { adaptive: Some(Adaptive { floor: 1 }), ..concurrency(6) };
    store.limit("provider:*", &settings).await;
    store.enqueue_all(&calls(12)).await;
    let running = store.claim(9).await.leases;
    assert_eq!(running.len(), 6);
    store.advance(Duration::from_millis(1)).await;
    turned_away(&store, &running[0]).await;
    assert_eq!(store.status("provider:x").await.allowed, Some(3));
    assert!(store.reset("provider:x").await);
    let status = store.status("provider:x").await;
    assert_eq!((status.allowed, status.running), (Some(6), 5));
    assert_eq!(store.takes(9).await.len(), 1, "those that run keep their places");
    assert_eq!(store.takes(9).await, []);
    store.audit().await;
}

pub async fn a_reset_wakes_who_waits<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    // At a key that jobs carry, and at one that the worker adds.
    for (jobs, added) in [(calls(2), &[][..]), (vec![job("a"), job("a")], &["provider:x"])] {
        let sent = store.enqueue_all(&jobs).await;
        let lease = store.claim_with(1, added).await.leases.remove(0);
        turned_away(&store, &lease).await;
        assert_eq!(ids(&store.claim_with(9, added).await), []);
        let waiter = interest(added);
        let (woken, was_closed) =
            tokio::join!(store.backend.wait(&waiter, LONG), store.reset("provider:x"));
        assert!(was_closed);
        assert_eq!(woken.unwrap(), Wake::Work);
        assert_eq!(ids(&store.claim_with(9, added).await), sent[1..]);
        store.audit().await;
    }
}
