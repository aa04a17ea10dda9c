//! The worker keeps its word on stores that lose calls, hang, refuse or are full.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Faulty, Gate, LONG, Number, eventually, finished, number};
use queue_core::{CancelReason, Context, Fail, JobState, Queue, State, Worker};

const LEASE: Duration = Duration::from_millis(600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_outlives_handlers_that_block_the_whole_runtime() {
    let queue = Queue::memory();
    let blocking = async |_: Number| {
        std::thread::sleep(LEASE * 3);
        Ok::<_, Fail>(())
    };
    let worker = Worker::new(&queue).lease(LEASE).handle::<Number, _>(blocking).start().unwrap();
    let (left, right) = (queue.enqueue(number(0)).await.unwrap(), queue.enqueue(number(1)).await);
    for id in [left.id, right.unwrap().id] {
        let record = finished(&queue, id).await;
        assert_eq!((record.state, record.stalls), (JobState::Completed, 0));
    }
    worker.drain(LONG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_hears_of_a_lost_lease_before_the_store_gives_the_job_away() {
    let store = queue_core::MemoryBackend::new();
    let faulty = Faulty::new(store.clone());
    let handler = async |State(faulty): State<Faulty>, context: Context, _: Number| {
        if context.spec().max_attempts == 1 {
            faulty.cut_off(true);
            assert_eq!(context.cancelled().await, CancelReason::LeaseLost);
            let record = faulty.record(context.job_id()).await;
            assert_eq!((record.state, record.stalls), (JobState::Running, 0));
            faulty.cut_off(false);
        }
        Ok::<_, Fail>(())
    };
    // Time enough for a busy machine to call the handler within the last tenth of the lease.
    let worker = Worker::new(&Queue::new(faulty.clone()))
        .lease(LEASE * 5)
        .state(faulty.clone())
        .handle::<Number, _>(handler)
        .start()
        .unwrap();
    // The test looks past the network.
    let queue = Queue::new(store);
    let id = queue.enqueue(number(0).max_attempts(1)).await.unwrap().id;
    finished(&queue, id).await;
    worker.drain(LONG).await;
    assert_eq!(queue.audit().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_calls_and_replies_are_lost() {
    let faulty = Faulty::new(queue_core::MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    let seen = Arc::new(std::sync::Mutex::new(Vec::<u32>::new()));
    let handler = async |State(seen): State<Arc<std::sync::Mutex<Vec<u32>>>>, job: Number| {
        seen.lock().unwrap().push(job.n);
        Ok::<_, Fail>(())
    };
    let state = Arc::clone(&seen);
    let worker = Worker::new(&queue).state(state).handle::<Number, _>(handler).start().unwrap();
    faulty.lose_every(3);
    for n in 0..150 {
        let job = number(n);
        // A producer that does not know whether its call took effect sends it again.
        while queue.enqueue(job.clone()).await.is_err() {}
    }
    eventually("all seen", async || seen.lock().unwrap().len() >= 150).await;
    let report = worker.drain(LONG).await;
    faulty.lose_every(0);
    let stats = queue.stats().await.unwrap();
    assert_eq!(stats[0].jobs, [(JobState::Completed, 150)].into());
    assert_eq!((report.finished, report.released, report.lost), (150, 0, 0));
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 150, "no lease expired, so no job runs twice");
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 150);
    assert_eq!(queue.audit().await.unwrap(), []);
}

#[tokio::test]
async fn a_store_that_refuses_for_a_while_gets_every_outcome_in_the_end() {
    let faulty = Faulty::new(queue_core::MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    let runs = Arc::new(AtomicUsize::new(0));
    let count = async |State(runs): State<Arc<AtomicUsize>>, _: Number| {
        runs.fetch_add(1, Ordering::SeqCst);
        Ok::<_, Fail>(())
    };
    faulty.refuses(true);
    let state = Arc::clone(&runs);
    let worker = Worker::new(&queue).state(state).handle::<Number, _>(count).start().unwrap();
    queue.enqueue_all((0..10).map(number)).await.unwrap();
    eventually("all have run", async || runs.load(Ordering::SeqCst) == 10).await;
    eventually("the refusal is seen", async || !worker.status().store_up).await;
    faulty.refuses(false);
    let report = worker.drain(LONG).await;
    assert_eq!((report.finished, report.released, report.lost), (10, 0, 0));
    assert_eq!(runs.load(Ordering::SeqCst), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_that_hang_or_panic_cost_no_lease() {
    let faulty = Faulty::new(queue_core::MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    // Two renewals fail, and the third has to come in time on a machine that is busy otherwise.
    const LONGER: Duration = Duration::from_millis(1800);
    let slow = async |_: Number| {
        tokio::time::sleep(LONGER * 2).await;
        Ok::<_, Fail>(())
    };
    faulty.renewals_fail(1, 1);
    let worker = Worker::new(&queue).lease(LONGER).handle::<Number, _>(slow).start().unwrap();
    let record = finished(&queue, queue.enqueue(number(0)).await.unwrap().id).await;
    assert_eq!((record.state, record.stalls), (JobState::Completed, 0));
    worker.drain(LONG).await;
}

#[tokio::test]
async fn a_backend_that_panics_is_asked_again() {
    let faulty = Faulty::new(queue_core::MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    faulty.claim_panics();
    let nothing = async |_: Number| Ok::<_, Fail>(());
    let worker = Worker::new(&queue).handle::<Number, _>(nothing).start().unwrap();
    let id = queue.enqueue(number(0)).await.unwrap().id;
    assert_eq!(finished(&queue, id).await.state, JobState::Completed);
    worker.drain(LONG).await;
}

#[tokio::test]
async fn a_worker_says_whether_its_store_answers() {
    let backend = Faulty::new(queue_core::MemoryBackend::new());
    let queue = Queue::new(backend.clone());
    let go = Gate::default();
    let handler = async |State(go): State<Gate>, _: Number| {
        go.passed().await;
        Ok::<_, Fail>(())
    };
    let worker = Worker::new(&queue).state(go.clone()).handle::<Number, _>(handler);
    let worker = worker.start().unwrap();
    let id = queue.enqueue(number(0)).await.unwrap().id;
    eventually("it runs", async || worker.status().running == 1).await;
    assert!(worker.status().store_up);
    backend.cut_off(true);
    // Its end is to be reported.
    go.open();
    eventually("it notices", async || !worker.status().store_up).await;
    backend.cut_off(false);
    eventually("it notices", async || worker.status().store_up).await;
    assert_eq!(finished(&queue, id).await.state, JobState::Completed);
    worker.drain(LONG).await;
}

/// It is sent again until there is room; giving it up would run the job once more.
#[tokio::test]
async fn a_full_store_gets_an_outcome_when_it_has_room() {
    let backend = Faulty::new(queue_core::MemoryBackend::new());
    let queue = Queue::new(backend.clone());
    let handler = async |State(go): State<Gate>, _: Number| {
        go.passed().await;
        Ok::<_, Fail>(())
    };
    for concurrency in [1, 2] {
        let go = Gate::default();
        let worker = Worker::new(&queue).concurrency(concurrency).state(go.clone());
        let worker = worker.handle::<Number, _>(handler).start().unwrap();
        let id = queue.enqueue(number(0)).await.unwrap().id;
        eventually("it runs", async || worker.status().running == 1).await;
        // With a claim, alone, and once more.
        backend.full_for(3);
        go.open();
        let record = finished(&queue, id).await;
        assert_eq!((record.state, record.stalls), (JobState::Completed, 0));
        assert_eq!(worker.drain(LONG).await.lost, 0);
    }
}

#[tokio::test]
async fn a_store_that_names_wrong_times_is_not_asked_all_the_time() {
    let faulty = Faulty::new(queue_core::MemoryBackend::new());
    faulty.always_due();
    let queue = Queue::new(faulty.clone());
    let handler = async |_: Number| Ok::<_, Fail>(());
    let worker = Worker::new(&queue).handle::<Number, _>(handler).start().unwrap();
    let begun = Instant::now();
    eventually("it asks", async || faulty.calls() > 60).await;
    // A few claims are free, a few come with short pauses, and then one comes each 50 ms.
    assert!(begun.elapsed() >= Duration::from_millis(50 * 20), "{:?}", begun.elapsed());
    let id = queue.enqueue(number(0)).await.unwrap().id;
    assert_eq!(finished(&queue, id).await.state, JobState::Completed);
    worker.drain(LONG).await;
}

#[tokio::test]
async fn workers_wait_until_a_store_that_was_reset_is_prepared_once() {
    let faulty = Faulty::new(queue_core::MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    let (gate, prepared) = (Gate::default(), Arc::new(AtomicUsize::new(0)));
    let (passed, count) = (gate.clone(), Arc::clone(&prepared));
    queue.on_reset(move |queue| {
        let (gate, count) = (passed.clone(), Arc::clone(&count));
        async move {
            gate.passed().await;
            count.fetch_add(1, Ordering::SeqCst);
            queue.limits().await.map(drop)
        }
    });
    faulty.reset();
    let nothing = async |_: Number| Ok::<_, Fail>(());
    let workers =
        [(); 2].map(|()| Worker::new(&queue).handle::<Number, _>(nothing).start().unwrap());
    let reset = async || workers.iter().all(|worker| worker.status().store_was_reset);
    eventually("both know", reset).await;
    // One who asks all the time would ask for each of these.
    for n in 0..50 {
        queue.enqueue(number(n)).await.unwrap();
    }
    let id = queue.enqueue(number(50)).await.unwrap().id;
    assert_eq!(faulty.claims_in_vain(), 2, "none asks again meanwhile");
    gate.open();
    assert_eq!(finished(&queue, id).await.state, JobState::Completed);
    assert_eq!(prepared.load(Ordering::SeqCst), 1, "for both of them");
    for worker in workers {
        assert!(!worker.status().store_was_reset);
        worker.drain(LONG).await;
    }
}
