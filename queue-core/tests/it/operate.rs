//! The queue handle in operators' hands.

use std::time::Duration;

use crate::support::{Faulty, Gate};
use futures_util::StreamExt;
use queue_core::{
    Backend, ClaimRequest, ClaimToken, Context, DeleteOutcome, Durability, Error, ErrorKind, Fail,
    Fingerprint, Job, JobError, JobEvent, JobId, JobState, Kind, KindSlots, ListRequest, LogLine,
    MemoryBackend, NewJob, Outcome, Progress, Queue, QueueName, Redrive, RedriveStop, RetryOutcome,
    Selection, SettleRequest, Settlement, State, Worker, WorkerId,
};
use serde::{Deserialize, Serialize};

const LONG: Duration = Duration::from_secs(20);

#[derive(Debug, Serialize, Deserialize)]
struct Task {
    n: u32,
}

impl Job for Task {
    const KIND: &'static str = "task";
}

fn task(n: u32) -> NewJob {
    NewJob::of(&Task { n }).unwrap()
}

async fn dead_jobs(queue: &Queue, count: u32) -> Vec<JobId> {
    let jobs: Vec<NewJob> = (0..count).map(task).collect();
    let ids: Vec<JobId> = jobs.iter().map(NewJob::job_id).collect();
    queue.enqueue_all(jobs).await.unwrap();
    let fails = async |job: Task| {
        Err::<(), _>(Fail::dead(format!(
            "user {} is odd: {}",
            job.n,
            ["no", "yes"][job.n as usize % 2]
        )))
    };
    let worker = Worker::new(queue).handle::<Task, _>(fails).start().unwrap();
    for id in &ids {
        assert_eq!(queue.wait_finished(*id, LONG).await.unwrap().unwrap().state, JobState::Dead);
    }
    worker.drain(LONG).await;
    ids
}

async fn count(queue: &Queue, state: JobState) -> u64 {
    queue.stats().await.unwrap().iter().filter_map(|row| row.jobs.get(&state)).sum()
}

#[tokio::test]
async fn progress_and_log_reach_those_who_watch() {
    let queue = Queue::memory();
    let gate = Gate::default();
    let opened = gate.clone();
    let handler = move |context: Context, State(gate): State<Gate>, _: Task| async move {
        context.log("first\nsecond\n");
        context.progress(Progress::new(30, "reading"));
        gate.passed().await;
        context.progress(Progress::new(90, "writing"));
        context.log("last");
        Ok::<(), Fail>(())
    };
    let worker = Worker::new(&queue).state(gate).handle::<Task, _>(handler).start().unwrap();
    let id = queue.enqueue(task(1)).await.unwrap().id;
    let mut events = queue.watch(id, 0);
    let mut lines = Vec::new();
    let mut progress = Vec::new();
    let mut states = Vec::new();
    while let Some(event) = tokio::time::timeout(LONG, events.next()).await.unwrap() {
        match event.unwrap() {
            JobEvent::State { state, failures } => states.push((state, failures)),
            JobEvent::Progress(at) => {
                if at.percent == 30 {
                    opened.open();
                }
                progress.push(at);
            }
            JobEvent::Line(LogLine { text, .. }) => lines.push(text),
            _ => {}
        }
    }
    assert_eq!(lines, ["first", "second", "last"]);
    assert_eq!(progress, [Progress::new(30, "reading"), Progress::new(90, "writing")]);
    assert_eq!(states.last(), Some(&(JobState::Completed, 0)));
    // Somebody who comes back hears only what is new.
    let again: Vec<_> = queue.watch(id, 2).collect().await;
    let again: Vec<JobEvent> = again.into_iter().map(Result::unwrap).collect();
    assert!(matches!(&again[0], JobEvent::Line(line) if line.text == "last"), "{again:?}");
    assert_eq!(queue.watch(JobId::new(), 0).count().await, 0);
    worker.drain(LONG).await;
}

