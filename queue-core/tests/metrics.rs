//! The metrics of the library, as a recorder gets them. Alone in its process, which has one
//! recorder.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{
    Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use queue_core::{
    Backoff, Context, Fail, Job, JobId, JobState, ManualClock, MemoryBackend, NewJob, OnConflict,
    Queue, Timestamp, Worker,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

const LONG: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_millis(1);

/// Counts what is counted, and how often something is measured.
#[derive(Debug, Clone, Default)]
struct Counts(Arc<Mutex<BTreeMap<String, Arc<Count>>>>);

#[derive(Debug, Default)]
struct Count(AtomicU64);

impl CounterFn for Count {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::SeqCst);
    }

    fn absolute(&self, _: u64) {}
}

impl HistogramFn for Count {
    fn record(&self, _: f64) {
        self.increment(1);
    }
}

impl Counts {
    fn of(&self, key: &Key) -> Arc<Count> {
        let labels: Vec<&str> = key.labels().map(metrics::Label::value).collect();
        let name = format!("{} {}", key.name(), labels.join(" "));
        Arc::clone(self.0.lock().unwrap().entry(name.trim().to_owned()).or_default())
    }

    /// What is not zero of the metrics whose names and labels begin so.
    fn beginning(&self, with: &str) -> Vec<(String, u64)> {
        let counts = self.0.lock().unwrap();
        let rest = |(name, count): (&String, &Arc<Count>)| {
            let rest = name.strip_prefix(with)?.trim().to_owned();
            let count = count.0.load(Ordering::SeqCst);
            (count > 0).then_some((rest, count))
        };
        counts.iter().filter_map(rest).collect()
    }

    fn count(&self, name: &str) -> u64 {
        self.beginning(name).iter().map(|(_, count)| count).sum()
    }
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.of(key))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.of(key))
    }
}

#[derive(Debug, Serialize, Deserialize, Clone, Copy, PartialEq)]
enum Act {
    Complete,
    Fail,
    Die,
    SnoozeOnce,
    ThrottleOnce,
    UntilCancelled,
    UntilGiven,
}

impl Job for Act {
    const KIND: &'static str = "act";
}

fn act(act: Act, queue: &str) -> NewJob {
    NewJob::of(&act).unwrap().queue(queue).max_attempts(2).backoff(Backoff::Fixed(SOON))
}

/// What handlers wait for, and how many have begun.
#[derive(Debug, Clone)]
struct Stage {
    given: Arc<Semaphore>,
    begun: Arc<Semaphore>,
    once: Arc<Mutex<Vec<JobId>>>,
}

async fn run(stage: queue_core::State<Stage>, context: Context, act: Act) -> Result<(), Fail> {
    let stage = stage.0;
    stage.begun.add_permits(1);
    let first = {
        let mut met = stage.once.lock().unwrap();
        let first = !met.contains(&context.job_id());
        met.push(context.job_id());
        first
    };
    match act {
        Act::Fail => Err(Fail::retry("no")),
        Act::Die => Err(Fail::dead("no")),
        Act::SnoozeOnce if first => Err(Fail::snooze(SOON)),
        Act::ThrottleOnce if first => Err(Fail::throttled(SOON)),
        Act::UntilCancelled => {
            context.cancelled().await;
            Err(Fail::retry("stopped"))
        }
        Act::UntilGiven => {
            stage.given.acquire().await.unwrap().forget();
            Ok(())
        }
        _ => Ok(()),
    }
}

