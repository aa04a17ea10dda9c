//! Drains: one worker and as many ready jobs as asked for, without and with finished records kept;
//! beside the same calls, sent by a client that does nothing else.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use queue::{Connect as _, Queue, Worker};
use queue_benches::delivery::Delivery;
use queue_benches::own_cpu::own_cpu;
use queue_benches::recorder::{Calls, Recorder, replay};
use queue_benches::results::Results;

use super::Settings;
use super::store::{Store, jobs, kind};

pub(crate) async fn run(settings: &Settings, results: &mut Results) -> anyhow::Result<()> {
    for (keeps, name) in [(false, "drain"), (true, "drain, records kept")] {
        let (enqueues, claims) = recorded(settings, keeps).await?;
        alone(settings, name, enqueues, claims, results).await?;
        measured(settings, name, keeps, results).await?;
        let (part, whole) = (name.to_owned(), format!("{name}, calls alone"));
        results.add_ratio(&format!("{name} / its calls alone"), &part, &whole);
    }
    Ok(())
}

/// Runs all jobs of the store, and waits until the last one is reported.
pub(crate) async fn drain(
    queue: &Queue,
    jobs: usize,
    settings: &Settings,
) -> anyhow::Result<Duration> {
    let attempt = Duration::from_millis(settings.attempt_ms);
    let delivery = Delivery::new(jobs).lasting(attempt);
    let started = Instant::now();
    let worker = Worker::new(queue)
        .concurrency(settings.concurrency)
        .executor(kind()?, None, delivery.clone())
        .start()?;
    delivery.reaches(jobs as u64).await;
    let took = started.elapsed();
    let stopped = worker.drain(Duration::from_secs(30)).await;
    // With few slots jobs are claimed ahead, and given back if the machine stands still.
    anyhow::ensure!(stopped.lost == 0, "{stopped:?}");
    delivery.check()?;
    Ok(took)
}

/// The calls of enqueueing, and those of draining.
async fn recorded(settings: &Settings, keeps: bool) -> anyhow::Result<(Calls, Calls)> {
    let store = Store::start()?;
    let recorder = Recorder::start(store.port()).await?;
    let queue = Queue::connect(&recorder.url()).await?;
    queue.enqueue_all(jobs(settings.jobs, settings.payload_bytes, keeps)?).await?;
    let enqueues = recorder.take();
    drain(&queue, settings.jobs, settings).await?;
    Ok((enqueues, recorder.take()))
}

async fn alone(
    settings: &Settings,
    name: &str,
    mut enqueues: Calls,
    mut claims: Calls,
    results: &mut Results,
) -> anyhow::Result<()> {
    let store = Store::start()?;
    // Makes the server know the scripts.
    store.queue().await?.stats().await?;
    let port = store.port();
    let took = tokio::task::spawn_blocking(move || {
        replay(port, &mut enqueues)?;
        replay(port, &mut claims)
    });
    let took = took.await.context("the replay panicked")??;
    let each = took.as_secs_f64() / settings.jobs as f64;
    results.add(&format!("{name}, calls alone"), "jobs/s", 1.0 / each);
    Ok(())
}

async fn measured(
    settings: &Settings,
    name: &str,
    keeps: bool,
    results: &mut Results,
) -> anyhow::Result<()> {
    let store = Store::start()?;
    let queue = store.queue().await?;
    let mut figures = store.figures()?;
    let jobs = jobs(settings.jobs, settings.payload_bytes, keeps)?;
    let born = figures.cpu_us()?;
    queue.enqueue_all(jobs).await?;
    let (server, commands, client) = (figures.cpu_us()?, figures.commands()?, own_cpu());
    let took = drain(&queue, settings.jobs, settings).await?;
    let used = (own_cpu() - client).as_secs_f64() * 1e6;
    let (end, commands) = (figures.cpu_us()?, figures.commands()?.since(commands));
    let each = |total: f64| total / settings.jobs as f64;
    results.add(name, "jobs/s", 1.0 / each(took.as_secs_f64()));
    results.add(&format!("{name}, server CPU"), "us/job", each(end - server));
    results.add(&format!("{name}, server CPU of the whole life"), "us/job", each(end - born));
    results.add(&format!("{name}, worker CPU"), "us/job", each(used));
    results.add(&format!("{name}, commands"), "/job", each(commands.all as f64));
    results.add(&format!("{name}, round trips"), "/job", each(commands.scripts as f64));
    Ok(())
}
