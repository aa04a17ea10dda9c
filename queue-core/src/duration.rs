//! Durations: far ones, and those that stores keep, which are whole milliseconds.

use std::time::{Duration, Instant};

/// The instant `after` from now; one that the clock cannot hold is decades away instead.
pub(crate) fn deadline(after: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    let now = Instant::now();
    now.checked_add(after).unwrap_or(now + FAR)
}

/// What is more than whole units counts as one more: so no time that is asked for becomes none.
fn rounded_up(time: Duration, unit_ns: u32) -> Duration {
    match time.subsec_nanos() % unit_ns {
        0 => time,
        part => time.saturating_add(Duration::from_nanos(u64::from(unit_ns - part))),
    }
}

/// The time in whole milliseconds, rounded up.
pub(crate) fn whole_millis(time: Duration) -> Duration {
    rounded_up(time, 1_000_000)
}

/// The time in whole seconds, rounded up.
pub(crate) fn whole_seconds(time: Duration) -> Duration {
    rounded_up(time, 1_000_000_000)
}

/// The number of them, rounded up.
fn millis_of(time: &Duration) -> u64 {
    u64::try_from(whole_millis(*time).as_millis()).unwrap_or(u64::MAX)
}

/// For `#[serde(with = "millis")]`.
pub(crate) mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::millis_of;

    pub(crate) fn serialize<S: Serializer>(d: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(millis_of(d))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

/// For `#[serde(with = "millis_list")]`.
pub(crate) mod millis_list {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::millis_of;

    pub(crate) fn serialize<S: Serializer>(
        list: &[Duration],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(millis_of))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<Duration>, D::Error> {
        let list = Vec::<u64>::deserialize(from)?;
        Ok(list.into_iter().map(Duration::from_millis).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_unit_count_as_one() {
        let us = Duration::from_micros;
        let cases = [(0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2), (999_001, 1000)];
        for (time_us, ms) in cases {
            assert_eq!(whole_millis(us(time_us)), Duration::from_millis(ms), "{time_us}");
            assert_eq!(millis_of(&us(time_us)), ms, "{time_us}");
        }
        assert_eq!(whole_seconds(us(1)), Duration::from_secs(1));
        assert_eq!(whole_seconds(Duration::from_secs(7)), Duration::from_secs(7));
        assert_eq!(
            (millis_of(&Duration::MAX), whole_seconds(Duration::MAX)),
            (u64::MAX, Duration::MAX)
        );
    }
}
