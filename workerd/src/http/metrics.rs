//! `/metrics`: what the process counted, and what the store counts.

mod blocked;
mod limits;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use metrics::gauge;
use queue::{JobState, LimitKey, Queue, QueueName, QueueStats, RunningWorker};
use tokio::sync::Mutex;

use super::Shared;

/// How long the store's counts are good for: many scrapers cost it as much as one.
const COUNTS_FRESH: Duration = Duration::from_secs(1);

/// How long a scrape waits for the store.
const COUNTS_TIMEOUT: Duration = Duration::from_secs(2);

const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let mut counts = String::new();
    if let Some(running) = shared.running.get() {
        set_gauges(&running.worker);
        counts = shared.store_counts.text(&running.queue, &shared.names).await;
    }
    ([(CONTENT_TYPE, PROMETHEUS_TEXT)], shared.prometheus.render() + &counts)
}

#[expect(clippy::cast_precision_loss, reason = "no count here comes near 2^52")]
fn set_gauges(worker: &RunningWorker) {
    let status = worker.status();
    let free = status.slots.saturating_sub(status.running);
    gauge!("workerd_slots", "state" => "busy").set(status.running as f64);
    gauge!("workerd_slots", "state" => "free").set(free as f64);
    for (queue, running) in worker.running_of_queues() {
        gauge!("workerd_inflight_jobs", "queue" => queue.to_string()).set(running as f64);
    }
    gauge!("workerd_draining").set(f64::from(u8::from(status.draining)));
    gauge!("queue_store_up").set(f64::from(u8::from(status.store_up)));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let progress = now.saturating_sub(status.last_progress.elapsed());
    gauge!("workerd_fetch_last_progress_timestamp_seconds").set(progress.as_secs_f64());
}

/// What the configuration names, and metrics therefore name as well.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) queues: Vec<QueueName>,
    pub(crate) limits: Vec<LimitKey>,
}

/// The gauges of jobs and of limits. Written by hand rather than recorded, so that they are absent
/// while the store does not answer, instead of showing what was true once.
#[derive(Debug, Default)]
pub(super) struct StoreCounts {
    last: Mutex<Option<(Instant, String)>>,
}

impl StoreCounts {
    async fn text(&self, queue: &Queue, names: &Names) -> String {
        // Held while the store is asked: whoever comes meanwhile gets the same answer.
        let mut last = self.last.lock().await;
        if let Some((at, text)) = last.as_ref()
            && at.elapsed() < COUNTS_FRESH
        {
            return text.clone();
        }
        let limits = limits::look(queue, &names.limits);
        let backlogs = blocked::look(queue, &names.queues);
        let ask = async { tokio::try_join!(queue.stats(), queue.paused(), backlogs, limits) };
        let text = match tokio::time::timeout(COUNTS_TIMEOUT, ask).await {
            Ok(Ok((stats, paused, backlogs, limits))) => {
                render(&stats, &names.queues)
                    + &blocked::render(&stats, &paused, &names.queues, &backlogs)
                    + &blocked::render_ages(&backlogs)
                    + &limits::render(&limits)
            }
            Ok(Err(_)) | Err(_) => String::new(),
        };
        *last = Some((Instant::now(), text.clone()));
        text
    }
}

/// Every state of every queue of this worker's configuration, zeros too; all other queues of the
/// store together are `other`, since anybody can make a queue by enqueueing to it.
fn render(stats: &[QueueStats], queues: &[QueueName]) -> String {
    let mut counts: BTreeMap<(&str, JobState), u64> = BTreeMap::new();
    for queue in queues.iter().map(QueueName::as_str) {
        counts.extend(JobState::ALL.into_iter().map(|state| ((queue, state), 0)));
    }
    for row in stats {
        let queue = if queues.contains(&row.queue) { row.queue.as_str() } else { "other" };
        for (state, count) in &row.jobs {
            *counts.entry((queue, *state)).or_default() += count;
        }
    }
    let mut text = "# HELP queue_jobs Jobs in the store, by queue and state.\n\
                    # TYPE queue_jobs gauge\n"
        .to_owned();
    for ((queue, state), count) in counts {
        // Names have no character that would need an escape.
        let _ = writeln!(text, "queue_jobs{{queue=\"{queue}\",state=\"{state}\"}} {count}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use queue::Kind;

    use super::*;

    fn row(queue: &str, kind: &str, jobs: &[(JobState, u64)]) -> QueueStats {
        let (queue, kind) = (QueueName::new(queue).unwrap(), Kind::new(kind).unwrap());
        QueueStats::new(queue, kind, BTreeMap::from_iter(jobs.iter().copied()))
    }

    #[test]
    fn kinds_are_summed_known_queues_are_named_and_the_rest_is_other() {
        let stats = [
            row("a", "x", &[(JobState::Ready, 2), (JobState::Dead, 1)]),
            row("a", "y", &[(JobState::Ready, 3)]),
            row("b", "y", &[(JobState::Ready, 4), (JobState::Running, 1)]),
            row("strange1", "x", &[(JobState::Ready, 1)]),
            row("strange2", "x", &[(JobState::Ready, 1)]),
        ];
        let name = |name: &str| QueueName::new(name).unwrap();
        let text = render(&stats, &[name("a"), name("b")]);
        for line in [
            "queue_jobs{queue=\"a\",state=\"ready\"} 5",
            "queue_jobs{queue=\"a\",state=\"dead\"} 1",
            "queue_jobs{queue=\"a\",state=\"running\"} 0",
            "queue_jobs{queue=\"other\",state=\"ready\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("strange"));
    }
}
