//! How often jobs may start: the generic cell rate algorithm (GCRA, ITU-T I.371; as a virtual
//! schedule).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{InvalidLimit, LIMIT_TIME_MAX};
use crate::Timestamp;
use crate::duration::{millis, whole_millis};

/// So many starts per period, evenly spaced, of which `burst` may come at once.
///
/// In any half-open window of one period at most `count + burst − 1` jobs start; with a burst of 1
/// exactly `count` do when enough wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Starts per period; at least 1, at most one per microsecond.
    pub count: u32,
    /// The period; whole milliseconds, 1 ms to [`LIMIT_TIME_MAX`].
    #[serde(rename = "period_ms", with = "millis")]
    pub period: Duration,
    /// How many may start at once after a pause; at least 1.
    pub burst: u32,
}

/// The pause after which a rate without an explicit burst lets all starts of the pause happen at
/// once: about how late a worker may be.
const BURST_DEFAULT_PERIOD: Duration = Duration::from_millis(100);

impl Rate {
    /// A rate whose burst is what it allows in 100 ms, at least 1: enough for workers that are a
    /// little late to reach the whole rate.
    #[must_use]
    pub fn new(count: u32, period: Duration) -> Self {
        let per_burst = u128::from(count) * BURST_DEFAULT_PERIOD.as_micros();
        let burst = per_burst.div_ceil(period.as_micros().max(1)).max(1);
        Self { count, period, burst: u32::try_from(burst).unwrap_or(u32::MAX) }
    }

    /// The same rate with another burst.
    #[must_use]
    pub const fn with_burst(self, burst: u32) -> Self {
        Self { burst, ..self }
    }

    pub(super) fn validate(&self) -> Result<(), InvalidLimit> {
        let period_us = self.period.as_micros();
        if self.period < Duration::from_millis(1) || self.period > LIMIT_TIME_MAX {
            return Err(InvalidLimit::new("rate", "its period is 1 ms to 366 days"));
        }
        // Stores keep it so: what they would cut off might be what the count needs.
        if whole_millis(self.period) != self.period {
            return Err(InvalidLimit::new("rate", "its period is whole milliseconds"));
        }
        if self.count == 0 || u128::from(self.count) > period_us {
            return Err(InvalidLimit::new("rate", "its count is 1 to one per microsecond"));
        }
        let span_us = u128::from(self.burst) * u128::from(self.interval_us());
        if self.burst == 0 || span_us > LIMIT_TIME_MAX.as_micros() {
            let reason = "it is at least 1, and what the rate gives in 366 days at most";
            return Err(InvalidLimit::new("burst", reason));
        }
        Ok(())
    }

    /// The time between two starts in microseconds, rounded up.
    #[must_use]
    pub fn interval_us(&self) -> u64 {
        let us = self.period.as_micros().div_ceil(u128::from(self.count.max(1)));
        u64::try_from(us).unwrap_or(u64::MAX).max(1)
    }

    /// How far ahead of time the schedule may be, in microseconds.
    fn tolerance_us(&self) -> u64 {
        u64::from(self.burst.max(1) - 1) * self.interval_us()
    }

    /// The furthest that these settings can bring the schedule by `now`.
    fn furthest_us(&self, now: Timestamp) -> u64 {
        now.as_ms() * 1000 + self.tolerance_us() + self.interval_us()
    }

    /// The schedule's next start as it counts at `now`: never in the past, and never further ahead
    /// than these settings can bring it.
    fn next_us(&self, scheduled_us: u64, now: Timestamp) -> u64 {
        scheduled_us.clamp(now.as_ms() * 1000, self.furthest_us(now))
    }

    /// The schedule that others have left, when these settings come into force at `now`: a job may start
    /// one interval later at the latest. It has to be remembered so: what is merely read as the furthest
    /// moves on with the time, and nothing would start until the old schedule is over.
    #[must_use]
    pub(super) fn adopt(&self, scheduled_us: u64, now: Timestamp) -> u64 {
        scheduled_us.min(self.furthest_us(now))
    }

