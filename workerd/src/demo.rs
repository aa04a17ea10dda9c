//! `workerd demo`: the whole system at work, on a machine with nothing but its usual programs.
//!
//! A queue of its own, one worker, and one job per file of a folder; among them jobs that wait,
//! hurry, come twice, fail once, take too long and fail for good. In the end every one of them
//! must have ended as intended, and the store must agree with itself.

mod files;
mod plan;
mod progress;
mod summary;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use queue::{Connect, Namespace, Queue, RunningWorker};

use crate::cli::Common;
use crate::config::{Config, Layers, Setting, StoreUrl};
use crate::daemon;
use crate::display::print;
use crate::exit::{Exit, Failure, Outcome};
use crate::http::{Running, Server, Shared};
use crate::signals::Signals;
use crate::telemetry;
use plan::Plan;
use summary::Summary;

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

/// How long the demo may take before it is called a failure.
const TIME_MAX: Duration = Duration::from_secs(120);

/// # Errors
/// Why it could not be shown.
pub(crate) async fn execute(common: &Common, args: Args) -> Outcome {
    let mut signals = Signals::new().map_err(|e| Failure::new(Exit::Failed, e))?;
    // Removed, with the queue in it, when all is over.
    let folder = tempfile::tempdir().map_err(|e| Failure::new(Exit::Failed, e))?;
    let config = config(common, &args, &folder.path().join("queue.db"))?;
    telemetry::start_logs(&config.log);
    let metrics = telemetry::start_metrics()?;
    let plan = Plan::make(&args.dir, args.max_files)?;

    let url = config.store.url()?;
    let connected = Queue::connect_with(url.reveal(), config.store.options()).await;
    let queue = connected.map_err(|e| Failure::from(e).context(url))?;
    let started = Instant::now();
    let enqueued = plan.enqueue(&queue).await?;
    let worker = daemon::worker(&config, &queue)?.start();
    let worker = Arc::new(worker.map_err(Failure::usage)?);

    let show_bar = !common.json;
    let finished = tokio::select! {
        finished = progress::watch(&queue, enqueued.jobs(), TIME_MAX, show_bar) => finished?,
        signal = signals.next() => {
            worker.stop_now().await;
            return Err(Failure::new(Exit::Failed, format!("interrupted by {signal}")));
        }
    };
    let records = enqueued.read(&queue).await?;
    let problems = verify::problems(&queue, &enqueued, &records, finished).await?;
    let summary = Summary::of(&config, &records, &problems, started.elapsed());
    common.answer(&summary, || summary.to_text())?;
    if args.serve {
        serve(
            &config,
            Shared::new(metrics, config.worker.queues.names()),
            queue,
            &worker,
            &mut signals,
        )
        .await?;
    }
    worker.drain(config.worker.shutdown_grace).await;
    Ok(if problems.is_empty() { Exit::Done } else { Exit::Failed })
}

/// A configuration as a file could have it. Only `--url` leads to a store that is there already,
/// never the environment: a demo is no reason to write to somebody's queue. Even there it has a
/// namespace of its own.
fn config(common: &Common, args: &Args, file: &Path) -> Result<Config, Failure> {
    let level = std::env::var("WORKERD_LOG_LEVEL").unwrap_or_else(|_| "error".to_owned());
    let layers = Layers::default()
        .flag(Setting::Url, common.url())
        .flag(Setting::Listen, args.listen.as_deref())
        .flag(Setting::LogLevel, Some(&level));
    let mut config = Config::load(None, &layers)?;
    if config.store.url.is_none() {
        let url = format!("sqlite:{}", file.display());
        config.store.url = Some(StoreUrl::new(&url).map_err(Failure::usage)?);
    }
    let namespace = format!("demo-{:08x}", fastrand::u32(..));
    config.store.namespace = Namespace::new(namespace).map_err(Failure::usage)?;
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    config.worker.concurrency = (2 * cores).clamp(4, 16);
    config.executors = plan::executors()?;
    Ok(config)
}

async fn serve(
    config: &Config,
    shared: Arc<Shared>,
    queue: Queue,
    worker: &Arc<RunningWorker>,
    signals: &mut Signals,
) -> Result<(), Failure> {
    let Some(address) = config.listen else { return Ok(()) };
    shared.set_running(Running { queue, worker: Arc::clone(worker) });
    let server = Server::start(address, shared).await.map_err(|error| {
        let failure = Failure::new(Exit::Failed, format!("cannot listen on {address}: {error}"));
        failure.advice("choose another address with --listen")
    })?;
    let (url, namespace) = (config.store.url()?, &config.store.namespace);
    print(&format!(
        "\nStill running; Ctrl-C ends it.\n  \
         metrics   http://{}/metrics\n  \
         one more  workerd enqueue {} --payload '{{\"path\": \"/etc/hosts\"}}' \\\n            \
         --url {url} --namespace {namespace}\n",
        server.address,
        plan::FILE_KIND,
    ));
    signals.next().await;
    Ok(())
}
