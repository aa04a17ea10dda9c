//! Enqueues: by one caller who awaits each, by 64 callers, in bulk; beside a bare round trip through
//! the same client library, and beside the bulk's own calls, sent by a client that does nothing else.

use std::time::Instant;

use anyhow::Context as _;
use queue::{Connect as _, Queue};
use queue_benches::delivery::Delivery;
use queue_benches::own_cpu::own_cpu;
use queue_benches::recorder::{Recorder, replay};
use queue_benches::results::Results;

use super::Settings;
use super::store::{Store, jobs, kind};

const ONE_BY_ONE: usize = 5_000;
const CALLERS: usize = 64;

pub(crate) async fn run(settings: &Settings, results: &mut Results) -> anyhow::Result<()> {
    let store = Store::start()?;
    round_trips(&store, results).await?;
    one_caller(&store, settings, results).await?;
    many_callers(&store, settings, results).await?;
    bulk(settings, results).await?;
    results.add_ratio("enqueue, one caller / bare round trip", "enqueue, one caller", "round trip");
    results.add_ratio("enqueue, bulk / its calls alone", "enqueue, bulk", "enqueue, calls alone");
    Ok(())
}

/// The least that a script call costs through the client library.
async fn round_trips(store: &Store, results: &mut Results) -> anyhow::Result<()> {
    let client = redis::Client::open(store.url())?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let hash: String =
        redis::cmd("SCRIPT").arg("LOAD").arg("return 1").query_async(&mut connection).await?;
    // In a task, as a service's handlers are: whoever blocks a thread on a call pays for waking it.
    let calls = tokio::spawn(async move {
        let started = Instant::now();
        for _ in 0..ONE_BY_ONE {
            redis::cmd("EVALSHA").arg(&hash).arg(0).exec_async(&mut connection).await?;
        }
        anyhow::Ok(started.elapsed())
    });
    results.add("round trip", "/s", ONE_BY_ONE as f64 / calls.await??.as_secs_f64());
    Ok(())
}

async fn one_caller(
    store: &Store,
    settings: &Settings,
    results: &mut Results,
) -> anyhow::Result<()> {
    let queue = store.queue().await?;
    let jobs = jobs(ONE_BY_ONE, settings.payload_bytes, true)?;
    let mut figures = store.figures()?;
    let server = figures.cpu_us()?;
    // In a task, as above.
    let calls = tokio::spawn(async move {
        let started = Instant::now();
        for job in jobs {
            queue.enqueue(job).await?;
        }
        anyhow::Ok(started.elapsed())
    });
    let took = calls.await??;
    let each = |total: f64| total / ONE_BY_ONE as f64;
    results.add("enqueue, one caller", "jobs/s", 1.0 / each(took.as_secs_f64()));
    results.add("enqueue, one caller, server CPU", "us/job", each(figures.cpu_us()? - server));
    Ok(())
}

async fn many_callers(
    store: &Store,
    settings: &Settings,
    results: &mut Results,
) -> anyhow::Result<()> {
    let queue = store.queue().await?;
    let mut figures = store.figures()?;
    let (server, client) = (figures.cpu_us()?, own_cpu());
    let (of_each, bytes, kind) = (settings.jobs / CALLERS, settings.payload_bytes, kind()?);
    let started = Instant::now();
    let callers: Vec<_> = (0..CALLERS as u64)
        .map(|_| {
            let (queue, kind) = (queue.clone(), kind.clone());
            tokio::spawn(async move {
                for number in 0..of_each as u64 {
                    queue.enqueue(Delivery::job(&kind, number, bytes)).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for caller in callers {
        caller.await??;
    }
    let each = |total: f64| total / (of_each * CALLERS) as f64;
    results.add("enqueue, 64 callers", "jobs/s", 1.0 / each(started.elapsed().as_secs_f64()));
    results.add("enqueue, 64 callers, server CPU", "us/job", each(figures.cpu_us()? - server));
    let used = (own_cpu() - client).as_secs_f64() * 1e6;
    results.add("enqueue, 64 callers, client CPU", "us/job", each(used));
    Ok(())
}

async fn bulk(settings: &Settings, results: &mut Results) -> anyhow::Result<()> {
    let each = |total: f64| total / settings.jobs as f64;
    // What the calls are. The server is one of its own, as it learns of the same jobs.
    let recorded_at = Store::start()?;
    let recorder = Recorder::start(recorded_at.port()).await?;
    let queue = Queue::connect(&recorder.url()).await?;
    queue.enqueue_all(jobs(settings.jobs, settings.payload_bytes, true)?).await?;
    let mut calls = recorder.take();
    drop((recorder, recorded_at));
    anyhow::ensure!(!calls.is_empty(), "nothing was recorded");

    let store = Store::start()?;
    // Makes the server know the scripts.
    let queue = store.queue().await?;
    queue.stats().await?;
    let took = tokio::task::spawn_blocking({
        let port = store.port();
        move || replay(port, &mut calls)
    });
    let took = took.await.context("the replay panicked")??;
    results.add("enqueue, calls alone", "jobs/s", 1.0 / each(took.as_secs_f64()));

    let store = Store::start()?;
    let queue = store.queue().await?;
    let mut figures = store.figures()?;
    let jobs = jobs(settings.jobs, settings.payload_bytes, true)?;
    let (server, memory, client) = (figures.cpu_us()?, figures.memory_bytes()?, own_cpu());
    let started = Instant::now();
    queue.enqueue_all(jobs).await?;
    results.add("enqueue, bulk", "jobs/s", 1.0 / each(started.elapsed().as_secs_f64()));
    results.add("enqueue, bulk, server CPU", "us/job", each(figures.cpu_us()? - server));
    let used = (own_cpu() - client).as_secs_f64() * 1e6;
    results.add("enqueue, bulk, client CPU", "us/job", each(used));
    results.add("queued job", "bytes", each(figures.memory_bytes()? - memory));
    Ok(())
}
