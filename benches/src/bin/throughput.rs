//! Enqueues jobs, works on them, and says how long each took.
//!
//! ```text
//! cargo run --release -p queue-benches --bin throughput -- --url redis://127.0.0.1:6379
//! ```
//!
//! The figures of one run are comparable with each other and with nothing else: measure what you
//! compare in the same run, on the same machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use queue::{
    Connect, Context, EnqueueOutcome, Executor, Fail, Kind, NewJob, Payload, Queue, Worker,
};
use tokio::sync::Notify;

#[derive(Debug, Parser)]
struct Arguments {
    /// The store; it should hold nothing else.
    #[arg(long, env = "WORKERD_URL", default_value = "memory://")]
    url: String,
    /// How many jobs.
    #[arg(long, default_value_t = 100_000)]
    jobs: u64,
    /// How many bytes each carries.
    #[arg(long, default_value_t = 100)]
    payload_bytes: usize,
    /// How many run at a time.
    #[arg(long, default_value_t = 200)]
    concurrency: usize,
    /// How many pick-ups by an idle worker are timed.
    #[arg(long, default_value_t = 200)]
    pick_ups: u64,
}

/// Does nothing but count, and tells when the last one is done.
#[derive(Clone, Default)]
struct Counter {
    done: Arc<AtomicU64>,
    changed: Arc<Notify>,
}

impl Executor for Counter {
    async fn run(&self, _: Context) -> Result<Option<Payload>, Fail> {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
        Ok(None)
    }
}

impl Counter {
    async fn reaches(&self, count: u64) {
        while self.done.load(Ordering::Relaxed) < count {
            self.changed.notified().await;
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let queue = Queue::connect(&arguments.url).await?;
    let kind = Kind::new("bench.nothing")?;
    let payload = Payload::raw(vec![b'x'; arguments.payload_bytes]);
    let job = || NewJob::new(kind.clone(), payload.clone());

    let one_by_one = arguments.jobs.min(2000);
    let started = Instant::now();
    for _ in 0..one_by_one {
        queue.enqueue(job()).await?;
    }
    report("enqueue, one caller", one_by_one, started.elapsed());

    let bulk = arguments.jobs - one_by_one;
    let started = Instant::now();
    let outcomes = queue.enqueue_all((0..bulk).map(|_| job())).await?;
    report("enqueue, bulk", bulk, started.elapsed());
    let all_new =
        |outcome: &EnqueueOutcome| matches!(outcome, EnqueueOutcome::Done(done) if !done.duplicate);
    anyhow::ensure!(outcomes.iter().all(all_new), "an enqueue met a job that was there");

    let counter = Counter::default();
    let started = Instant::now();
    let worker = Worker::new(&queue)
        .concurrency(arguments.concurrency)
        .executor(kind.clone(), None, counter.clone())
        .start()?;
    counter.reaches(arguments.jobs).await;
    report("drain", arguments.jobs, started.elapsed());

    let mut pick_ups = Vec::new();
    for n in 1..=arguments.pick_ups {
        // Long enough for the worker to have gone to sleep.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let started = Instant::now();
        queue.enqueue(job()).await?;
        counter.reaches(arguments.jobs + n).await;
        pick_ups.push(started.elapsed());
    }
    pick_ups.sort();
    if let (Some(median), Some(late)) = (percentile(&pick_ups, 50), percentile(&pick_ups, 99)) {
        println!("{:<22} p50 {median:>9.2?}   p99 {late:>9.2?}", "pick-up when idle");
    }

    let stopped = worker.drain(Duration::from_secs(30)).await;
    let runs = counter.done.load(Ordering::Relaxed);
    let expected = arguments.jobs + arguments.pick_ups;
    anyhow::ensure!(runs == expected, "{runs} runs of {expected} jobs");
    anyhow::ensure!(stopped.released + stopped.lost == 0, "{stopped:?}");
    Ok(())
}

fn report(what: &str, jobs: u64, elapsed: Duration) {
    let seconds = elapsed.as_secs_f64();
    println!("{what:<22} {jobs:>9} jobs in {seconds:>7.3} s = {:>9.0}/s", jobs as f64 / seconds);
}

fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied()
}
