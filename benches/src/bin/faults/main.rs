//! Real replicas of `workerd` on a real store, killed, stopped and suspended while jobs flow; then
//! every job is accounted for.
//!
//! ```text
//! cargo build --release -p workerd -p queue-benches
//! target/release/faults --store redis --jobs 10000
//! target/release/faults --store sqlite --jobs 10000
//! target/release/faults --store redis --kills 1000      # instead: a siege of SIGKILLs
//! ```
//!
//! It starts a redis-server of its own (or makes a SQLite file) in a temporary folder, and ends
//! with 0 only if: every job has ended exactly once, completed; the store's audit finds nothing;
//! a killed replica's jobs ran again within the lease plus 1.5 s, a terminated one's at once; and
//! what a suspended replica reported after its leases were over changed nothing.

mod siege;
mod support;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::{Parser, ValueEnum};
use queue::{Connect, Fail, Job, JobId, JobRecord, JobState, Kind, NewJob, Payload, Queue, Worker};
use queue_benches::redis_server::Redis;
use serde::{Deserialize, Serialize};
use support::{Replica, write_config};

#[derive(Debug, Parser)]
struct Arguments {
    /// The store.
    #[arg(long, value_enum, default_value = "redis")]
    store: StoreKind,
    /// How many jobs: half of them commands, half of them Rust handlers. No more than the store
    /// keeps records of, or they could not be accounted for.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    jobs: u32,
    /// How many replicas.
    #[arg(long, default_value_t = 2)]
    replicas: usize,
    /// How long between two faults, in milliseconds.
    #[arg(long, default_value_t = 1500)]
    every_ms: u64,
    /// Kills so many replicas, one after the other, instead of the scenes.
    #[arg(long)]
    kills: Option<u32>,
    /// The daemon; by default the one beside this program.
    #[arg(long)]
    workerd: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StoreKind {
    Redis,
    Sqlite,
}

/// The lease of every replica.
const LEASE: Duration = Duration::from_secs(2);
/// What promise P8 adds to it.
const RECOVERY_MARGIN: Duration = Duration::from_millis(1500);
/// After this, something hangs.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Serialize, Deserialize)]
struct Count {
    n: u32,
}

impl Job for Count {
    const KIND: &'static str = "fault.library";
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let folder = support::temporary_folder()?;
    let program = match &arguments.workerd {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("workerd"),
    };
    ensure!(program.is_file(), "no daemon at {}: build it, or name it", program.display());
    let (_redis, url) = match arguments.store {
        StoreKind::Redis => {
            let redis = Redis::start(folder.path())?;
            let url = redis.url();
            (Some(redis), url)
        }
        StoreKind::Sqlite => (None, format!("sqlite:{}", folder.path().join("q.db").display())),
    };
    let config = write_config(folder.path(), &url, LEASE)?;
    let scene = Scene { queue: Queue::connect(&url).await?, program, config };

    if let Some(kills) = arguments.kills {
        scene.siege(kills, arguments.replicas, folder.path()).await?;
    } else {
        scene.recovery("SIGKILL", LEASE + RECOVERY_MARGIN, 1).await?;
        scene.recovery("SIGTERM", Duration::from_millis(1500), 0).await?;
        scene.suspension().await?;
        scene.storm(&arguments, folder.path()).await?;
    }
    let violations = scene.queue.audit().await?;
    ensure!(violations.is_empty(), "the audit found {violations:?}");
    println!("audit: nothing found");
    Ok(())
}

struct Scene {
    queue: Queue,
    program: PathBuf,
    config: PathBuf,
}

impl Scene {
    fn replica(&self) -> anyhow::Result<Replica> {
        Replica::start(&self.program, &self.config)
    }

    async fn sleepers(&self, count: usize, seconds: u32) -> anyhow::Result<Vec<JobId>> {
        let kind = Kind::new("fault.sleep")?;
        let payload = Payload::json(&serde_json::json!({ "seconds": seconds.to_string() }))?;
        let jobs: Vec<NewJob> =
            (0..count).map(|_| NewJob::new(kind.clone(), payload.clone())).collect();
        let ids = jobs.iter().map(NewJob::job_id).collect();
        self.queue.enqueue_all(jobs).await?;
        Ok(ids)
    }

