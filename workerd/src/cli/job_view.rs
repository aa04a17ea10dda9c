//! A job as it is shown to people and programs.

use std::collections::BTreeMap;

use queue::{Codec, JobError, JobRecord, Payload, Timestamp};
use serde::Serialize;
use serde_json::Value;

use crate::display::{escape, escape_lines, short, time};

/// The fields are those of the HTTP API. Times are milliseconds since 1970-01-01 UTC.
#[derive(Debug, Serialize)]
pub(super) struct JobView {
    id: String,
    kind: String,
    queue: String,
    state: &'static str,
    dead_reason: Option<&'static str>,
    priority: u8,
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
    timeout_ms: u128,
    headers: BTreeMap<String, String>,
    error: Option<JobError>,
    payload: Content,
    result: Option<Content>,
    #[serde(skip)]
    elapsed: Option<std::time::Duration>,
}

/// Bytes as JSON, if they are or can be.
#[derive(Debug, Serialize)]
struct Content {
    codec: &'static str,
    bytes: usize,
    /// Null if it has no JSON form.
    json: Value,
    /// Raw bytes that are text.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// The most characters of a payload or result that are shown to people.
const SHOWN_MAX_CHARS: usize = 2000;

impl Content {
    fn of(payload: &Payload) -> Self {
        let raw = (payload.codec() == Codec::Raw).then(|| payload.bytes().to_vec());
        Self {
            codec: payload.codec().as_str(),
            bytes: payload.bytes().len(),
            json: payload.to_json().unwrap_or_default(),
            text: raw.and_then(|bytes| String::from_utf8(bytes).ok()),
        }
    }

    fn to_text(&self) -> String {
        let whole = match (&self.text, self.codec) {
            (Some(text), _) => text.trim_end().to_owned(),
            (None, "raw") => return format!("({} raw bytes)", self.bytes),
            (None, _) => self.json.to_string(),
        };
        let mut text: String = whole.chars().take(SHOWN_MAX_CHARS).collect();
        if text.len() < whole.len() {
            text += " … (--json shows all)";
        }
        escape_lines(&text, INDENT)
    }
}

const INDENT: &str = "           ";

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
            timeout_ms: spec.options.timeout.as_millis(),
            headers: spec.options.headers.clone(),
            error: record.last_error.clone(),
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
        let lines: [(&str, Option<String>); 20] = [
            ("id", Some(self.id.clone())),
            ("kind", Some(self.kind.clone())),
            ("queue", Some(self.queue.clone())),
            ("state", Some(format!("{}{reason}{asked}", self.state))),
            ("priority", Some(self.priority.to_string())),
            ("attempt", Some(attempt)),
            ("stalls", counted(self.stalls.into())),
            ("snoozes", counted(self.snoozes)),
            ("key", self.idempotency_key.as_deref().map(|key| escape(key).into_owned())),
            ("headers", (!self.headers.is_empty()).then(|| self.headers_text())),
            ("enqueued", Some(at(self.enqueued_at))),
            ("due", (self.due_at != self.enqueued_at).then(|| at(self.due_at))),
            ("expires", self.expires_at.map(at)),
            ("worker", self.worker.clone()),
            ("lease", self.lease_until.map(at)),
            ("finished", self.finished_at.map(at)),
            ("elapsed", self.elapsed.map(short)),
            ("error", self.error.as_ref().map(|error| escape_lines(&error.message, INDENT))),
            ("payload", Some(self.payload.to_text())),
            ("result", self.result.as_ref().map(Content::to_text)),
        ];
        let said = lines.into_iter().filter_map(|(name, text)| Some((name, text?)));
        said.map(|(name, text)| format!("{name:<width$}{text}\n", width = INDENT.len())).collect()
    }

    fn headers_text(&self) -> String {
        let lines = self.headers.iter().map(|(k, v)| format!("{}: {}", escape(k), escape(v)));
        lines.collect::<Vec<_>>().join(&format!("\n{INDENT}"))
    }
}
