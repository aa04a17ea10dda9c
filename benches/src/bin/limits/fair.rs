//! Thousands of tenants with backlogs of very different size.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use queue::{Fail, Job, LimitSettings, NewJob, State, Worker};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use super::{Scene, quantile};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many tenants.
    #[arg(long, default_value_t = 10_000)]
    tenants: u32,
    /// How many jobs the largest one has; the n-th has an n-th of that.
    #[arg(long, default_value_t = 100_000)]
    largest: u32,
    /// How many jobs of tenants that come late are measured.
    #[arg(long, default_value_t = 200)]
    probes: u32,
    /// How many jobs of one tenant run at once; 0 if nothing is to be set.
    #[arg(long, default_value_t = 2)]
    limit: u32,
}

#[derive(Serialize, Deserialize)]
struct Task {
    /// Whether somebody waits for it.
    is_probe: bool,
}

impl Job for Task {
    const KIND: &'static str = "limits.task";
}

impl Scene<'_> {
    pub(super) async fn fair(&self, options: &Options) -> anyhow::Result<()> {
        if options.limit > 0 {
            let limit =
                LimitSettings { concurrency: Some(options.limit), ..LimitSettings::default() };
            self.limit("tenant:*", &limit).await?;
        }
        let began = Instant::now();
        let jobs = self.fill(options).await?;
        println!("{jobs} jobs of {} tenants enqueued in {:.1?}", options.tenants, began.elapsed());
        // Its record might be gone before anybody asks for it.
        let (tell, mut told) = unbounded_channel::<Instant>();
        let handler = async |State(tell): State<UnboundedSender<Instant>>, task: Task| {
            if task.is_probe {
                tell.send(Instant::now())?;
            }
            Ok::<_, Fail>(())
        };
        let worker = Worker::new(&self.queue)
            .concurrency(64)
            .state(tell)
            .handle::<Task, _>(handler)
            .start()?;
        let began = Instant::now();
        let mut waits = Vec::new();
        for probe in 0..options.probes {
            let task = Task { is_probe: true };
            let job = NewJob::of(&task)?.limit(format!("tenant:late-{probe}"));
            self.queue.enqueue(job).await?;
            let enqueued = Instant::now();
            let started = timeout(Duration::from_secs(120), told.recv()).await;
            let started = started.context("the job did not run in 120 s")?;
            let started = started.context("the worker is gone")?;
            waits.push(started.saturating_duration_since(enqueued).as_secs_f64());
        }
        let took = began.elapsed();
        let left: u64 = self
            .queue
            .stats()
            .await?
            .iter()
            .filter_map(|row| row.jobs.get(&queue::JobState::Ready))
            .sum();
        worker.drain(Duration::from_secs(10)).await;
        let started = (u64::from(jobs) - left.min(u64::from(jobs))) as f64;
        println!("{:.0} jobs/s meanwhile, {left} were left", started / took.as_secs_f64());
        waits.sort_by(f64::total_cmp);
        println!(
            "a job of a new tenant waited {:.3} s (median), {:.3} s (p99), {:.3} s (longest)",
            quantile(&waits, 0.5),
            quantile(&waits, 0.99),
            quantile(&waits, 1.0)
        );
        ensure!(left > 0, "there was no backlog: ask for more jobs");
        Ok(())
    }

    async fn fill(&self, options: &Options) -> anyhow::Result<u32> {
        let task = Task { is_probe: false };
        let mut jobs = Vec::new();
        let mut count = 0;
        for tenant in 1..=options.tenants {
            for _ in 0..(options.largest / tenant).max(1) {
                jobs.push(NewJob::of(&task)?.limit(format!("tenant:{tenant}")));
                count += 1;
            }
            if jobs.len() > 10_000 {
                self.queue.enqueue_all(std::mem::take(&mut jobs)).await?;
            }
        }
        self.queue.enqueue_all(jobs).await?;
        Ok(count)
    }
}
