//! `workerd run`: wires the store, the worker, HTTP and logs together, and takes them apart again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use queue::{
    Connect, Error, LimitKey, LimitTarget, Queue, QueueSelection, RunningWorker, StopReport, Worker,
};

use crate::config::{Config, longest_kill_grace, unknown_variables};
use crate::executor::command::{self, CLOSES_NOTHING, CommandExecutor, Folders};
use crate::exit::{Exit, Failure, Outcome};
use crate::http::{Names, Running, Server, Shared};
use crate::limits::InForce;
use crate::machine;
use crate::reload::on_hangup;
use crate::signals::{Hangups, Signals};
use crate::store_check;
use crate::telemetry;
use crate::waits::Waits;

/// Runs until a signal ends it. `read` reads the configuration again, when SIGHUP asks for it.
/// `customize` adds handlers of the program's own; without it, there must be executors.
///
/// # Errors
/// Why it could not start, or what ended it.
pub(crate) async fn run(
    config: &Config,
    read: impl Fn() -> Result<Config, Failure> + Send + Sync + 'static,
    customize: Option<impl FnOnce(Worker) -> Worker>,
) -> Outcome {
    telemetry::start_logs(&config.log);
    warn_of_unknown_variables();
    config.store.url()?;
    if customize.is_none() && config.executors.is_empty() {
        return Err(Failure::usage(NOTHING_TO_RUN));
    }
    machine::prepare(config)?;
    if customize.is_none() {
        adopt_orphans();
    }
    warn_of_missing_variables(config);
    warn_of_what_closes_nothing(config);
    let mut signals = Signals::new().map_err(|e| Failure::new(Exit::Failed, e))?;
    let hangups = Hangups::new().map_err(|e| Failure::new(Exit::Failed, e))?;
    let shared = Shared::new(telemetry::start_metrics()?, names(config));
    let _server = serve(config, &shared).await?;

    let (queue, limits) = tokio::select! {
        prepared = prepare(config) => prepared?,
        signal = signals.next() => {
            tracing::info!(event = "stopped", signal, "nothing was running");
            return Ok(Exit::Done);
        }
    };
    if !config.executors.is_empty() {
        // Beside the work, which does not wait for it; it ends with the runtime at the latest.
        tokio::task::spawn_blocking(command::sweep_folders);
    }
    let mut worker = worker(config, &queue)?;
    if let Some(customize) = customize {
        worker = customize(worker);
    }
    let worker = Arc::new(worker.start().map_err(Failure::usage)?);
    shared.set_running(Running { queue: queue.clone(), worker: Arc::clone(&worker) });
    // To the end, as jobs may still run by then; it goes with the runtime.
    tokio::spawn(on_hangup(hangups, queue, Arc::clone(&worker), limits, config.clone(), read));

    let signal = tokio::select! {
        signal = signals.next() => signal,
        _ = worker.ended() => {
            // A service manager that sees the process end can start it again.
            let bug = "the worker ended by itself, which is a bug; please report the log above";
            return Err(Failure::new(Exit::Failed, bug));
        }
    };
    let grace = config.worker.shutdown_grace;
    tracing::info!(event = "draining", signal, grace_sec = grace.as_secs());
    Ok(stop(&worker, grace, &mut signals).await)
}

/// What metrics name. The same for as long as this replica runs: labels should not come and go.
pub(crate) fn names(config: &Config) -> Names {
    let of_limits = config.limits.keys().filter_map(|target| match target {
        LimitTarget::Key(key) => Some(key),
        LimitTarget::Class(_) => None,
    });
    let of_executors = config.executors.values().flat_map(|command| command.limits.iter());
    let limits = of_limits.chain(of_executors).cloned().collect();
    Names { queues: config.worker.queues.names(), limits }
}

/// What a configuration without executors is told.
pub(crate) const NOTHING_TO_RUN: &str =
    "there is nothing that could run a job; add [executors.\"KIND\"] to the file that -c names";

/// What programs leave behind is found sooner. Not with handlers of somebody's own: their children
/// could not be told from orphans, and would be reaped instead of them.
fn adopt_orphans() {
    if let Err(error) = command::adopt_orphans() {
        tracing::debug!(event = "orphans_not_adopted", %error);
    }
}

/// A name that is misspelt says nothing, and nothing else would tell.
fn warn_of_unknown_variables() {
    for (variable, nearest) in unknown_variables() {
        let advice = format!("workerd does not read it; {nearest} is the nearest that it does");
        tracing::warn!(event = "variable_unknown", %variable, nearest, advice);
    }
}