    /// How many jobs may start at `now`, if the schedule stands at `scheduled_us` (microseconds
    /// since 1970; 0 if nothing started yet).
    #[must_use]
    pub fn room(&self, scheduled_us: u64, now: Timestamp) -> u32 {
        let latest_us = now.as_ms() * 1000 + self.tolerance_us();
        let room = latest_us
            .checked_sub(self.next_us(scheduled_us, now))
            .map_or(0, |ahead_us| ahead_us / self.interval_us() + 1);
        u32::try_from(room).unwrap_or(u32::MAX)
    }

    /// When the next job may start, if none may at `now`.
    #[must_use]
    pub fn reopens_at(&self, scheduled_us: u64, now: Timestamp) -> Timestamp {
        let next_us = self.next_us(scheduled_us, now) - self.tolerance_us();
        Timestamp::from_ms(next_us.div_ceil(1000))
    }

    /// When a job may start before which `before` others start, as soon as each may.
    #[must_use]
    pub fn turn_at(&self, scheduled_us: u64, now: Timestamp, before: u64) -> Timestamp {
        let first_us = self.next_us(scheduled_us, now).saturating_sub(self.tolerance_us());
        let us = first_us.saturating_add(before.saturating_mul(self.interval_us()));
        Timestamp::from_ms(us.div_ceil(1000)).max(now)
    }

    /// The schedule after `started` jobs have started at `now`.
    #[must_use]
    pub fn start(&self, scheduled_us: u64, now: Timestamp, started: u32) -> u64 {
        self.next_us(scheduled_us, now) + u64::from(started) * self.interval_us()
    }
}

/// The text form of a rate without its burst: `500/1m`, `10/s`, `3/250ms`.
impl FromStr for Rate {
    type Err = InvalidLimit;

