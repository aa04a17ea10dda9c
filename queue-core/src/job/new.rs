//! What a producer hands to a queue.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Field, Hold, InvalidJob, JobSpec, Priority, Retention};
use crate::duration::{whole_millis, whole_seconds};
use crate::job::spec::{HEADERS_MAX_BYTES, RETENTION_MAX};
use crate::payload::PAYLOAD_HARD_MAX_BYTES;
use crate::{
    Backoff, CodecError, IdempotencyKey, JobId, Kind, LimitKey, LimitKeys, Payload, QueueName,
    Timestamp,
};

/// A typed job: its payload and the kind that handlers are registered for.
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct SendEmail {
///     to: String,
/// }
///
/// impl queue_core::Job for SendEmail {
///     const KIND: &'static str = "email.send";
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a job",
    note = "implement `Job` for it: `impl Job for {Self} {{ const KIND: &'static str = \"…\"; }}`"
)]
pub trait Job: Serialize + DeserializeOwned + Send + 'static {
    /// The job's kind: 1 to 64 characters out of `[a-z0-9_.-]`.
    const KIND: &'static str;
}

/// When a new job may run first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Due {
    /// At once.
    #[default]
    Now,
    /// So long after the store took it in, by the store's clock; whole milliseconds.
    After(Duration),
    /// At this time of the store's clock.
    At(Timestamp),
}

/// What happens when the id or idempotency key of a new job belongs to an existing job with the
/// same kind and payload. With another kind or payload it is a conflict, except where
/// [`OnConflict::Replace`] takes the place of the existing job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnConflict {
    /// The enqueue answers with the existing job.
    #[default]
    Existing,
    /// The enqueue is refused.
    Reject,
    /// A job with the same idempotency key that still waits (scheduled, ready or retrying),
    /// whatever its payload, is cancelled in the step that takes the new one in: the last enqueue
    /// counts. A job that is running or completed is met as with `Existing`, and so is one with the
    /// same id. For a debounce, say [`Hold::Live`] as well: with the default hold a completed job
    /// keeps the key, and answers the enqueues that come after it.
    Replace,
}

/// A job to enqueue. Made by [`NewJob::of`] or [`NewJob::new`], shaped by the methods below.
///
/// ```
/// use std::time::Duration;
/// use queue_core::{Kind, NewJob, Payload};
///
/// let job = NewJob::new(Kind::new("report.render")?, Payload::json(&serde_json::json!({"id": 7}))?)
///     .priority(2)
///     .delay(Duration::from_secs(60))
///     .idempotency_key("report-7");
/// job.validate(256 * 1024)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a job does nothing until it is enqueued"]
pub struct NewJob {
    /// What is stored.
    pub spec: JobSpec,
    /// When it may run first.
    pub due: Due,
    /// What happens when it exists already.
    pub on_conflict: OnConflict,
    /// The first builder call that had no legal meaning; reported by `validate`.
    refused: Option<InvalidJob>,
}

impl NewJob {
    /// A typed job; its payload is MessagePack with named fields.
    ///
    /// # Errors
    /// [`CodecError`] if `job` refuses to be serialised.
    pub fn of<J: Job>(job: &J) -> Result<Self, CodecError> {
        let payload = Payload::msgpack(job)?;
        let (kind, refused) = match Kind::new(J::KIND) {
            Ok(kind) => (kind, None),
            Err(e) => (placeholder_kind(), Some(InvalidJob::new(Field::Kind, e))),
        };
        Ok(Self { refused, ..Self::new(kind, payload) })
    }

    /// A job of this kind and payload in the queue `default`.
    pub fn new(kind: Kind, payload: Payload) -> Self {
        Self {
            spec: JobSpec::new(JobId::new(), QueueName::default(), kind, payload),
            due: Due::Now,
            on_conflict: OnConflict::default(),
            refused: None,
        }
    }

    fn refuse(&mut self, field: Field, reason: impl std::fmt::Display) {
        self.refused.get_or_insert_with(|| InvalidJob::new(field, reason));
    }

    /// Uses an id of the producer's own; the same id enqueued twice is one job.
    pub fn id(mut self, id: JobId) -> Self {
        self.spec.id = id;
        self
    }

    /// Names the queue. A text that is not a queue name is reported by the enqueue.
    pub fn queue(mut self, queue: impl AsRef<str>) -> Self {
        match QueueName::new(queue) {
            Ok(queue) => self.spec.queue = queue,
            Err(e) => self.refuse(Field::Queue, e),
        }
        self
    }

