//! A provider turns everybody away while another one works.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use queue::{Fail, Job, NewJob, State, Worker};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::Scene;

/// How many jobs of the provider that works are enqueued at once.
const BATCH: u32 = 2000;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// For how long it does.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many jobs wait for it.
    #[arg(long, default_value_t = 1000)]
    jobs: u32,
}

#[derive(Serialize, Deserialize)]
struct Refused;

impl Job for Refused {
    const KIND: &'static str = "limits.refused";
}

#[derive(Serialize, Deserialize)]
struct Served;

impl Job for Served {
    const KIND: &'static str = "limits.served";
}

/// When the provider works again, and how often both were called.
#[derive(Debug)]
struct Providers {
    works_at: Instant,
    refused: AtomicU32,
    served: AtomicU32,
    batch_served: Notify,
}

async fn refuse(State(providers): State<Arc<Providers>>, _: Refused) -> Result<(), Fail> {
    if Instant::now() < providers.works_at {
        providers.refused.fetch_add(1, Ordering::Relaxed);
        return Err(Fail::throttled(Duration::from_secs(1)));
    }
    Ok(())
}

async fn serve(State(providers): State<Arc<Providers>>, _: Served) -> Result<(), Fail> {
    let served = providers.served.fetch_add(1, Ordering::Relaxed) + 1;
    if served.is_multiple_of(BATCH) {
        providers.batch_served.notify_one();
    }
    Ok(())
}

impl Scene<'_> {
    pub(super) async fn throttled(&self, options: &Options) -> anyhow::Result<()> {
        let calm = self.served_per_second(Duration::ZERO, 0).await?;
        println!("without the other provider: {:.0} jobs/s of this one", calm.served_per_second);
        let outage = Duration::from_secs(options.seconds);
        let storm = self.served_per_second(outage, options.jobs).await?;
        println!(
            "while the other one refuses: {:.0} jobs/s of this one ({:.0} %); {} calls in vain in \
             {outage:?}, {} attempts lost",
            storm.served_per_second,
            100.0 * storm.served_per_second / calm.served_per_second,
            storm.refused,
            storm.failures
        );
        if storm.gone > 0 {
            println!("{} records were pushed out by others before they were read", storm.gone);
        }
        ensure!(storm.failures == 0, "throttling cost attempts");
        Ok(())
    }

    async fn served_per_second(&self, outage: Duration, jobs: u32) -> anyhow::Result<Measured> {
        let providers = Arc::new(Providers {
            works_at: Instant::now() + outage,
            refused: AtomicU32::new(0),
            served: AtomicU32::new(0),
            batch_served: Notify::new(),
        });
        let worker = Worker::new(&self.queue)
            .concurrency(64)
            .state(Arc::clone(&providers))
            .handle::<Refused, _>(refuse)
            .handle::<Served, _>(serve)
            .limits(Refused::KIND, ["provider:refusing"])
            .limits(Served::KIND, ["provider:serving"])
            .start()?;
        let refused: Result<Vec<NewJob>, _> = (0..jobs).map(|_| NewJob::of(&Refused)).collect();
        let refused = refused?;
        let ids: Vec<_> = refused.iter().map(NewJob::job_id).collect();
        self.queue.enqueue_all(refused).await?;
        let began = Instant::now();
        let end = outage.max(Duration::from_secs(10));
        let mut sent = 0;
        while began.elapsed() < end {
            // One batch is ready while another one is served: the worker waits for nobody.
            let heard = providers.batch_served.notified();
            if sent >= providers.served.load(Ordering::Relaxed) + 2 * BATCH {
                heard.await;
                continue;
            }
            let served: Result<Vec<NewJob>, _> = (0..BATCH).map(|_| NewJob::of(&Served)).collect();
            self.queue.enqueue_all(served?).await?;
            sent += BATCH;
        }
        let served = f64::from(providers.served.load(Ordering::Relaxed));
        let served_per_second = served / began.elapsed().as_secs_f64();
        let (mut failures, mut gone) = (0, 0);
        for id in ids {
            let record = self.queue.wait_finished(id, Duration::from_secs(120)).await?;
            let Some(record) = record else {
                // It has completed: others that have push the record out, but not one that is dead.
                gone += 1;
                continue;
            };
            ensure!(record.state == queue::JobState::Completed, "{record:?}");
            failures += u32::from(record.failures);
        }
        worker.drain(Duration::from_secs(10)).await;
        let refused = providers.refused.load(Ordering::Relaxed);
        Ok(Measured { served_per_second, refused, failures, gone })
    }
}

struct Measured {
    served_per_second: f64,
    refused: u32,
    failures: u32,
    gone: u32,
}
