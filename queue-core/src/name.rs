//! Validated names: what a queue, a kind, a namespace and a worker may be called.
//!
//! A name is checked once, where it enters the program; everything behind that point may put it
//! into a key, a label or a file name without another look.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most bytes a name may have.
pub const NAME_MAX_BYTES: usize = 64;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {text:?} is not valid: a name has 1 to {NAME_MAX_BYTES} characters out of a-z, 0-9, \
     '_', '.' and '-'"
)]
pub struct InvalidName {
    what: &'static str,
    text: String,
}

fn check(what: &'static str, text: &str) -> Result<(), InvalidName> {
    let legal = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
    if (1..=NAME_MAX_BYTES).contains(&text.len()) && text.bytes().all(legal) {
        return Ok(());
    }
    // Shown to people: keep a hostile text short.
    Err(InvalidName { what, text: text.chars().take(80).collect() })
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks `text` and makes it a name.
            ///
            /// # Errors
            /// [`InvalidName`] unless `text` has 1 to 64 characters out of `[a-z0-9_.-]`.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidName> {
                let text = text.as_ref();
                check($what, text)?;
                Ok(Self(text.into()))
            }

            /// A name that is known to be valid where it is written down.
            #[allow(dead_code, reason = "not every name has a constant")]
            pub(crate) fn unchecked(text: &'static str) -> Self {
                debug_assert!(check($what, text).is_ok());
                Self(text.into())
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $type {
            type Error = InvalidName;
            fn try_from(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
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

name!(
    /// The queue a job waits in. Default: `default`.
    QueueName,
    "queue name"
);
name!(
    /// What a job is: it selects the handler or executor that runs it.
    Kind,
    "kind"
);
name!(
    /// Keeps the queues of different applications apart in one store. Default: `default`.
    Namespace,
    "namespace"
);
name!(
    /// A label for one worker process. Shown to people, never a guard: what a worker may do is
    /// decided by [`ClaimToken`](crate::ClaimToken)s alone, so two workers of one name are safe.
    WorkerId,
    "worker id"
);

impl Default for QueueName {
    fn default() -> Self {
        static DEFAULT: LazyLock<Arc<str>> = LazyLock::new(|| "default".into());
        Self(DEFAULT.clone())
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self("default".into())
    }
}

impl WorkerId {
    /// A new random label, `w-` and 16 hexadecimal digits.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("w-{:016x}", fastrand::u64(..)).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_whole_alphabet_and_both_ends_of_the_length() {
        assert!(QueueName::new("abcxyz019_.-").is_ok());
        assert!(Kind::new("a").is_ok());
        assert!(Kind::new("a".repeat(NAME_MAX_BYTES)).is_ok());
    }

    #[test]
    fn refuses_everything_else_and_says_what_is_wrong() {
        let long = "a".repeat(NAME_MAX_BYTES + 1);
        for bad in ["", "A", "a b", "a/b", "{a}", "a:b", "ä", "a\n", long.as_str()] {
            let error = QueueName::new(bad).unwrap_err().to_string();
            assert!(error.starts_with("queue name"), "{error}");
        }
    }

    #[test]
    fn refuses_a_bad_name_in_serialised_data() {
        assert!(serde_json::from_str::<Kind>("\"email.send\"").is_ok());
        assert!(serde_json::from_str::<Kind>("\"Email Send\"").is_err());
    }
}
