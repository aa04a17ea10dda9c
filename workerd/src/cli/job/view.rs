//! A job as it is shown to people and programs.

use std::collections::BTreeMap;

use queue::{AttemptEnd, AttemptRecord, JobError, JobRecord, Timestamp};
use serde::Serialize;

use super::content::Content;
use crate::cli::fields::hold_text;
use crate::display::{escape, escape_lines, short, shortened, time};

/// The fields are those of the HTTP API. Times are milliseconds since 1970-01-01 UTC.
#[derive(Debug, Serialize)]
pub(super) struct JobView {
    id: String,
    kind: String,
    queue: String,
    state: &'static str,
    dead_reason: Option<&'static str>,
    priority: u8,
    /// What it needs to run, beside what the executor of its kind adds.
    limits: Vec<String>,
    attempt: u16,
    max_attempts: u16,
    failures: u16,
    stalls: u8,
    snoozes: u32,
    cancel_requested: bool,
    enqueued_at: u64,
    due_at: u64,
    finished_at: Option<u64>,
    lease_until: Option<u64>,
    expires_at: Option<u64>,
    elapsed_sec: Option<f64>,
    worker: Option<String>,
    idempotency_key: Option<String>,
    /// How long it keeps its key, as `--hold` takes it.
    hold: String,
    timeout_ms: u128,
    headers: BTreeMap<String, String>,
    progress: Option<ProgressView>,
    error: Option<JobError>,
    /// Attempts that failed or were lost, the oldest first.
    history: Vec<PastAttempt>,
    payload: Content,
    result: Option<Content>,
    #[serde(skip)]
    elapsed: Option<std::time::Duration>,
}

#[derive(Debug, Serialize)]
struct ProgressView {
    percent: u8,
    text: String,
}

#[derive(Debug, Serialize)]
struct PastAttempt {
    number: u16,
    worker: Option<String>,
    ended_at: u64,
    /// `failed`, or `lease_expired` if its worker was not heard of any more.
    end: &'static str,
    elapsed_sec: Option<f64>,
    error: Option<JobError>,
}

/// The most characters of an earlier attempt's error that are shown to people.
const HISTORY_MAX_CHARS: usize = 100;

/// Where values begin.
pub(super) const INDENT: &str = "           ";

impl ProgressView {
    fn to_text(&self) -> String {
        format!("{}% {}", self.percent, escape(&self.text)).trim_end().to_owned()
    }
}

impl PastAttempt {
    fn of(attempt: &AttemptRecord) -> Self {
        let (end, elapsed, error) = match &attempt.end {
            AttemptEnd::Failed { error, elapsed } => ("failed", Some(elapsed), Some(error.clone())),
            AttemptEnd::LeaseExpired => ("lease_expired", None, None),
            _ => ("unknown", None, None),
        };
        Self {
            number: attempt.number,
            worker: attempt.worker.as_ref().map(ToString::to_string),
            ended_at: attempt.ended_at.as_ms(),
            end,
            elapsed_sec: elapsed.map(std::time::Duration::as_secs_f64),
            error,
        }
    }

    /// One line; the whole error of the last attempt stands elsewhere.
    fn to_text(&self) -> String {
        let at = time(Timestamp::from_ms(self.ended_at));
        let by = self.worker.as_ref().map(|worker| format!(" on {worker}")).unwrap_or_default();
        let what = match (&self.error, self.end) {
            (Some(error), _) => {
                let took = self.elapsed_sec.map(std::time::Duration::from_secs_f64).map(short);
                let message = error.message.lines().next().unwrap_or_default();
                let message = shortened(message, HISTORY_MAX_CHARS).into_owned();
                format!(" failed after {}: {}", took.unwrap_or_default(), escape(&message))
            }
            (None, "lease_expired") => " was lost: its lease ended without a word".to_owned(),
            (None, end) => format!(" ended: {end}"),
        };
        format!("{at} attempt {}{by}{what}", self.number)
    }
}

