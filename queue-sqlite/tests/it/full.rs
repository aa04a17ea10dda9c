//! Stores that are full.

use queue_core::{
    Backend, DeleteOutcome, EnqueueOutcome, Error, JobState, ListRequest, Outcome, Payload,
    Timestamp,
};
use queue_sqlite::{SqliteBackend, SqliteOptions};

use crate::support::{STORED, assert_sound, beside, completion, count, job, request, set_clock};

/// Later than any clock that runs a test.
const LATER: Timestamp = Timestamp::from_ms(4_102_444_800_000);

#[tokio::test]
async fn a_full_store_refuses_jobs_but_lets_workers_finish() {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteOptions::default().max_bytes(1024 * 1024);
    let backend = SqliteBackend::open(directory.path().join("queue.db"), options).unwrap();
    let big = "x".repeat(16 * 1024);
    let mut taken_in = 0;
    let refused = loop {
        match backend.enqueue(&[job(big.clone()), job("small")], STORED).await {
            Ok(jobs) => taken_in += jobs.len(),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::StoreFull(_)) && refused.is_retryable(), "{refused:?}");
    assert!(taken_in > 20, "{taken_in}");
    // None of a refused batch is there.
    assert_eq!(count(&backend, JobState::Ready).await, taken_in as u64);

    // Work goes on, and finished records that are dropped make room.
    let drop_at_once = "UPDATE job SET keep_completed_s = 0";
    beside(backend.path()).execute(drop_at_once, []).unwrap();
    let claim = backend.claim(&request(500)).await.unwrap();
    assert_eq!(claim.leases.len(), taken_in);
    // Results that would never fit among the jobs.
    let mut settle = completion(&claim.leases);
    for settlement in &mut settle.settlements {
        let result = Some(Payload::raw(vec![0; 64 * 1024]));
        settlement.outcome = Outcome::Completed { result };
    }
    let kept = settle.settlements.split_off(taken_in / 2);
    backend.settle(&settle).await.unwrap();
    let update = "UPDATE job SET keep_completed_s = 60 WHERE state = 4";
    beside(backend.path()).execute(update, []).unwrap();
    settle.settlements = kept;
    backend.settle(&settle).await.unwrap();
    assert_eq!(count(&backend, JobState::Running).await, 0);
    assert_sound(&backend).await;
    let refused = backend.enqueue(&[job("small")], STORED).await.unwrap_err();
    assert!(matches!(refused, Error::StoreFull(_)), "{refused:?}");
    set_clock(backend.path(), LATER);
    backend.maintain(500).await.unwrap();
    backend.enqueue(&[job(big)], STORED).await.unwrap();
}

#[tokio::test]
async fn a_repeated_enqueue_needs_no_room() {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteOptions::default().max_bytes(512 * 1024);
    let backend = SqliteBackend::open(directory.path().join("queue.db"), options).unwrap();
    let mut taken_in = Vec::new();
    loop {
        let new = job("x".repeat(8 * 1024));
        if backend.enqueue(std::slice::from_ref(&new), STORED).await.is_err() {
            break;
        }
        taken_in.push(new);
    }
    for outcome in backend.enqueue(&taken_in, STORED).await.unwrap() {
        assert!(matches!(&outcome, EnqueueOutcome::Done(done) if done.duplicate), "{outcome:?}");
    }
    // With a new one among them the whole batch is refused, and undone.
    taken_in.push(job("x".repeat(8 * 1024)));
    assert!(matches!(backend.enqueue(&taken_in, STORED).await, Err(Error::StoreFull(_))));
    assert_eq!(count(&backend, JobState::Ready).await, taken_in.len() as u64 - 1);
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_full_store_can_be_emptied_by_hand() {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteOptions::default().max_bytes(512 * 1024);
    let backend = SqliteBackend::open(directory.path().join("queue.db"), options).unwrap();
    let mut taken_in = Vec::new();
    loop {
        let new = job("x".repeat(8 * 1024));
        if backend.enqueue(std::slice::from_ref(&new), STORED).await.is_err() {
            break;
        }
        taken_in.push((new.job_id(), JobState::Ready));
    }
    backend.set_paused(&"default".parse().unwrap(), true).await.unwrap();
    assert!(!backend.list(&ListRequest::new(JobState::Ready)).await.unwrap().jobs.is_empty());
    for outcome in backend.delete(&taken_in).await.unwrap() {
        assert_eq!(outcome, DeleteOutcome::Deleted);
    }
    backend.enqueue(&[job("x".repeat(8 * 1024))], STORED).await.unwrap();
    assert_sound(&backend).await;
}
