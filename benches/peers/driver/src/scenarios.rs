//! What is measured of each contestant.

use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::contestants::{Contestant, Store};
use crate::process::{self, WorkerProcess};
use crate::redis_server::{Redis, Usage};
use crate::report::Measured;

#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Settings {
    /// Jobs that are enqueued in bulk and drained.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) jobs: u32,
    /// Jobs that one caller enqueues one by one, and that 64 callers do.
    #[arg(long, default_value_t = 20_000)]
    pub(crate) single_jobs: u32,
    /// Pick-ups by an idle worker that are timed.
    #[arg(long, default_value_t = 200)]
    pub(crate) pick_ups: u32,
    /// No more of them are begun after so many seconds.
    #[arg(long, default_value_t = 30)]
    pub(crate) pick_up_seconds: u32,
    /// Redis keeps an append-only file.
    #[arg(long)]
    pub(crate) appendonly: bool,
}

/// A worker that has not run a job for so long will run none.
const STUCK: Duration = Duration::from_secs(30);
/// A drain that takes longer is ended.
const DRAIN_MAX: Duration = Duration::from_secs(120);
/// With fewer jobs, what a peer keeps besides them would count as theirs.
const MEMORY_JOBS: f64 = 20_000.0;
/// After the last job: time for reports to arrive, and for a job to run twice.
const AFTER: Duration = Duration::from_millis(300);

/// A store that holds nothing.
struct Fresh {
    redis: Option<Redis>,
    url: String,
    /// Removed when the server has ended, which is declared before it.
    folder: TempDir,
}

impl Fresh {
    fn new(store: Store, settings: &Settings) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (redis, url) = match store {
            Store::Redis => {
                let redis = Redis::start(folder.path(), settings.appendonly)?;
                let url = redis.url();
                (Some(redis), url)
            }
            Store::Sqlite => (None, format!("sqlite://{}/queue.db", folder.path().display())),
        };
        Ok(Self { redis, url, folder })
    }

    fn usage(&self) -> anyhow::Result<Option<Usage>> {
        self.redis.as_ref().map(Redis::usage).transpose()
    }
}

/// Every scenario that the contestant can take part in, once. One that fails is noted, and the
/// next one has its turn.
pub(crate) fn all(peer: &mut Measured, settings: &Settings) {
    let store = peer.contestant.store;
    let jobs = settings.jobs;
    // Each of them is a transaction of its own, and with `fsync` a wait for the disk.
    let single =
        if store == Store::Sqlite { settings.single_jobs / 10 } else { settings.single_jobs };
    let drained = jobs.min(peer.contestant.jobs_max.unwrap_or(u32::MAX));
    peer.attempt("enqueue one by one", |peer| {
        enqueue(peer, &Fresh::new(store, settings)?, single, "one")
    });
    if store == Store::Redis {
        peer.attempt("enqueue by many", |peer| {
            enqueue(peer, &Fresh::new(store, settings)?, single, "many")
        });
    }
    for processes in [1, 2] {
        peer.attempt(&format!("drain by {processes}"), |peer| {
            let fresh = Fresh::new(store, settings)?;
            fill(peer, &fresh, drained)?;
            drain(peer, &fresh, drained, processes)
        });
    }
    if drained < jobs {
        peer.attempt("enqueue in bulk", |peer| fill(peer, &Fresh::new(store, settings)?, jobs));
    }
    peer.attempt("pick-up", |peer| pick_up(peer, &Fresh::new(store, settings)?, settings));
}

/// Jobs per second that one worker process drains at this concurrency.
pub(crate) fn drain_rate(
    contestant: &Contestant,
    concurrency: usize,
    jobs: u32,
    settings: &Settings,
) -> anyhow::Result<f64> {
    let mut peer = Measured::new(contestant.clone(), concurrency, Vec::new());
    let fresh = Fresh::new(contestant.store, settings)?;
    fill(&mut peer, &fresh, jobs)?;
    drain(&mut peer, &fresh, jobs, 1)?;
    anyhow::ensure!(peer.notes.is_empty(), "{}", peer.notes.join("; "));
    Ok(peer.values.get("drain_1_per_s").and_then(|rates| rates.first()).copied().unwrap_or(0.0))
}

/// As fast as the contestant can, which is a measurement of its own if it has a bulk call.
fn fill(peer: &mut Measured, fresh: &Fresh, jobs: u32) -> anyhow::Result<()> {
    enqueue(peer, fresh, jobs, if peer.contestant.bulk { "bulk" } else { "many" })
}

#[derive(Deserialize)]
struct Took {
    jobs: u32,
    seconds: f64,
}

fn enqueue(peer: &mut Measured, fresh: &Fresh, jobs: u32, mode: &str) -> anyhow::Result<()> {
    let before = fresh.usage()?;
    let options = ["--jobs", &jobs.to_string(), "--mode", mode];
    let took: Took = process::run(&peer.contestant, "enqueue", &fresh.url, &options)?;
    anyhow::ensure!(took.jobs == jobs, "enqueued {} of {jobs}", took.jobs);
    let jobs = f64::from(jobs);
    peer.push(&format!("enqueue_{mode}_per_s"), jobs / took.seconds);
    if let (Some(before), Some(after)) = (before, fresh.usage()?) {
        cost(peer, &format!("enqueued_{mode}"), before, after, jobs);
        if jobs >= MEMORY_JOBS {
            let bytes = (after.memory_bytes - before.memory_bytes) / jobs;
            peer.push("bytes_per_queued_job", bytes);
        }
    }
    Ok(())
}