impl JobView {
    pub(super) fn of(record: &JobRecord) -> Self {
        let spec = &record.spec;
        let ms = Timestamp::as_ms;
        Self {
            id: spec.id.to_string(),
            kind: spec.kind.to_string(),
            queue: spec.queue.to_string(),
            state: record.state.as_str(),
            dead_reason: record.dead_reason.map(queue::DeadReason::as_str),
            priority: spec.priority.level(),
            limits: spec.limits.iter().map(ToString::to_string).collect(),
            attempt: record.attempt(),
            max_attempts: spec.max_attempts,
            failures: record.failures,
            stalls: record.stalls,
            snoozes: record.snoozes,
            cancel_requested: record.cancel_requested,
            enqueued_at: ms(record.enqueued_at),
            due_at: ms(record.due_at),
            finished_at: record.finished_at.map(ms),
            lease_until: record.lease_until.map(ms),
            expires_at: spec.expires_at.map(ms),
            elapsed_sec: record.elapsed.map(|elapsed| elapsed.as_secs_f64()),
            worker: record.worker.as_ref().map(ToString::to_string),
            idempotency_key: spec.idempotency_key.as_ref().map(ToString::to_string),
            hold: hold_text(spec.hold),
            timeout_ms: spec.options.timeout.as_millis(),
            headers: spec.options.headers.clone(),
            progress: record.progress.as_ref().map(|progress| ProgressView {
                percent: progress.percent,
                text: progress.text.clone(),
            }),
            error: record.last_error.clone(),
            history: record.history.iter().map(PastAttempt::of).collect(),
            payload: Content::of(&spec.payload),
            result: record.result.as_ref().map(Content::of),
            elapsed: record.elapsed,
        }
    }

    /// Line by line, leaving out what there is nothing to say about.
    pub(super) fn to_text(&self) -> String {
        let at = |ms: u64| time(Timestamp::from_ms(ms));
        let reason = self.dead_reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        let asked = if self.cancel_requested { " (asked to stop)" } else { "" };
        let attempt = format!("{} of {}", self.attempt, self.max_attempts);
        let counted = |count: u32| (count > 0).then(|| count.to_string());
        let lines: [(&str, Option<String>); 23] = [
            ("id", Some(self.id.clone())),
            ("kind", Some(self.kind.clone())),
            ("queue", Some(self.queue.clone())),
            ("state", Some(format!("{}{reason}{asked}", self.state))),
            ("priority", Some(self.priority.to_string())),
            ("limits", (!self.limits.is_empty()).then(|| self.limits.join(", "))),
            ("attempt", Some(attempt)),
            ("stalls", counted(self.stalls.into())),
            ("snoozes", counted(self.snoozes)),
            ("key", self.idempotency_key.as_deref().map(|key| self.key_text(key))),
            ("headers", (!self.headers.is_empty()).then(|| self.headers_text())),
            ("enqueued", Some(at(self.enqueued_at))),
            ("due", (self.due_at != self.enqueued_at).then(|| at(self.due_at))),
            ("expires", self.expires_at.map(at)),
            ("worker", self.worker.clone()),
            ("lease", self.lease_until.map(at)),
            ("finished", self.finished_at.map(at)),
            ("elapsed", self.elapsed.map(short)),
            ("progress", self.progress.as_ref().map(ProgressView::to_text)),
            ("error", self.error.as_ref().map(|error| escape_lines(&error.message, INDENT))),
            ("history", (!self.history.is_empty()).then(|| self.history_text())),
            ("payload", Some(self.payload.to_text())),
            ("result", self.result.as_ref().map(Content::to_text)),
        ];
        let said = lines.into_iter().filter_map(|(name, text)| Some((name, text?)));
        said.map(|(name, text)| format!("{name:<width$}{text}\n", width = INDENT.len())).collect()
    }

    fn key_text(&self, key: &str) -> String {
        let held = match self.hold.as_str() {
            "kept" => String::new(),
            "live" => " (until it is completed)".to_owned(),
            time => format!(" (for at least {time})"),
        };
        format!("{}{held}", escape(key))
    }

    fn history_text(&self) -> String {
        let lines: Vec<String> = self.history.iter().map(PastAttempt::to_text).collect();
        lines.join(&format!("\n{INDENT}"))
    }

    fn headers_text(&self) -> String {
        let lines = self.headers.iter().map(|(k, v)| format!("{}: {}", escape(k), escape(v)));
        lines.collect::<Vec<_>>().join(&format!("\n{INDENT}"))
    }
}
