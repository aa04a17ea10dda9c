//! What two limit keys on every job cost: the same drain without them, with them, and with limits
//! set that have room; 1 000 tenants.

use queue::{LimitSettings, LimitTarget};
use queue_benches::results::Results;

use super::Settings;
use super::drain::drain;
use super::store::{Store, jobs};

const TENANTS: usize = 1_000;
/// More than the worker has slots, together; and less than that for a tenant.
const LIMITS: [(&str, u32); 2] = [("tenant:*", 100), ("provider:p", 10_000)];

pub(crate) async fn run(settings: &Settings, results: &mut Results) -> anyhow::Result<()> {
    for (name, has_keys, limits) in [
        ("no limit keys", false, &[][..]),
        ("two limit keys, 1000 tenants", true, &[]),
        ("two limit keys with limits, 1000 tenants", true, &LIMITS),
    ] {
        let store = Store::start()?;
        let queue = store.queue().await?;
        let mut jobs = jobs(settings.jobs, settings.payload_bytes, false)?;
        for (target, concurrency) in limits {
            let limit =
                LimitSettings { concurrency: Some(*concurrency), ..LimitSettings::default() };
            queue.set_limit(&LimitTarget::new(*target)?, &limit).await?;
        }
        if has_keys {
            let keyed = |(n, job): (usize, queue::NewJob)| {
                job.limit(format!("tenant:t{}", n % TENANTS)).limit("provider:p")
            };
            jobs = jobs.into_iter().enumerate().map(keyed).collect();
        }
        let mut figures = store.figures()?;
        let born = figures.cpu_us()?;
        queue.enqueue_all(jobs).await?;
        let enqueued = figures.cpu_us()?;
        let took = drain(&queue, settings.jobs, settings).await?;
        let each = |total: f64| total / settings.jobs as f64;
        let (drained, end) = (1.0 / each(took.as_secs_f64()), figures.cpu_us()?);
        results.add(&format!("{name}, drain"), "jobs/s", drained);
        results.add(&format!("{name}, server CPU of enqueueing"), "us/job", each(enqueued - born));
        results.add(&format!("{name}, server CPU of the life"), "us/job", each(end - born));
    }
    for name in ["two limit keys", "two limit keys with limits"] {
        results.add_ratio(
            &format!("{name} / none, server CPU"),
            &format!("{name}, 1000 tenants, server CPU of the life"),
            "no limit keys, server CPU of the life",
        );
    }
    Ok(())
}
