//! A line of a batch as a job.

use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use queue::payload::PAYLOAD_DEFAULT_MAX_BYTES;
use queue::{Durability, JobId, Kind, LimitKey, NewJob, QueueName, Timestamp};

use super::fields::Fields;
use crate::cli::fields::{Conflicting, hold};
use crate::cli::payload;
use crate::config::{DURATION_MAX, durability};

/// The fields of a line; those of the HTTP API's `POST /v1/jobs`.
const FIELDS: &str = "kind, payload, queue, priority, limits, delay_ms, run_at, idempotency_key, \
                      on_conflict, hold, durability, max_attempts, timeout_ms, expires_at, headers, id";

/// The longest duration that the command line takes, too.
const DURATION_MAX_MS: u64 = DURATION_MAX.as_secs() * 1000;

/// Points in time between these are dates of our century in seconds: in milliseconds they would be of
/// 1970 to 1973.
const LIKE_SECONDS: std::ops::Range<u64> = 946_684_800..100_000_000_000;

/// # Errors
/// Which field is wrong, and what to write.
pub(super) fn job(text: &[u8]) -> Result<(NewJob, Option<Durability>), String> {
    let mut fields = Fields::of(text)?;
    let kind = fields.read("kind", |text| Kind::new(text))?.ok_or("kind is missing")?;
    // Kept as it was written.
    let payload = fields.take("payload").ok_or("payload is missing")?;
    let job = NewJob::new(kind, payload::json(payload.get())?);
    let job = with_place(job, &mut fields)?;
    let job = with_times(job, &mut fields)?;
    let job = with_key(job, &mut fields)?;
    let durability = fields.read("durability", durability)?;
    fields.end(FIELDS)?;
    job.validate(PAYLOAD_DEFAULT_MAX_BYTES).map_err(|e| e.to_string())?;
    Ok((job, durability))
}

/// Where and as what it waits.
fn with_place(mut job: NewJob, fields: &mut Fields<'_>) -> Result<NewJob, String> {
    if let Some(queue) = fields.read("queue", |text| QueueName::new(text))? {
        job.spec.queue = queue;
    }
    if let Some(priority) = fields.number("priority", 0, 9)? {
        job = job.priority(priority);
    }
    for text in fields.texts("limits")? {
        let key = LimitKey::new(text).map_err(|e| format!("limits: {e}"))?;
        job = job.limit(key.as_str());
    }
    if let Some(attempts) = fields.number("max_attempts", 1, u16::MAX.into())? {
        job = job.max_attempts(attempts);
    }
    for (name, value) in fields.texts_by_name("headers")? {
        job = job.header(name, value);
    }
    Ok(job)
}

fn with_times(mut job: NewJob, fields: &mut Fields<'_>) -> Result<NewJob, String> {
    let now = Timestamp::from(SystemTime::now()).as_ms();
    let delay_ms = fields.number("delay_ms", 0, DURATION_MAX_MS)?;
    let run_at = point_in_time(fields, "run_at")?;
    let expires_at = point_in_time(fields, "expires_at")?;
    if delay_ms.is_some() && run_at.is_some() {
        return Err("delay_ms and run_at exclude each other; keep one".to_owned());
    }
    if let Some(expires_at) = expires_at {
        let starts = run_at.or(delay_ms.map(|delay_ms| now.saturating_add(delay_ms)));
        // A line that is sent again finds the job that it has made, also when that has expired.
        let may_be_sent_again = fields.has("id") || fields.has("idempotency_key");
        let reason = match starts {
            _ if may_be_sent_again => "",
            _ if expires_at < now => "is in the past",
            Some(starts) if expires_at < starts => "is before the job may start",
            _ => "",
        };
        if !reason.is_empty() {
            return Err(format!(
                "expires_at: {expires_at} {reason}, so it would never run; write a later time, in \
                 milliseconds since 1970-01-01 UTC"
            ));
        }
        job.spec.expires_at = Some(Timestamp::from_ms(expires_at));
    }
    if let Some(delay_ms) = delay_ms {
        job = job.delay(Duration::from_millis(delay_ms));
    }
    if let Some(run_at) = run_at {
        job = job.run_at(Timestamp::from_ms(run_at));
    }
    if let Some(timeout_ms) = fields.number("timeout_ms", 1, DURATION_MAX_MS)? {
        job = job.timeout(Duration::from_millis(timeout_ms));
    }
    Ok(job)
}

/// Milliseconds since 1970-01-01 UTC.
fn point_in_time(fields: &mut Fields<'_>, name: &str) -> Result<Option<u64>, String> {
    match fields.number(name, 0, u64::MAX)? {
        Some(time) if LIKE_SECONDS.contains(&time) => Err(format!(
            "{name}: {time} looks like seconds; write milliseconds since 1970-01-01 UTC: {time}000"
        )),
        time => Ok(time),
    }
}

/// What makes it the same job as another.
fn with_key(mut job: NewJob, fields: &mut Fields<'_>) -> Result<NewJob, String> {
    let key = fields.text("idempotency_key")?;
    if let Some(hold) = fields.read("hold", hold)? {
        if key.is_none() {
            return Err("hold is about an idempotency_key, and there is none".to_owned());
        }
        job = job.hold(hold);
    }
    if let Some(key) = key {
        job = job.idempotency_key(key);
    }
    if let Some(conflicting) = fields.read("on_conflict", on_conflict)? {
        job = job.on_conflict(conflicting.into());
    }
    if let Some(id) = fields.read("id", str::parse::<JobId>)? {
        job = job.id(id);
    }
    Ok(job)
}

