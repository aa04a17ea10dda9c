//! What happened, for people and for programs.

use std::collections::BTreeMap;
use std::time::Duration;

use queue::{JobId, JobRecord, JobState};
use serde::Serialize;

use super::plan::{Place, Role};
use super::verify::{Ran, has_vanished, most_at_once};
use crate::config::Config;
use crate::display::{escape, short};

#[derive(Debug, Serialize)]
pub(super) struct Summary {
    store: String,
    namespace: String,
    /// Where metrics are served, if they go on.
    metrics: Option<String>,
    jobs: usize,
    duplicates: usize,
    /// From being enqueued to its end: the job that was to wait a second.
    delayed_sec: Option<f64>,
    /// The same for the job that came last and goes first.
    urgent_sec: Option<f64>,
    /// How many checksums may run at once, and how many did.
    limit: u32,
    most_at_once: u32,
    /// Dead because their file was taken away meanwhile.
    vanished: usize,
    states: BTreeMap<&'static str, usize>,
    elapsed_sec: f64,
    wait_sec: Option<Spread>,
    run_sec: Option<Spread>,
    /// Jobs that failed and completed later.
    retried: Vec<Told>,
    dead: Vec<Told>,
    /// All that is not as it was meant to be.
    problems: Vec<String>,
}

/// A distribution.
#[derive(Debug, Serialize)]
struct Spread {
    median: f64,
    p95: f64,
    max: f64,
}

/// A job with a story.
#[derive(Debug, Serialize)]
struct Told {
    id: JobId,
    kind: String,
    failures: u16,
    reason: Option<&'static str>,
    error: String,
}

impl Summary {
    pub(super) fn of(
        config: &Config,
        place: &Place,
        ran: &[Ran<'_>],
        problems: &[String],
        elapsed: Duration,
        metrics: Option<&str>,
    ) -> Self {
        let records: Vec<&JobRecord> = ran.iter().filter_map(|(.., record)| *record).collect();
        let mut states = BTreeMap::new();
        for record in &records {
            *states.entry(record.state.as_str()).or_default() += 1;
        }
        let is_retried = |r: &&&JobRecord| r.failures > 0 && r.state == JobState::Completed;
        let is_dead = |r: &&&JobRecord| r.state == JobState::Dead;
        let wait_of = |role: Role| {
            let records = ran.iter().filter(|(r, ..)| *r == role).filter_map(|(.., r)| *r);
            let waits = records.filter_map(|r| Some(r.finished_at?.since(r.enqueued_at)));
            waits.max().map(|wait| wait.as_secs_f64())
        };
        Self {
            store: config.store.url.as_ref().map(ToString::to_string).unwrap_or_default(),
            namespace: config.store.namespace.to_string(),
            metrics: metrics.map(str::to_owned),
            jobs: ran.len(),
            duplicates: 1,
            delayed_sec: wait_of(Role::Delayed),
            urgent_sec: wait_of(Role::Urgent),
            limit: place.most_at_once,
            most_at_once: most_at_once(ran),
            vanished: records.iter().filter(|record| has_vanished(record)).count(),
            states,
            elapsed_sec: elapsed.as_secs_f64(),
            wait_sec: Spread::of(records.iter().filter_map(|r| wait(r)).collect()),
            run_sec: Spread::of(records.iter().filter_map(|r| r.elapsed).collect()),
            retried: records.iter().filter(is_retried).map(|r| Told::of(r)).collect(),
            dead: records.iter().filter(is_dead).map(|r| Told::of(r)).collect(),
            problems: problems.to_vec(),
        }
    }

    pub(super) fn to_text(&self) -> String {
        let count = |state: &str| self.states.get(state).copied().unwrap_or(0);
        let seconds = Duration::from_secs_f64;
        let mut text = format!(
            "{} jobs in {}, in the queue {}\n\n",
            self.jobs,
            short(seconds(self.elapsed_sec)),
            escape(&self.store)
        );
        text += &format!("  completed  {:>5}\n", count("completed"));
        text += &format!("  dead       {:>5}  on purpose: see below\n", count("dead"));
        if self.vanished > 0 {
            let files = self.vanished;
            text += &format!("  of these, {files} because their files were taken away meanwhile\n");
        }
        text += &format!("  enqueued twice  {}  and run once\n", self.duplicates);
        if let Some(time) = self.delayed_sec {
            let time = short(seconds(time));
            text += &format!("  delayed by 1s   1  ended {time} after it was enqueued\n");
        }
        if let Some(time) = self.urgent_sec {
            let time = short(seconds(time));
            text += &format!("  urgent          1  enqueued last, ran first, ended after {time}\n");
        }
        let Self { limit, most_at_once, .. } = self;
        text +=
            &format!("  limited to     {limit:>2}  and never more than {most_at_once} at once\n");
        text += "\n";
        for (name, spread) in [("waited", &self.wait_sec), ("ran", &self.run_sec)] {
            if let Some(Spread { median, p95, max }) = spread {
                let [median, p95, max] = [median, p95, max].map(|s| short(seconds(*s)));
                text += &format!("  {name:<8} median {median}, 95 % within {p95}, longest {max}\n");
            }
        }
        text += "\n  failed, ran again and completed:\n";
        text += &self.retried.iter().map(Told::to_text).collect::<String>();
        text += "  dead:\n";
        text += &self.dead.iter().map(Told::to_text).collect::<String>();
        if self.problems.is_empty() {
            return text + "\nEvery job ended as intended, and the store's audit found nothing.\n";
        }
        text += "\nNot everything is as it was meant to be:\n";
        text + &self.problems.iter().map(|p| format!("  {}\n", escape(p))).collect::<String>()
    }
}

/// From due to start, of the last attempt.
fn wait(record: &JobRecord) -> Option<Duration> {
    let until_end = record.finished_at?.since(record.due_at);
    Some(until_end.saturating_sub(record.elapsed?))
}

impl Spread {
    fn of(mut values: Vec<Duration>) -> Option<Self> {
        values.sort_unstable();
        let at = |percent: usize| values.get((values.len().checked_sub(1)? * percent) / 100);
        let seconds = |percent| Some(at(percent)?.as_secs_f64());
        Some(Self { median: seconds(50)?, p95: seconds(95)?, max: seconds(100)? })
    }
}

impl Told {
    fn of(record: &JobRecord) -> Self {
        Self {
            id: record.spec.id,
            kind: record.spec.kind.to_string(),
            failures: record.failures,
            reason: record.dead_reason.map(queue::DeadReason::as_str),
            error: record.last_error.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }

    fn to_text(&self) -> String {
        let Self { id, kind, failures, reason, error } = self;
        let times = if *failures == 1 { "once".to_owned() } else { format!("{failures} times") };
        let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!("    {kind} {id} failed {times}{reason}: {}\n", escape(error))
    }
}
