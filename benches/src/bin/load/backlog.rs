//! A drain in front of many more jobs, beside one in front of few.

use std::time::{Duration, Instant};

use queue::Worker;
use queue_benches::delivery::Delivery;
use queue_benches::results::Results;

use super::Settings;
use super::store::{Store, jobs, kind};

const SMALL: usize = 10_000;

pub(crate) async fn run(settings: &Settings, results: &mut Results) -> anyhow::Result<()> {
    let drained = settings.jobs.min(settings.backlog);
    let few = small(settings, drained).await?;
    results.add("drain, backlog of 10000", "jobs/s", few);
    let name = format!("drain, backlog of {}", settings.backlog);
    let many = large(settings, drained).await?;
    results.add(&name, "jobs/s", many);
    results.add_ratio("drain, large / small backlog", &name, "drain, backlog of 10000");
    Ok(())
}

/// Ten thousand again and again, until as many are drained as of the large backlog.
async fn small(settings: &Settings, drained: usize) -> anyhow::Result<f64> {
    let store = Store::start()?;
    let queue = store.queue().await?;
    let mut took = Duration::ZERO;
    let rounds = drained.div_ceil(SMALL);
    for _ in 0..rounds {
        queue.enqueue_all(jobs(SMALL, settings.payload_bytes, false)?).await?;
        took += super::drain::drain(&queue, SMALL, settings).await?;
    }
    Ok((rounds * SMALL) as f64 / took.as_secs_f64())
}

async fn large(settings: &Settings, drained: usize) -> anyhow::Result<f64> {
    let store = Store::start()?;
    let queue = store.queue().await?;
    let mut rest = settings.backlog;
    while rest > 0 {
        let some = rest.min(500_000);
        queue.enqueue_all(jobs(some, settings.payload_bytes, false)?).await?;
        rest -= some;
    }
    // The numbers repeat; what counts here is how many ran.
    let delivery = Delivery::new(settings.backlog);
    let started = Instant::now();
    let worker = Worker::new(&queue)
        .concurrency(settings.concurrency)
        .executor(kind()?, None, delivery.clone())
        .start()?;
    delivery.reaches(drained as u64).await;
    let took = started.elapsed();
    worker.stop_now().await;
    Ok(drained as f64 / took.as_secs_f64())
}
