//! Ids and tokens: [`JobId`], [`ClaimToken`], [`IdempotencyKey`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// A job's identity: a UUIDv7 made by the producer, so that sending the same job again after a
/// lost reply cannot make a second one. Ordered by the producer's clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(Uuid);

impl JobId {
    /// A new id from this process's clock and random bits; ids made by one process increase.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a default id would look like a constant")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The 16 bytes of the id.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id of these 16 bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for JobId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidId(text.chars().take(80).collect()))
    }
}

impl From<Uuid> for JobId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

/// A text is not a job id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("job id {0:?} is not valid: expected a UUID such as 0198c2f0-7b1c-7e3a-9d52-3f4e5a6b7c8d")]
pub struct InvalidId(String);

/// The random 128 bits that one claim is fenced by.
///
/// Every lease of one claim carries the claim's token. A store changes a running job only for the
/// token that holds it (promise P2), and a claim sent again with its token gets the same jobs
/// (promise P3). Random rather than counted: a store that was rolled back by a fail-over would
/// count to the same number twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimToken([u8; 16]);

impl ClaimToken {
    /// A fresh token from the operating system's random numbers, in the form of a UUIDv4.
    #[must_use]
    pub fn random() -> Self {
        Self(*Uuid::new_v4().as_bytes())
    }

    /// The 16 bytes of the token.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The token of these 16 bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for ClaimToken {
    /// A prefix only: whoever reads a log must not be able to settle jobs with it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClaimToken({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// The most bytes an [`IdempotencyKey`] may have.
pub const IDEMPOTENCY_KEY_MAX_BYTES: usize = 256;

/// A producer's name for "this piece of work, once": while a job with the key is live or kept as
/// completed, another enqueue with the key and the same payload returns that job.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(std::sync::Arc<str>);

impl IdempotencyKey {
    /// Checks `text` and makes it a key.
    ///
    /// # Errors
    /// [`InvalidIdempotencyKey`] unless `text` has 1 to 256 bytes.
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidIdempotencyKey> {
        let text = text.as_ref();
        if (1..=IDEMPOTENCY_KEY_MAX_BYTES).contains(&text.len()) {
            return Ok(Self(text.into()));
        }
        Err(InvalidIdempotencyKey { bytes: text.len() })
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for IdempotencyKey {
    /// The length only: keys are made of customers' data (promise P12).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdempotencyKey({} bytes)", self.0.len())
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for IdempotencyKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for IdempotencyKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// A text cannot be an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "idempotency key of {bytes} bytes is not valid: it must have 1 to \
     {IDEMPOTENCY_KEY_MAX_BYTES} bytes"
)]
pub struct InvalidIdempotencyKey {
    bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_one_process_increase() {
        let ids: Vec<JobId> = (0..1000).map(|_| JobId::new()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn an_id_survives_its_text_and_bytes() {
        let id = JobId::new();
        assert_eq!(id.to_string().parse::<JobId>().unwrap(), id);
        assert_eq!(JobId::from_bytes(*id.as_bytes()), id);
        assert!("not-an-id".parse::<JobId>().is_err());
    }

    #[test]
    fn a_token_is_not_printed_whole() {
        let token = ClaimToken::random();
        assert!(format!("{token:?}").len() < "ClaimToken(0000…)".len() + 1);
    }

    #[test]
    fn a_key_is_measured_in_bytes() {
        assert!(IdempotencyKey::new("ä".repeat(128)).is_ok());
        assert!(IdempotencyKey::new("ä".repeat(129)).is_err());
        assert!(IdempotencyKey::new("").is_err());
    }
}
