//! How many instructions the hot paths take for each job, counted by valgrind: the same number
//! whatever else the machine does, to a few in a thousand.
//!
//! ```text
//! cargo run --release -p queue-benches --bin instructions
//! ```
//!
//! Each case runs twice, once with more jobs: what the start and the end take cancels out.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use queue::{Connect as _, Job, JobOptions, NewJob, Queue, Retention, Worker};
use queue_benches::delivery::Delivery;
use queue_benches::redis_server::Redis;
use queue_benches::results::Results;
use serde::{Deserialize, Serialize};

#[derive(Debug, Parser)]
struct Arguments {
    /// Only this one, and here, not under valgrind.
    #[arg(long, requires = "jobs")]
    case: Option<Case>,
    #[arg(long)]
    jobs: Option<usize>,
    /// The store of the cases that need one.
    #[arg(long, default_value = "memory://")]
    url: String,
    /// Where the figures go, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Case {
    /// Makes a typed job and checks it.
    New,
    /// Reads a typed payload.
    Decode,
    /// Reads the options of a stored job.
    Options,
    /// Enqueues jobs in bulk.
    Enqueue,
    /// Enqueues jobs in bulk and runs them.
    Life,
}

impl Case {
    const fn name(self) -> &'static str {
        match self {
            Self::New => "make and check a job",
            Self::Decode => "decode a payload",
            Self::Options => "decode options",
            Self::Enqueue => "enqueue in bulk",
            Self::Life => "enqueue in bulk and run",
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Email {
    to: String,
    template: String,
    body: String,
}

impl Job for Email {
    const KIND: &'static str = "email.send";
}

/// About 100 bytes as MessagePack.
fn email() -> Email {
    let body = "x".repeat(40);
    Email { to: "somebody@example.org".to_owned(), template: "welcome".to_owned(), body }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let (Some(case), Some(jobs)) = (arguments.case, arguments.jobs) {
        // One thread: no waiting for each other that takes more or fewer instructions.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(run(case, jobs, &arguments.url));
    }
    let mut results = Results::default();
    for case in [Case::New, Case::Decode, Case::Options] {
        let each = counted(case, "memory", 2_000)?;
        results.add(case.name(), "instructions", each);
    }
    for store in ["memory", "redis", "sqlite"] {
        for case in [Case::Enqueue, Case::Life] {
            let each = counted(case, store, 5_000)?;
            results.add(&format!("{store}: {}", case.name()), "instructions", each);
        }
    }
    println!("{results}");
    arguments.json.map_or(Ok(()), |path| results.write(&path))
}

/// What one more job takes.
fn counted(case: Case, store: &str, jobs: usize) -> anyhow::Result<f64> {
    let (few, many) = (on_fresh(case, store, jobs)?, on_fresh(case, store, jobs * 3)?);
    Ok((many as f64 - few as f64) / (jobs * 2) as f64)
}

/// Runs the case on a store that holds nothing yet.
fn on_fresh(case: Case, store: &str, jobs: usize) -> anyhow::Result<u64> {
    let folder = tempfile::tempdir()?;
    match store {
        "redis" => {
            let redis = Redis::start_volatile(folder.path())?;
            callgrind(case, &redis.url(), jobs)
        }
        "sqlite" => {
            let file = folder.path().join("queue.db");
            callgrind(case, &format!("sqlite:{}", file.display()), jobs)
        }
        _ => callgrind(case, "memory://", jobs),
    }
}

fn callgrind(case: Case, url: &str, jobs: usize) -> anyhow::Result<u64> {
    let case = case.to_possible_value().context("a case has no name")?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["--case", case.get_name(), "--jobs", &jobs.to_string(), "--url", url])
        .output()
        .context("cannot start valgrind; install the package of that name")?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{said}");
    let line = said.lines().find_map(|line| line.split_once("Collected : "));
    Ok(line.context("valgrind does not tell what it collected")?.1.trim().parse()?)
}

async fn run(case: Case, jobs: usize, url: &str) -> anyhow::Result<()> {
    let email = email();
    let new = NewJob::of(&email)?;
    match case {
        Case::New => {
            for _ in 0..jobs {
                std::hint::black_box(NewJob::of(&email)?).validate(256 * 1024)?;
            }
        }
        Case::Decode => {
            for _ in 0..jobs {
                std::hint::black_box(new.spec.payload.decode::<Email>()?);
            }
        }
        Case::Options => {
            let options = JobOptions::default().encode();
            for _ in 0..jobs {
                std::hint::black_box(JobOptions::decode(&options).map_err(anyhow::Error::msg)?);
            }
        }
        Case::Enqueue => {
            enqueue(&Queue::connect(url).await?, jobs).await?;
        }
        Case::Life => {
            let queue = Queue::connect(url).await?;
            enqueue(&queue, jobs).await?;
            let delivery = Delivery::new(jobs);
            let kind = queue::Kind::new(Email::KIND)?;
            let worker =
                Worker::new(&queue).concurrency(100).executor(kind, None, delivery.clone());
            let worker = worker.start()?;
            delivery.reaches(jobs as u64).await;
            worker.drain(Duration::from_secs(60)).await;
        }
    }
    Ok(())
}

async fn enqueue(queue: &Queue, jobs: usize) -> anyhow::Result<()> {
    let kind = queue::Kind::new(Email::KIND)?;
    let retention = Retention { completed: Duration::ZERO, ..Retention::default() };
    let job = |number| Delivery::job(&kind, number as u64, 100).retention(retention);
    queue.enqueue_all((0..jobs).map(job)).await?;
    Ok(())
}