    /// 0 (first) to 9 (last). Any other number is reported by the enqueue.
    pub fn priority(mut self, level: u8) -> Self {
        match Priority::try_from(level) {
            Ok(priority) => self.spec.priority = priority,
            Err(e) => self.refuse(Field::Priority, e),
        }
        self
    }

    /// Runs no sooner than `delay` after the store took the job in; rounded up to whole milliseconds.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.due = if delay.is_zero() { Due::Now } else { Due::After(whole_millis(delay)) };
        self
    }

    /// Runs no sooner than `time` by the store's clock.
    pub fn run_at(mut self, time: impl Into<Timestamp>) -> Self {
        self.due = Due::At(time.into());
        self
    }

    /// Starts no attempt after `time` of the store's clock; a claim that meets the job then makes
    /// it dead with reason `expired`. A time that this machine's clock has made (`SystemTime::now()` and
    /// some hours) is as right as that clock agrees with the store's.
    pub fn expires_at(mut self, time: impl Into<Timestamp>) -> Self {
        self.spec.expires_at = Some(time.into());
        self
    }

    /// Makes repeated enqueues of the same work one job. The key is one for the whole namespace,
    /// over all queues and kinds, and the same work means the same kind and the same payload bytes
    /// (a `HashMap` in a payload has no fixed order; use a `BTreeMap`). A text that is not a key is
    /// reported by the enqueue.
    pub fn idempotency_key(mut self, key: impl AsRef<str>) -> Self {
        match IdempotencyKey::new(key) {
            Ok(key) => self.spec.idempotency_key = Some(key),
            Err(e) => self.refuse(Field::IdempotencyKey, e),
        }
        self
    }

    /// How long the job keeps its idempotency key; a time is rounded up to whole milliseconds.
    pub fn hold(mut self, hold: Hold) -> Self {
        self.spec.hold = match hold {
            Hold::AtLeast(time) => Hold::AtLeast(whole_millis(time)),
            Hold::Live | Hold::Kept => hold,
        };
        self
    }

    /// What happens when the id or key belongs to an existing job.
    pub fn on_conflict(mut self, on_conflict: OnConflict) -> Self {
        self.on_conflict = on_conflict;
        self
    }

    /// Adds a limit key that the job needs to run, such as `tenant:acme`; at most
    /// [`LIMIT_KEYS_MAX`](crate::LIMIT_KEYS_MAX). A text that is not one is reported by the
    /// enqueue.
    pub fn limit(mut self, key: impl AsRef<str>) -> Self {
        let keys = LimitKey::new(key)
            .and_then(|key| LimitKeys::new(self.spec.limits.iter().cloned().chain([key])));
        match keys {
            Ok(keys) => self.spec.limits = keys,
            Err(e) => self.refuse(Field::Limits, e),
        }
        self
    }

    /// How many failed attempts make the job dead; at least 1.
    pub fn max_attempts(mut self, attempts: u16) -> Self {
        self.spec.max_attempts = attempts;
        self
    }

    /// How many expired leases make the job dead; at least 1.
    pub fn max_stalls(mut self, stalls: u8) -> Self {
        self.spec.max_stalls = stalls;
        self
    }

    /// How long a failed attempt waits for the next; times are rounded up to whole milliseconds.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.spec.options.backoff = backoff.whole_millis();
        self
    }

    /// The wall time of one attempt: more than 0, rounded up to whole milliseconds.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.spec.options.timeout = whole_millis(timeout);
        self
    }

    /// How long the record is kept once the job is finished; rounded up to whole seconds.
    pub fn retention(mut self, Retention { completed, dead }: Retention) -> Self {
        let (completed, dead) = (whole_seconds(completed), whole_seconds(dead));
        self.spec.retention = Retention { completed, dead };
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.options.headers.insert(name.into(), value.into());
        self
    }

    /// The version of the payload's schema.
    pub fn schema_version(mut self, version: u32) -> Self {
        self.spec.options.schema_version = version;
        self
    }

    /// The id that the job will have.
    #[must_use]
    pub fn job_id(&self) -> JobId {
        self.spec.id
    }

    /// Checks everything that can be checked without the store.
    ///
    /// # Errors
    /// The first field that breaks its rule.
    pub fn validate(&self, payload_max_bytes: usize) -> Result<(), InvalidJob> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        let JobSpec { payload, options, retention, .. } = &self.spec;
        let payload_max = payload_max_bytes.min(PAYLOAD_HARD_MAX_BYTES);
        let payload_bytes = payload.bytes().len();
        let headers_bytes: usize = options.headers.iter().map(|(k, v)| k.len() + v.len()).sum();
        let too_long = || format!("must be at most {} s", RETENTION_MAX.as_secs());
        let too_many =
            |bytes: usize, most: usize| format!("{bytes} bytes are more than the limit of {most}");
        let (field, reason) = if matches!(self.spec.hold, Hold::AtLeast(time) if time > RETENTION_MAX)
        {
            (Field::Hold, too_long())
        } else if payload_bytes > payload_max {
            (Field::Payload, too_many(payload_bytes, payload_max))
        } else if self.spec.max_attempts == 0 {
            (Field::MaxAttempts, "must be at least 1".to_owned())
        } else if self.spec.max_stalls == 0 {
            (Field::MaxStalls, "must be at least 1".to_owned())
        } else if options.timeout.is_zero() {
            (Field::Timeout, "must be more than 0".to_owned())
        } else if headers_bytes > HEADERS_MAX_BYTES {
            (Field::Headers, too_many(headers_bytes, HEADERS_MAX_BYTES))
        } else if retention.completed.max(retention.dead) > RETENTION_MAX {
            (Field::Retention, too_long())
        } else {
            return Ok(());
        };
        Err(InvalidJob::new(field, reason))
    }
}