#[tokio::test]
async fn what_an_attempt_told_comes_before_the_state_after_it() {
    let queue = Queue::memory();
    let fails = async |context: Context, _: Task| {
        context.progress(Progress::new(90, "nearly"));
        context.log("last words");
        Err::<(), _>(Fail::retry_in(LONG * 1000, "not yet"))
    };
    let worker = Worker::new(&queue).handle::<Task, _>(fails).start().unwrap();
    let id = queue.enqueue(task(1)).await.unwrap().id;
    loop {
        if queue.get(id).await.unwrap().unwrap().state == JobState::Retrying {
            break;
        }
        tokio::task::yield_now().await;
    }
    let events: Vec<_> = queue.watch(id, 0).take(3).map(Result::unwrap).collect().await;
    let [JobEvent::Line(line), JobEvent::Progress(_), end] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(line.text, "last words");
    assert_eq!(*end, JobEvent::State { state: JobState::Retrying, failures: 1 });
    worker.drain(LONG).await;
}

#[tokio::test]
async fn what_an_attempt_told_survives_lost_reports_and_failures() {
    let backend = Faulty::new(MemoryBackend::new());
    backend.lose_every(3);
    let queue = Queue::new(backend.clone());
    let handler = async |context: Context, job: Task| {
        for n in 0..5 {
            context.log(format!("job {} line {n}", job.n));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if context.attempt() == 1 { Err(Fail::retry_in(Duration::ZERO, "once")) } else { Ok(()) }
    };
    let worker = Worker::new(&queue).handle::<Task, _>(handler).start().unwrap();
    let job = task(7);
    let id = job.job_id();
    while queue.enqueue(job.clone()).await.is_err() {}
    let events: Vec<_> = queue.watch(id, 0).collect().await;
    let lines: Vec<(u16, String)> = events
        .into_iter()
        .filter_map(|event| match event {
            Ok(JobEvent::Line(line)) => Some((line.attempt, line.text)),
            _ => None,
        })
        .collect();
    let attempt = |n: u16| (0..5).map(move |line| (n, format!("job 7 line {line}")));
    // The last words of an attempt may be lost with their call, but nothing comes twice or in
    // another order.
    let all: Vec<_> = attempt(1).chain(attempt(2)).collect();
    let mut rest = all.iter();
    assert!(lines.iter().all(|line| rest.any(|known| known == line)), "{lines:?}");
    assert!(!lines.is_empty());
    backend.lose_every(0);
    worker.drain(LONG).await;
}

#[tokio::test]
async fn what_a_running_attempt_told_arrives_when_the_store_is_back() {
    let backend = Faulty::new(MemoryBackend::new());
    let queue = Queue::new(backend.clone());
    let gates = [(); 3].map(|()| Gate::default());
    let handler = async |context: Context, State(gates): State<[Gate; 3]>, _: Task| {
        let [started, away, back] = gates;
        started.open();
        away.passed().await;
        context.log("told while the store was away");
        back.passed().await;
        Ok::<(), Fail>(())
    };
    let worker = Worker::new(&queue).state(gates.clone());
    let worker = worker.handle::<Task, _>(handler).start().unwrap();
    let id = queue.enqueue(task(1)).await.unwrap().id;
    let [started, away, back] = gates;
    started.passed().await;
    backend.cut_off(true);
    away.open();
    while backend.reports() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    backend.cut_off(false);
    let mut events = queue.watch(id, 0);
    loop {
        let event = tokio::time::timeout(LONG, events.next()).await.unwrap().unwrap();
        if let Ok(JobEvent::Line(line)) = event {
            assert_eq!(line.text, "told while the store was away");
            break;
        }
    }
    back.open();
    worker.drain(LONG).await;
}

#[tokio::test]
async fn dead_jobs_are_grouped_by_error_and_driven_again() {
    let queue = Queue::memory();
    let ids = dead_jobs(&queue, 9).await;
    let groups = queue.dead_errors(None, None).await.unwrap();
    let counts: Vec<u64> = groups.iter().map(|group| group.jobs).collect();
    assert_eq!(counts, [5, 4]);
    let odd = groups[1].error;
    let record = queue.get(ids[1]).await.unwrap().unwrap();
    assert_eq!(odd, record.last_error.as_ref().map(Fingerprint::of));

    let dry = Redrive { error: odd, dry_run: true, ..Redrive::default() };
    let counted = queue.redrive(&dry).await.unwrap();
    assert_eq!((counted.matched, counted.ready), (4, 0));
    assert_eq!(count(&queue, JobState::Dead).await, 9);
    let done = queue.redrive(&Redrive { dry_run: false, ..dry }).await.unwrap();
    assert_eq!((done.matched, done.ready, done.stopped), (4, 4, None));
    assert_eq!(queue.retry(ids[0]).await.unwrap(), RetryOutcome::Ready);
    assert_eq!(queue.retry(ids[0]).await.unwrap(), RetryOutcome::Unchanged(JobState::Ready));
    assert_eq!(count(&queue, JobState::Ready).await, 5);
    assert_eq!(queue.audit().await.unwrap(), []);
}

#[tokio::test]
async fn a_redrive_stops_when_too_many_fail_again() {
    let queue = Queue::memory();
    dead_jobs(&queue, 60).await;
    let fails_again = async |_: Task| Err::<(), _>(Fail::dead("still broken"));
    let worker = Worker::new(&queue).handle::<Task, _>(fails_again).start().unwrap();
    let careful = Redrive { max_failure_share: Some(0.5), ..Redrive::default() };
    let done = queue.redrive(&careful).await.unwrap();
    assert_eq!(done.stopped, Some(RedriveStop::TooManyFailures));
    assert!(done.ready < 60 || done.failed >= 10, "{done:?}");
    worker.drain(LONG).await;

    let works = async |_: Task| Ok::<(), Fail>(());
    let worker = Worker::new(&queue).handle::<Task, _>(works).start().unwrap();
    let done = queue.redrive(&careful).await.unwrap();
    assert_eq!((done.stopped, done.failed), (None, 0));
    assert_eq!(count(&queue, JobState::Dead).await, 0);
    assert_eq!(count(&queue, JobState::Completed).await, 60);
    worker.drain(LONG).await;
}

#[tokio::test]
async fn the_end_of_a_redrive_judges_few_outcomes_too() {
    let queue = Queue::memory();
    dead_jobs(&queue, 4).await;
    let fails_once_more = async |job: Task| match job.n {
        0 => Ok(()),
        _ => Err(Fail::dead("still broken")),
    };
    let worker = Worker::new(&queue).handle::<Task, _>(fails_once_more).start().unwrap();
    let careful = Redrive { max_failure_share: Some(0.5), ..Redrive::default() };
    let done = queue.redrive(&careful).await.unwrap();
    assert_eq!((done.ready, done.completed, done.failed), (4, 1, 3));
    assert_eq!(done.stopped, Some(RedriveStop::TooManyFailures));
    // As many as may fail are not too many, and none is no share.
    let all_may = Redrive { max_failure_share: Some(1.0), ..Redrive::default() };
    let done = queue.redrive(&all_may).await.unwrap();
    assert_eq!((done.failed, done.stopped), (3, None));
    worker.drain(LONG).await;
    let none = Redrive { kind: Some(Kind::new("none").unwrap()), ..careful };
    assert_eq!(queue.redrive(&none).await.unwrap().stopped, None);
}

#[tokio::test]
async fn a_brake_that_would_be_none_is_refused() {
    let queue = Queue::memory();
    dead_jobs(&queue, 1).await;
    for share in [20.0, -0.1, f64::NAN, f64::INFINITY] {
        let redrive = Redrive { max_failure_share: Some(share), ..Redrive::default() };
        let answer = queue.redrive(&redrive).await;
        assert!(matches!(answer, Err(Error::BadRequest(_))), "{share}: {answer:?}");
    }
    let redrive = Redrive { rate_per_sec: Some(0), ..Redrive::default() };
    assert!(matches!(queue.redrive(&redrive).await, Err(Error::BadRequest(_))));
    assert_eq!(count(&queue, JobState::Dead).await, 1, "nothing was changed");
}

#[tokio::test]
async fn a_redrive_goes_on_while_few_fail_again() {
    let queue = Queue::memory();
    dead_jobs(&queue, 60).await;
    let some_fail = async |job: Task| match job.n % 4 {
        0 => Err(Fail::dead("still broken")),
        _ => Ok(()),
    };
    let worker = Worker::new(&queue).handle::<Task, _>(some_fail).start().unwrap();
    let careful = Redrive { max_failure_share: Some(0.9), ..Redrive::default() };
    let done = queue.redrive(&careful).await.unwrap();
    assert_eq!((done.failed, done.completed, done.stopped), (15, 45, None));
    worker.drain(LONG).await;
}

#[tokio::test]
async fn a_careful_redrive_waits_for_what_runs() {
    let queue = Queue::memory();
    dead_jobs(&queue, 3).await;
    let slow = async |_: Task| {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        Ok::<(), Fail>(())
    };
    let worker = Worker::new(&queue).handle::<Task, _>(slow).start().unwrap();
    // Less than a job takes, and far more than a worker needs to start one.
    let patience = Some(Duration::from_millis(700));
    let careful = Redrive { max_failure_share: Some(0.5), patience, ..Redrive::default() };
    let done = queue.redrive(&careful).await.unwrap();
    assert_eq!((done.completed, done.stopped), (3, None));
    worker.drain(LONG).await;
}

/// Jobs that end between two looks are never seen running.
#[tokio::test(start_paused = true)]
async fn a_careful_redrive_waits_as_long_as_jobs_end() {
    let backend = MemoryBackend::new();
    let queue = Queue::new(backend.clone());
    let job = |n| task(n).max_attempts(1);
    queue.enqueue_all((0..5).map(job)).await.unwrap();
    for _ in 0..5 {
        end_one(&backend, died()).await;
    }
    let patience = Some(Duration::from_secs(60));
    let careful = Redrive { max_failure_share: Some(0.5), patience, ..Redrive::default() };
    let slowly = async {
        for _ in 0..5 {
            // Time stands still but for this: nothing is waited for.
            tokio::time::sleep(Duration::from_secs(40)).await;
            end_one(&backend, Outcome::Completed { result: None }).await;
        }
    };
    let (done, ()) = tokio::join!(queue.redrive(&careful), slowly);
    let done = done.unwrap();
    assert_eq!((done.completed, done.stopped), (5, None));
}

/// Not in bursts: what has failed may still be weak.
#[tokio::test(start_paused = true)]
async fn a_rate_spreads_jobs_over_each_second() {
    let backend = MemoryBackend::new();
    let queue = Queue::new(backend.clone());
    queue.enqueue_all((0..50).map(task)).await.unwrap();
    for _ in 0..50 {
        end_one(&backend, died()).await;
    }
    let gentle = Redrive { rate_per_sec: Some(50), ..Redrive::default() };
    let begun = tokio::time::Instant::now();
    let mut counts = Vec::new();
    let watching = async {
        for tenth in 0..9 {
            let at = begun + Duration::from_millis(100 * tenth + 50);
            tokio::time::sleep_until(at).await;
            counts.push(count(&queue, JobState::Ready).await);
        }
    };
    let (done, ()) = tokio::join!(queue.redrive(&gentle), watching);
    assert_eq!((done.unwrap().ready, begun.elapsed().as_millis()), (50, 900));
    assert_eq!(counts, [5, 10, 15, 20, 25, 30, 35, 40, 45]);
}

fn died() -> Outcome {
    Outcome::Dead { error: JobError::new(ErrorKind::Failed, "no") }
}

/// Ends the next job as a worker would.
async fn end_one(backend: &MemoryBackend, outcome: Outcome) {
    let request = ClaimRequest {
        token: ClaimToken::random(),
        worker: WorkerId::random(),
        queues: vec![QueueName::default()],
        kinds: vec![KindSlots::new(Kind::new(Task::KIND).unwrap(), 1)],
        max: 1,
        round_jobs: 0,
        lease: LONG,
    };
    let lease = backend.claim(&request).await.unwrap().leases.remove(0);
    let (id, token) = (lease.spec.id, lease.token);
    let settlements = vec![Settlement { id, token, outcome, elapsed: Duration::ZERO }];
    backend.settle(&SettleRequest { settlements, claim: None }).await.unwrap();
}

#[tokio::test]
async fn a_careful_redrive_without_workers_gives_up() {
    let queue = Queue::memory();
    dead_jobs(&queue, 5).await;
    let patience = Some(Duration::from_millis(60));
    let careful = Redrive { max_failure_share: Some(0.5), patience, ..Redrive::default() };
    // A redrive is long: whoever starts one may want to put it into a task of its own.
    let task = tokio::spawn(async move { queue.redrive(&careful).await });
    let done = task.await.unwrap().unwrap();
    assert_eq!((done.ready, done.stopped), (5, Some(RedriveStop::NoOutcomes)));
}

#[tokio::test]
async fn selections_are_purged_and_cancelled_page_by_page() {
    let queue = Queue::memory();
    let jobs = (0..1300).map(|n| task(n).queue(if n < 1200 { "big" } else { "small" }));
    queue.enqueue_all(jobs).await.unwrap();
    let big = QueueName::new("big").unwrap();
    let selection = Selection::of([JobState::Ready, JobState::Scheduled]).queue(Some(big));
    assert_eq!(queue.select(&selection, 30).await.unwrap().len(), 30);
    assert_eq!(queue.cancel_all(&selection).await.unwrap().cancelled, 1200);
    assert_eq!(queue.cancel_all(&selection).await.unwrap().cancelled, 0);
    assert_eq!(
        queue
            .purge(&Selection::of(JobState::ALL.into_iter().filter(|s| *s != JobState::Running)))
            .await
            .unwrap(),
        1300
    );
    assert_eq!(queue.stats().await.unwrap(), []);
    let running = queue.purge(&Selection::of([JobState::Running])).await;
    assert!(matches!(running, Err(Error::BadRequest(_))));
    assert_eq!(queue.audit().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_all_reaches_jobs_that_move_and_leaves_new_ones_alone() {
    let queue = Queue::memory();
    // Jobs that go round and round between running, retrying and ready.
    let restless = async |_: Task| {
        tokio::task::yield_now().await;
        Err::<(), _>(Fail::retry_in(Duration::from_millis(1), "again"))
    };
    let worker = Worker::new(&queue).concurrency(32).handle::<Task, _>(restless).start().unwrap();
    let jobs = (0..1500).map(|n| task(n).max_attempts(u16::MAX));
    queue.enqueue_all(jobs).await.unwrap();
    let live = [JobState::Scheduled, JobState::Ready, JobState::Running, JobState::Retrying];
    queue.cancel_all(&Selection::of(live)).await.unwrap();
    worker.drain(LONG).await;
    assert_eq!(count(&queue, JobState::Cancelled).await, 1500);

    // A producer that never stops does not keep it going.
    let producer = queue.clone();
    let flood = tokio::spawn(async move {
        for n in 0.. {
            producer.enqueue_all((0..50).map(|_| task(n))).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let ready = Selection::of([JobState::Ready]);
    let sweep = tokio::time::timeout(LONG, queue.purge(&ready)).await;
    flood.abort();
    sweep.unwrap().unwrap();
}

#[tokio::test]
async fn quarantined_jobs_of_a_queue_are_not_purged_blindly() {
    let queue = Queue::memory();
    let quarantined = Selection::of([JobState::Quarantined]);
    assert_eq!(queue.purge(&quarantined).await.unwrap(), 0);
    let refused = queue.purge(&quarantined.queue(Some(QueueName::default()))).await;
    assert!(matches!(refused, Err(Error::BadRequest(_))));
}

#[tokio::test]
async fn one_job_is_deleted_in_whatever_state() {
    let queue = Queue::memory();
    let id = queue.enqueue(task(1)).await.unwrap().id;
    assert_eq!(queue.delete(id).await.unwrap(), DeleteOutcome::Deleted);
    assert_eq!(queue.delete(id).await.unwrap(), DeleteOutcome::NotFound);
    let none = ListRequest { limit: 0, ..ListRequest::new(JobState::Ready) };
    assert!(matches!(queue.list(&none).await, Err(Error::BadRequest(_))));
}

#[tokio::test]
async fn memory_refuses_to_promise_more_than_it_has() {
    let queue = Queue::memory();
    let enqueued = queue.enqueue(task(1)).await.unwrap();
    assert_eq!(enqueued.durability, Durability::Memory);
    for more in [Durability::Fsync, Durability::Replicas(1)] {
        let refused = queue.clone().durability(more).enqueue(task(2)).await;
        assert!(matches!(refused, Err(Error::Unsupported(_))), "{refused:?}");
    }
    assert_eq!(count(&queue, JobState::Ready).await, 1);
}

#[tokio::test]
async fn a_paused_queue_runs_nothing_until_it_is_resumed() {
    let queue = Queue::memory();
    let name = QueueName::default();
    assert!(queue.pause(&name).await.unwrap());
    let works = async |_: Task| Ok::<(), Fail>(());
    let worker = Worker::new(&queue).handle::<Task, _>(works).start().unwrap();
    let id = queue.enqueue(task(1)).await.unwrap().id;
    let waited = queue.wait_finished(id, Duration::from_millis(50)).await.unwrap().unwrap();
    assert_eq!(
        (waited.state, queue.paused().await.unwrap()),
        (JobState::Ready, vec![name.clone()])
    );
    assert!(queue.resume(&name).await.unwrap());
    let done = queue.wait_finished(id, LONG).await.unwrap().unwrap();
    assert_eq!(done.state, JobState::Completed);
    worker.drain(LONG).await;
}

/// A store that hangs, as a server that is stopped, does not make a wait longer.
#[tokio::test]
async fn a_wait_ends_in_its_time_although_the_store_hangs() {
    let backend = Faulty::new(MemoryBackend::new());
    let queue = Queue::new(backend.clone());
    let id = queue.enqueue(task(1)).await.unwrap().id;
    let wait = queue.wait_finished(id, Duration::ZERO).await.unwrap();
    assert_eq!(wait.unwrap().state, JobState::Ready, "a look is made in any case");
    backend.looks_hang();
    let wait = queue.wait_finished(id, Duration::from_millis(20));
    let answer = tokio::time::timeout(LONG, wait).await.expect("it ends");
    assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
}

#[tokio::test]
async fn every_long_operation_fits_into_a_task() {
    fn fits(_: impl Future + Send) {}
    let (queue, selection) = (Queue::memory(), Selection::of([JobState::Ready]));
    fits(queue.purge(&selection));
    fits(queue.cancel_all(&selection));
    fits(queue.select(&selection, 1));
    fits(queue.dead_errors(None, None));
    fits(queue.redrive(&Redrive::default()));
    fits(queue.wait_finished(JobId::new(), LONG));
    fits(queue.repair());
}
