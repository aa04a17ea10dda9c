//! T12–T14: calling jobs off.

use std::time::Duration;

use super::Harness;
use super::store::{LEASE, Store, failure, ids, job};
use crate::{CancelOutcome, JobId, JobState, Outcome, Renewal, Settled};

pub async fn a_waiting_job_is_cancelled_at_once<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let delay = Duration::from_secs(5);
    let ready = store.enqueue(&job("a")).await.id;
    let retrying = store.enqueue(&job("b")).await.id;
    let scheduled = store.enqueue(&job("a").delay(delay)).await.id;
    let lease = store.claim(2).await.leases.into_iter().find(|lease| lease.spec.id == retrying);
    store.settle(&lease.unwrap(), Outcome::Retry { delay, error: failure() }).await;
    store.advance(LEASE).await;
    store.maintain().await;
    for id in [ready, retrying, scheduled] {
        assert_eq!(store.cancel(id).await, CancelOutcome::Cancelled);
        assert_eq!(store.state(id).await, JobState::Cancelled);
        assert_eq!(store.record(id).await.finished_at, Some(store.now()));
    }
    store.advance(delay * 10).await;
    assert!(store.claim(9).await.leases.is_empty());
    store.audit().await;
}

pub async fn a_running_job_is_asked<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    for outcome in [
        Outcome::Cancelled,
        Outcome::Released,
        Outcome::Snoozed { delay: LEASE },
        Outcome::Retry { delay: LEASE, error: failure() },
    ] {
        let id = store.enqueue(&job("a").idempotency_key("k")).await.id;
        let lease = store.claim_one().await;
        assert_eq!(store.cancel(id).await, CancelOutcome::Requested);
        assert_eq!(store.cancel(id).await, CancelOutcome::Requested);
        assert!(store.record(id).await.cancel_requested);
        let renewal = store.renew(&lease, LEASE).await;
        assert_eq!(renewal, Renewal::Held { cancel_requested: vec![id] });
        assert_eq!(store.settle(&lease, outcome).await, Settled::Applied(JobState::Cancelled));
        assert!(!store.record(id).await.cancel_requested);
    }
    // A job that completes although it was asked to stop has completed.
    let id = store.enqueue(&job("a").idempotency_key("k")).await.id;
    let lease = store.claim_one().await;
    store.cancel(id).await;
    assert_eq!(store.complete(&lease).await, Settled::Applied(JobState::Completed));
    store.audit().await;
}

pub async fn a_cancelled_job_whose_worker_died_is_not_retried<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let id = store.enqueue(&job("a")).await.id;
    store.claim_one().await;
    store.cancel(id).await;
    store.advance(LEASE).await;
    store.maintain().await;
    assert_eq!(store.state(id).await, JobState::Cancelled);
    assert!(store.claim(9).await.leases.is_empty());
    store.audit().await;
}

pub async fn cancels_are_noops_when_late<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    assert_eq!(store.cancel(JobId::new()).await, CancelOutcome::NotFound);
    let id = store.enqueue(&job("a")).await.id;
    let lease = store.claim_one().await;
    store.complete(&lease).await;
    let late = CancelOutcome::AlreadyFinished(JobState::Completed);
    assert_eq!(store.cancel(id).await, late);
    let id = store.enqueue(&job("a")).await.id;
    store.cancel(id).await;
    assert_eq!(store.cancel(id).await, CancelOutcome::AlreadyFinished(JobState::Cancelled));
    // Nobody asked: the job is merely given back.
    let id = store.enqueue(&job("a")).await.id;
    let lease = store.claim_one().await;
    let given_back = store.settle(&lease, Outcome::Cancelled).await;
    assert_eq!(
        (given_back, store.state(id).await),
        (Settled::Applied(JobState::Ready), JobState::Ready)
    );
    store.audit().await;
}

pub async fn a_cancelled_ready_job_does_not_disturb_its_lane<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let mut sent = Vec::new();
    for _ in 0..9 {
        sent.push(store.enqueue(&job("a")).await.id);
    }
    for index in [0, 4, 8] {
        store.cancel(sent[index]).await;
    }
    store.audit().await;
    assert_eq!(ids(&store.claim(3).await), [sent[1], sent[2], sent[3]]);
    assert_eq!(ids(&store.claim(9).await), [sent[5], sent[6], sent[7]]);
    // A lane of which every job was cancelled is as empty as a new one.
    let last = store.enqueue(&job("a")).await.id;
    store.cancel(last).await;
    store.audit().await;
    let next = store.enqueue(&job("a")).await.id;
    assert_eq!(ids(&store.claim(9).await), [next]);
    store.audit().await;
}
