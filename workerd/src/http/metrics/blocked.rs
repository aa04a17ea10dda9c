//! The gauges of ready jobs: how many may not start, and why (`queue_blocked_jobs`), and for how long
//! the oldest has waited (`queue_oldest_job_age_seconds`).

use std::collections::BTreeMap;
use std::fmt::Write;

use queue::{Backlog, Error, JobState, Queue, QueueName, QueueStats, Reason};

/// The most queues whose backlog is looked into, which takes several calls for each; of others it
/// is only known whether they are paused.
const QUEUES_MAX: usize = 16;

/// Why a ready job may not start. One that waits for a free slot may.
const REASONS: [Reason; 6] = [
    Reason::Paused,
    Reason::Unroutable,
    Reason::Throttled,
    Reason::Breaker,
    Reason::Limit,
    Reason::Rate,
];
/// Stands in the place of a reason for jobs in lanes that a bounded look did not reach.
const NOT_LOOKED_AT: &str = "not_looked_at";

/// # Errors
/// Why the store could not be asked.
pub(super) async fn look(
    queue: &Queue,
    names: &[QueueName],
) -> Result<BTreeMap<QueueName, Backlog>, Error> {
    let mut backlogs = BTreeMap::new();
    for name in names.iter().take(QUEUES_MAX) {
        backlogs.insert(name.clone(), queue.backlog(name).await?);
    }
    Ok(backlogs)
}

/// Every reason of every queue that was looked into, zeros too; all queues that this replica does
/// not know together are `other`.
pub(super) fn render(
    stats: &[QueueStats],
    paused: &[QueueName],
    queues: &[QueueName],
    backlogs: &BTreeMap<QueueName, Backlog>,
) -> String {
    let mut blocked: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for name in queues {
        blocked.insert((name.as_str(), Reason::Paused.as_str()), 0);
    }
    for (name, backlog) in backlogs {
        for reason in REASONS {
            let jobs = backlog.reasons.get(&reason).copied().unwrap_or(0);
            blocked.insert((name.as_str(), reason.as_str()), jobs);
        }
        blocked.insert((name.as_str(), NOT_LOOKED_AT), backlog.not_looked_at);
    }
    for row in stats.iter().filter(|row| !backlogs.contains_key(&row.queue)) {
        let queue = if queues.contains(&row.queue) { row.queue.as_str() } else { "other" };
        let ready = row.jobs.get(&JobState::Ready).filter(|_| paused.contains(&row.queue));
        let count = blocked.entry((queue, Reason::Paused.as_str())).or_default();
        *count += ready.copied().unwrap_or(0);
    }
    let mut text =
        "# HELP queue_blocked_jobs Ready jobs that may not start, by queue and reason.\n\
                    # TYPE queue_blocked_jobs gauge\n"
            .to_owned();
    for ((queue, reason), count) in blocked {
        // Names have no character that would need an escape.
        let labels = format!("queue=\"{queue}\",reason=\"{reason}\"");
        let _ = writeln!(text, "queue_blocked_jobs{{{labels}}} {count}");
    }
    text
}

/// Of every queue that was looked into; 0 without ready jobs.
pub(super) fn render_ages(backlogs: &BTreeMap<QueueName, Backlog>) -> String {
    let mut text =
        "# HELP queue_oldest_job_age_seconds For how long the ready job that waits longest could \
         have run, by queue.\n# TYPE queue_oldest_job_age_seconds gauge\n"
            .to_owned();
    for (queue, backlog) in backlogs {
        let age = backlog.oldest.unwrap_or_default().as_secs_f64();
        let _ = writeln!(text, "queue_oldest_job_age_seconds{{queue=\"{queue}\"}} {age}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use queue::Kind;

    use super::*;

    fn name(name: &str) -> QueueName {
        QueueName::new(name).unwrap()
    }

    fn ready(queue: &str, jobs: u64) -> QueueStats {
        let kind = Kind::new("k").unwrap();
        QueueStats::new(name(queue), kind, BTreeMap::from([(JobState::Ready, jobs)]))
    }

    #[test]
    fn known_queues_have_every_reason_and_others_only_know_of_pauses() {
        let mut backlog = Backlog::default();
        backlog.reasons = BTreeMap::from([(Reason::Limit, 7), (Reason::Slot, 9)]);
        backlog.not_looked_at = 5;
        let backlogs = BTreeMap::from([(name("a"), backlog)]);
        let stats = [ready("a", 16), ready("b", 2), ready("strange1", 3), ready("strange2", 4)];
        let paused = [name("b"), name("strange1")];
        let text = render(&stats, &paused, &[name("a"), name("b")], &backlogs);
        for line in [
            "queue_blocked_jobs{queue=\"a\",reason=\"limit\"} 7",
            "queue_blocked_jobs{queue=\"a\",reason=\"unroutable\"} 0",
            "queue_blocked_jobs{queue=\"a\",reason=\"paused\"} 0",
            "queue_blocked_jobs{queue=\"a\",reason=\"not_looked_at\"} 5",
            "queue_blocked_jobs{queue=\"b\",reason=\"paused\"} 2",
            "queue_blocked_jobs{queue=\"other\",reason=\"paused\"} 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("slot") && !text.contains("strange"), "{text}");
    }

    #[test]
    fn every_queue_that_was_looked_into_has_an_age() {
        let mut waits = Backlog::default();
        waits.oldest = Some(Duration::from_millis(1500));
        let backlogs = BTreeMap::from([(name("a"), waits), (name("b"), Backlog::default())]);
        let text = render_ages(&backlogs);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        let expected = ["{queue=\"a\"} 1.5", "{queue=\"b\"} 0"];
        assert_eq!(lines, expected.map(|end| format!("queue_oldest_job_age_seconds{end}")));
    }
}
