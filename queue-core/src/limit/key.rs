//! The names of limits.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most bytes that a limit key may have, class and colon included.
pub const LIMIT_KEY_MAX_BYTES: usize = 128;

/// The most limit keys of one job, and the most that a worker may add for one kind.
pub const LIMIT_KEYS_MAX: usize = 4;

/// The class whose keys are the queues themselves: `queue:default` holds the admission limit of
/// the queue `default`. Jobs cannot carry such a key.
pub const QUEUE_CLASS: &str = "queue";

/// Why a text is not a limit key, or a list not one of limit keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("limit key {text:?} is not valid: {reason}")]
pub struct InvalidLimitKey {
    text: String,
    reason: String,
}

impl InvalidLimitKey {
    fn new(text: &str, reason: impl Into<String>) -> Self {
        // Shown to people: keep a hostile text short.
        Self { text: text.chars().take(80).collect(), reason: reason.into() }
    }
}

/// What a job or a kind needs to run: `class:name`, such as `provider:openai`.
///
/// The class has 1 to 64 characters out of `[a-z0-9_.-]`, the name any of `[A-Za-z0-9_.:@+-]`;
/// together they have at most [`LIMIT_KEY_MAX_BYTES`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LimitKey(Arc<str>);

impl LimitKey {
    /// Checks `text` and makes it a limit key.
    ///
    /// # Errors
    /// [`InvalidLimitKey`] with the rule that it breaks.
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidLimitKey> {
        let text = text.as_ref();
        let invalid = |reason: &str| Err(InvalidLimitKey::new(text, reason));
        let Some((class, name)) = text.split_once(':') else {
            return invalid("it is a class and a name with a colon between, as in provider:openai");
        };
        check_class(text, class)?;
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"_.:@+-".contains(&b);
        if name.is_empty() || !name.bytes().all(legal) {
            return invalid("its name has characters out of A-Z, a-z, 0-9 and _ . : @ + - only");
        }
        if text.len() > LIMIT_KEY_MAX_BYTES {
            return invalid("it has more than 128 bytes");
        }
        Ok(Self(text.into()))
    }

    /// The whole key, `class:name`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the first colon.
    #[must_use]
    pub fn class(&self) -> &str {
        self.0.split_once(':').map_or("", |(class, _)| class)
    }

    /// The part after the first colon.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, name)| name)
    }
}

fn check_class(text: &str, class: &str) -> Result<(), InvalidLimitKey> {
    let legal = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
    if (1..=64).contains(&class.len()) && class.bytes().all(legal) {
        return Ok(());
    }
    Err(InvalidLimitKey::new(text, "its class has 1 to 64 characters out of a-z, 0-9 and _ . -"))
}

/// What settings are for: one key, or every key of a class that has none of its own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitTarget {
    /// Exactly this key: `tenant:acme`.
    Key(LimitKey),
    /// All keys of a class: `tenant:*`.
    Class(Arc<str>),
}

impl LimitTarget {
    /// Reads a target, `class:name` or `class:*`.
    ///
    /// # Errors
    /// [`InvalidLimitKey`] with the rule that it breaks.
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidLimitKey> {
        let text = text.as_ref();
        match text.strip_suffix(":*") {
            Some(class) => check_class(text, class).map(|()| Self::Class(class.into())),
            None => LimitKey::new(text).map(Self::Key),
        }
    }

    /// The default of the class of `key`.
    #[must_use]
    pub fn class_of(key: &LimitKey) -> Self {
        Self::Class(key.class().into())
    }

    /// The class.
    #[must_use]
    pub fn class(&self) -> &str {
        match self {
            Self::Key(key) => key.class(),
            Self::Class(class) => class,
        }
    }
}

impl fmt::Display for LimitTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => f.write_str(key.as_str()),
            Self::Class(class) => write!(f, "{class}:*"),
        }
    }
}