fn placeholder_kind() -> Kind {
    Kind::unchecked("invalid")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> NewJob {
        NewJob::new(Kind::new("k").unwrap(), Payload::raw("x"))
    }

    #[test]
    fn the_payload_limit_counts_bytes_and_includes_its_end() {
        let of = |text: &str| NewJob::new(Kind::new("k").unwrap(), Payload::raw(text.to_owned()));
        assert!(of("ää").validate(4).is_ok());
        let error = of("äää").validate(5).unwrap_err();
        assert_eq!(error.field(), Field::Payload);
        assert!(error.to_string().contains("6 bytes"), "{error}");
    }

    #[test]
    fn builder_mistakes_are_kept_until_validation_and_the_first_is_named() {
        let bad = job().queue("No Such").priority(10).validate(10).unwrap_err();
        assert_eq!(bad.field(), Field::Queue);
        assert_eq!(job().priority(10).validate(10).unwrap_err().field(), Field::Priority);
        assert_eq!(job().max_attempts(0).validate(10).unwrap_err().field(), Field::MaxAttempts);
        assert_eq!(job().timeout(Duration::ZERO).validate(10).unwrap_err().field(), Field::Timeout);
        let key = "k".repeat(257);
        assert_eq!(
            job().idempotency_key(key).validate(10).unwrap_err().field(),
            Field::IdempotencyKey
        );
    }

    /// Stores keep whole units. What is less than one is not nothing: no timeout, no delay, no record.
    #[test]
    fn times_are_rounded_up_to_what_stores_keep() {
        let half = Duration::from_micros(500);
        let (ms, second) = (Duration::from_millis(1), Duration::from_secs(1));
        let job = job()
            .delay(half)
            .timeout(half)
            .hold(Hold::AtLeast(half))
            .retention(Retention { completed: half, dead: Duration::ZERO });
        assert!(job.validate(10).is_ok());
        assert_eq!((job.due, job.spec.options.timeout), (Due::After(ms), ms));
        assert_eq!(job.spec.hold, Hold::AtLeast(ms));
        assert_eq!(job.spec.retention, Retention { completed: second, dead: Duration::ZERO });
        let waits = |backoff: Backoff| job.clone().backoff(backoff).spec.options.backoff;
        assert_eq!(waits(Backoff::Fixed(half)), Backoff::Fixed(ms));
        assert_eq!(waits(Backoff::List(vec![half, second])), Backoff::List(vec![ms, second]));
        let spread = |first, cap| Backoff::Exponential { first, factor: 2.0, cap, jitter: 0.0 };
        assert_eq!(waits(spread(half, second + half)), spread(ms, second + ms));
    }

    #[test]
    fn a_typed_job_with_an_illegal_kind_is_refused_not_a_panic() {
        #[derive(serde::Serialize, serde::Deserialize)]
        struct Bad;
        impl Job for Bad {
            const KIND: &'static str = "Not A Kind";
        }
        let error = NewJob::of(&Bad).unwrap().validate(10).unwrap_err();
        assert_eq!(error.field(), Field::Kind);
    }
}
