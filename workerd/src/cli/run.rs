//! `workerd run`.

use queue::Worker;

use super::Common;
use crate::config::{Config, Setting};
use crate::daemon;
use crate::exit::{Failure, Outcome};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The most jobs that run at a time [env: WORKERD_CONCURRENCY]
    #[arg(long, value_name = "JOBS")]
    concurrency: Option<String>,

    /// How long a silent worker keeps its jobs [env: WORKERD_LEASE]
    #[arg(long, value_name = "DURATION")]
    lease: Option<String>,

    /// How long running jobs may take to finish after the first signal [env:
    /// WORKERD_SHUTDOWN_GRACE]
    #[arg(long, value_name = "DURATION")]
    shutdown_grace: Option<String>,

    /// Where metrics and health are served, or off [env: WORKERD_HTTP_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,

    /// How logs are written: text or json [env: WORKERD_LOG_FORMAT]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,

    /// What is logged: info, debug, info,queue_core=debug [env: WORKERD_LOG_LEVEL]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

/// # Errors
/// Why it could not run, or could not go on.
pub(super) async fn execute(
    common: &Common,
    args: &Args,
    customize: Option<impl FnOnce(Worker) -> Worker>,
) -> Outcome {
    let layers = common
        .layers()
        .flag(Setting::Concurrency, args.concurrency.as_deref())
        .flag(Setting::Lease, args.lease.as_deref())
        .flag(Setting::ShutdownGrace, args.shutdown_grace.as_deref())
        .flag(Setting::Listen, args.listen.as_deref())
        .flag(Setting::LogFormat, args.log_format.as_deref())
        .flag(Setting::LogLevel, args.log_level.as_deref());
    let file = common.config.clone();
    let config = Config::load(file.as_deref(), &layers)?;
    let read = move || match &file {
        Some(file) => Ok(Config::load(Some(file), &layers)?),
        None => Err(Failure::usage("there is no file to read again; name one with -c")),
    };
    daemon::run(&config, read, customize).await
}