fn on_conflict(text: &str) -> Result<Conflicting, String> {
    Conflicting::from_str(text, false).map_err(|_| {
        format!("{text:?} is not possible; write \"existing\", \"reject\" or \"replace\"")
    })
}

#[cfg(test)]
mod tests {
    use queue::{Due, Hold, LimitKeys, OnConflict};

    use super::*;

    #[test]
    fn every_field_reaches_the_job() {
        let id = JobId::new();
        let text = format!(
            r#"{{"kind":"k","payload":{{"n": 1.50}},"queue":"q","priority":2,"delay_ms":5,"limits":["b:1","a:1"],
            "idempotency_key":"key","on_conflict":"reject","hold":"1m 30s","max_attempts":3,"timeout_ms":7,
            "expires_at":4102444800000,"headers":{{"a":"b"}},"id":"{id}"}}"#
        );
        let text = text.replace('\n', " ");
        let (job, durability) = job(text.as_bytes()).unwrap();
        assert_eq!(durability, None);
        assert_eq!(job.spec.payload.bytes().as_ref(), br#"{"n": 1.50}"#);
        assert_eq!((job.spec.queue.as_str(), job.spec.priority.level()), ("q", 2));
        assert_eq!(job.spec.limits, LimitKeys::parse(["a:1", "b:1"]).unwrap());
        assert_eq!(job.due, Due::After(Duration::from_millis(5)));
        assert_eq!(job.spec.idempotency_key.as_ref().unwrap().as_str(), "key");
        assert_eq!((job.on_conflict, job.spec.max_attempts), (OnConflict::Reject, 3));
        assert_eq!(job.spec.hold, Hold::AtLeast(Duration::from_secs(90)));
        assert_eq!(job.spec.options.timeout, Duration::from_millis(7));
        assert_eq!(job.spec.expires_at, Some(Timestamp::from_ms(4_102_444_800_000)));
        assert_eq!(job.spec.options.headers["a"], "b");
        assert_eq!(job.spec.id, id);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_field_and_what_to_write() {
        for (more, expected) in [
            ("\"prio\":1", "unknown field `prio`; there are kind, payload, queue, priority"),
            ("\"priority\":10", "priority: 10 is not possible; write a whole number from 0 to 9"),
            ("\"priority\":\"high\"", "priority: \"high\" is not possible; write a whole number"),
            ("\"max_attempts\":70000", "max_attempts: 70000 is not possible; write a whole number"),
            ("\"limits\":[\"x\"]", "colon between"),
            ("\"limits\":\"x:y\"", "limits: \"x:y\" is not possible; write a list of texts"),
            ("\"limits\":[\"queue:a\"]", "another class"),
            ("\"headers\":{\"a\":1}", "headers: {\"a\":1} is not possible; write an object of"),
            ("\"queue\":7", "queue: 7 is not possible; write a text"),
            ("\"delay_ms\":1,\"run_at\":1", "exclude each other"),
            ("\"delay_ms\":31536000001", "write a whole number from 0 to 31536000000"),
            ("\"delay_ms\":1.5", "delay_ms: 1.5 is not possible; write a whole number"),
            ("\"timeout_ms\":0", "timeout_ms: 0 is not possible; write a whole number from 1"),
            ("\"expires_at\":1000", "expires_at: 1000 is in the past"),
            ("\"expires_at\":4102444800", "expires_at: 4102444800 looks like seconds; write"),
            ("\"run_at\":4102444800", "run_at: 4102444800 looks like seconds; write"),
            ("\"expires_at\":4102444800000,\"run_at\":4102444800001", "before the job may start"),
            ("\"expires_at\":4102444800000000000,\"delay_ms\":-1", "delay_ms: -1 is not possible"),
            ("\"id\":\"x\"", "id: job id \"x\" is not valid: expected a UUID"),
            ("\"on_conflict\":\"x\"", "on_conflict: \"x\" is not possible; write \"existing\""),
            ("\"hold\":\"live\"", "idempotency_key"),
            ("\"idempotency_key\":\"k\",\"hold\":\"x\"", "hold: \"x\" is not a hold"),
            ("\"durability\":\"disk\"", "\"replicas:1\""),
            ("\"kind\":\"b\"", "kind is there twice"),
        ] {
            let line = format!("{{\"kind\":\"a\",\"payload\":1,{more}}}");
            let error = job(line.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn a_line_that_may_be_sent_again_may_have_expired() {
        for more in ["\"id\":\"01928c6e-5f00-7000-8000-000000000001\"", "\"idempotency_key\":\"k\""]
        {
            let line =
                format!("{{\"kind\":\"a\",\"payload\":1,\"expires_at\":1700000000000,{more}}}");
            assert!(job(line.as_bytes()).is_ok(), "{line}");
        }
    }

    #[test]
    fn what_is_no_job_at_all_is_told() {
        for (line, expected) in [
            ("{\"payload\":1}", "kind is missing"),
            ("{\"kind\":\"a\"}", "payload is missing"),
            ("{\"kind\":\"A\",\"payload\":1}", "kind \"A\" is not valid"),
            ("{\"kind\":\"a\",\"payload\":1} x", "trailing characters, at column 26"),
            ("{\"kind\":\"a\",\"payload\":1e999}", "the payload is not JSON: number out of range"),
            ("[\"a\",1]", "is no JSON object; write one such as {\"kind\""),
            ("7", "is no JSON object"),
        ] {
            let error = job(line.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
