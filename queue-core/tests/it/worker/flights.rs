//! Several requests of one worker on their way to the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use queue_core::{Fail, JobId, JobState, MemoryBackend, NewJob, Queue, State, Worker};

use crate::support::{Faulty, Gate, LONG, Number, eventually, finished, number};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_follows_another_that_is_out_and_asks_for_no_slot_twice() {
    let faulty = Faulty::new(MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    let gates: Arc<[Gate; 4]> = Arc::default();
    let handler = async |State(gates): State<Arc<[Gate; 4]>>, job: Number| {
        gates[job.n as usize].passed().await;
        Ok::<_, Fail>(())
    };
    let worker = Worker::new(&queue)
        .concurrency(4)
        .state(Arc::clone(&gates))
        .handle::<Number, _>(handler)
        .start()
        .unwrap();
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(queue.enqueue(number(n)).await.unwrap().id);
    }
    eventually("all run", async || worker.status().running == 4).await;
    let answers = faulty.settles_wait();
    gates[0].open();
    eventually("one is out", async || faulty.settles_out() == [1]).await;
    gates[1].open();
    gates[2].open();
    eventually("another follows", async || faulty.settles_out() == [1, 2]).await;
    // This one waits for an answer: no third request goes out.
    gates[3].open();
    answers.open();
    for id in ids {
        let record = finished(&queue, id).await;
        assert_eq!((record.state, record.attempt()), (JobState::Completed, 1));
    }
    assert_eq!(faulty.most_settles_out(), 2);
    assert_eq!(worker.drain(LONG).await.finished, 4);
}

/// A thread of the runtime goes on with the task that was woken last, which is the worker's once the first of
/// them has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn attempts_that_wait_for_the_same_moment_are_reported_together() {
    let faulty = Faulty::new(MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    let gate = Gate::default();
    let handler = async |State(gate): State<Gate>, _: Number| {
        gate.passed().await;
        Ok::<_, Fail>(())
    };
    let worker = Worker::new(&queue).concurrency(200).state(gate.clone());
    let worker = worker.handle::<Number, _>(handler).start().unwrap();
    let jobs: Vec<NewJob> = (0..40).map(number).collect();
    let ids: Vec<JobId> = jobs.iter().map(NewJob::job_id).collect();
    queue.enqueue_all(jobs).await.unwrap();
    eventually("all run", async || worker.status().running == 40).await;
    let answers = faulty.settles_wait();
    tokio::spawn(async move { gate.open() });
    eventually("they are reported", async || !faulty.settles_report().is_empty()).await;
    assert_eq!(faulty.settles_report(), [40]);
    answers.open();
    for id in ids {
        assert_eq!(finished(&queue, id).await.state, JobState::Completed);
    }
    worker.drain(LONG).await;
}

