//! The load generator: what enqueueing, draining, picking up and waiting cost, on a redis-server of
//! its own and on SQLite, beside what the store alone can do in the same run.
//!
//! ```text
//! cargo run --release -p queue-benches --bin load -- --json figures.json
//! cargo run --release -p queue-benches --bin load -- --only drain,latency --rounds 5
//! ```
//!
//! Rounds alternate between what is compared. Every job is numbered, and at the end of each part
//! every number must have run once and no other. Figures of one run are comparable with each other
//! and with nothing else.

mod backlog;
mod commands;
mod drain;
mod enqueue;
mod idle;
mod latency;
mod limits;
mod sqlite;
mod store;

use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Parser, ValueEnum};
use queue_benches::results::Results;

#[derive(Debug, Clone, Parser)]
struct Settings {
    /// What to measure; without this, all but `backlog`, which needs a while and memory.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// How many jobs a drain has.
    #[arg(long, default_value_t = 100_000)]
    jobs: usize,
    /// How many bytes a payload has, at least 8.
    #[arg(long, default_value_t = 100)]
    payload_bytes: usize,
    /// How many jobs a worker runs at a time.
    #[arg(long, default_value_t = 200)]
    concurrency: usize,
    /// How many milliseconds an attempt takes in a drain, on the average.
    #[arg(long, default_value_t = 0)]
    attempt_ms: u64,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Jobs a second of the open loop.
    #[arg(long, default_value_t = 5_000)]
    rate: u64,
    /// How long the open loop and the idle worker are watched.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How many jobs lie behind those that are drained in `backlog`.
    #[arg(long, default_value_t = 1_000_000)]
    backlog: usize,
    /// Where the figures go, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The daemon, for `commands`; built by `cargo build --release -p workerd`.
    #[arg(long, default_value = "target/release/workerd")]
    workerd: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// One caller, 64 callers, bulk.
    Enqueue,
    /// Ready jobs, by one worker.
    Drain,
    /// Pick-up by an idle worker, and under a steady load.
    Latency,
    /// Two limit keys on every job.
    Limits,
    /// A worker on 100 queues with nothing to do.
    Idle,
    /// Bulk and drain on SQLite.
    Sqlite,
    /// Commands run by the daemon.
    Commands,
    /// A drain in front of many more jobs.
    Backlog,
}

const USUAL: [Part; 7] = [
    Part::Enqueue,
    Part::Drain,
    Part::Latency,
    Part::Limits,
    Part::Idle,
    Part::Sqlite,
    Part::Commands,
];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    let mut results = Results::default();
    about(&settings, &mut results)?;
    let parts = if settings.only.is_empty() { &USUAL[..] } else { &settings.only };
    for round in 1..=settings.rounds {
        for part in parts {
            eprintln!("round {round}, {part:?}");
            match part {
                Part::Enqueue => enqueue::run(&settings, &mut results).await?,
                Part::Drain => drain::run(&settings, &mut results).await?,
                Part::Latency => latency::run(&settings, &mut results).await?,
                Part::Limits => limits::run(&settings, &mut results).await?,
                Part::Idle => idle::run(&settings, &mut results).await?,
                Part::Sqlite => sqlite::run(&settings, &mut results).await?,
                Part::Commands => commands::run(&settings, &mut results).await?,
                Part::Backlog => backlog::run(&settings, &mut results).await?,
            }
        }
    }
    println!("{results}");
    if let Some(path) = &settings.json {
        results.write(path)?;
    }
    Ok(())
}

fn about(settings: &Settings, results: &mut Results) -> anyhow::Result<()> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    results.tell("seconds since 1970", since.as_secs());
    results.tell("processors", std::thread::available_parallelism()?);
    results.tell("redis", store::Store::start()?.figures()?.version()?);
    results.tell("jobs", settings.jobs);
    results.tell("payload bytes", settings.payload_bytes);
    results.tell("concurrency", settings.concurrency);
    results.tell("attempt ms", settings.attempt_ms);
    results.tell("rounds", settings.rounds);
    Ok(())
}
