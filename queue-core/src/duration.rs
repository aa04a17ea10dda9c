//! Durations: far ones, and those in serialised data, which are whole milliseconds.

use std::time::{Duration, Instant};

/// The instant `after` from now; one that the clock cannot hold is decades away instead.
pub(crate) fn deadline(after: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    let now = Instant::now();
    now.checked_add(after).unwrap_or(now + FAR)
}

/// For `#[serde(with = "millis")]`.
pub(crate) mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(d: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

/// For `#[serde(with = "millis_list")]`.
pub(crate) mod millis_list {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        list: &[Duration],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer
            .collect_seq(list.iter().map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<Duration>, D::Error> {
        let list = Vec::<u64>::deserialize(from)?;
        Ok(list.into_iter().map(Duration::from_millis).collect())
    }
}
