//! `workerd demo`: the whole system at work, on a machine with nothing but its usual programs.
//!
//! A queue of its own, one worker, and one job per file of a folder; among them jobs that wait,
//! hurry, come twice, fail once, take too long and fail for good. In the end every one of them
//! must have ended as intended, and the store must agree with itself.

mod cleanup;
mod files;
mod plan;
mod progress;
mod summary;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use queue::{Connect, LimitKey, LimitSettings, LimitTarget, Namespace, Queue, QueueName};

use crate::cli::Common;
use crate::config::{Config, Layers, Limits, Queues, Setting, StoreUrl};
use crate::daemon;
use crate::display::print;
use crate::exit::{Exit, Failure, Outcome};
use crate::http::{Running, Server, Shared};
use crate::limits::InForce;
use crate::signals::Signals;
use crate::telemetry;
use plan::{Place, Plan};
use progress::Seen;
use summary::Summary;
use verify::Ran;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder whose files are worked on
    #[arg(long, default_value = ".", value_name = "FOLDER")]
    dir: PathBuf,

    /// The most files that are worked on
    #[arg(long, default_value_t = 500, value_name = "COUNT")]
    max_files: usize,

    /// Go on running afterwards, with metrics and health
    #[arg(long)]
    serve: bool,

    /// Where metrics and health are served then [default: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDRESS", requires = "serve")]
    listen: Option<String>,
}

/// # Errors
/// Why it could not be shown.
pub(crate) async fn execute(common: &Common, args: Args) -> Outcome {
    let mut signals = Signals::new().map_err(|e| Failure::new(Exit::Failed, e))?;
    // Removed, with the queue in it, when all is over.
    let folder = tempfile::tempdir().map_err(|e| Failure::new(Exit::Failed, e))?;
    let (config, place) = config(common, &args, &folder.path().join("queue.db"))?;
    telemetry::start_logs(&config.log);
    let shared = Shared::new(telemetry::start_metrics()?, daemon::names(&config));
    let plan = Plan::make(&args.dir, args.max_files, &place)?;
    // Before there is any work: the port may be somebody else's.
    let server = if args.serve { serve(&config, &shared).await? } else { None };

    let url = config.store.url()?;
    let connected = tokio::select! {
        connected = Queue::connect_with(url.reveal(), config.store.options()) => connected,
        signal = signals.next() => return Err(interrupted(signal)),
    };
    let queue = connected.map_err(|e| Failure::from(e).context(url))?;
    let mut demo = Demo { common, config, place, queue, seen: Seen::new(plan.ids()) };
    let outcome = demo.show(plan, server.as_ref(), &shared, &mut signals).await;
    let cleaned = demo.clean_up(&mut signals).await;
    let exit = outcome?;
    cleaned?;
    Ok(exit)
}

/// One run.
struct Demo<'a> {
    common: &'a Common,
    config: Config,
    place: Place,
    queue: Queue,
    seen: Seen,
}

