//! T6–T10: how attempts end.

use std::time::Duration;

use super::Harness;
use super::store::{LEASE, Store, claim_request, enqueue_on, failure, ids, job};
use crate::payload::{PAYLOAD_HARD_MAX_BYTES, RESULT_MAX_BYTES};
use crate::{
    Backend, DeadReason, ERROR_MAX_BYTES, ErrorKind, JobError, JobId, JobState, Kind, NewJob,
    Outcome, Payload, SettleRequest, Settled, Settlement, Timestamp,
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
    enqueue_on(&store.backend, &sent).await;
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
    enqueue_on(&store.backend, &jobs).await;
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

pub async fn racing_settles_take_effect_once<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let other = store.other().await;
    let other = other.as_ref().unwrap_or(&store.backend);
    for _ in 0..50 {
        store.enqueue(&job("a")).await;
        let lease = store.claim_one().await;
        let request = SettleRequest {
            settlements: vec![Settlement {
                id: lease.spec.id,
                token: lease.token,
                outcome: retry(),
                elapsed: Duration::ZERO,
            }],
            claim: None,
        };
        let (left, right) = tokio::join!(store.backend.settle(&request), other.settle(&request));
        let mut answers = [left, right].map(|reply| reply.unwrap().settled[0]);
        answers.sort_by_key(|settled| matches!(settled, Settled::AlreadyDone(_)));
        let state = JobState::Retrying;
        assert_eq!(answers, [Settled::Applied(state), Settled::AlreadyDone(state)]);
        assert_eq!(store.record(lease.spec.id).await.failures, 1);
    }
    store.audit().await;
}

pub async fn a_settle_and_a_reaper_do_not_both_win<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let other = store.other().await;
    let other = other.as_ref().unwrap_or(&store.backend);
    for _ in 0..50 {
        let id = store.enqueue(&job("a")).await.id;
        let lease = store.claim_one().await;
        store.advance(LEASE).await;
        let (settled, reaped) = tokio::join!(store.complete(&lease), other.maintain(500));
        match (settled, reaped.unwrap().reaped) {
            (Settled::Applied(JobState::Completed), 0) => {}
            (Settled::Stale(JobState::Ready), 1) => {
                store.cancel(id).await;
            }
            both => panic!("{both:?}"),
        }
    }
    store.audit().await;
}

pub async fn the_largest_of_everything_fits<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let large = Payload::raw(vec![7; PAYLOAD_HARD_MAX_BYTES]);
    let sent = NewJob::new(Kind::new("a").unwrap(), large);
    store.enqueue(&sent).await;
    let lease = store.claim_one().await;
    assert_eq!(lease.spec, sent.spec);
    let result = Some(Payload::raw(vec![9; RESULT_MAX_BYTES]));
    store.settle(&lease, Outcome::Completed { result: result.clone() }).await;
    assert_eq!(store.record(lease.spec.id).await.result, result);

    let error = JobError::new(ErrorKind::Failed, "x".repeat(ERROR_MAX_BYTES));
    let id = store.enqueue(&job("a").max_attempts(u16::MAX)).await.id;
    let lease = store.claim_one().await;
    let outcome = Outcome::Retry { delay: Duration::MAX, error: error.clone() };
    store.settle(&lease, outcome).await;
    let record = store.record(id).await;
    assert_eq!((record.last_error, record.due_at), (Some(error), Timestamp::MAX));

    let batch: Vec<NewJob> = (0..500).map(|_| job("b")).collect();
    enqueue_on(&store.backend, &batch).await;
    let mut request = claim_request(500);
    request.lease = Duration::MAX;
    let leases = store.backend.claim(&request).await.unwrap().leases;
    let settlements = leases.iter().map(|lease| Settlement {
        id: lease.spec.id,
        token: lease.token,
        outcome: Outcome::Snoozed { delay: Duration::MAX },
        elapsed: Duration::MAX,
    });
    let request = SettleRequest { settlements: settlements.collect(), claim: None };
    let settled = store.backend.settle(&request).await.unwrap().settled;
    assert_eq!(settled, vec![Settled::Applied(JobState::Scheduled); 500]);
    store.audit().await;
}