/// Or the first one carries most of them, and the store has nothing to do while those end that it brings.
#[tokio::test]
async fn a_large_request_leaves_attempts_for_the_one_that_follows_it() {
    let faulty = Faulty::new(MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    let gates: Arc<[Gate; 2]> = Arc::default();
    let handler = async |State(gates): State<Arc<[Gate; 2]>>, job: Number| {
        gates[usize::from(job.n > 0)].passed().await;
        Ok::<_, Fail>(())
    };
    let worker = Worker::new(&queue)
        .concurrency(64)
        .state(Arc::clone(&gates))
        .handle::<Number, _>(handler)
        .start()
        .unwrap();
    for n in 0..64 {
        queue.enqueue(number(n)).await.unwrap();
    }
    eventually("all run", async || worker.status().running == 64).await;
    let answers = faulty.settles_wait();
    gates[0].open();
    eventually("one is out", async || faulty.settles_report() == [1]).await;
    gates[1].open();
    eventually("half of the slots follow", async || faulty.settles_report() == [1, 32]).await;
    assert_eq!(faulty.settles_out(), [1, 32], "the slots of the others are for who reports them");
    answers.open();
    assert_eq!(worker.drain(LONG).await.finished, 64);
    assert_eq!(faulty.most_settles_out(), 2);
}

/// Or what ended first would be reported last, for as long as there is more than a request carries.
#[tokio::test]
async fn a_large_request_carries_the_attempts_that_ended_first() {
    let faulty = Faulty::new(MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    let (gates, passed): (Arc<[Gate; 3]>, Arc<AtomicUsize>) = Default::default();
    let handler = async |State(gates): State<Arc<[Gate; 3]>>,
                         State(passed): State<Arc<AtomicUsize>>,
                         job: Number| {
        let gate = match job.n {
            0 => 0,
            1..20 => 1,
            _ => 2,
        };
        gates[gate].passed().await;
        passed.fetch_add(1, Ordering::Relaxed);
        Ok::<_, Fail>(())
    };
    let worker = Worker::new(&queue)
        .concurrency(64)
        .state(Arc::clone(&gates))
        .state(Arc::clone(&passed))
        .handle::<Number, _>(handler)
        .start()
        .unwrap();
    let mut ids = Vec::new();
    for n in 0..64 {
        ids.push(queue.enqueue(number(n)).await.unwrap().id);
    }
    eventually("all run", async || worker.status().running == 64).await;
    let answers = faulty.settles_wait();
    gates[0].open();
    eventually("one is out", async || faulty.settles_report() == [1]).await;
    gates[1].open();
    eventually("these have ended", async || passed.load(Ordering::Relaxed) == 20).await;
    gates[2].open();
    eventually("half of the slots follow", async || faulty.settles_report() == [1, 32]).await;
    let carried = &faulty.settles_about()[1];
    for id in &ids[1..20] {
        assert!(carried.contains(id), "{carried:?}");
    }
    answers.open();
    assert_eq!(worker.drain(LONG).await.finished, 64);
}

/// More than a call may carry, and ask for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_may_have_more_slots_than_a_call_has_jobs() {
    let faulty = Faulty::new(MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    let gate = Gate::default();
    let handler = async |State(gate): State<Gate>, _: Number| {
        gate.passed().await;
        Ok::<_, Fail>(())
    };
    let worker = Worker::new(&queue)
        .concurrency(1_200)
        .state(gate.clone())
        .handle::<Number, _>(handler)
        .start()
        .unwrap();
    let jobs: Vec<NewJob> = (0..2_000).map(number).collect();
    let ids: Vec<JobId> = jobs.iter().map(|job| job.spec.id).collect();
    queue.enqueue_all(jobs).await.unwrap();
    eventually("all slots are taken", async || worker.status().running == 1_200).await;
    gate.open();
    for id in ids {
        let record = finished(&queue, id).await;
        assert_eq!((record.state, record.attempt()), (JobState::Completed, 1));
    }
    assert_eq!(worker.drain(LONG).await.finished, 2_000);
}

/// Or a worker that always has a request out would let them lie until their lease is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jobs_of_a_standing_claim_start_while_a_request_is_out() {
    let faulty = Faulty::new(MemoryBackend::new());
    faulty.claims_stand();
    let queue = Queue::new(faulty.clone());
    let gates: Arc<[Gate; 2]> = Arc::default();
    let handler = async |State(gates): State<Arc<[Gate; 2]>>, job: Number| {
        gates[job.n as usize].passed().await;
        Ok::<_, Fail>(())
    };
    let worker = Worker::new(&queue)
        .concurrency(2)
        .state(Arc::clone(&gates))
        .handle::<Number, _>(handler)
        .start()
        .unwrap();
    let first = queue.enqueue(number(0)).await.unwrap().id;
    let waits = async || worker.status().running == 1 && faulty.listening() == 1;
    eventually("it listens with the other slot", waits).await;
    let answers = faulty.settles_wait();
    gates[0].open();
    eventually("a request is out", async || faulty.settles_out().len() == 1).await;
    let second = queue.enqueue(number(1)).await.unwrap().id;
    eventually("it starts", async || worker.status().running == 1).await;
    gates[1].open();
    answers.open();
    for id in [first, second] {
        finished(&queue, id).await;
    }
    assert_eq!(worker.drain(LONG).await.finished, 2);
}

#[derive(Debug, Default)]
struct Load {
    running: AtomicUsize,
    most: AtomicUsize,
    runs: AtomicUsize,
}

/// Claims that are out together may be answered with as many jobs as they ask for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_out_together_fill_no_more_slots_than_there_are() {
    const SLOTS: usize = 7;
    const JOBS: u32 = 1500;
    let faulty = Faulty::new(MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    let load = Arc::new(Load::default());
    let handler = async |State(load): State<Arc<Load>>, job: Number| {
        let running = load.running.fetch_add(1, Ordering::SeqCst) + 1;
        load.most.fetch_max(running, Ordering::SeqCst);
        load.runs.fetch_add(1, Ordering::SeqCst);
        for _ in 0..job.n % 5 {
            tokio::task::yield_now().await;
        }
        load.running.fetch_sub(1, Ordering::SeqCst);
        Ok::<_, Fail>(())
    };
    let mut ids = Vec::new();
    for n in 0..JOBS {
        ids.push(queue.enqueue(number(n)).await.unwrap().id);
    }
    faulty.lags();
    let worker = Worker::new(&queue)
        .concurrency(SLOTS)
        .state(Arc::clone(&load))
        .handle::<Number, _>(handler)
        .start()
        .unwrap();
    for id in ids {
        finished(&queue, id).await;
    }
    let report = worker.drain(LONG).await;
    // A machine that is slow lets jobs that were claimed ahead go back before they have begun.
    assert_eq!((report.finished, report.lost), (JOBS as usize, 0));
    assert_eq!(load.runs.load(Ordering::SeqCst), JOBS as usize);
    assert!(load.most.load(Ordering::SeqCst) <= SLOTS);
    assert!(faulty.most_settles_out() <= 2);
    assert_eq!(queue.audit().await.unwrap(), []);
}
