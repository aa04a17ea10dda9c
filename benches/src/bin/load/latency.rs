//! How long jobs wait: picked up by an idle worker, beside a bare hand-over by `BLPOP`; and under a
//! steady load. The load comes by the clock, whatever the store does, and each wait counts from
//! when its job should have come: a store that stalls shows in all the jobs that it made wait.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use queue::{Context, Executor, Fail, Payload, Worker};
use queue_benches::delivery::Delivery;
use queue_benches::results::Results;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Settings;
use super::store::{Store, kind};

const PICK_UPS: u64 = 300;
/// Long enough for a worker to have gone to sleep.
const REST: Duration = Duration::from_millis(20);

pub(crate) async fn run(settings: &Settings, results: &mut Results) -> anyhow::Result<()> {
    pick_ups(settings, results).await?;
    for percentile in ["p50", "p99"] {
        results.add_ratio(
            &format!("pick-up when idle / BLPOP, {percentile}"),
            &format!("pick-up when idle, {percentile}"),
            &format!("BLPOP hand-over, {percentile}"),
        );
    }
    open_loop(settings, results).await
}

fn report(results: &mut Results, name: &str, waits: &Histogram<u64>) {
    for (percentile, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
        let us = waits.value_at_quantile(quantile) as f64 / 1e3;
        results.add(&format!("{name}, {percentile}"), "us", us);
    }
}

/// In nanoseconds, three digits.
fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}

fn note(waits: &mut Histogram<u64>, wait: Duration) {
    waits.saturating_record(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX));
}

/// Two that wait, a bare client and an idle worker, take turns: whatever the machine does, it does to both. Who
/// calls is a task, as in a service: the thread that runs `main` is no part of the runtime.
async fn pick_ups(settings: &Settings, results: &mut Results) -> anyhow::Result<()> {
    let (concurrency, bytes) = (settings.concurrency, settings.payload_bytes);
    let waits = tokio::spawn(hand_overs_and_pick_ups(concurrency, bytes)).await;
    let (hand_overs, pick_ups) = waits.context("the task panicked")??;
    report(results, "BLPOP hand-over", &hand_overs);
    report(results, "pick-up when idle", &pick_ups);
    Ok(())
}

async fn hand_overs_and_pick_ups(
    concurrency: usize,
    bytes: usize,
) -> anyhow::Result<(Histogram<u64>, Histogram<u64>)> {
    let mut bare = HandOver::start().await?;
    let store = Store::start()?;
    let queue = store.queue().await?;
    let (sender, mut starts) = mpsc::unbounded_channel();
    let kind = kind()?;
    let worker = Worker::new(&queue)
        .concurrency(concurrency)
        .executor(kind.clone(), None, Starts(sender))
        .start()?;
    let (mut hand_overs, mut waits) = (histogram()?, histogram()?);
    for number in 0..PICK_UPS {
        tokio::time::sleep(REST).await;
        note(&mut hand_overs, bare.hand_over(number).await?);
        tokio::time::sleep(REST).await;
        let job = Delivery::job(&kind, number, bytes);
        let enqueued = Instant::now();
        queue.enqueue(job).await?;
        if let Some(started) = starts.recv().await {
            note(&mut waits, started.saturating_duration_since(enqueued));
        }
    }
    worker.drain(Duration::from_secs(10)).await;
    Ok((hand_overs, waits))
}

/// The least that waking somebody up costs through this server and client library.
struct HandOver {
    pushes: redis::aio::MultiplexedConnection,
    popped: mpsc::UnboundedReceiver<Instant>,
    popper: JoinHandle<()>,
    _store: Store,
}

