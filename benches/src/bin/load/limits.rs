//! What two limit keys on every job cost: the same drain without them, with them, and with limits
//! set that have room; 1 000 tenants. On Redis counts what the server does, on SQLite what the
//! process does, which is the store and the worker.

use queue::{Connect as _, ConnectOptions, Durability, LimitSettings, LimitTarget, Queue};
use queue_benches::own_cpu::own_cpu;
use queue_benches::results::Results;

use super::Settings;
use super::drain::drain;
use super::store::{Store, jobs};

const TENANTS: usize = 1_000;
/// More than the worker has slots, together; and less than that for a tenant.
const LIMITS: [(&str, u32); 2] = [("tenant:*", 100), ("provider:p", 10_000)];

const NONE: Scene = Scene { name: "no limit keys", has_keys: false, limits: &[] };
const KEYS: Scene = Scene { name: "two limit keys, 1000 tenants", has_keys: true, limits: &[] };
const LIMITED: Scene =
    Scene { name: "two limit keys with limits, 1000 tenants", has_keys: true, limits: &LIMITS };

/// What jobs carry and what is set.
struct Scene {
    name: &'static str,
    has_keys: bool,
    limits: &'static [(&'static str, u32)],
}

pub(crate) async fn run(settings: &Settings, results: &mut Results) -> anyhow::Result<()> {
    for scene in [NONE, KEYS, LIMITED] {
        on_redis(settings, &scene, results).await?;
    }
    for scene in [NONE, KEYS, LIMITED] {
        on_sqlite(settings, &scene, results).await?;
    }
    for (store, whose) in [("", "server CPU"), ("sqlite memory, ", "CPU")] {
        for keys in ["two limit keys", "two limit keys with limits"] {
            results.add_ratio(
                &format!("{store}{keys} / none, {whose}"),
                &format!("{store}{keys}, 1000 tenants, {whose} of the life"),
                &format!("{store}no limit keys, {whose} of the life"),
            );
        }
    }
    Ok(())
}

async fn on_redis(settings: &Settings, scene: &Scene, results: &mut Results) -> anyhow::Result<()> {
    let store = Store::start()?;
    let queue = store.queue().await?;
    let mut figures = store.figures()?;
    let name = scene.name;
    measured(settings, scene, &queue, name, "server CPU", || figures.cpu_us(), results).await
}

async fn on_sqlite(
    settings: &Settings,
    scene: &Scene,
    results: &mut Results,
) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite:{}", folder.path().join("queue.db").display());
    let options = ConnectOptions::default().durability(Durability::Memory);
    let queue = Queue::connect_with(&url, options).await?;
    let name = format!("sqlite memory, {}", scene.name);
    let cpu_us = || Ok(own_cpu().as_secs_f64() * 1e6);
    measured(settings, scene, &queue, &name, "CPU", cpu_us, results).await
}

async fn measured(
    settings: &Settings,
    scene: &Scene,
    queue: &Queue,
    name: &str,
    whose: &str,
    mut cpu_us: impl FnMut() -> anyhow::Result<f64>,
    results: &mut Results,
) -> anyhow::Result<()> {
    for (target, concurrency) in scene.limits {
        let limit = LimitSettings { concurrency: Some(*concurrency), ..LimitSettings::default() };
        queue.set_limit(&LimitTarget::new(*target)?, &limit).await?;
    }
    let mut jobs = jobs(settings.jobs, settings.payload_bytes, false)?;
    if scene.has_keys {
        let keyed = |(n, job): (usize, queue::NewJob)| {
            job.limit(format!("tenant:t{}", n % TENANTS)).limit("provider:p")
        };
        jobs = jobs.into_iter().enumerate().map(keyed).collect();
    }
    let born = cpu_us()?;
    queue.enqueue_all(jobs).await?;
    let enqueued = cpu_us()?;
    let took = drain(queue, settings.jobs, settings).await?;
    let each = |total: f64| total / settings.jobs as f64;
    let (drained, end) = (1.0 / each(took.as_secs_f64()), cpu_us()?);
    results.add(&format!("{name}, drain"), "jobs/s", drained);
    results.add(&format!("{name}, {whose} of enqueueing"), "us/job", each(enqueued - born));
    results.add(&format!("{name}, {whose} of the life"), "us/job", each(end - born));
    Ok(())
}
