//! Metrics and health over HTTP, for this machine only.

mod health;
mod metrics;
mod server;

use std::sync::{Arc, OnceLock};

use ::metrics::gauge;
use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use queue::{Queue, RunningWorker};

pub(crate) use server::Server;

pub(crate) use metrics::Names;
use metrics::StoreCounts;

/// What the HTTP side knows of the daemon.
#[derive(Debug)]
pub(crate) struct Shared {
    prometheus: PrometheusHandle,
    /// Unset until the store has answered once.
    running: OnceLock<Running>,
    names: Names,
    store_counts: StoreCounts,
}

/// The connected queue and the worker on it.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) queue: Queue,
    pub(crate) worker: Arc<RunningWorker>,
}

impl Shared {
    pub(crate) fn new(prometheus: PrometheusHandle, names: Names) -> Arc<Self> {
        // Down until the worker has reached it.
        gauge!("queue_store_up").set(0.0);
        let (running, store_counts) = (OnceLock::new(), StoreCounts::default());
        Arc::new(Self { prometheus, running, names, store_counts })
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