impl Demo<'_> {
    async fn show(
        &mut self,
        plan: Plan,
        server: Option<&Server>,
        shared: &Shared,
        signals: &mut Signals,
    ) -> Outcome {
        let limits = InForce::new(&self.config.limits);
        limits.outlive_resets_of(&self.queue);
        limits.write(&self.queue).await?;
        let started = Instant::now();
        let enqueued = plan.enqueue(&self.queue).await?;
        self.seen = Seen::new(enqueued.created().map(|(_, id)| id));
        let worker = daemon::worker(&self.config, &self.queue)?.start();
        let worker = Arc::new(worker.map_err(Failure::usage)?);
        let watched = tokio::select! {
            watched = self.seen.watch(&self.queue, !self.common.json) => watched,
            signal = signals.next() => Err(interrupted(signal)),
        };
        if let Err(failure) = watched {
            worker.stop_now().await;
            return Err(failure);
        }
        let records = self.seen.0.iter().map(|(_, record)| record.as_ref());
        let ran: Vec<Ran<'_>> = enqueued
            .created()
            .zip(records)
            .map(|((role, id), record)| (role, id, record))
            .collect();
        let problems = verify::problems(&self.queue, &self.place, &enqueued, &ran).await?;
        let metrics = server.map(|server| format!("http://{}/metrics", server.address));
        let time = started.elapsed();
        let summary =
            Summary::of(&self.config, &self.place, &ran, &problems, time, metrics.as_deref());
        self.common.answer(&summary, || summary.to_text())?;
        if let Some(metrics) = metrics {
            let (queue, worker) = (self.queue.clone(), Arc::clone(&worker));
            shared.set_running(Running { queue, worker });
            self.tell_how_to_go_on(&metrics)?;
            signals.next().await;
        }
        worker.drain(self.config.worker.shutdown_grace).await;
        Ok(if problems.is_empty() { Exit::Done } else { Exit::Failed })
    }

    fn tell_how_to_go_on(&self, metrics: &str) -> Result<(), Failure> {
        // Programs have read it in the summary.
        if self.common.json {
            return Ok(());
        }
        let (url, namespace) = (self.config.store.url()?, &self.config.store.namespace);
        print(&format!(
            "\nStill running; Ctrl-C ends it.\n  \
             metrics   {metrics}\n  \
             one more  workerd enqueue {} --payload '{{\"path\": \"/etc/hosts\"}}' \\\n            \
             --queue {} --url '{url}' --namespace {namespace}\n",
            plan::FILE_KIND,
            self.place.queue,
        ))
    }

    /// Leaves nothing of this run in a store that outlives it. A signal is not waited for.
    async fn clean_up(&self, signals: &mut Signals) -> Result<(), Failure> {
        if !self.place.is_shared {
            return Ok(());
        }
        tokio::select! {
            cleaned = cleanup::clean_up(&self.queue, &self.place, &self.seen) => cleaned,
            signal = signals.next() => Err(interrupted(signal)),
        }
    }
}

fn interrupted(signal: &str) -> Failure {
    Failure::new(Exit::Failed, format!("interrupted by {signal}"))
}

/// What all runs on one store share, so that what a store keeps of a namespace it keeps once.
const NAMESPACE: &str = "demo";

/// A configuration as a file could have it, and where the jobs are. Only `--url` leads to a store
/// that is there already, never the environment: a demo is no reason to write to somebody's
/// queue. Even there it has a namespace and a queue of its own.
fn config(common: &Common, args: &Args, file: &Path) -> Result<(Config, Place), Failure> {
    if common.config.is_some() {
        let message = "the demo has a configuration of its own; leave -c out, and name another \
                       store with --url";
        return Err(Failure::usage(message));
    }
    let level = |name: &str| std::env::var_os(name).filter(|_| name == "WORKERD_LOG_LEVEL");
    let layers = common
        .flags_over(Layers::of_environment(|name| {
            level(name).or_else(|| (name == "WORKERD_LOG_LEVEL").then(|| "error".into()))
        }))
        .flag(Setting::Listen, args.listen.as_deref());
    let mut config = Config::load(None, &layers)?;
    let is_shared = config.store.url.as_ref().is_some_and(|url| !url.is_memory());
    if config.store.url.is_none() {
        let url = format!("sqlite:{}", file.display());
        config.store.url = Some(StoreUrl::new(&url).map_err(Failure::usage)?);
    }
    if common.namespace.is_none() {
        config.store.namespace = Namespace::new(NAMESPACE).map_err(Failure::usage)?;
    }
    let name = format!("demo-{:08x}", fastrand::u32(..));
    let queue = QueueName::new(name).map_err(Failure::usage)?;
    config.worker.queues = Queues::only(queue.clone());
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let concurrency = (2 * cores).clamp(4, 16);
    config.worker.concurrency = concurrency;
    let limit = LimitKey::new(format!("provider:{queue}")).map_err(Failure::usage)?;
    let most_at_once = u32::try_from(concurrency / 2).map_err(Failure::usage)?;
    let settings = LimitSettings { concurrency: Some(most_at_once), ..LimitSettings::default() };
    config.limits = Limits::from([(LimitTarget::Key(limit.clone()), settings)]);
    config.executors = plan::executors(&limit)?;
    Ok((config, Place { queue, limit, most_at_once, is_shared }))
}

async fn serve(config: &Config, shared: &Arc<Shared>) -> Result<Option<Server>, Failure> {
    let Some(address) = config.listen else { return Ok(None) };
    let server = Server::start(address, Arc::clone(shared)).await.map_err(|error| {
        let failure = Failure::new(Exit::Failed, format!("cannot listen on {address}: {error}"));
        failure.advice("choose another address with --listen")
    })?;
    Ok(Some(server))
}
