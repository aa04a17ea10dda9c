//! The queue handle in producers' hands.

use std::cell::Cell;

use queue_core::{
    EnqueueOutcome, Error, Field, JobId, JobState, Kind, MemoryBackend, NewJob, Payload, Queue,
};

use crate::support::Faulty;

fn job(bytes: usize) -> NewJob {
    NewJob::new(Kind::new("a").unwrap(), Payload::raw(vec![7; bytes]))
}

async fn ready(queue: &Queue) -> u64 {
    let stats = queue.stats().await.unwrap();
    stats.iter().filter_map(|row| row.jobs.get(&JobState::Ready)).sum()
}

#[tokio::test]
async fn a_bulk_may_be_empty_or_long() {
    let queue = Queue::memory();
    assert_eq!(queue.enqueue_all([]).await.unwrap(), []);
    let outcomes = queue.enqueue_all((0..10_000).map(|_| job(1))).await.unwrap();
    let is_new =
        |outcome: &EnqueueOutcome| matches!(outcome, EnqueueOutcome::Done(d) if !d.duplicate);
    assert!(outcomes.len() == 10_000 && outcomes.iter().all(is_new));
    assert_eq!(ready(&queue).await, 10_000);
}

#[tokio::test]
async fn an_invalid_job_is_named_by_its_place_and_its_chunk_is_not_written() {
    let queue = Queue::memory().payload_max_bytes(10);
    let jobs = (0..1300).map(|n| job(if n == 1203 { 11 } else { 10 }).id(JobId::new()));
    let Err(Error::Invalid(invalid)) = queue.enqueue_all(jobs).await else { panic!("accepted") };
    assert_eq!((invalid.index(), invalid.field()), (Some(1203), Field::Payload));
    assert_eq!(ready(&queue).await, 1000, "whole chunks before it, nothing of its own");
    let Err(Error::Invalid(one)) = queue.enqueue(job(11).id(JobId::new())).await else {
        panic!("accepted")
    };
    assert_eq!(one.index(), None);
}

#[tokio::test]
async fn jobs_are_taken_from_their_iterator_chunk_by_chunk() {
    let backend = Faulty::new(MemoryBackend::new());
    let queue = Queue::new(backend.clone());
    let taken = Cell::new(0);
    let endless = std::iter::repeat_with(|| {
        taken.set(taken.get() + 1);
        job(1)
    });
    backend.cut_off(true);
    assert!(queue.enqueue_all(endless).await.is_err());
    assert!(taken.get() <= 1000, "{} jobs were made for a store that is away", taken.get());
    // Large payloads travel in fewer jobs a chunk.
    taken.set(0);
    let large = std::iter::repeat_with(|| {
        taken.set(taken.get() + 1);
        job(200 * 1024)
    });
    assert!(queue.enqueue_all(large).await.is_err());
    assert!(taken.get() <= 84, "{} x 200 KiB in two chunks", taken.get());
}

#[tokio::test]
async fn the_next_chunk_is_made_while_one_is_at_the_store() {
    let backend = Faulty::new(MemoryBackend::new());
    let queue = Queue::new(backend.clone());
    let gate = backend.enqueue_waits();
    let made = Cell::new(0);
    let jobs = (0..1500).map(|_| {
        made.set(made.get() + 1);
        if made.get() == 1000 {
            gate.open();
        }
        job(1)
    });
    // Were the first chunk waited for before the second is made, this would never end.
    assert_eq!(queue.enqueue_all(jobs).await.unwrap().len(), 1500);
    assert_eq!(backend.enqueues(), [500, 500, 500]);
}

#[tokio::test]
async fn nothing_is_sent_after_a_chunk_that_failed() {
    let backend = Faulty::new(MemoryBackend::new());
    let queue = Queue::new(backend.clone());
    let jobs: Vec<NewJob> = (0..5000).map(|_| job(1)).collect();
    backend.refuses_enqueue(jobs[700].spec.id);
    let error = queue.enqueue_all(jobs).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error}");
    assert_eq!(ready(&queue).await, 500, "the chunk before it: no other was on its way");
}

#[tokio::test]
async fn a_blind_retry_of_a_lost_bulk_makes_nothing_twice() {
    let backend = Faulty::new(MemoryBackend::new());
    let queue = Queue::new(backend.clone());
    let jobs: Vec<NewJob> = (0..2000).map(|_| job(1)).collect();
    backend.lose_every(5);
    while queue.enqueue_all(jobs.iter().cloned()).await.is_err() {}
    backend.lose_every(0);
    assert_eq!(ready(&queue).await, 2000);
}