fn of(counts: &[(&str, u64)]) -> Vec<(String, u64)> {
    counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// One test: there is one recorder.
#[tokio::test]
async fn each_end_of_an_attempt_and_each_enqueue_is_counted() {
    let counts = Counts::default();
    metrics::set_global_recorder(counts.clone()).unwrap();
    enqueues_by_result(&counts).await;
    attempts_by_outcome(&counts).await;
    lost_leases(&counts).await;
}

async fn enqueues_by_result(counts: &Counts) {
    let queue = Queue::memory();
    let first = act(Act::Complete, "enqueues");
    queue.enqueue(first.clone()).await.unwrap();
    queue.enqueue(first.clone()).await.unwrap();
    let rejected = first.on_conflict(OnConflict::Reject);
    queue.enqueue(rejected.clone()).await.unwrap_err();
    let more = queue.clone().durability(queue_core::Durability::Fsync);
    more.enqueue_all([rejected.clone(), rejected]).await.unwrap_err();
    let expected = [("conflict", 1), ("created", 1), ("duplicate", 1), ("refused", 2)];
    assert_eq!(counts.beginning("queue_enqueued_total enqueues act"), of(&expected));
    let expected = [("error", 1), ("ok", 3)];
    assert_eq!(counts.beginning("queue_store_op_seconds enqueue"), of(&expected));
}

async fn attempts_by_outcome(counts: &Counts) {
    let queue = Queue::memory();
    let none = || Arc::new(Semaphore::new(0));
    let stage = Stage { given: none(), begun: none(), once: Arc::default() };
    let selection = queue_core::QueueSelection::strict(["ends"]).unwrap();
    let worker = Worker::new(&queue).queues(selection).state(stage.clone());
    let worker = worker.handle::<Act, _>(run).start().unwrap();
    for what in [Act::Complete, Act::Fail, Act::Die, Act::SnoozeOnce, Act::ThrottleOnce] {
        let id = queue.enqueue(act(what, "ends")).await.unwrap().id;
        queue.wait_finished(id, LONG).await.unwrap().unwrap();
    }
    let begun = || async { stage.begun.acquire().await.unwrap().forget() };
    for _ in 0..8 {
        begun().await;
    }
    let id = queue.enqueue(act(Act::UntilCancelled, "ends")).await.unwrap().id;
    begun().await;
    queue.cancel(id).await.unwrap();
    queue.wait_finished(id, LONG).await.unwrap().unwrap();
    queue.enqueue(act(Act::UntilGiven, "ends")).await.unwrap();
    begun().await;
    worker.stop_now().await;
    let outcomes = [
        ("cancelled", 1),
        ("completed", 3),
        ("dead", 2),
        ("released", 1),
        ("retried", 1),
        ("snoozed", 1),
        ("throttled", 1),
    ];
    for metric in ["queue_finished_total", "queue_run_seconds"] {
        assert_eq!(counts.beginning(&format!("{metric} ends act")), of(&outcomes));
    }
    assert_eq!(counts.count("queue_wait_seconds ends"), 10);
    assert_eq!(counts.count("queue_redeliveries_total ends"), 0);
    assert_eq!(counts.count("queue_stale_settles_total ends"), 0);
}

async fn lost_leases(counts: &Counts) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_ms(4_102_444_800_000)));
    let queue = Queue::new(MemoryBackend::with_clock(clock.clone()));
    let none = || Arc::new(Semaphore::new(0));
    let stage = Stage { given: none(), begun: none(), once: Arc::default() };
    let selection = queue_core::QueueSelection::strict(["lost"]).unwrap();
    let day = Duration::from_secs(24 * 3600);
    let in_time = std::time::UNIX_EPOCH + Duration::from_millis(4_102_444_800_001);
    queue.enqueue(act(Act::Complete, "lost").expires_at(in_time)).await.unwrap();
    clock.advance(Duration::from_millis(1));
    let worker = Worker::new(&queue).queues(selection).lease(day).state(stage.clone());
    let worker = worker.handle::<Act, _>(run).start().unwrap();
    let id = queue.enqueue(act(Act::UntilGiven, "lost")).await.unwrap().id;
    stage.begun.acquire().await.unwrap().forget();
    // The store's time goes on and the worker's does not: nobody has renewed the lease.
    clock.advance(day);
    // Wakes the worker, which then finds that there is housekeeping to do.
    queue.enqueue(act(Act::Complete, "lost")).await.unwrap();
    for _ in 0..2 {
        stage.begun.acquire().await.unwrap().forget();
    }
    assert_eq!(counts.beginning("queue_leases_expired_total"), of(&[("lost", 1)]));
    assert_eq!(counts.count("queue_redeliveries_total lost"), 1);
    stage.given.add_permits(2);
    let record = queue.wait_finished(id, LONG).await.unwrap().unwrap();
    assert_eq!((record.state, record.stalls), (JobState::Completed, 1));
    let report = worker.drain(LONG).await;
    assert_eq!((report.finished, report.lost), (2, 1));
    let outcomes = [("completed", 2), ("expired", 1), ("lease_lost", 1)];
    assert_eq!(counts.beginning("queue_finished_total lost act"), of(&outcomes));
    assert_eq!(counts.count("queue_stale_settles_total lost"), 1);
}