    async fn until(
        &self,
        what: &str,
        ids: &[JobId],
        holds: impl Fn(&JobRecord) -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let records = self.queue.get_all(ids).await?;
            if records.iter().all(|record| record.as_ref().is_some_and(&holds)) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "never: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// One replica runs jobs and gets a signal; how long until another one runs them?
    async fn recovery(&self, signal: &str, within: Duration, stalls: u8) -> anyhow::Result<()> {
        let mut first = self.replica()?;
        let ids = self.sleepers(8, 60).await?;
        self.until("running", &ids, |record| record.state == JobState::Running).await?;
        let owner = self.queue.get(ids[0]).await?.and_then(|record| record.worker);
        let second = self.replica()?;
        // Give the second one time to become idle: it is its wake-up that is measured.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let started = Instant::now();
        first.signal(signal)?;
        if signal == "SIGTERM" {
            // The second one says: now.
            tokio::time::sleep(Duration::from_millis(100)).await;
            first.signal(signal)?;
        }
        self.until("running elsewhere", &ids, |record| {
            record.state == JobState::Running && record.worker != owner
        })
        .await?;
        let took = started.elapsed();
        for record in self.queue.get_all(&ids).await?.into_iter().flatten() {
            ensure!(record.failures == 0 && record.stalls == stalls, "{record:?}");
        }
        println!("{signal}: 8 jobs run elsewhere after {took:.2?} (at most {within:?})");
        ensure!(took <= within, "too late");
        for id in ids {
            self.queue.cancel(id).await?;
        }
        first.wait()?;
        let cancelled = Instant::now();
        let deadline = cancelled + PATIENCE;
        while self.queue.stats().await?.iter().any(|row| row.jobs.contains_key(&JobState::Running))
        {
            ensure!(Instant::now() < deadline, "cancelled jobs never ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("cancel: 8 running commands ended after {:.2?}", cancelled.elapsed());
        drop(second);
        Ok(())
    }

    /// A replica is suspended for three leases in the middle of its jobs and then goes on.
    async fn suspension(&self) -> anyhow::Result<()> {
        let first = self.replica()?;
        let ids = self.sleepers(8, 3).await?;
        self.until("running", &ids, |record| record.state == JobState::Running).await?;
        first.signal("SIGSTOP")?;
        let second = self.replica()?;
        tokio::time::sleep(LEASE * 3).await;
        self.until("completed", &ids, |record| record.state == JobState::Completed).await?;
        let before = self.queue.get_all(&ids).await?;
        first.signal("SIGCONT")?;
        // Its commands ended long ago: it reports them as soon as it runs.
        tokio::time::sleep(LEASE * 2).await;
        let after = self.queue.get_all(&ids).await?;
        ensure!(before == after, "late results changed something");
        println!("SIGSTOP: late results of 8 jobs changed nothing");
        drop((first, second));
        Ok(())
    }

    /// Jobs flow; every little while one replica is killed, terminated or suspended.
    async fn storm(&self, arguments: &Arguments, folder: &Path) -> anyhow::Result<()> {
        let library = Worker::new(&self.queue)
            .concurrency(8)
            .lease(LEASE)
            .handle::<Count, _>(async |_: Count| Ok::<_, Fail>(()))
            .start()?;
        let mut replicas = Vec::new();
        for _ in 0..arguments.replicas {
            replicas.push(self.replica()?);
        }
        let started = Instant::now();
        let ids = self.enqueue_mixed(arguments.jobs).await?;
        let every = Duration::from_millis(arguments.every_ms);
        let mut faults: HashMap<&str, u32> = HashMap::new();
        let mut turn = 0;
        while !self.all_finished(&ids).await? {
            ensure!(started.elapsed() < PATIENCE, "jobs are left after {PATIENCE:?}");
            tokio::time::sleep(every).await;
            let victim = turn % replicas.len();
            let signal = ["SIGKILL", "SIGTERM", "SIGSTOP"][turn % 3];
            turn += 1;
            *faults.entry(signal).or_default() += 1;
            replicas[victim].signal(signal)?;
            if signal == "SIGSTOP" {
                tokio::time::sleep(LEASE * 2).await;
                replicas[victim].signal("SIGCONT")?;
            } else {
                replicas[victim].wait()?;
                replicas[victim] = self.replica()?;
            }
        }
        println!("storm: {} jobs in {:.1?}, faults {faults:?}", ids.len(), started.elapsed());
        library.drain(Duration::from_secs(10)).await;
        drop(replicas);
        self.account_for(&ids, ids.len().div_ceil(2), &folder.join("runs.log")).await
    }

    async fn enqueue_mixed(&self, jobs: u32) -> anyhow::Result<Vec<JobId>> {
        let touch = Kind::new("fault.touch")?;
        let mut batch = Vec::new();
        for n in 0..jobs {
            let job = if n % 2 == 0 {
                NewJob::new(touch.clone(), Payload::json(&serde_json::json!({ "n": n }))?)
            } else {
                NewJob::of(&Count { n })?
            };
            // Many more crashes than a job should live through in production.
            batch.push(job.max_stalls(100));
        }
        let ids = batch.iter().map(NewJob::job_id).collect();
        self.queue.enqueue_all(batch).await?;
        Ok(ids)
    }

    async fn all_finished(&self, ids: &[JobId]) -> anyhow::Result<bool> {
        for chunk in ids.chunks(500).rev() {
            let records = self.queue.get_all(chunk).await?;
            let finished = |record: &Option<JobRecord>| {
                record.as_ref().is_some_and(|record| record.state.is_finished())
            };
            if !records.iter().all(finished) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn account_for(&self, ids: &[JobId], commands: usize, log: &Path) -> anyhow::Result<()> {
        let mut redelivered = 0;
        for record in self.queue.get_all(ids).await? {
            let record = record.context("a job is gone")?;
            ensure!(record.state == JobState::Completed, "{record:?}");
            redelivered += u32::from(record.stalls > 0);
        }
        let mut runs: HashMap<&str, u32> = HashMap::new();
        let text = std::fs::read_to_string(log)?;
        for line in text.lines() {
            *runs.entry(line).or_default() += 1;
        }
        ensure!(runs.len() == commands, "{} of {commands} commands have run", runs.len());
        let twice = runs.values().filter(|count| **count > 1).count();
        println!(
            "every job is completed; {redelivered} were redelivered after a crash, {twice} \
             commands ran more than once"
        );
        Ok(())
    }
}
