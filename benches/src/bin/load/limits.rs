//! What two limit keys on every job cost: the same drain without and with them, 1 000 tenants.

use queue_benches::results::Results;

use super::Settings;
use super::drain::drain;
use super::store::{Store, jobs};

const TENANTS: usize = 1_000;

pub(crate) async fn run(settings: &Settings, results: &mut Results) -> anyhow::Result<()> {
    for name in ["no limit keys", "two limit keys, 1000 tenants"] {
        let store = Store::start()?;
        let queue = store.queue().await?;
        let mut jobs = jobs(settings.jobs, settings.payload_bytes, false)?;
        if name != "no limit keys" {
            let keyed = |(n, job): (usize, queue::NewJob)| {
                job.limit(format!("tenant:t{}", n % TENANTS)).limit("provider:p")
            };
            jobs = jobs.into_iter().enumerate().map(keyed).collect();
        }
        let mut figures = store.figures()?;
        let born = figures.cpu_us()?;
        queue.enqueue_all(jobs).await?;
        let enqueued = figures.cpu_us()?;
        let took = drain(&queue, settings.jobs, settings.concurrency).await?;
        let each = |total: f64| total / settings.jobs as f64;
        let (drained, end) = (1.0 / each(took.as_secs_f64()), figures.cpu_us()?);
        results.add(&format!("{name}, drain"), "jobs/s", drained);
        results.add(&format!("{name}, server CPU of enqueueing"), "us/job", each(enqueued - born));
        results.add(&format!("{name}, server CPU of the life"), "us/job", each(end - born));
    }
    results.add_ratio(
        "two limit keys / none, server CPU",
        "two limit keys, 1000 tenants, server CPU of the life",
        "no limit keys, server CPU of the life",
    );
    Ok(())
}
