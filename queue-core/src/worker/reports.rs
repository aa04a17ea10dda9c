//! Sends what running attempts report: together, and not too often.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::panics::caught;
use crate::backend::PASS_MAX;
use crate::handler::Reporter;
use crate::{Queue, Report};

/// At most so often: a handler may report at every step of a loop.
const INTERVAL: Duration = Duration::from_millis(100);

/// The pause after a report that did not reach the store.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(500);

/// How long the end of an attempt waits for its last report.
const LAST_REPORT_MAX: Duration = Duration::from_secs(1);

/// Runs until every attempt and the worker are gone.
pub(super) async fn run(queue: Queue, mut outbox: mpsc::UnboundedReceiver<Reporter>) {
    while let Some(first) = outbox.recv().await {
        let mut batch = vec![first];
        while batch.len() < PASS_MAX as usize
            && let Ok(next) = outbox.try_recv()
        {
            batch.push(next);
        }
        let taken: Vec<_> = batch
            .into_iter()
            .filter_map(|reporter| Some((reporter.take_up()?, reporter)))
            .collect();
        let (reports, reporters): (Vec<Report>, Vec<Reporter>) = taken.into_iter().unzip();
        sleep(send(&queue, &reports, &reporters).await).await;
    }
}

/// Answers how long to pause.
async fn send(queue: &Queue, reports: &[Report], reporters: &[Reporter]) -> Duration {
    if reports.is_empty() {
        return Duration::ZERO;
    }
    match caught(queue.backend().report_boxed(reports)).await {
        Ok(Err(error)) if error.is_retryable() => {
            reporters.iter().for_each(Reporter::again);
            return PAUSE_AFTER_ERROR;
        }
        Ok(Ok(_)) => {}
        // Sending the same again would not help, and a report is not worth an attempt.
        Ok(Err(error)) => tracing::error!(event = "reports_refused", %error),
        Err(panic) => tracing::error!(event = "reports_refused", %panic),
    }
    reporters.iter().zip(reports).for_each(|(reporter, report)| reporter.sent(report));
    INTERVAL
}

/// Sends what an attempt told at its end, while its token still counts. Gives up after a second:
/// the outcome matters more.
pub(super) async fn send_last(queue: &Queue, reporter: &Reporter, report: Report) {
    let reports = [report];
    let sent = timeout(LAST_REPORT_MAX, caught(queue.backend().report_boxed(&reports))).await;
    if !matches!(sent, Ok(Ok(Ok(_)))) {
        tracing::warn!(event = "last_report_lost", job_id = %reports[0].id);
    }
    reporter.sent(&reports[0]);
}
