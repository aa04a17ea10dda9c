//! What people see of a limit, and how fast a queue is served.

use std::time::Duration;

use super::{Blocked, BreakerPhase, LimitKey, LimitSettings, LimitTarget};
use crate::{JobId, Timestamp};

/// The most holders that a [`LimitStatus`] names.
pub const HOLDERS_SHOWN_MAX: usize = 10;

/// The most holders that a store compares with the running jobs for [`LimitStatus::drift`].
pub const DRIFT_LOOKS_MAX: usize = 500;

/// A limit key at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitStatus {
    /// The key.
    pub key: LimitKey,
    /// The settings in force and what they were made for; `None` if nothing is limited.
    pub settings: Option<(LimitTarget, LimitSettings)>,
    /// How many running jobs hold it.
    pub running: u64,
    /// Those of them with the lowest ids, at most [`HOLDERS_SHOWN_MAX`]. If more than a thousand
    /// hold it, a store may name others, in the order of their ids.
    pub holders: Vec<JobId>,
    /// How many places of the key are taken wrongly: 0 unless the store was damaged. A store that
    /// keeps the holders themselves looks at [`DRIFT_LOOKS_MAX`] of them and counts those that are
    /// no running jobs; one that keeps their number tells by how much it is wrong. What else can be
    /// wrong is found by an audit, which also puts it right.
    pub drift: u64,
    /// How many may run at once: the configured concurrency, or what adapting has made of it.
    pub allowed: Option<u32>,
    /// How many jobs that carry it are live (scheduled, ready, running, retrying); of a key of
    /// the class `queue`, how many jobs of that queue.
    pub live: u64,
    /// Whether its breaker lets jobs start.
    pub breaker: BreakerPhase,
    /// Everything that keeps jobs with this key from starting.
    pub blocked: Vec<Blocked>,
}

impl LimitStatus {
    /// The status of a key that nothing is known of, for stores to fill in.
    #[must_use]
    pub const fn new(key: LimitKey) -> Self {
        Self {
            key,
            settings: None,
            running: 0,
            holders: Vec::new(),
            drift: 0,
            allowed: None,
            live: 0,
            breaker: BreakerPhase::Closed,
            blocked: Vec::new(),
        }
    }
}

/// How often jobs of a queue have started lately: counted in spans of 30 s, of which the running
/// one and the one before it are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StartRate {
    /// Which span the counts are of: the time divided by the span's length.
    pub span: u64,
    /// Starts in that span.
    pub current: u64,
    /// Starts in the span before it.
    pub previous: u64,
}

impl StartRate {
    /// The length of a span in milliseconds.
    pub const SPAN_MS: u64 = 30_000;

    /// The span of a time.
    #[must_use]
    pub const fn span_at(now: Timestamp) -> u64 {
        now.as_ms() / Self::SPAN_MS
    }

    /// The same rate with the counts of the span of `now`.
    #[must_use]
    pub const fn at(self, now: Timestamp) -> Self {
        let span = Self::span_at(now);
        match span.saturating_sub(self.span) {
            0 => self,
            1 => Self { span, current: 0, previous: self.current },
            _ => Self { span, current: 0, previous: 0 },
        }
    }

    /// Counts starts at `now`.
    pub fn add(&mut self, started: u64, now: Timestamp) {
        *self = self.at(now);
        self.current += started;
    }

    /// The mean time between two starts as seen at `now`; `None` if nothing has started.
    #[must_use]
    pub fn interval(self, now: Timestamp) -> Option<Duration> {
        let Self { current, previous, .. } = self.at(now);
        let seen_ms = now.as_ms() % Self::SPAN_MS + if previous > 0 { Self::SPAN_MS } else { 0 };
        let starts = current + previous;
        (starts > 0).then(|| Duration::from_micros(seen_ms.max(1) * 1000 / starts))
    }

    /// When somebody who found the queue full should try again: after the mean time between two
    /// starts, at least 1 s and at most 60 s, and 5 s if nothing has started.
    #[must_use]
    pub fn retry_after(self, now: Timestamp) -> Duration {
        let bounds = (Duration::from_secs(1), Duration::from_secs(60));
        let interval = self.interval(now).unwrap_or(Duration::from_secs(5));
        let ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(ms).clamp(bounds.0, bounds.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(StartRate::SPAN_MS * 1_000_000 + ms)
    }

    #[test]
    fn the_interval_is_the_time_seen_by_the_starts_seen() {
        let mut rate = StartRate::default();
        assert_eq!(rate.interval(at(0)), None);
        rate.add(10, at(1000));
        assert_eq!(rate.interval(at(20_000)), Some(Duration::from_secs(2)));
        rate.add(5, at(45_000));
        assert_eq!(rate.interval(at(45_000)), Some(Duration::from_secs(3)));
        assert_eq!(rate.interval(at(75_000)), Some(Duration::from_secs(9)));
        assert_eq!(rate.interval(at(100_000)), None);
    }

    #[test]
    fn trying_again_is_worth_while_after_1_to_60_s() {
        let mut rate = StartRate::default();
        assert_eq!(rate.retry_after(at(0)), Duration::from_secs(5));
        rate.add(1000, at(0));
        assert_eq!(rate.retry_after(at(1000)), Duration::from_secs(1));
        let mut slow = StartRate::default();
        slow.add(1, at(29_000));
        assert_eq!(slow.retry_after(at(29_000)), Duration::from_secs(29));
        assert_eq!(slow.retry_after(at(59_500)), Duration::from_millis(59_500));
    }
}