impl fmt::Display for LimitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! text_form {
    ($type:ty) => {
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "\"{self}\"")
            }
        }

        impl FromStr for $type {
            type Err = InvalidLimitKey;
            fn from_str(text: &str) -> Result<Self, InvalidLimitKey> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $type {
            type Error = InvalidLimitKey;
            fn try_from(text: &str) -> Result<Self, InvalidLimitKey> {
                Self::new(text)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_form!(LimitKey);
text_form!(LimitTarget);

/// The limit keys of a job or of a kind: at most [`LIMIT_KEYS_MAX`], sorted, none twice. Clones share
/// them, as the jobs of a lane do.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LimitKeys(Option<Arc<[LimitKey]>>);

impl LimitKeys {
    /// No keys.
    pub const NONE: Self = Self(None);

    /// Sorts `keys` and drops repeats.
    ///
    /// # Errors
    /// [`InvalidLimitKey`] if more than [`LIMIT_KEYS_MAX`] are left, or one is of the class
    /// [`QUEUE_CLASS`].
    pub fn new(keys: impl IntoIterator<Item = LimitKey>) -> Result<Self, InvalidLimitKey> {
        let mut keys: Vec<LimitKey> = keys.into_iter().collect();
        keys.sort();
        keys.dedup();
        if let Some(key) = keys.iter().find(|key| key.class() == QUEUE_CLASS) {
            let reason = "the class queue is that of the queues' own limits; name another class";
            return Err(InvalidLimitKey::new(key.as_str(), reason));
        }
        if let Some(key) = keys.get(LIMIT_KEYS_MAX) {
            let reason =
                format!("it is one of {} keys, and {LIMIT_KEYS_MAX} are allowed", keys.len());
            return Err(InvalidLimitKey::new(key.as_str(), reason));
        }
        Ok(Self((!keys.is_empty()).then(|| keys.into())))
    }

    /// Reads and checks several texts.
    ///
    /// # Errors
    /// As for [`LimitKey::new`] and [`LimitKeys::new`].
    pub fn parse<T: AsRef<str>>(
        texts: impl IntoIterator<Item = T>,
    ) -> Result<Self, InvalidLimitKey> {
        let keys: Result<Vec<_>, _> = texts.into_iter().map(LimitKey::new).collect();
        Self::new(keys?)
    }

    /// These keys and those of `other`, sorted, none twice: what a job needs that a worker runs
    /// for whose kind it adds keys.
    #[must_use]
    pub fn union(&self, other: &Self) -> Vec<LimitKey> {
        let mut keys: Vec<LimitKey> = self.iter().chain(other.iter()).cloned().collect();
        keys.sort();
        keys.dedup();
        keys
    }
}

impl std::ops::Deref for LimitKeys {
    type Target = [LimitKey];
    fn deref(&self) -> &[LimitKey] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl fmt::Debug for LimitKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Serialize for LimitKeys {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for LimitKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let keys = Vec::<LimitKey>::deserialize(deserializer)?;
        Self::new(keys).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_class_and_a_name() {
        let key = LimitKey::new("tenant:eu:Acme+1@x").unwrap();
        assert_eq!((key.class(), key.name()), ("tenant", "eu:Acme+1@x"));
        assert!(LimitKey::new(format!("t:{}", "n".repeat(LIMIT_KEY_MAX_BYTES - 2))).is_ok());
    }

    #[test]
    fn anything_else_is_refused_with_its_rule() {
        let long = format!("t:{}", "n".repeat(LIMIT_KEY_MAX_BYTES - 1));
        for (bad, rule) in [
            ("openai", "colon between"),
            (":x", "its class"),
            ("Tenant:x", "its class"),
            ("t:", "its name"),
            ("t:a b", "its name"),
            ("t:*", "its name"),
            ("t:a,b", "its name"),
            (&long, "128 bytes"),
        ] {
            let error = LimitKey::new(bad).unwrap_err().to_string();
            assert!(error.contains(rule), "{error}");
        }
    }

    #[test]
    fn a_target_is_a_key_or_a_class() {
        assert_eq!(LimitTarget::new("tenant:*").unwrap(), LimitTarget::Class("tenant".into()));
        assert_eq!(LimitTarget::new("tenant:a").unwrap().to_string(), "tenant:a");
        assert!(LimitTarget::new(":*").is_err() && LimitTarget::new("*").is_err());
        let key = LimitKey::new("tenant:a").unwrap();
        assert_eq!(LimitTarget::class_of(&key).to_string(), "tenant:*");
    }

    #[test]
    fn keys_are_sorted_and_few_and_not_of_queues() {
        let keys = LimitKeys::parse(["b:1", "a:1", "b:1"]).unwrap();
        assert_eq!(format!("{keys:?}"), r#"["a:1", "b:1"]"#);
        let five = LimitKeys::parse(["a:1", "a:2", "a:3", "a:4", "a:5"]).unwrap_err();
        assert!(five.to_string().contains("one of 5 keys"), "{five}");
        let of_queue = LimitKeys::parse(["queue:default"]).unwrap_err();
        assert!(of_queue.to_string().contains("the class queue"), "{of_queue}");
        let union = keys.union(&LimitKeys::parse(["aa:1", "b:1"]).unwrap());
        assert_eq!(format!("{union:?}"), r#"["a:1", "aa:1", "b:1"]"#);
    }
}
