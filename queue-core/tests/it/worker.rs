//! The worker engine.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Faulty, Gate, LONG, Number, eventually, finished, number};
use queue_core::{
    Backoff, CancelOutcome, CancelReason, Context, DeadReason, ErrorKind, Fail, JobState, Kind,
    NewJob, Payload, Queue, QueueSelection, StartError, State, Worker,
};

const LEASE: Duration = Duration::from_millis(600);

#[tokio::test]
async fn runs_jobs_with_extractors_and_keeps_their_answers() {
    let queue = Queue::memory();
    let double = async |n: u32| n * 2;
    let handler = move |State(offset): State<u32>, context: Context, job: Number| async move {
        assert_eq!((context.attempt(), context.spec().kind.as_str()), (1, "number"));
        Ok::<_, Fail>(double(job.n).await + offset)
    };
    let worker = Worker::new(&queue).state(1_u32).handle::<Number, _>(handler).start().unwrap();
    let id = queue.enqueue(number(20)).await.unwrap().id;
    assert_eq!(finished(&queue, id).await.result.unwrap().decode::<u32>().unwrap(), 41);
    let report = worker.drain(LONG).await;
    assert_eq!((report.finished, report.released, report.lost), (1, 0, 0));
    assert_eq!(queue.audit().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_each_of_many_jobs_once_within_its_slots() {
    let queue = Queue::memory();
    let counts = Arc::new(<(AtomicUsize, AtomicUsize, AtomicUsize)>::default());
    let handler = move |State(counts): State<Arc<(AtomicUsize, AtomicUsize, AtomicUsize)>>,
                        _: Number| async move {
        let now = counts.0.fetch_add(1, Ordering::SeqCst) + 1;
        counts.1.fetch_max(now, Ordering::SeqCst);
        tokio::task::yield_now().await;
        counts.0.fetch_sub(1, Ordering::SeqCst);
        counts.2.fetch_add(1, Ordering::SeqCst);
        Ok::<_, Fail>(())
    };
    let outcomes = queue.enqueue_all((0..3000).map(number)).await.unwrap();
    assert_eq!(outcomes.len(), 3000);
    let worker = Worker::new(&queue)
        .concurrency(7)
        .state(Arc::clone(&counts))
        .handle::<Number, _>(handler)
        .start()
        .unwrap();
    eventually("all have run", async || counts.2.load(Ordering::SeqCst) >= 3000).await;
    let report = worker.drain(LONG).await;
    assert_eq!((report.finished, report.released, report.lost), (3000, 0, 0));
    assert_eq!(counts.2.load(Ordering::SeqCst), 3000);
    assert!(counts.1.load(Ordering::SeqCst) <= 7);
}

#[tokio::test]
async fn failures_retry_panics_are_failures_and_dead_is_dead() {
    let queue = Queue::memory();
    let handler = async |context: Context, job: Number| match (job.n, context.attempt()) {
        (0, 1) => Err(Fail::retry("first try")),
        (1, 1) => panic!("the {}st try", 1),
        (2, _) => Err(Fail::dead("hopeless")),
        (3, _) => Err(Fail::retry("never works")),
        (4, 1) => Err(Fail::retry_in(Duration::from_millis(1), "soon")),
        _ => Ok(()),
    };
    let worker = Worker::new(&queue).handle::<Number, _>(handler).start().unwrap();
    let soon = Backoff::Fixed(Duration::from_millis(1));
    let mut records = Vec::new();
    for n in 0..5 {
        let job = number(n).backoff(soon.clone()).max_attempts(3);
        let id = queue.enqueue(job).await.unwrap().id;
        records.push(finished(&queue, id).await);
    }
    let ends: Vec<_> = records.iter().map(|r| (r.state, r.failures, r.dead_reason)).collect();
    assert_eq!(
        ends,
        [
            (JobState::Completed, 1, None),
            (JobState::Completed, 1, None),
            (JobState::Dead, 1, Some(DeadReason::Failed)),
            (JobState::Dead, 3, Some(DeadReason::AttemptsExhausted)),
            (JobState::Completed, 1, None),
        ]
    );
    let panic = records[1].last_error.as_ref().unwrap();
    assert_eq!(panic.kind, ErrorKind::Panicked);
    assert!(panic.message.contains("the 1st try") && panic.message.contains("worker.rs"));
    worker.drain(LONG).await;
}

#[tokio::test]
async fn an_undecodable_payload_is_dead_at_once() {
    let queue = Queue::memory();
    let worker =
        Worker::new(&queue).handle::<Number, _>(async |_: Number| Ok::<_, Fail>(())).start();
    let worker = worker.unwrap();
    let job = NewJob::new(Kind::new("number").unwrap(), Payload::json("not a number").unwrap());
    let record = finished(&queue, queue.enqueue(job).await.unwrap().id).await;
    assert_eq!((record.state, record.failures), (JobState::Dead, 1));
    assert_eq!(record.last_error.unwrap().kind, ErrorKind::Undecodable);
    worker.drain(LONG).await;
}

#[tokio::test]
async fn a_timeout_stops_the_attempt_even_if_the_handler_does_not_listen() {
    let queue = Queue::memory();
    let deaf = async |_: Number| std::future::pending::<Result<(), Fail>>().await;
    let worker = Worker::new(&queue)
        .cancel_grace(Duration::from_millis(10))
        .handle::<Number, _>(deaf)
        .start()
        .unwrap();
    let job = number(0).timeout(Duration::from_millis(10)).max_attempts(1);
    let record = finished(&queue, queue.enqueue(job).await.unwrap().id).await;
    assert_eq!(record.state, JobState::Dead);
    assert_eq!(record.last_error.unwrap().kind, ErrorKind::TimedOut);
    worker.drain(LONG).await;
}

#[tokio::test]
async fn a_snooze_runs_again_with_its_attempt() {
    let queue = Queue::memory();
    let runs = Arc::new(AtomicUsize::new(0));
    let handler = async |State(runs): State<Arc<AtomicUsize>>, context: Context, _: Number| {
        assert_eq!(context.attempt(), 1);
        match runs.fetch_add(1, Ordering::SeqCst) {
            0 => Err(Fail::snooze(Duration::from_millis(1))),
            _ => Ok(()),
        }
    };
    let worker = Worker::new(&queue).state(runs).handle::<Number, _>(handler).start().unwrap();
    let job = number(0).max_attempts(1);
    let record = finished(&queue, queue.enqueue(job).await.unwrap().id).await;
    assert_eq!((record.state, record.snoozes), (JobState::Completed, 1));
    worker.drain(LONG).await;
}

#[tokio::test]
async fn a_cancel_request_reaches_the_handler() {
    let queue = Queue::memory();
    let handler = async |State(started): State<Gate>, context: Context, _: Number| {
        started.open();
        match context.cancelled().await {
            CancelReason::Requested => Err::<(), _>(Fail::retry("stopped")),
            other => panic!("{other:?}"),
        }
    };
    // With all slots busy and with some free: the two wait in different ways.
    for concurrency in [1, 4] {
        let started = Gate::default();
        let worker = Worker::new(&queue)
            .concurrency(concurrency)
            .state(started.clone())
            .handle::<Number, _>(handler)
            .start()
            .unwrap();
        let id = queue.enqueue(number(0)).await.unwrap().id;
        started.passed().await;
        assert_eq!(queue.cancel(id).await.unwrap(), CancelOutcome::Requested);
        assert_eq!(finished(&queue, id).await.state, JobState::Cancelled);
        worker.drain(LONG).await;
    }
}

#[tokio::test]
async fn a_handler_can_ask_whether_and_why_it_should_stop() {
    let queue = Queue::memory();
    let handler = async |State(started): State<Gate>, context: Context, _: Number| {
        let before = context.cancel_reason();
        started.open();
        context.cancelled().await;
        let is_asked = context.cancel_reason() == Some(CancelReason::Requested);
        Ok::<_, Fail>((before.is_none(), is_asked))
    };
    let started = Gate::default();
    // It must not hear of the request at the next renewal only.
    let worker = Worker::new(&queue).lease(Duration::from_secs(3600)).state(started.clone());
    let worker = worker.handle::<Number, _>(handler).start().unwrap();
    let id = queue.enqueue(number(0)).await.unwrap().id;
    started.passed().await;
    queue.cancel(id).await.unwrap();
    // An attempt that completes nevertheless has completed.
    let record = finished(&queue, id).await;
    assert_eq!(record.result.unwrap().decode::<(bool, bool)>().unwrap(), (true, true));
    worker.drain(LONG).await;
}

#[tokio::test]
async fn a_drain_lets_jobs_finish_and_takes_no_new_ones() {
    let queue = Queue::memory();
    let (started, go) = (Gate::default(), Gate::default());
    let handler =
        async |State((started, go)): State<(Gate, Gate)>, _: Number| -> Result<(), Fail> {
            started.open();
            go.passed().await;
            Ok(())
        };
    let worker = Worker::new(&queue)
        .state((started.clone(), go.clone()))
        .handle::<Number, _>(handler)
        .start()
        .unwrap();
    let running = queue.enqueue(number(0)).await.unwrap().id;
    started.passed().await;
    let drain = worker.drain(LONG);
    let rest = async {
        eventually("draining", async || worker.status().draining).await;
        let late = queue.enqueue(number(1)).await.unwrap().id;
        go.open();
        late
    };
    let (report, late) = tokio::join!(drain, rest);
    assert_eq!((report.finished, report.released, report.lost), (1, 0, 0));
    assert_eq!(finished(&queue, running).await.state, JobState::Completed);
    assert_eq!(queue.get(late).await.unwrap().unwrap().state, JobState::Ready);
}

#[tokio::test]
async fn a_stop_gives_jobs_back_in_order_with_their_attempt() {
    let queue = Queue::memory();
    let deaf = async |_: Number| std::future::pending::<Result<(), Fail>>().await;
    let worker = Worker::new(&queue).handle::<Number, _>(deaf).start().unwrap();
    let mut sent = Vec::new();
    for n in 0..5 {
        sent.push(queue.enqueue(number(n).max_attempts(1)).await.unwrap().id);
    }
    eventually("all run", async || worker.status().running == 5).await;
    let drain = worker.drain(LONG);
    let stop = async {
        eventually("draining", async || worker.status().draining).await;
        worker.stop_now().await
    };
    let (drained, stopped) = tokio::join!(drain, stop);
    assert_eq!(drained, stopped);
    assert_eq!((stopped.finished, stopped.released, stopped.lost), (0, 5, 0));
    for id in &sent {
        let record = queue.get(*id).await.unwrap().unwrap();
        assert_eq!((record.state, record.failures, record.stalls), (JobState::Ready, 0, 0));
    }
    let order = Arc::new(std::sync::Mutex::new(Vec::<u32>::new()));
    let note = async |State(order): State<Arc<std::sync::Mutex<Vec<u32>>>>, job: Number| {
        order.lock().unwrap().push(job.n);
        Ok::<_, Fail>(())
    };
    let state = Arc::clone(&order);
    let worker =
        Worker::new(&queue).concurrency(1).state(state).handle::<Number, _>(note).start().unwrap();
    finished(&queue, sent[4]).await;
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
    worker.drain(LONG).await;
}

#[tokio::test]
async fn a_drain_whose_grace_is_over_cancels_and_gives_back() {
    let queue = Queue::memory();
    let polite = async |context: Context, _: Number| {
        assert_eq!(context.cancelled().await, CancelReason::Shutdown);
        Err::<(), _>(Fail::retry("interrupted"))
    };
    let worker = Worker::new(&queue).handle::<Number, _>(polite).start().unwrap();
    let id = queue.enqueue(number(0)).await.unwrap().id;
    eventually("it runs", async || worker.status().running == 1).await;
    let report = worker.drain(Duration::from_millis(10)).await;
    assert_eq!((report.finished, report.released, report.lost), (0, 1, 0));
    let record = queue.get(id).await.unwrap().unwrap();
    assert_eq!((record.state, record.failures), (JobState::Ready, 0));
}

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
async fn a_stop_ends_in_time_although_the_store_is_away() {
    let faulty = Faulty::new(queue_core::MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    let deaf = async |_: Number| std::future::pending::<Result<(), Fail>>().await;
    let worker = Worker::new(&queue).handle::<Number, _>(deaf).start().unwrap();
    queue.enqueue(number(0)).await.unwrap();
    eventually("it runs", async || worker.status().running == 1).await;
    faulty.cut_off(true);
    let report = tokio::time::timeout(LONG, worker.stop_now()).await.unwrap();
    assert_eq!((report.released, report.lost), (0, 1));
}

#[tokio::test]
async fn one_record_that_cannot_be_settled_holds_up_nobody() {
    let faulty = Faulty::new(queue_core::MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    let jobs: Vec<NewJob> = (0..2000).map(number).collect();
    let bad = jobs[700].job_id();
    faulty.unreadable(bad);
    queue.enqueue_all(jobs.clone()).await.unwrap();
    let nothing = async |_: Number| Ok::<_, Fail>(());
    let worker = Worker::new(&queue).concurrency(400).handle::<Number, _>(nothing).start().unwrap();
    let last = jobs.last().unwrap().job_id();
    assert_eq!(finished(&queue, last).await.state, JobState::Completed);
    let report = worker.drain(LONG).await;
    assert_eq!((report.finished, report.released, report.lost), (1999, 0, 1));
    assert_eq!(queue.get(bad).await.unwrap().unwrap().state, JobState::Running);
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

#[tokio::test]
async fn outcomes_that_do_not_fit_together_are_stored_one_by_one() {
    let faulty = Faulty::new(queue_core::MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    faulty.nearly_full();
    queue.enqueue_all((0..20).map(number)).await.unwrap();
    let nothing = async |_: Number| Ok::<_, Fail>(());
    let worker = Worker::new(&queue).concurrency(4).handle::<Number, _>(nothing).start().unwrap();
    let completed = async || {
        let stats = queue.stats().await.unwrap();
        stats[0].jobs.get(&JobState::Completed) == Some(&20)
    };
    eventually("all completed", completed).await;
    assert_eq!(worker.drain(LONG).await.finished, 20);
}

#[tokio::test]
async fn a_panic_before_the_first_await_or_on_drop_is_a_failure_that_counts() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("on drop");
        }
    }
    struct Early;
    impl queue_core::Executor for Early {
        fn run(&self, _: Context) -> impl Future<Output = Result<Option<Payload>, Fail>> + Send {
            panic!("early");
            #[expect(unreachable_code, reason = "gives the future its type")]
            async {
                Ok(None)
            }
        }
    }
    let queue = Queue::memory();
    let early = Kind::new("early").unwrap();
    let drops = async |_: Number| {
        let _bomb = Bomb;
        std::future::pending::<Result<(), Fail>>().await
    };
    let worker = Worker::new(&queue)
        .cancel_grace(Duration::ZERO)
        .executor(early.clone(), None, Early)
        .handle::<Number, _>(drops)
        .start()
        .unwrap();
    let soon = Backoff::Fixed(Duration::ZERO);
    let early = NewJob::new(early, Payload::default());
    for job in [early, number(0).timeout(Duration::from_millis(1))] {
        let job = job.max_attempts(2).backoff(soon.clone());
        let record = finished(&queue, queue.enqueue(job).await.unwrap().id).await;
        assert_eq!((record.state, record.failures), (JobState::Dead, 2));
    }
    worker.drain(LONG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_that_hang_or_panic_cost_no_lease() {
    let faulty = Faulty::new(queue_core::MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    let slow = async |_: Number| {
        tokio::time::sleep(LEASE * 4).await;
        Ok::<_, Fail>(())
    };
    faulty.renewals_fail(1, 1);
    let worker = Worker::new(&queue).lease(LEASE).handle::<Number, _>(slow).start().unwrap();
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
async fn a_stop_ends_in_time_although_a_call_never_returns() {
    let faulty = Faulty::new(queue_core::MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    let started = Gate::default();
    let note = async |State(started): State<Gate>, _: Number| {
        started.open();
        Ok::<_, Fail>(())
    };
    faulty.settle_hangs();
    let state = started.clone();
    let worker = Worker::new(&queue).state(state).handle::<Number, _>(note).start().unwrap();
    queue.enqueue(number(0)).await.unwrap();
    started.passed().await;
    let report = tokio::time::timeout(LONG, worker.stop_now()).await.unwrap();
    assert_eq!((report.finished, report.lost), (0, 1));
}

#[tokio::test]
async fn no_duration_is_too_long() {
    let queue = Queue::memory();
    let polite = async |context: Context, _: Number| {
        context.cancelled().await;
        Err::<(), _>(Fail::retry("stopped"))
    };
    let worker = Worker::new(&queue)
        .cancel_grace(Duration::MAX)
        .handle::<Number, _>(polite)
        .start()
        .unwrap();
    let far = number(0).delay(Duration::MAX);
    assert_eq!(queue.enqueue(far).await.unwrap().state, JobState::Scheduled);
    let id = queue.enqueue(number(1).timeout(Duration::MAX)).await.unwrap().id;
    eventually("it runs", async || worker.status().running == 1).await;
    let unfinished = queue.wait_finished(id, Duration::MAX);
    assert!(tokio::time::timeout(Duration::from_millis(20), unfinished).await.is_err());
    assert_eq!(worker.drain(Duration::ZERO).await.released, 1);
}

/// It asks once a second anyway.
#[tokio::test]
async fn an_idle_worker_does_not_wait_with_a_new_job_until_it_would_ask() {
    let backend = Faulty::new(queue_core::MemoryBackend::new());
    let queue = Queue::new(backend.clone());
    let worker = Worker::new(&queue).handle::<Number, _>(async |_: Number| Ok::<_, Fail>(()));
    let worker = worker.start().unwrap();
    let begun = Instant::now();
    for n in 0..5 {
        eventually("it listens", async || backend.listening() == 1).await;
        let id = queue.enqueue(number(n)).await.unwrap().id;
        finished(&queue, id).await;
    }
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
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

/// A wake-up that it took would be lost for the workers that take jobs.
#[tokio::test]
async fn a_worker_that_takes_no_more_jobs_does_not_listen_for_them() {
    let backend = Faulty::new(queue_core::MemoryBackend::new());
    let queue = Queue::new(backend.clone());
    let go = Gate::default();
    let handler = async |State(go): State<Gate>, _: Number| {
        go.passed().await;
        Ok::<_, Fail>(())
    };
    let worker = Worker::new(&queue).concurrency(2).state(go.clone());
    let worker = worker.handle::<Number, _>(handler).start().unwrap();
    eventually("it listens", async || backend.listening() == 1).await;
    queue.enqueue(number(0)).await.unwrap();
    eventually("it runs one", async || worker.status().running == 1).await;
    eventually("it listens for another", async || backend.listening() == 1).await;
    let drain = worker.drain(LONG);
    let rest = async {
        eventually("it listens no more", async || backend.listening() == 0).await;
        assert_eq!(worker.status().running, 1);
        go.open();
    };
    let (drained, ()) = tokio::join!(drain, rest);
    assert_eq!(drained.finished, 1);
}

#[tokio::test]
async fn a_full_kind_does_not_hold_up_another() {
    let queue = Queue::memory();
    let go = Gate::default();
    struct Slow(Gate);
    impl queue_core::Executor for Slow {
        async fn run(&self, _: Context) -> Result<Option<Payload>, Fail> {
            self.0.passed().await;
            Ok(None)
        }
    }
    let slow = Kind::new("slow").unwrap();
    let worker = Worker::new(&queue)
        .concurrency(4)
        .executor(slow.clone(), Some(1), Slow(go.clone()))
        .handle::<Number, _>(async |_: Number| Ok::<_, Fail>(()))
        .start()
        .unwrap();
    let mut slow_ids = Vec::new();
    for _ in 0..3 {
        let job = NewJob::new(slow.clone(), Payload::default());
        slow_ids.push(queue.enqueue(job).await.unwrap().id);
    }
    let fast = queue.enqueue(number(0)).await.unwrap().id;
    assert_eq!(finished(&queue, fast).await.state, JobState::Completed);
    let running = queue.get_all(&slow_ids).await.unwrap();
    let running = running.iter().flatten().filter(|record| record.state == JobState::Running);
    assert_eq!(running.count(), 1);
    go.open();
    for id in slow_ids {
        assert_eq!(finished(&queue, id).await.state, JobState::Completed);
    }
    worker.drain(LONG).await;
}

#[tokio::test]
async fn a_wrong_set_up_is_refused_with_its_reason() {
    let queue = Queue::memory();
    let worker = || Worker::new(&queue).handle::<Number, _>(async |_: Number| Ok::<_, Fail>(()));
    assert_eq!(Worker::new(&queue).start().unwrap_err(), StartError::NoHandlers);
    let none = QueueSelection::strict::<&str>([]).unwrap();
    assert_eq!(worker().queues(none).start().unwrap_err(), StartError::NoQueues);
    for wrong in [worker().concurrency(0), worker().lease(Duration::from_millis(1))] {
        let error = wrong.start().unwrap_err().to_string();
        assert!(error.contains("must be"), "{error}");
    }
    let twice = worker().handle::<Number, _>(async |_: Number| Ok::<_, Fail>(()));
    assert!(matches!(twice.start().unwrap_err(), StartError::DuplicateKind(_)));
    let needy = async |_: State<String>, _: Context, _: Number| Ok::<_, Fail>(());
    let error = Worker::new(&queue).state(1_u8).handle::<Number, _>(needy).start().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the handler of number asks for State<alloc::string::String>: give it one with Worker::state"
    );
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
