//! A line of a batch as a job.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};
use std::time::Duration;

use queue::payload::{PAYLOAD_DEFAULT_MAX_BYTES, PAYLOAD_HARD_MAX_BYTES};
use queue::{Durability, JobId, Kind, LimitKey, NewJob, QueueName, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cli::fields::{Conflicting, hold};
use crate::cli::payload;
use crate::config::durability;
use crate::exit::Failure;

/// The most bytes of a line: the greatest payload and room for everything else.
const LINE_MAX_BYTES: u64 = PAYLOAD_HARD_MAX_BYTES as u64 + 64 * 1024;

/// The fields of a line; those of the HTTP API's `POST /v1/jobs`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    kind: Kind,
    /// Kept as it was written.
    #[serde(borrow)]
    payload: &'a RawValue,
    queue: Option<QueueName>,
    priority: Option<u8>,
    delay_ms: Option<u64>,
    /// Milliseconds since 1970-01-01 UTC.
    run_at: Option<u64>,
    idempotency_key: Option<String>,
    on_conflict: Option<Conflicting>,
    /// `live`, `kept` or a duration.
    hold: Option<String>,
    /// `memory`, `fsync` or `replicas:N`.
    durability: Option<String>,
    max_attempts: Option<u16>,
    timeout_ms: Option<u64>,
    /// Milliseconds since 1970-01-01 UTC.
    expires_at: Option<u64>,
    headers: Option<BTreeMap<String, String>>,
    id: Option<JobId>,
    #[serde(default)]
    limits: Vec<LimitKey>,
}

/// Jobs that are written together, with their line numbers; none at the end.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) jobs: Vec<(usize, NewJob)>,
    /// What all of them ask for.
    pub(super) durability: Option<Durability>,
}

/// A line that was read.
#[derive(Debug)]
struct Parsed {
    number: usize,
    job: NewJob,
    durability: Option<Durability>,
}

/// Reads lines and counts them from 1.
#[derive(Debug)]
pub(super) struct Lines<R> {
    input: R,
    number: usize,
    buffer: Vec<u8>,
    /// A line that begins the next chunk.
    ahead: Option<Parsed>,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, number: 0, buffer: Vec::new(), ahead: None }
    }

    /// The jobs of the next lines, at most `max` or about `max_bytes`, up to one that asks for
    /// another durability. Blank lines are skipped.
    ///
    /// # Errors
    /// The first line that is no job, and why.
    pub(super) fn chunk(&mut self, max: usize, max_bytes: usize) -> Result<Chunk, Failure> {
        let (mut chunk, mut bytes) = (Chunk::default(), 0);
        while chunk.jobs.len() < max && bytes < max_bytes {
            let Some(line) = self.next_job()? else { break };
            if chunk.jobs.is_empty() {
                chunk.durability = line.durability;
            } else if chunk.durability != line.durability {
                self.ahead = Some(line);
                break;
            }
            bytes += self.buffer.len();
            chunk.jobs.push((line.number, line.job));
        }
        Ok(chunk)
    }

    /// The job of the next line that is not blank.
    fn next_job(&mut self) -> Result<Option<Parsed>, Failure> {
        if let Some(line) = self.ahead.take() {
            return Ok(Some(line));
        }
        while self.next_line()? {
            let mut line = self.buffer.as_slice();
            if self.number == 1 {
                // What some editors put before a text to say that it is Unicode.
                line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
            }
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let (job, durability) = job(line).map_err(|e| self.wrong(&e))?;
            return Ok(Some(Parsed { number: self.number, job, durability }));
        }
        Ok(None)
    }

    /// Reads one line into the buffer; `false` at the end of the input.
    fn next_line(&mut self) -> Result<bool, Failure> {
        self.buffer.clear();
        self.number += 1;
        let mut limited = self.input.by_ref().take(LINE_MAX_BYTES + 1);
        let count = limited
            .read_until(b'\n', &mut self.buffer)
            .map_err(|e| Failure::usage(format!("line {} cannot be read: {e}", self.number)))?;
        if count as u64 > LINE_MAX_BYTES {
            return Err(self.wrong(&format!("has more than {LINE_MAX_BYTES} bytes")));
        }
        Ok(count > 0)
    }

    fn wrong(&self, message: &str) -> Failure {
        let failure = Failure::usage(format!("line {}: {message}", self.number));
        failure.detail("line", self.number)
    }
}

