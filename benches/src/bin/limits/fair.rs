//! Thousands of tenants with backlogs of very different size.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use queue::{Fail, Job, JobId, LimitSettings, NewJob, Worker};
use serde::{Deserialize, Serialize};

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
    /// How many jobs of one tenant run at once.
    #[arg(long, default_value_t = 2)]
    limit: u32,
}

#[derive(Serialize, Deserialize)]
struct Task;

impl Job for Task {
    const KIND: &'static str = "limits.task";
}

impl Scene<'_> {
    pub(super) async fn fair(&self, options: &Options) -> anyhow::Result<()> {
        let limit = LimitSettings { concurrency: Some(options.limit), ..LimitSettings::default() };
        self.limit("tenant:*", &limit).await?;
        let began = Instant::now();
        let jobs = self.fill(options).await?;
        println!("{jobs} jobs of {} tenants enqueued in {:.1?}", options.tenants, began.elapsed());
        let worker = Worker::new(&self.queue)
            .concurrency(64)
            .handle::<Task, _>(async |_: Task| Ok::<_, Fail>(()))
            .start()?;
        let began = Instant::now();
        let mut waits = Vec::new();
        for probe in 0..options.probes {
            let job = NewJob::of(&Task)?.limit(format!("tenant:late-{probe}"));
            let id = self.queue.enqueue(job).await?.id;
            waits.push(self.wait_of(id).await?.as_secs_f64());
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
        let mut jobs = Vec::new();
        let mut count = 0;
        for tenant in 1..=options.tenants {
            for _ in 0..(options.largest / tenant).max(1) {
                jobs.push(NewJob::of(&Task)?.limit(format!("tenant:{tenant}")));
                count += 1;
            }
            if jobs.len() > 10_000 {
                self.queue.enqueue_all(std::mem::take(&mut jobs)).await?;
            }
        }
        self.queue.enqueue_all(jobs).await?;
        Ok(count)
    }

    async fn wait_of(&self, id: JobId) -> anyhow::Result<Duration> {
        let record = self.queue.wait_finished(id, Duration::from_secs(120)).await?;
        let record = record.context("the job is gone")?;
        let finished_at = record.finished_at.context("the job did not finish in 120 s")?;
        Ok(finished_at.since(record.enqueued_at))
    }
}
