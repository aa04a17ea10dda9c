//! Worker processes share a limit while they are killed.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use queue::{HOLDERS_SHOWN_MAX, JobState, LimitKey, LimitSettings, NewJob, Rate};

use super::Scene;
use super::history::{self, Run};
use super::holders::{self, Looks, Watch};
use super::worker::{Nap, PROVIDER, now_us};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many processes.
    #[arg(long, default_value_t = 4)]
    replicas: usize,
    /// Slots of each.
    #[arg(long, default_value_t = 64)]
    slots: usize,
    /// How many jobs may run at once, over all of them.
    #[arg(long, default_value_t = 5)]
    limit: u32,
    /// Also a rate, such as 20/1s.
    #[arg(long)]
    rate: Option<Rate>,
    /// How long a job takes.
    #[arg(long, default_value_t = 100)]
    job_ms: u64,
    /// How long between two kills.
    #[arg(long, default_value_t = 3000)]
    every_ms: u64,
    /// How long it goes on.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

const LEASE: Duration = Duration::from_secs(2);
/// What a killed process may hold places for (promise P8).
const RECOVERY_US: u64 = 3_500_000;
/// The share of places that may be idle while jobs wait, beside those.
const IDLE_MAX: f64 = 0.05;

/// A process that ends with this handle.
struct Replica(Child);

impl Replica {
    fn start(url: &str, log: &Path, slots: usize) -> anyhow::Result<Self> {
        let (slots, lease) = (slots.to_string(), LEASE.as_millis().to_string());
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["worker", "--url", url, "--slots", &slots, "--lease-ms", &lease]);
        Ok(Self(command.arg("--log").arg(log).spawn()?))
    }

    /// Kills it; answers with its id and when it was dead.
    fn kill(&mut self) -> anyhow::Result<(u32, u64)> {
        self.0.kill()?;
        self.0.wait()?;
        Ok((self.0.id(), now_us()))
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Scene<'_> {
    pub(super) async fn siege(&self, options: &Options) -> anyhow::Result<()> {
        // Those are what the store names.
        let most = HOLDERS_SHOWN_MAX;
        ensure!(options.limit as usize <= most, "--limit: at most {most} places can be watched");
        let log = self.folder.join("runs.log");
        std::fs::write(&log, "")?;
        let settings = LimitSettings {
            concurrency: Some(options.limit),
            rate: options.rate,
            ..LimitSettings::default()
        };
        self.limit(PROVIDER, &settings).await?;
        let start = || Replica::start(&self.url, &log, options.slots);
        let mut replicas = Vec::new();
        for _ in 0..options.replicas {
            replicas.push(start()?);
        }
        let watch = Watch::start(self.queue.clone(), LimitKey::new(PROVIDER)?);
        let mut killed = HashMap::new();
        let (began, began_us) = (Instant::now(), now_us());
        let mut next_kill = Duration::from_millis(options.every_ms);
        let mut victim = 0;
        let end = Duration::from_secs(options.seconds);
        while began.elapsed() < end {
            self.top_up(options).await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            if began.elapsed() >= next_kill {
                next_kill += Duration::from_millis(options.every_ms);
                killed.extend([replicas[victim].kill()?]);
                replicas[victim] = start()?;
                victim = (victim + 1) % replicas.len();
            }
        }
        let (ended_us, looks) = (now_us(), watch.end().await?);
        let kills = killed.len();
        for mut replica in replicas {
            killed.extend([replica.kill()?]);
        }
        let runs = history::read(&log, &killed)?;
        println!("siege: {} runs, {kills} kills in {:.0?}", runs.len(), end);
        let killed: Vec<u64> = killed.into_values().collect();
        judge(options, &runs, &looks, &killed, (began_us, ended_us))
    }

    /// Jobs always wait.
    async fn top_up(&self, options: &Options) -> anyhow::Result<()> {
        let stats = self.queue.stats().await?;
        let ready: u64 = stats.iter().filter_map(|row| row.jobs.get(&JobState::Ready)).sum();
        if ready < 200 {
            let job = || NewJob::of(&Nap { ms: options.job_ms }).map(|job| job.max_stalls(u8::MAX));
            let jobs: Result<Vec<NewJob>, _> = (0..200).map(|_| job()).collect();
            self.queue.enqueue_all(jobs?).await?;
        }
        Ok(())
    }
}

fn judge(
    options: &Options,
    runs: &[Run],
    looks: &Looks,
    killed: &[u64],
    time: (u64, u64),
) -> anyhow::Result<()> {
    let mut most = 0;
    let spans: Vec<(u64, u64)> = runs.iter().map(|run| (run.start_us, run.end_us)).collect();
    history::sweep(&spans, |_, _, open| most = most.max(open));
    println!("at most {most} ran at once; {} may", options.limit);
    ensure!(most <= i64::from(options.limit), "the limit was exceeded");

    if let Some(rate) = options.rate {
        let mut claimed: Vec<u64> = runs.iter().map(|run| run.claimed_ms).collect();
        let window_ms = u64::try_from(rate.period.as_millis())?;
        let densest = history::densest_window(&mut claimed, window_ms);
        let allowed = (rate.count + rate.burst - 1) as usize;
        println!("at most {densest} started within {:?}; {allowed} may", rate.period);
        ensure!(densest <= allowed, "the rate was exceeded");
        return Ok(());
    }

    let (from_us, to_us) = time;
    // The first processes have to start up.
    let time = (from_us + 1_000_000, to_us);
    let spent = holders::spent(looks, runs, killed, u64::from(options.limit), time);
    let share = |us: u64| us as f64 / spent.all_us.max(1) as f64;
    let idle = share(spent.empty_us + spent.under_way_us);
    println!(
        "of the places {:.1} % were held by nobody and {:.1} % by jobs on the way while jobs waited; \
         {:.1} % by killed processes, for {} ms at most",
        share(spent.empty_us) * 100.0,
        share(spent.under_way_us) * 100.0,
        share(spent.dead_us) * 100.0,
        spent.longest_dead_us / 1000,
    );
    ensure!(spent.stuck.is_empty(), "held by nobody who was killed: {:?}", spent.stuck);
    ensure!(spent.longest_dead_us <= RECOVERY_US, "a killed process held a place for too long");
    ensure!(idle <= IDLE_MAX, "more than {:.0} % were idle", IDLE_MAX * 100.0);
    Ok(())
}