fn job(text: &[u8]) -> Result<(NewJob, Option<Durability>), String> {
    let line: Line<'_> = serde_json::from_slice(text).map_err(|e| without_line(&e))?;
    if line.delay_ms.is_some() && line.run_at.is_some() {
        return Err("delay_ms and run_at exclude each other; keep one".to_owned());
    }
    if line.hold.is_some() && line.idempotency_key.is_none() {
        return Err("hold is about an idempotency_key, and there is none".to_owned());
    }
    let durability = line.durability.as_deref().map(durability).transpose()?;
    let payload = payload::json(line.payload.get())?;
    let mut job = NewJob::new(line.kind, payload);
    if let Some(queue) = line.queue {
        job.spec.queue = queue;
    }
    if let Some(priority) = line.priority {
        job = job.priority(priority);
    }
    for key in line.limits {
        job = job.limit(key.as_str());
    }
    if let Some(delay_ms) = line.delay_ms {
        job = job.delay(Duration::from_millis(delay_ms));
    }
    if let Some(run_at) = line.run_at {
        job = job.run_at(Timestamp::from_ms(run_at));
    }
    if let Some(key) = line.idempotency_key {
        job = job.idempotency_key(key);
    }
    if let Some(text) = line.hold {
        job = job.hold(hold(&text)?);
    }
    if let Some(conflicting) = line.on_conflict {
        job = job.on_conflict(conflicting.into());
    }
    if let Some(attempts) = line.max_attempts {
        job = job.max_attempts(attempts);
    }
    if let Some(timeout_ms) = line.timeout_ms {
        job = job.timeout(Duration::from_millis(timeout_ms));
    }
    if let Some(expires_at) = line.expires_at {
        job = job.expires_at(Timestamp::from_ms(expires_at));
    }
    for (name, value) in line.headers.unwrap_or_default() {
        job = job.header(name, value);
    }
    if let Some(id) = line.id {
        job = job.id(id);
    }
    job.validate(PAYLOAD_DEFAULT_MAX_BYTES).map_err(|e| e.to_string())?;
    Ok((job, durability))
}

/// The error without its place in terms of a text that has one line only.
fn without_line(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", ", at column ")
}

#[cfg(test)]
mod tests {
    use queue::{Due, Hold, LimitKeys, OnConflict};

    use super::*;

    fn jobs(text: &str, max: usize) -> Result<Vec<(usize, NewJob)>, Failure> {
        Ok(Lines::new(text.as_bytes()).chunk(max, usize::MAX)?.jobs)
    }

