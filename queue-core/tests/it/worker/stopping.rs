//! Jobs that are told to stop, and workers that are.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{Faulty, Gate, LONG, Number, eventually, finished, number};
use queue_core::{
    CancelOutcome, CancelReason, Context, ErrorKind, Fail, JobState, Queue, State, Worker,
};

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

/// Or those of a later call stand before those of an earlier one, although they came after them.
#[tokio::test]
async fn a_stop_gives_the_jobs_of_many_slots_back_in_one_call() {
    let faulty = Faulty::new(queue_core::MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    let deaf = async |_: Number| std::future::pending::<Result<(), Fail>>().await;
    let worker = Worker::new(&queue).concurrency(100).handle::<Number, _>(deaf).start().unwrap();
    queue.enqueue_all((0..100).map(number)).await.unwrap();
    eventually("all run", async || worker.status().running == 100).await;
    let answers = faulty.settles_wait();
    let look = async {
        eventually("they go back", async || !faulty.settles_report().is_empty()).await;
        assert_eq!(faulty.settles_report(), [100]);
        answers.open();
    };
    let (stopped, ()) = tokio::join!(worker.stop_now(), look);
    assert_eq!((stopped.finished, stopped.released, stopped.lost), (0, 100, 0));
    assert_eq!(faulty.most_settles_out(), 1);
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

/// What is left then is the answer to a claim, which may have got jobs.
#[tokio::test]
async fn a_worker_without_jobs_drains_in_time_although_the_store_is_away() {
    let faulty = Faulty::new(queue_core::MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    let work = async |_: Number| Ok::<_, Fail>(());
    let worker =
        Worker::new(&queue).cancel_grace(LONG * 10).handle::<Number, _>(work).start().unwrap();
    eventually("it has asked", async || worker.status().store_up).await;
    faulty.cut_off(true);
    eventually("it has noticed", async || !worker.status().store_up).await;
    let report = tokio::time::timeout(LONG, worker.drain(LONG * 10)).await.unwrap();
    assert_eq!((report.finished, report.released, report.lost), (0, 0, 0));
}

/// It has tried for as long as its grace was: the grace of handlers is not added, since none runs.
#[tokio::test]
async fn a_worker_whose_jobs_have_ended_stops_soon_after_its_grace_although_the_store_is_away() {
    let faulty = Faulty::new(queue_core::MemoryBackend::new());
    let queue = Queue::new(faulty.clone());
    let started = Gate::default();
    let note = async |State(started): State<Gate>, _: Number| {
        started.open();
        Ok::<_, Fail>(())
    };
    let state = started.clone();
    let worker = Worker::new(&queue)
        .cancel_grace(LONG * 10)
        .state(state)
        .handle::<Number, _>(note)
        .start()
        .unwrap();
    faulty.settle_hangs();
    queue.enqueue(number(0)).await.unwrap();
    started.passed().await;
    let grace = Duration::from_millis(10);
    let report = tokio::time::timeout(LONG, worker.drain(grace)).await.unwrap();
    assert_eq!((report.finished, report.released, report.lost, report.untold), (0, 0, 1, 1));
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