/// A program that is promised a variable and does not get it fails in ways of its own.
fn warn_of_missing_variables(config: &Config) {
    for (kind, command) in &config.executors {
        for variable in command.environment.iter().filter(|v| std::env::var_os(v).is_none()) {
            let advice = "workerd's own environment does not have it; set it there";
            tracing::warn!(event = "variable_missing", %kind, %variable, advice);
        }
    }
}

fn warn_of_what_closes_nothing(config: &Config) {
    for (kind, _) in config.executors.iter().filter(|(_, command)| command.closes_nothing()) {
        tracing::warn!(event = "throttled_closes_nothing", %kind, advice = CLOSES_NOTHING);
    }
}

/// Metrics and health are there before the store is, and until the last job has ended.
async fn serve(config: &Config, shared: &Arc<Shared>) -> Result<Option<Server>, Failure> {
    let Some(address) = config.listen else { return Ok(None) };
    let server = Server::start(address, Arc::clone(shared)).await.map_err(|error| {
        let failure = Failure::new(Exit::Failed, format!("cannot listen on {address}: {error}"));
        match error.kind() {
            io::ErrorKind::AddrInUse => failure.advice(
                "another replica may have it: set http.listen to another port, to port 0 for \
                 any, or to \"off\"",
            ),
            _ => failure,
        }
    })?;
    tracing::info!(event = "http_listening", address = %server.address);
    crate::display::print(&format!("metrics and health: http://{}\n", server.address))?;
    Ok(Some(server))
}

/// The store as the configuration wants it: connected, and with its limits in force before this
/// replica takes a job, also from a store that has lost them later.
async fn prepare(config: &Config) -> Result<(Queue, InForce), Failure> {
    let queue = connect(config).await?;
    let limits = InForce::new(&config.limits);
    limits.outlive_resets_of(&queue);
    limits.write(&queue).await?;
    store_check::tell(&queue).await?;
    Ok((queue, limits))
}

/// Connects, and goes on trying while that can help: a store that starts later than its workers
/// is usual.
async fn connect(config: &Config) -> Result<Queue, Failure> {
    let url = config.store.url()?;
    let mut waits = Waits::default();
    loop {
        let error = match Queue::connect_with(url.reveal(), config.store.options()).await {
            Ok(queue) => {
                tracing::info!(event = "connected", store = %url);
                return Ok(queue);
            }
            Err(error @ (Error::Unavailable(_) | Error::StoreFull(_))) => error,
            Err(error) => return Err(Failure::from(error).context(url)),
        };
        tracing::warn!(event = "connect_failed", store = %url, %error);
        waits.next().await;
    }
}

/// How long the worker waits for an attempt beyond the longest grace that a program has.
const CANCEL_GRACE_MARGIN: Duration = Duration::from_secs(2);

/// A worker as the configuration wants it.
///
/// # Errors
/// If the queues are not queues, which the configuration has made sure of.
pub(crate) fn worker(config: &Config, queue: &Queue) -> Result<Worker, Failure> {
    let queues = config.worker.queues.0.iter().map(|(name, weight)| (name, *weight));
    let selection = QueueSelection::ordered(queues);
    let mut worker = Worker::new(queue)
        .queues(selection.map_err(Failure::usage)?)
        .concurrency(config.worker.concurrency)
        .lease(config.worker.lease)
        .cancel_grace(longest_kill_grace(&config.executors) + CANCEL_GRACE_MARGIN);
    let folders = Arc::new(Folders::default());
    for (kind, command) in &config.executors {
        let executor = CommandExecutor::new(command.clone(), Arc::clone(&folders));
        worker = worker.executor(kind.clone(), command.concurrency, executor);
        worker = worker.limits(kind, command.limits.iter().map(LimitKey::as_str));
    }
    Ok(worker)
}

/// Lets what runs finish within the grace; a second signal stops it at once.
async fn stop(worker: &RunningWorker, grace: Duration, signals: &mut Signals) -> Exit {
    let drain = worker.drain(grace);
    let mut drain = std::pin::pin!(drain);
    let (report, forced) = tokio::select! {
        report = &mut drain => (report, false),
        signal = signals.next() => {
            tracing::warn!(event = "stopping_now", signal);
            // The drain goes on beside it: both end with the worker.
            let (report, _) = tokio::join!(worker.stop_now(), drain);
            (report, true)
        }
    };
    stopped(report, forced)
}

/// Tells what became of the jobs.
fn stopped(report: StopReport, forced: bool) -> Exit {
    let StopReport { finished, released, lost, untold, .. } = report;
    if untold > 0 {
        let advice = "the store could not be told how the untold ones ended: these jobs run again \
                      when their leases end";
        tracing::warn!(event = "stopped", finished, released, lost, untold, advice);
        return Exit::Untold;
    }
    tracing::info!(event = "stopped", finished, released, lost);
    if forced { Exit::Forced } else { Exit::Done }
}