    #[test]
    fn every_field_reaches_the_job() {
        let id = JobId::new();
        let text = format!(
            r#"{{"kind":"k","payload":{{"n": 1.50}},"queue":"q","priority":2,"delay_ms":5,"limits":["b:1","a:1"],
            "idempotency_key":"key","on_conflict":"reject","hold":"1m 30s","max_attempts":3,"timeout_ms":7,
            "expires_at":9,"headers":{{"a":"b"}},"id":"{id}"}}"#
        );
        let jobs = jobs(&text.replace('\n', " "), 10).unwrap();
        let (line, job) = &jobs[0];
        assert_eq!((*line, jobs.len()), (1, 1));
        assert_eq!(job.spec.payload.bytes().as_ref(), br#"{"n": 1.50}"#);
        assert_eq!((job.spec.queue.as_str(), job.spec.priority.level()), ("q", 2));
        assert_eq!(job.spec.limits, LimitKeys::parse(["a:1", "b:1"]).unwrap());
        assert_eq!(job.due, Due::After(Duration::from_millis(5)));
        assert_eq!(job.spec.idempotency_key.as_ref().unwrap().as_str(), "key");
        assert_eq!((job.on_conflict, job.spec.max_attempts), (OnConflict::Reject, 3));
        assert_eq!(job.spec.hold, Hold::AtLeast(Duration::from_secs(90)));
        assert_eq!(job.spec.options.timeout, Duration::from_millis(7));
        assert_eq!(job.spec.expires_at, Some(Timestamp::from_ms(9)));
        assert_eq!(job.spec.options.headers["a"], "b");
        assert_eq!(job.spec.id, id);
    }

    #[test]
    fn lines_are_read_in_chunks_and_blank_ones_skipped() {
        let text = "{\"kind\":\"a\",\"payload\":1}\n\n{\"kind\":\"b\",\"payload\":2}\r\n\
                    {\"kind\":\"c\",\"payload\":3}";
        let mut lines = Lines::new(text.as_bytes());
        let numbers = |chunk: Chunk| chunk.jobs.iter().map(|c| c.0).collect::<Vec<_>>();
        assert_eq!(numbers(lines.chunk(2, 100).unwrap()), [1, 3]);
        assert_eq!(numbers(lines.chunk(2, 100).unwrap()), [4]);
        assert!(lines.chunk(2, 100).unwrap().jobs.is_empty());
    }

    #[test]
    fn a_chunk_asks_for_one_durability() {
        let line = |more: &str| format!("{{\"kind\":\"a\",\"payload\":1{more}}}\n");
        let (fsync, plain) = (line(",\"durability\":\"fsync\""), line(""));
        let text = [&*plain, &plain, &fsync, &fsync, "\n", &plain].concat();
        let mut lines = Lines::new(text.as_bytes());
        let mut chunks = Vec::new();
        while let chunk = lines.chunk(10, usize::MAX).unwrap()
            && let Some((first, _)) = chunk.jobs.first()
        {
            chunks.push((*first, chunk.jobs.len(), chunk.durability));
        }
        assert_eq!(chunks, [(1, 2, None), (3, 2, Some(Durability::Fsync)), (6, 1, None)]);
    }

    #[test]
    fn a_chunk_is_bounded_in_bytes_and_a_byte_order_mark_is_no_mistake() {
        let line = "{\"kind\":\"a\",\"payload\":1}\n";
        let text = format!("\u{feff}{}", line.repeat(5));
        let mut lines = Lines::new(text.as_bytes());
        assert_eq!(lines.chunk(10, 2 * line.len()).unwrap().jobs.len(), 2);
        assert_eq!(lines.chunk(10, 1).unwrap().jobs.len(), 1);
        assert_eq!(lines.chunk(10, usize::MAX).unwrap().jobs.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (line, expected) in [
            ("{\"kind\":\"a\"}", "missing field `payload`"),
            ("{\"kind\":\"A\",\"payload\":1}", "kind \"A\" is not valid"),
            ("{\"kind\":\"a\",\"payload\":1,\"prio\":1}", "unknown field `prio`"),
            ("{\"kind\":\"a\",\"payload\":1,\"priority\":10}", "priority 10 is not valid"),
            ("{\"kind\":\"a\",\"payload\":1,\"limits\":[\"x\"]}", "colon between"),
            ("{\"kind\":\"a\",\"payload\":1,\"limits\":[\"queue:a\"]}", "another class"),
            ("{\"kind\":\"a\",\"payload\":1,\"delay_ms\":1,\"run_at\":1}", "exclude each other"),
            ("{\"kind\":\"a\",\"payload\":1,\"id\":\"x\"}", "UUID"),
            ("{\"kind\":\"a\",\"payload\":1} x", "trailing characters, at column 26"),
            ("{\"kind\":\"a\",\"payload\":1,\"on_conflict\":\"x\"}", "unknown variant `x`"),
            ("{\"kind\":\"a\",\"payload\":1,\"hold\":\"live\"}", "idempotency_key"),
            ("{\"kind\":\"a\",\"payload\":1,\"durability\":\"disk\"}", "\"replicas:1\""),
            ("[1]", "invalid type"),
            ("{\"kind\":\"a\",\"payload\":1e999}", "number out of range"),
        ] {
            let text = format!("{{\"kind\":\"a\",\"payload\":1}}\n{line}\n");
            let error = jobs(&text, 10).unwrap_err().to_string();
            assert!(error.starts_with("line 2: ") && error.contains(expected), "{line}: {error}");
        }
        let long = format!("{{\"kind\":\"a\",\"payload\":\"{}\"}}", "x".repeat(256 * 1024));
        let error = jobs(&long, 10).unwrap_err().to_string();
        assert!(error.contains("line 1: payload: 262146 bytes"), "{error}");
    }
}
