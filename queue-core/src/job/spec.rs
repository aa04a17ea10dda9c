//! What is fixed about a job once it is enqueued.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::duration::millis;
use crate::{Backoff, IdempotencyKey, JobId, Kind, LimitKeys, Payload, QueueName, Timestamp};

/// Which jobs of a queue go first: 0 before 9, strictly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Priority(u8);

impl Priority {
    /// Goes before all others.
    pub const FIRST: Self = Self(0);
    /// Goes after all others.
    pub const LAST: Self = Self(9);

    /// The priority `level`, 0 (first) to 9 (last); `None` for any other number.
    #[must_use]
    pub const fn new(level: u8) -> Option<Self> {
        if level <= Self::LAST.0 { Some(Self(level)) } else { None }
    }

    /// The level, 0 to 9.
    #[must_use]
    pub const fn level(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    /// 5.
    fn default() -> Self {
        Self(5)
    }
}

impl TryFrom<u8> for Priority {
    type Error = String;
    fn try_from(level: u8) -> Result<Self, String> {
        Self::new(level).ok_or_else(|| format!("priority {level} is not valid: it is 0 to 9"))
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> Self {
        priority.0
    }
}

/// How long the record of a finished job is kept. Zero drops it in the step that finishes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// For completed and cancelled jobs; whole seconds. Default 24 h.
    pub completed: Duration,
    /// For dead jobs; whole seconds. Default 14 d.
    pub dead: Duration,
}

/// The longest a finished record can be kept by age (about 136 years).
pub const RETENTION_MAX: Duration = Duration::from_secs(u32::MAX as u64);

impl Default for Retention {
    fn default() -> Self {
        Self {
            completed: Duration::from_secs(24 * 3600),
            dead: Duration::from_secs(14 * 24 * 3600),
        }
    }
}

/// How long a job keeps its idempotency key. Dead, cancelled and deleted jobs free theirs at once,
/// whatever the hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hold {
    /// Until it is completed.
    Live,
    /// Until its record is dropped: while live, and as long as retention keeps it as completed.
    #[default]
    Kept,
    /// While it is live, and until so long after its enqueue; whole milliseconds, at most
    /// [`RETENTION_MAX`]. A completed record is kept at least until then, whatever its retention
    /// says and however many there are.
    AtLeast(Duration),
}

impl Hold {
    /// Whether a completed job that was enqueued at `enqueued_at` still holds its key at `now`,
    /// as long as its record is there.
    #[must_use]
    pub fn outlives_completion(self, enqueued_at: Timestamp, now: Timestamp) -> bool {
        match self {
            Self::Live => false,
            Self::Kept => true,
            Self::AtLeast(time) => enqueued_at.after(time) > now,
        }
    }
}

/// Small texts that travel with a job, such as the W3C trace context.
pub type Headers = BTreeMap<String, String>;

/// The most bytes that the names and values of a job's headers may have together.
pub const HEADERS_MAX_BYTES: usize = 8 * 1024;

/// What workers need to know about a job and stores do not: a store keeps it as opaque bytes.
///
/// Stored as MessagePack with named fields. A field that has its default is left out, so the
/// usual job costs one byte here, and a field that this version does not know is ignored.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct JobOptions {
    /// How long a failed attempt waits for the next.
    #[serde(skip_serializing_if = "is_default")]
    pub backoff: Backoff,
    /// The wall time one attempt may take; the worker enforces it. Default 15 min.
    #[serde(with = "millis", skip_serializing_if = "is_default_timeout")]
    pub timeout: Duration,
    /// See [`Headers`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: Headers,
    /// The version of the payload's schema, chosen by the producer and shown to the handler.
    #[serde(skip_serializing_if = "is_default")]
    pub schema_version: u32,
}

/// The wall time of an attempt unless the job says otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(15 * 60);

/// The stored form of the default: a MessagePack map without entries. Most jobs have it.
const OPTIONS_DEFAULT: &[u8] = &[0x80];

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_default_timeout(timeout: &Duration) -> bool {
    *timeout == TIMEOUT_DEFAULT
}

impl Default for JobOptions {
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            timeout: TIMEOUT_DEFAULT,
            headers: Headers::new(),
            schema_version: 0,
        }
    }
}

impl fmt::Debug for JobOptions {
    /// Of the headers only the names: values may be credentials (promise P12).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobOptions")
            .field("backoff", &self.backoff)
            .field("timeout", &self.timeout)
            .field("headers", &self.headers.keys())
            .field("schema_version", &self.schema_version)
            .finish()
    }
}

