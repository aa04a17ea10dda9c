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
    /// Where the schedule of its rate stands, if that is ahead ([`LimitState::ahead_us`](super::LimitState::ahead_us)).
    pub scheduled_us: u64,
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
            scheduled_us: 0,
        }
    }

    /// When a job may start by the key's rate, if so many start before it; `None` without a rate.
    #[must_use]
    pub fn turn_by_rate(&self, before: u64, now: Timestamp) -> Option<Timestamp> {
        let rate = self.settings.as_ref()?.1.rate?;
        Some(rate.turn_at(self.scheduled_us, now, before))
    }
}

/// How often jobs of a queue have started lately: counted in spans of 30 s, of which the running
/// one and the one before it are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StartRate {
    /// Which span the counts are of: the time divided by the span's length.
    pub span: u64,
    /// What has started in that span.
    pub current: SpanStarts,
    /// What has started in the span before it.
    pub previous: SpanStarts,
}

/// What has started in one span.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpanStarts {
    /// How many jobs.
    pub count: u64,
    /// When the first of them did, in milliseconds since the span began.
    pub first_ms: u64,
    /// How many the first call took: they found free slots, and tell nothing about how often one gets free.
    pub at_once: u64,
}

impl SpanStarts {
    /// The mean time between two starts from its first one to `now`, of `count` in all. The time before the
    /// first does not count: perhaps nothing was there to start.
    fn interval(self, span: u64, count: u64, now: Timestamp) -> Option<Duration> {
        let later = count.saturating_sub(self.at_once.max(1));
        let first_ms = span * StartRate::SPAN_MS + self.first_ms.min(StartRate::SPAN_MS);
        let seen_ms = now.as_ms().saturating_sub(first_ms).max(1);
        (later > 0).then(|| Duration::from_micros(seen_ms * 1000 / later))
    }
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
        const NONE: SpanStarts = SpanStarts { count: 0, first_ms: 0, at_once: 0 };
        let span = Self::span_at(now);
        match span.saturating_sub(self.span) {
            0 => self,
            1 => Self { span, current: NONE, previous: self.current },
            _ => Self { span, current: NONE, previous: NONE },
        }
    }

    /// Counts the starts of one call at `now`.
    pub fn add(&mut self, started: u64, now: Timestamp) {
        *self = self.at(now);
        if self.current.count == 0 {
            self.current.first_ms = now.as_ms() % Self::SPAN_MS;
            self.current.at_once = started;
        }
        self.current.count += started;
    }

    /// How many have started in the spans that count at `now`.
    #[must_use]
    pub const fn count(self, now: Timestamp) -> u64 {
        let Self { current, previous, .. } = self.at(now);
        current.count + previous.count
    }

    /// The mean time between two starts as seen at `now`, while `running` jobs run: since the first start of the
    /// running span or of the one before it, whichever tells the shorter time, so that neither a pause before
    /// the first start nor one between two bursts counts.
    ///
    /// `None` if that cannot be said: of as many as run perhaps none has ended, and what only filled free slots
    /// does not tell when the next gets free. (Starts in both spans were not all made at once.)
    #[must_use]
    pub fn interval(self, now: Timestamp, running: u64) -> Option<Duration> {
        let Self { span, current, previous } = self.at(now);
        let both = current.count + previous.count;
        let alone = current.interval(span, current.count, now).filter(|_| current.count > running);
        let is_spread = previous.count > 0 && current.count > 0;
        let is_known = is_spread || previous.count > running;
        let together = previous.interval(span.saturating_sub(1), both, now).filter(|_| is_known);
        alone.into_iter().chain(together).min()
    }

    /// When somebody who found the queue full should try again: after the mean time between two
    /// starts, at least 1 s and at most 60 s, and 5 s if that cannot be said.
    #[must_use]
    pub fn retry_after(self, now: Timestamp) -> Duration {
        let bounds = (Duration::from_secs(1), Duration::from_secs(60));
        let interval = self.interval(now, 0).unwrap_or(Duration::from_secs(5));
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

    fn secs(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn the_interval_is_the_time_since_the_first_start_by_the_later_ones() {
        let mut rate = StartRate::default();
        assert_eq!(rate.interval(at(0), 0), None);
        rate.add(1, at(10_000));
        assert_eq!(rate.interval(at(11_000), 0), None, "one start tells no time between two");
        rate.add(9, at(12_000));
        assert_eq!(rate.interval(at(19_000), 0), secs(1));
        rate.add(5, at(38_000));
        assert_eq!(rate.interval(at(38_000), 0), secs(2), "since the first start of both spans");
        rate.add(14, at(45_000));
        assert_eq!(rate.interval(at(52_000), 0), secs(1), "of the second span alone");
        assert_eq!(rate.interval(at(66_000), 0), secs(2));
        assert_eq!(rate.interval(at(100_000), 0), None);
        assert_eq!((rate.count(at(66_000)), rate.count(at(100_000))), (19, 0));
    }

    /// Two slots, jobs of half a second: four start a second.
    #[test]
    fn neither_the_time_before_the_first_start_nor_what_filled_free_slots_counts() {
        let mut rate = StartRate::default();
        for half in 0..5 {
            rate.add(2, at(26_000 + half * 500));
            let interval = (half > 0).then_some(Duration::from_millis(250));
            assert_eq!(rate.interval(at(26_000 + half * 500), 2), interval);
        }
    }

    #[test]
    fn a_pause_between_two_bursts_does_not_count() {
        let mut rate = StartRate::default();
        rate.add(10, at(1000));
        rate.add(10, at(2000));
        rate.add(10, at(50_000));
        rate.add(10, at(51_000));
        assert_eq!(rate.interval(at(51_000), 10), Some(Duration::from_millis(100)));
    }

    #[test]
    fn as_many_starts_as_run_tell_nothing_unless_they_are_spread_over_both_spans() {
        let mut rate = StartRate::default();
        rate.add(1, at(0));
        rate.add(1, at(1000));
        assert_eq!(rate.interval(at(20_000), 2), None);
        assert_eq!(rate.interval(at(20_000), 1), secs(20));
        assert_eq!(rate.interval(at(40_000), 2), None);
        rate.add(1, at(40_000));
        assert_eq!(rate.interval(at(40_000), 3), secs(20));
    }

    #[test]
    fn trying_again_is_worth_while_after_1_to_60_s() {
        let mut rate = StartRate::default();
        assert_eq!(rate.retry_after(at(0)), Duration::from_secs(5));
        rate.add(1000, at(0));
        assert_eq!(rate.retry_after(at(500)), Duration::from_secs(5));
        rate.add(1000, at(600));
        assert_eq!(rate.retry_after(at(1000)), Duration::from_secs(1));
        let mut slow = StartRate::default();
        slow.add(1, at(1000));
        slow.add(1, at(29_000));
        assert_eq!(slow.retry_after(at(29_000)), Duration::from_secs(28));
        assert_eq!(slow.retry_after(at(59_500)), Duration::from_millis(58_500));
    }
}