impl HandOver {
    async fn start() -> anyhow::Result<Self> {
        let store = Store::start()?;
        let client = redis::Client::open(store.url())?;
        let pushes = client.get_multiplexed_async_connection().await?;
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        let mut pops = client.get_multiplexed_async_connection_with_config(&config).await?;
        let (sender, popped) = mpsc::unbounded_channel();
        let popper = tokio::spawn(async move {
            loop {
                let answer: redis::RedisResult<(String, u64)> =
                    redis::cmd("BLPOP").arg("hand").arg(0).query_async(&mut pops).await;
                if answer.is_err() || sender.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { pushes, popped, popper, _store: store })
    }

    /// How long it takes until the popper has it.
    async fn hand_over(&mut self, number: u64) -> anyhow::Result<Duration> {
        let pushed = Instant::now();
        redis::cmd("RPUSH").arg("hand").arg(number).exec_async(&mut self.pushes).await?;
        let popped = self.popped.recv().await.context("the popper has ended")?;
        Ok(popped.saturating_duration_since(pushed))
    }
}

impl Drop for HandOver {
    fn drop(&mut self) {
        self.popper.abort();
    }
}

/// Tells when each job started.
#[derive(Clone)]
struct Starts(mpsc::UnboundedSender<Instant>);

impl Executor for Starts {
    async fn run(&self, _: Context) -> Result<Option<Payload>, Fail> {
        let _ = self.0.send(Instant::now());
        Ok(None)
    }
}

/// When each job should have come, and how long it then took to start.
#[derive(Clone)]
struct Schedule {
    first: Instant,
    every: Duration,
    waits: Arc<Mutex<Histogram<u64>>>,
    delivery: Delivery,
}

impl Schedule {
    fn wait_of(&self, number: u64) -> Duration {
        self.due(number).elapsed()
    }

    fn due(&self, number: u64) -> Instant {
        self.first + self.every.mul_f64(number as f64)
    }
}

impl Executor for Schedule {
    async fn run(&self, context: Context) -> Result<Option<Payload>, Fail> {
        let payload = &context.spec().payload;
        if let Some(number) = Delivery::number(payload) {
            let wait = self.wait_of(number);
            note(&mut self.waits.lock().unwrap_or_else(PoisonError::into_inner), wait);
        }
        self.delivery.ran(payload);
        Ok(None)
    }
}

async fn open_loop(settings: &Settings, results: &mut Results) -> anyhow::Result<()> {
    let store = Store::start()?;
    let queue = store.queue().await?;
    let jobs = settings.rate * settings.seconds;
    let schedule = Schedule {
        first: Instant::now() + Duration::from_millis(100),
        every: Duration::from_secs(1).div_f64(settings.rate as f64),
        waits: Arc::new(Mutex::new(histogram()?)),
        delivery: Delivery::new(usize::try_from(jobs)?),
    };
    let kind = kind()?;
    let worker = Worker::new(&queue)
        .concurrency(settings.concurrency)
        .executor(kind.clone(), None, schedule.clone())
        .start()?;
    let acknowledged = Arc::new(Mutex::new(histogram()?));
    let runtime = tokio::runtime::Handle::current();
    // A thread of its own: the clock must not wait for a busy runtime.
    let clock = {
        let (schedule, acknowledged) = (schedule.clone(), acknowledged.clone());
        let bytes = settings.payload_bytes;
        std::thread::spawn(move || {
            for number in 0..jobs {
                std::thread::sleep(schedule.due(number).saturating_duration_since(Instant::now()));
                let (queue, schedule) = (queue.clone(), schedule.clone());
                let (kind, acknowledged) = (kind.clone(), acknowledged.clone());
                runtime.spawn(async move {
                    // A job that is refused is missed by the check at the end.
                    if queue.enqueue(Delivery::job(&kind, number, bytes)).await.is_ok() {
                        let wait = schedule.wait_of(number);
                        note(
                            &mut acknowledged.lock().unwrap_or_else(PoisonError::into_inner),
                            wait,
                        );
                    }
                });
            }
        })
    };
    let deadline = Duration::from_secs(settings.seconds + 60);
    let all = tokio::time::timeout(deadline, schedule.delivery.reaches(jobs)).await;
    anyhow::ensure!(all.is_ok(), "{} of {jobs} jobs ran", schedule.delivery.runs());
    anyhow::ensure!(clock.join().is_ok(), "the clock panicked");
    worker.drain(Duration::from_secs(10)).await;
    schedule.delivery.check()?;
    let name = format!("open loop at {}/s", settings.rate);
    let taken = |waits: &Mutex<Histogram<u64>>| {
        waits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    };
    report(results, &format!("{name}, acknowledged"), &taken(&acknowledged));
    report(results, &format!("{name}, started"), &taken(&schedule.waits));
    Ok(())
}
