//! Promise P4: who holds a key runs, whatever has ended the others.

use super::*;
use crate::DeadReason;

/// Nobody else holds the keys than these jobs, as their statuses and an audit say.
async fn only<H: Harness>(store: &Store<'_, H>, running: &[JobId]) {
    let mut running = running.to_vec();
    running.sort();
    for key in ["tenant:a", "provider:x"] {
        let status = store.status(key).await;
        assert_eq!((status.drift, &status.holders), (0, &running), "{key}");
    }
    store.audit().await;
}

pub async fn no_end_leaves_a_place_behind<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.limit("tenant:a", &concurrency(6)).await;
    let of_a = || job("a").limit("tenant:a").max_stalls(2);
    let sent = store.enqueue_all(&[(); 6].map(|()| of_a())).await;
    let take = || store.claim_with(9, &["provider:x"]);
    let killed = take().await.leases;
    assert_eq!(killed.len(), 6);
    only(&store, &sent).await;

    // Their worker is killed: all come back, but for the one that was to be cancelled.
    store.cancel(sent[0]).await;
    store.advance(LEASE).await;
    only(&store, &sent).await;
    assert_eq!(store.maintain().await.reaped, 6);
    only(&store, &[]).await;
    let again = take().await.leases;
    assert_eq!(again.len(), 5);
    // What the killed one sends late gives nothing back and takes nothing.
    store.complete(&killed[1]).await;
    only(&store, &sent[1..]).await;

    store.cancel(sent[1]).await;
    for (lease, end) in again.iter().zip([
        Outcome::Cancelled,
        Outcome::Completed { result: None },
        Outcome::Retry { delay: Duration::ZERO, error: failure() },
    ]) {
        store.settle(lease, end).await;
    }
    only(&store, &sent[4..]).await;
    // The others are killed once more: a crash loop.
    store.advance(LEASE).await;
    assert_eq!(store.maintain().await.crash_loops, 2);
    only(&store, &[]).await;
    assert_eq!(store.record(sent[5]).await.dead_reason, Some(DeadReason::CrashLoop));
    assert_eq!(ids(&take().await), [sent[3]]);
    only(&store, &sent[3..4]).await;
}