    fn from_str(text: &str) -> Result<Self, InvalidLimit> {
        let invalid = || {
            let reason =
                format!("{text:?} is not a rate; write count/period, as in 500/1m or 10/s");
            InvalidLimit::new("rate", reason)
        };
        let (count, period) = text.split_once('/').ok_or_else(invalid)?;
        let count = count.trim();
        let is_number = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
        // One that is too large is refused as such below.
        let count: u32 =
            if is_number { count.parse().unwrap_or(u32::MAX) } else { return Err(invalid()) };
        let period = period.trim();
        let digits = period.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = period.split_at(digits);
        let number: u64 =
            if number.is_empty() { 1 } else { number.parse().map_err(|_| invalid())? };
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(invalid()),
        };
        let period_ms = number.checked_mul(unit_ms).ok_or_else(invalid)?;
        let rate = Self::new(count, Duration::from_millis(period_ms));
        rate.validate().map(|()| rate)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period_ms = self.period.as_millis();
        let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
        match units.into_iter().find(|(unit_ms, _)| period_ms.is_multiple_of(*unit_ms)) {
            Some((unit_ms, unit)) => write!(f, "{}/{}{unit}", self.count, period_ms / unit_ms),
            None => write!(f, "{}/{period_ms}ms", self.count),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: u64 = 4_000_000_000_000;

    proptest! {
        /// Whenever claims come and however many jobs each takes, no window of a period sees more
        /// than `count + burst − 1` starts, and a rate that is asked often enough is reached.
        #[test]
        fn no_window_sees_more_than_its_count_and_burst(
            count in 1_u32..40,
            period_ms in 40_u64..3000,
            burst in 1_u32..6,
            claims in prop::collection::vec((0_u64..400, 0_u32..10), 1..200),
        ) {
            let rate = Rate::new(count, Duration::from_millis(period_ms)).with_burst(burst);
            let mut scheduled_us = 0;
            let mut now_ms = START;
            let mut starts: Vec<u64> = Vec::new();
            for (pause_ms, wanted) in claims {
                now_ms += pause_ms;
                let now = Timestamp::from_ms(now_ms);
                let room = rate.room(scheduled_us, now);
                let taken = wanted.min(room);
                if room == 0 {
                    let at = rate.reopens_at(scheduled_us, now);
                    prop_assert!(at > now && rate.room(scheduled_us, at) >= 1);
                    let before = Timestamp::from_ms(at.as_ms() - 1);
                    prop_assert_eq!(rate.room(scheduled_us, before), 0);
                }
                if taken > 0 {
                    scheduled_us = rate.start(scheduled_us, now, taken);
                    starts.extend((0..taken).map(|_| now_ms));
                }
            }
            for (i, first) in starts.iter().enumerate() {
                let window = starts[i..].iter().take_while(|at| **at < first + period_ms).count();
                prop_assert!((window as u32) < count + burst, "{window} starts");
            }
        }
    }

    #[test]
    fn a_rate_that_is_asked_all_the_time_is_reached() {
        let rate = Rate::new(7, Duration::from_secs(1)).with_burst(1);
        let (mut scheduled_us, mut started) = (0, 0);
        for ms in 0..10_000 {
            let now = Timestamp::from_ms(START + ms);
            let room = rate.room(scheduled_us, now);
            if room > 0 {
                scheduled_us = rate.start(scheduled_us, now, room);
                started += room;
            }
        }
        assert_eq!(started, 70);
    }

    #[test]
    fn older_settings_do_not_hold_a_key_back() {
        let slow = Rate::new(1, Duration::from_secs(3600)).with_burst(100);
        let now = Timestamp::from_ms(START);
        let scheduled_us = slow.start(0, now, 100);
        let fast = Rate::new(10, Duration::from_secs(1)).with_burst(1);
        let later = now.after(Duration::from_millis(100));
        assert_eq!(fast.reopens_at(scheduled_us, now), later);
        let adopted_us = fast.adopt(scheduled_us, now);
        assert_eq!((fast.room(adopted_us, now), fast.reopens_at(adopted_us, now)), (0, later));
        assert_eq!((fast.room(adopted_us, later), fast.adopt(adopted_us, later)), (1, adopted_us));
        // Nor does one with a smaller burst let more start.
        let narrow = Rate::new(1, Duration::from_secs(3600)).with_burst(9);
        assert_eq!(narrow.room(narrow.adopt(scheduled_us, now), now), 0);
    }

    #[test]
    fn the_text_form_is_count_per_period() {
        let rate: Rate = "500/1m".parse().unwrap();
        assert_eq!(rate, Rate { count: 500, period: Duration::from_secs(60), burst: 1 });
        for (text, burst) in [("5000/s", 500), ("3/250ms", 2), ("1/10ms", 10), ("1/1d", 1)] {
            assert_eq!(text.parse::<Rate>().unwrap().burst, burst, "{text}");
        }
        for text in ["500/1m", "10/1s", "3/250ms", "1/1d", "7/90s"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for bad in ["", "5", "0/s", "-1/s", "1/0s", "NaN/s", "5/1y", "1.5/s", "9/1000d", "2000/1ms"]
        {
            let error = bad.parse::<Rate>().unwrap_err().to_string();
            assert!(error.starts_with("rate: "), "{bad}: {error}");
        }
    }

    #[test]
    fn a_count_that_is_too_large_is_called_so() {
        for count in ["4294967295", "4294967296", "99999999999999999999"] {
            let error = format!("{count}/1s").parse::<Rate>().unwrap_err().to_string();
            assert!(!error.contains("is not a rate"), "{error}");
        }
        for text in ["/s", "-1/s", "+1/s", "x/s", "1"] {
            let error = text.parse::<Rate>().unwrap_err().to_string();
            assert!(error.contains("is not a rate"), "{error}");
        }
    }
}
