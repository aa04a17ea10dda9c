//! What becomes of jobs by what their handlers answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{Faulty, LONG, Number, eventually, finished, number};
use queue_core::{
    Backoff, Context, DeadReason, ErrorKind, Fail, JobState, Kind, NewJob, Payload, Queue,
    QueueSelection, StartError, State, Worker,
};

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
    // On a machine that stands still for a moment, jobs that were claimed ahead are given back.
    assert_eq!((report.finished, report.lost), (3000, 0));
    assert_eq!(counts.2.load(Ordering::SeqCst), 3000);
    assert!(counts.1.load(Ordering::SeqCst) <= 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_behind_one_that_blocks_its_thread_run_on_another() {
    let queue = Queue::memory();
    let (tells, told) = std::sync::mpsc::channel();
    let told = Arc::new(std::sync::Mutex::new(told));
    // The first one ends once all others have run.
    let handler = move |job: Number| {
        let (tells, told) = (tells.clone(), Arc::clone(&told));
        async move {
            match job.n {
                0 => assert_eq!(told.lock().unwrap().iter().take(7).count(), 7),
                n => tells.send(n).unwrap(),
            }
            Ok::<_, Fail>(())
        }
    };
    let jobs: Vec<NewJob> = (0..8).map(number).collect();
    let ids: Vec<_> = jobs.iter().map(|job| job.spec.id).collect();
    queue.enqueue_all(jobs).await.unwrap();
    let worker = Worker::new(&queue).handle::<Number, _>(handler).start().unwrap();
    for id in ids {
        let record = finished(&queue, id).await;
        assert_eq!((record.state, record.stalls), (JobState::Completed, 0));
    }
    assert_eq!(worker.drain(LONG).await.finished, 8);
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
    assert!(panic.message.contains("the 1st try") && panic.message.contains("outcomes.rs"));
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

#[test]
fn a_runtime_without_timers_is_refused() {
    let worker = || {
        let queue = Queue::memory();
        Worker::new(&queue).handle::<Number, _>(async |_: Number| Ok::<_, Fail>(()))
    };
    assert_eq!(worker().start().unwrap_err(), StartError::NoRuntime);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let started = runtime.block_on(async { worker().start() });
    assert_eq!(started.unwrap_err(), StartError::NoTimers);
}
