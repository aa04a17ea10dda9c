//! `/livez`: should this process be restarted? `/readyz`: does it take jobs?

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use queue::WorkerStatus;

use super::Shared;

/// How long the fetch cycle of a worker with a store may stand still.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// Red only if a restart would help: the worker stands still although its store answers, or only
/// another process can use the store again. A worker that waits for its store, or that drains, is
/// alive.
pub(super) async fn livez(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    let status = shared.running.get().map(|running| running.worker.status());
    match status.and_then(|status| wants_restart(&status)) {
        None => (StatusCode::OK, "alive\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
    }
}

/// Why a restart would help, if it would.
fn wants_restart(status: &WorkerStatus) -> Option<String> {
    if status.store_needs_restart && !status.draining {
        return Some("this process cannot use its store any more; start it again".to_owned());
    }
    stuck_for(status).map(|time| format!("no progress for {} s", time.as_secs()))
}

fn stuck_for(status: &WorkerStatus) -> Option<Duration> {
    let time = status.last_progress.elapsed();
    (status.store_up && !status.draining && time > STUCK_AFTER).then_some(time)
}

/// Green while the worker takes jobs.
pub(super) async fn readyz(State(shared): State<Arc<Shared>>) -> (StatusCode, &'static str) {
    let status = shared.running.get().map(|running| running.worker.status());
    match status {
        None => (StatusCode::SERVICE_UNAVAILABLE, "not connected to the store\n"),
        Some(status) if status.draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        Some(status) if !status.store_up => {
            (StatusCode::SERVICE_UNAVAILABLE, "the store is down\n")
        }
        Some(status) if status.store_was_reset => {
            let text = "the store was reset, and its limits are not written yet\n";
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
        Some(_) => (StatusCode::OK, "ready\n"),
    }
}
