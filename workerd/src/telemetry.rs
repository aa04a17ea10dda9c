//! Logs on standard error, and the metrics that `/metrics` shows.

mod fields;

use std::io::IsTerminal;
use std::time::Duration;

use metrics::{describe_gauge, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};
use crate::exit::{Exit, Failure};

/// Writes logs to standard error from now on. Whoever has set up `tracing` already keeps that.
pub(crate) fn start_logs(log: &Log) {
    let filter = EnvFilter::builder().parse_lossy(&log.level);
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let _ = match log.format {
        LogFormat::Text => logs.fmt_fields(fields::fields()).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
}

/// From due to start: a round trip at best, an hour where capacity is short.
const WAIT_BUCKETS_SECONDS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0,
    3600.0,
];

/// From start to outcome: quick handlers as well as work of hours.
const RUN_BUCKETS_SECONDS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0,
    14400.0,
];

/// How often the exporter tidies up: without this, what histograms record is kept one by one.
/// From a script on a local socket to the longest answer that is waited for.
const OP_BUCKETS_SECONDS: [f64; 11] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 5.0];

const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Collects the metrics of this process from now on. Made before the queue, which resolves its
/// handles once.
///
/// # Errors
/// If somebody else collects them already.
pub(crate) fn start_metrics() -> Result<PrometheusHandle, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("metrics: {e}"));
    let recorder = builder().map_err(|e| failed(&e))?.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|e| failed(&e))?;
    describe();
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    let (wait, run) = ("queue_wait_seconds".to_owned(), "queue_run_seconds".to_owned());
    let op = "queue_store_op_seconds".to_owned();
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(wait), &WAIT_BUCKETS_SECONDS)?
        .set_buckets_for_metric(Matcher::Full(run), &RUN_BUCKETS_SECONDS)?
        .set_buckets_for_metric(Matcher::Full(op), &OP_BUCKETS_SECONDS)
}

fn describe() {
    describe_gauge!("workerd_slots", "Jobs that this replica runs and could run, by state.");
    describe_gauge!("workerd_inflight_jobs", "Jobs that this replica runs, by queue.");
    describe_gauge!("workerd_draining", "Whether this replica was asked to stop.");
    describe_gauge!(
        "workerd_fetch_last_progress_timestamp_seconds",
        "When this replica last went through its fetch cycle."
    );
    describe_gauge!("workerd_build_info", "Always 1; the version is a label.");
    gauge!("workerd_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}
