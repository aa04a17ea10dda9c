//! What a worker on 100 queues costs that has nothing to do.

use std::time::{Duration, Instant};

use queue::{QueueSelection, Worker};
use queue_benches::delivery::Delivery;
use queue_benches::own_cpu::own_cpu;
use queue_benches::results::Results;

use super::Settings;
use super::store::{Store, kind};

pub(crate) async fn run(settings: &Settings, results: &mut Results) -> anyhow::Result<()> {
    let store = Store::start()?;
    let queue = store.queue().await?;
    let names = (0..100).map(|n| format!("queue-{n}"));
    let worker = Worker::new(&queue)
        .queues(QueueSelection::strict(names)?)
        .executor(kind()?, None, Delivery::new(0))
        .start()?;
    // What it does once, at its start, is over by then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut figures = store.figures()?;
    let (commands, server, client) = (figures.commands()?, figures.cpu_us()?, own_cpu());
    let started = Instant::now();
    tokio::time::sleep(Duration::from_secs(settings.seconds)).await;
    let seconds = started.elapsed().as_secs_f64();
    let used = (own_cpu() - client).as_secs_f64();
    let server = (figures.cpu_us()? - server) / 1e6;
    let commands = figures.commands()?.since(commands);
    worker.drain(Duration::from_secs(5)).await;
    results.add("idle on 100 queues, calls", "/s", commands.scripts as f64 / seconds);
    results.add("idle on 100 queues, commands in calls", "/s", commands.all as f64 / seconds);
    results.add("idle on 100 queues, worker CPU", "%", 100.0 * used / seconds);
    results.add("idle on 100 queues, server CPU", "%", 100.0 * server / seconds);
    Ok(())
}