impl JobOptions {
    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        if *self == Self::default() {
            return OPTIONS_DEFAULT.to_vec();
        }
        // Numbers, texts and maps of texts always have a MessagePack form.
        rmp_serde::to_vec_named(self).unwrap_or_default()
    }

    /// Reads the stored form back.
    ///
    /// # Errors
    /// What is wrong with the bytes, without the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes == OPTIONS_DEFAULT {
            return Ok(Self::default());
        }
        let mut rest = bytes;
        let options = rmp_serde::from_read(&mut rest).ok().filter(|_| rest.is_empty());
        options.ok_or_else(|| "job options are not valid MessagePack".to_owned())
    }
}

/// A job as its producer made it; written once, never changed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct JobSpec {
    /// See [`JobId`].
    pub id: JobId,
    /// The queue it waits in.
    pub queue: QueueName,
    /// What it is.
    pub kind: Kind,
    /// What it carries.
    pub payload: Payload,
    /// Which jobs of the queue go before it.
    pub priority: Priority,
    /// What it needs to run. Not part of the work: an enqueue with other keys finds this job.
    pub limits: LimitKeys,
    /// How many failed attempts make it dead; at least 1. Default 10.
    pub max_attempts: u16,
    /// How many expired leases make it dead; at least 1. Default 3.
    pub max_stalls: u8,
    /// No attempt starts after this time: a claim that meets the job then makes it dead with
    /// reason `expired`. Until a claim meets it, it stays in its place and holds its key.
    pub expires_at: Option<Timestamp>,
    /// See [`IdempotencyKey`].
    pub idempotency_key: Option<IdempotencyKey>,
    /// How long the job keeps its idempotency key; without a key it means nothing.
    pub hold: Hold,
    /// How long its record is kept once it is finished.
    pub retention: Retention,
    /// What only workers need to know.
    pub options: JobOptions,
}

impl JobSpec {
    /// A spec with every default, for stores that read one back.
    #[must_use]
    pub fn new(id: JobId, queue: QueueName, kind: Kind, payload: Payload) -> Self {
        Self {
            id,
            queue,
            kind,
            payload,
            priority: Priority::default(),
            limits: LimitKeys::NONE,
            max_attempts: 10,
            max_stalls: 3,
            expires_at: None,
            idempotency_key: None,
            hold: Hold::default(),
            retention: Retention::default(),
            options: JobOptions::default(),
        }
    }

    /// Whether an enqueue of `other` may be answered with this job: same kind, same payload.
    #[must_use]
    pub fn is_same_work(&self, other: &Self) -> bool {
        self.kind == other.kind && self.payload == other.payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_with_defaults_take_one_byte() {
        assert_eq!(JobOptions::default().encode(), [0x80]);
        assert_eq!(JobOptions::decode(&[0x80]).unwrap(), JobOptions::default());
    }

    #[test]
    fn options_survive_their_stored_form() {
        let options = JobOptions {
            backoff: Backoff::Fixed(Duration::from_secs(7)),
            timeout: Duration::from_millis(1500),
            headers: Headers::from([("traceparent".into(), "00-ab-cd-01".into())]),
            schema_version: 3,
        };
        assert_eq!(JobOptions::decode(&options.encode()).unwrap(), options);
    }

    /// Stores hold these bytes: what changes them must still read the old ones.
    #[test]
    fn the_stored_form_of_options_is_this_one() {
        let options = JobOptions {
            backoff: Backoff::Fixed(Duration::from_secs(7)),
            timeout: Duration::from_millis(1500),
            headers: Headers::from([("a".into(), "b".into())]),
            schema_version: 3,
        };
        let golden: &[u8] = b"\x84\xa7backoff\x81\xa5fixed\xcd\x1bX\xa7timeout\xcd\x05\xdc\
            \xa7headers\x81\xa1a\xa1b\xaeschema_version\x03";
        assert_eq!(options.encode(), golden);
        assert_eq!(JobOptions::decode(golden).unwrap(), options);
    }

    #[test]
    fn unknown_options_are_ignored_and_garbage_is_an_error() {
        let newer = rmp_serde::to_vec_named(&serde_json::json!({"schema_version": 2, "new": [1]}));
        assert_eq!(JobOptions::decode(&newer.unwrap()).unwrap().schema_version, 2);
        assert!(JobOptions::decode(&[0xc1, 1, 2]).is_err());
        assert!(JobOptions::decode(&[0x80, 0x80]).is_err(), "something is behind them");
    }

    #[test]
    fn priorities_are_0_to_9() {
        assert!(Priority::new(9).is_some() && Priority::new(10).is_none());
        assert!(serde_json::from_str::<Priority>("10").is_err());
        assert!(serde_json::from_str::<Priority>("1.5").is_err());
    }
}
