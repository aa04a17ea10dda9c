//! T6–T10: how attempts end.

use std::time::Duration;

use super::Harness;
use super::store::{Store, claim_request, failure, ids, job};
use crate::{
    Backend, DeadReason, JobId, JobState, Outcome, Payload, SettleRequest, Settled, Settlement,
};

const DELAY: Duration = Duration::from_secs(30);

fn retry() -> Outcome {
    Outcome::Retry { delay: DELAY, error: failure() }
}

pub async fn a_result_is_kept<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    for result in [None, Some(Payload::raw("")), Some(Payload::json(&[1, 2]).unwrap())] {
        let id = store.enqueue(&job("a")).await.id;
        let lease = store.claim_one().await;
        store.advance(Duration::from_secs(2)).await;
        let outcome = Outcome::Completed { result: result.clone() };
        assert_eq!(store.settle(&lease, outcome).await, Settled::Applied(JobState::Completed));
        let record = store.record(id).await;
        assert_eq!((record.state, record.result), (JobState::Completed, result));
        assert_eq!(record.finished_at, Some(store.now()));
        assert_eq!(record.elapsed, Some(Duration::from_millis(42)));
        assert_eq!((record.worker, record.lease_until), (None, None));
    }
    store.audit().await;
}

pub async fn a_repeat_is_already_done<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let outcomes = [
        (Outcome::Completed { result: None }, JobState::Completed),
        (retry(), JobState::Retrying),
        (Outcome::Dead { error: failure() }, JobState::Dead),
        (Outcome::Snoozed { delay: DELAY }, JobState::Scheduled),
    ];
    for (outcome, state) in outcomes {
        let id = store.enqueue(&job("a")).await.id;
        let lease = store.claim_one().await;
        assert_eq!(store.settle(&lease, outcome.clone()).await, Settled::Applied(state));
        let before = store.record(id).await;
        for _ in 0..3 {
            assert_eq!(store.settle(&lease, outcome.clone()).await, Settled::AlreadyDone(state));
        }
        assert_eq!(store.record(id).await, before);
    }
    store.audit().await;
}

pub async fn a_failure_waits_and_counts<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let id = store.enqueue(&job("a")).await.id;
    let lease = store.claim_one().await;
    assert_eq!(lease.attempt(), 1);
    assert_eq!(store.settle(&lease, retry()).await, Settled::Applied(JobState::Retrying));
    let record = store.record(id).await;
    assert_eq!((record.failures, record.last_error), (1, Some(failure())));
    assert_eq!(record.due_at, store.now().after(DELAY));
    assert!(store.claim(9).await.leases.is_empty());
    store.advance(DELAY).await;
    let again = store.claim_one().await;
    assert_eq!((again.attempt(), again.due_at), (2, store.now()));
    store.complete(&again).await;
    assert_eq!(store.record(id).await.attempt(), 2);
    store.audit().await;
}

pub async fn the_last_failure_is_dead<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let id = store.enqueue(&job("a").max_attempts(3)).await.id;
    for attempt in 1..=3_u16 {
        let lease = store.claim_one().await;
        assert_eq!(lease.attempt(), attempt);
        let state = if attempt < 3 { JobState::Retrying } else { JobState::Dead };
        assert_eq!(store.settle(&lease, retry()).await, Settled::Applied(state));
        store.advance(DELAY).await;
    }
    let record = store.record(id).await;
    assert_eq!(record.dead_reason, Some(DeadReason::AttemptsExhausted));
    assert_eq!((record.failures, record.attempt()), (3, 3));
    assert!(store.claim(9).await.leases.is_empty());

    let once = store.enqueue(&job("a").max_attempts(1)).await.id;
    let lease = store.claim_one().await;
    assert_eq!(store.settle(&lease, retry()).await, Settled::Applied(JobState::Dead));
    assert_eq!(store.record(once).await.failures, 1);
    store.audit().await;
}

pub async fn released_jobs_go_first_and_keep_their_attempt<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let sent = [job("a").max_attempts(1), job("a"), job("a")];
    store.backend.enqueue(&sent).await.unwrap();
    for _ in 0..5 {
        let lease = store.claim_one().await;
        assert_eq!((lease.spec.id, lease.attempt()), (sent[0].job_id(), 1));
        let settled = store.settle(&lease, Outcome::Released).await;
        assert_eq!(settled, Settled::Applied(JobState::Ready));
    }
    assert_eq!(ids(&store.claim(3).await), sent.map(|job| job.job_id()));
    store.audit().await;
}

pub async fn a_snooze_keeps_its_attempt<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let first = store.enqueue(&job("a").max_attempts(1)).await.id;
    let second = store.enqueue(&job("a")).await.id;
    let snooze = |delay| Outcome::Snoozed { delay };
    let lease = store.claim_one().await;
    let waits = Settled::Applied(JobState::Scheduled);
    assert_eq!(store.settle(&lease, snooze(DELAY)).await, waits);
    store.advance(DELAY).await;
    assert_eq!(store.maintain().await.promoted, 1);
    assert_eq!(store.claim_one().await.spec.id, second);
    let lease = store.claim_one().await;
    assert_eq!((lease.spec.id, lease.attempt()), (first, 1));
    // A snooze of zero is not a wait at all.
    let ready = Settled::Applied(JobState::Ready);
    assert_eq!(store.settle(&lease, snooze(Duration::ZERO)).await, ready);
    assert_eq!(store.record(first).await.snoozes, 2);
    store.audit().await;
}

pub async fn mixed_outcomes_of_many_claims_settle_together<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let jobs: Vec<_> = (0..60).map(|_| job("a")).collect();
    store.backend.enqueue(&jobs).await.unwrap();
    let mut settlements = Vec::new();
    let mut expected = Vec::new();
    for round in 0..60_usize {
        let lease = store.claim_one().await;
        let (outcome, state) = match round % 4 {
            0 => (Outcome::Completed { result: None }, JobState::Completed),
            1 => (retry(), JobState::Retrying),
            2 => (Outcome::Dead { error: failure() }, JobState::Dead),
            _ => (Outcome::Snoozed { delay: DELAY }, JobState::Scheduled),
        };
        let elapsed = Duration::ZERO;
        settlements.push(Settlement { id: lease.spec.id, token: lease.token, outcome, elapsed });
        expected.push(Settled::Applied(state));
    }
    store.enqueue(&job("b")).await;
    let request = SettleRequest { settlements, claim: Some(claim_request(5)) };
    let reply = store.backend.settle(&request).await.unwrap();
    assert_eq!(reply.settled, expected);
    assert_eq!(reply.claim.map(|claim| claim.leases.len()), Some(1));
    assert_eq!(store.count(JobState::Completed).await, 15);
    store.audit().await;
}

pub async fn an_unknown_job_is_gone<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.enqueue(&job("a")).await;
    let mut lease = store.claim_one().await;
    lease.spec.id = JobId::new();
    assert_eq!(store.complete(&lease).await, Settled::Gone);
    assert_eq!(store.count(JobState::Running).await, 1);
    store.audit().await;
}
