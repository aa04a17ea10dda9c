//! Metrics and health over HTTP, for this machine only.

mod health;
mod metrics;
mod server;

use std::sync::{Arc, OnceLock};

use ::metrics::gauge;
use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use queue::{Queue, QueueName, RunningWorker};

pub(crate) use server::Server;

use metrics::JobCounts;

/// What the HTTP side knows of the daemon.
#[derive(Debug)]
pub(crate) struct Shared {
    prometheus: PrometheusHandle,
    /// Unset until the store has answered once.
    running: OnceLock<Running>,
    /// The queues whose jobs are counted by name.
    queues: Vec<QueueName>,
    job_counts: JobCounts,
}

/// The connected queue and the worker on it.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) queue: Queue,
    pub(crate) worker: Arc<RunningWorker>,
}

impl Shared {
    pub(crate) fn new(prometheus: PrometheusHandle, queues: Vec<QueueName>) -> Arc<Self> {
        // Down until the worker has reached it.
        gauge!("queue_store_up").set(0.0);
        let (running, job_counts) = (OnceLock::new(), JobCounts::default());
        Arc::new(Self { prometheus, running, queues, job_counts })
    }

    /// Says that the worker runs.
    pub(crate) fn set_running(&self, running: Running) {
        let _ = self.running.set(running);
    }
}

/// Every page.
fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/metrics", get(metrics::metrics))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .with_state(shared)
}