fn cost(peer: &mut Measured, what: &str, before: Usage, after: Usage, jobs: f64) {
    peer.push(&format!("redis_cpu_us_per_{what}"), (after.cpu_us - before.cpu_us) / jobs);
    peer.push(&format!("redis_commands_per_{what}"), (after.commands - before.commands) / jobs);
    peer.push(&format!("redis_reads_per_{what}"), (after.reads - before.reads) / jobs);
}

fn drain(peer: &mut Measured, fresh: &Fresh, jobs: u32, processes: usize) -> anyhow::Result<()> {
    let before = fresh.usage()?;
    let path = |index: usize| fresh.folder.path().join(format!("tally-{index}"));
    let mut workers = Vec::new();
    for index in 0..processes {
        let (contestant, concurrency) = (&peer.contestant, peer.concurrency);
        let tally = path(index);
        workers.push(WorkerProcess::start(contestant, &fresh.url, jobs, concurrency, &tally)?);
    }
    for worker in &mut workers {
        worker.ready()?;
    }
    let started = Instant::now();
    let done = finish(&mut workers, u64::from(jobs))?;
    let took = started.elapsed();
    std::thread::sleep(AFTER);
    let cpu_us = workers.iter().map(WorkerProcess::cpu_us).sum::<anyhow::Result<f64>>()?;
    let after = fresh.usage()?;
    let ended = workers.into_iter().map(WorkerProcess::stop).collect::<Result<Vec<_>, _>>()?;
    let tallies = (0..processes).map(|index| std::fs::read(path(index)));
    let tallies = tallies.collect::<Result<Vec<_>, _>>()?;
    if done < u64::from(jobs) {
        peer.note(format!("drain by {processes}: {done} of {jobs} jobs in {took:.0?}, given up"));
        return Ok(());
    }
    deliveries(peer, &tallies, jobs);
    let first = ended.iter().map(|ended| ended.first_us).min().unwrap_or_default();
    let last = ended.iter().map(|ended| ended.last_us).max().unwrap_or_default();
    let seconds = Duration::from_micros(last.saturating_sub(first)).as_secs_f64();
    let jobs = f64::from(jobs);
    peer.push(&format!("drain_{processes}_per_s"), jobs / seconds);
    peer.push(&format!("worker_cpu_us_per_drained_{processes}"), cpu_us / jobs);
    if let (Some(before), Some(after)) = (before, after) {
        cost(peer, &format!("drained_{processes}"), before, after, jobs);
    }
    Ok(())
}

/// Waits until all jobs have run, or none does any more. How many have.
fn finish(workers: &mut [WorkerProcess], jobs: u64) -> anyhow::Result<u64> {
    let mut before = 0;
    let started = Instant::now();
    let mut since = started;
    loop {
        let done = workers.iter_mut().map(WorkerProcess::done).sum::<anyhow::Result<u64>>()?;
        if done >= jobs || since.elapsed() > STUCK || started.elapsed() > DRAIN_MAX {
            return Ok(done);
        }
        if done != before {
            (before, since) = (done, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every job exactly once?
fn deliveries(peer: &mut Measured, tallies: &[Vec<u8>], jobs: u32) {
    let (mut missing, mut doubled) = (0u32, 0u32);
    for index in 0..jobs as usize {
        let runs = tallies.iter().filter_map(|tally| tally.get(index));
        match runs.map(|&runs| u32::from(runs)).sum::<u32>() {
            0 => missing += 1,
            1 => {}
            _ => doubled += 1,
        }
    }
    peer.push("missing_jobs", f64::from(missing));
    peer.push("doubled_jobs", f64::from(doubled));
}

#[derive(Deserialize)]
struct PickUps {
    latencies_us: Vec<u64>,
    missing: u32,
}

fn pick_up(peer: &mut Measured, fresh: &Fresh, settings: &Settings) -> anyhow::Result<()> {
    let options = [
        "--jobs",
        &settings.pick_ups.to_string(),
        "--concurrency",
        &peer.concurrency.to_string(),
        "--seconds",
        &settings.pick_up_seconds.to_string(),
    ];
    let picked: PickUps = process::run(&peer.contestant, "pickup", &fresh.url, &options)?;
    if picked.missing > 0 {
        peer.note("pick-up: a job was not started within 25 s".to_owned());
    }
    let mut latencies = picked.latencies_us;
    latencies.sort_unstable();
    peer.push("pick_ups", latencies.len() as f64);
    for (name, percent) in [("pick_up_p50_ms", 50), ("pick_up_p99_ms", 99)] {
        if let Some(us) = percentile(&latencies, percent) {
            peer.push(name, us as f64 / 1000.0);
        }
    }
    Ok(())
}

pub(crate) fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied()
}
