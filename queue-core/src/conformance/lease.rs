//! T5 and T11, promises P2 and P8: leases end, and what comes after their end does not count.

use std::time::Duration;

use super::Harness;
use super::store::{LEASE, Store, claim_request, enqueue_on, failure, ids, job};
use crate::{
    Backend, DeadReason, Enqueued, JobState, Outcome, Payload, QueueName, RenewRequest, Renewal,
    Settled,
};

const HELD: Renewal = Renewal::Held { cancel_requested: Vec::new() };

pub async fn renewal_keeps_a_job<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.enqueue(&job("a")).await;
    let lease = store.claim_one().await;
    for _ in 0..10 {
        store.advance(LEASE * 9 / 10).await;
        assert_eq!(store.renew(&lease, LEASE).await, HELD);
        assert_eq!(store.maintain().await.reaped, 0);
        assert!(store.claim(9).await.leases.is_empty());
    }
    assert_eq!(store.complete(&lease).await, Settled::Applied(JobState::Completed));
    store.audit().await;
}

pub async fn an_expired_lease_gives_the_job_to_another<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let sent = [job("a"), job("a"), job("b")];
    enqueue_on(&store.backend, &sent).await;
    let first = store.claim(9).await;
    assert!(!store.claim(9).await.maintain);
    store.advance(LEASE).await;
    assert!(store.claim(9).await.maintain);
    let done = store.maintain().await;
    assert_eq!((done.reaped, done.crash_loops), (3, 0));
    let second = store.claim(9).await;
    assert_eq!(second.leases.len(), 3);
    for (lease, old) in second.leases.iter().zip(&first.leases) {
        assert_eq!((lease.stalls, lease.attempt()), (1, 1));
        assert_ne!(lease.token, old.token);
        assert!(lease.fence > old.fence);
    }
    store.audit().await;
}

pub async fn a_crash_loop_ends_dead<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let poison = store.enqueue(&job("a").max_stalls(3)).await.id;
    let innocent = store.enqueue(&job("b")).await.id;
    for stall in 1..=3 {
        let claim = store.claim(1).await;
        assert_eq!(ids(&claim), [poison], "stall {stall}");
        if stall == 1 {
            let other = store.claim_one().await;
            assert_eq!(other.spec.id, innocent);
            store.complete(&other).await;
        }
        store.advance(LEASE).await;
        let done = store.maintain().await;
        assert_eq!(done.crash_loops, u64::from(stall == 3));
        assert_eq!(done.reaped_of, [(QueueName::default(), 1)].into());
    }
    let record = store.record(poison).await;
    let end = (record.state, record.dead_reason, record.stalls, record.failures);
    assert_eq!(end, (JobState::Dead, Some(DeadReason::CrashLoop), 3, 0));
    store.audit().await;
}

pub async fn a_stale_settle_changes_nothing<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let keyed = job("a").idempotency_key("once");
    let id = store.enqueue(&keyed).await.id;
    let stale = store.claim_one().await;
    store.advance(LEASE).await;
    store.maintain().await;
    let error = failure();
    let delay = Duration::from_secs(1);
    let outcomes = [
        Outcome::Completed { result: Some(Payload::raw("late")) },
        Outcome::Retry { delay, error: error.clone() },
        Outcome::Dead { error },
        Outcome::Released,
        Outcome::Snoozed { delay },
        Outcome::Cancelled,
    ];
    let check = async |state| {
        for outcome in &outcomes {
            let before = (store.record(id).await, store.backend.stats().await.unwrap());
            assert_eq!(store.settle(&stale, outcome.clone()).await, Settled::Stale(state));
            let after = (store.record(id).await, store.backend.stats().await.unwrap());
            assert_eq!(before, after, "{outcome:?}");
            assert_eq!(store.enqueue(&keyed).await, Enqueued::duplicate(id, state));
        }
        store.audit().await;
    };
    check(JobState::Ready).await;
    let current = store.claim_one().await;
    check(JobState::Running).await;
    assert_eq!(store.complete(&current).await, Settled::Applied(JobState::Completed));
    check(JobState::Completed).await;
}

pub async fn a_reaped_claim_cannot_be_renewed<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.enqueue(&job("a")).await;
    let lease = store.claim_one().await;
    store.advance(LEASE).await;
    // Over but not yet reaped: its owner is the first to come back.
    assert_eq!(store.renew(&lease, LEASE).await, HELD);
    assert_eq!(store.maintain().await.reaped, 0);
    store.advance(LEASE).await;
    assert_eq!(store.maintain().await.reaped, 1);
    assert_eq!(store.renew(&lease, LEASE).await, Renewal::Lost);
    assert_eq!(store.count(JobState::Ready).await, 1);
    store.advance(LEASE * 2).await;
    assert_eq!(store.maintain().await.reaped, 0, "the renewal must not have made a lease");
    store.audit().await;
}

pub async fn racing_reapers_requeue_once<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let jobs: Vec<_> = (0..50).map(|_| job("a").max_stalls(200)).collect();
    enqueue_on(&store.backend, &jobs).await;
    let other = store.other().await;
    let other = other.as_ref().unwrap_or(&store.backend);
    for round in 1..=20 {
        for _ in 0..5 {
            store.backend.claim(&claim_request(10)).await.unwrap();
        }
        store.advance(LEASE).await;
        let (left, right) = tokio::join!(store.backend.maintain(500), other.maintain(500));
        assert_eq!(left.unwrap().reaped + right.unwrap().reaped, 50);
        assert_eq!(store.count(JobState::Ready).await, 50);
        assert_eq!(store.record(jobs[0].job_id()).await.stalls, round);
    }
    store.audit().await;
}

pub async fn a_renewal_never_shortens<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let id = store.enqueue(&job("a")).await.id;
    let lease = store.claim_one().await;
    let until = store.record(id).await.lease_until;
    assert_eq!(until, Some(store.now().after(LEASE)));
    let request = RenewRequest { tokens: vec![lease.token], lease: LEASE / 10 };
    store.backend.renew(&request).await.unwrap();
    assert_eq!(store.record(id).await.lease_until, until);
}
