//! What this process knows of the server's clock.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

/// Follows the server's clock from the times in its answers, so that records can be sent with the
/// time that they are to have (`lua/lib/times.lua`). It is never ahead of the server's as long as
/// that one is not set back; how far it is behind is how long an answer has taken on its way, the
/// quickest of those that came.
#[derive(Debug)]
pub(crate) struct ServerClock {
    origin: Instant,
    /// The server's clock when `origin` was, in milliseconds; `UNKNOWN` at first.
    at_origin_ms: AtomicI64,
}

const UNKNOWN: i64 = i64::MIN;

impl ServerClock {
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now(), at_origin_ms: AtomicI64::new(UNKNOWN) }
    }

    /// The server's clock now, as far as that is known, in milliseconds; 0 if it is not.
    pub(crate) fn now_ms(&self) -> u64 {
        self.at(self.origin.elapsed().as_micros())
    }

    /// Notes that the server's clock was `now_ms` when it answered a call, for which this one was
    /// `sent_ms`.
    pub(crate) fn note(&self, now_ms: u64, sent_ms: u64) {
        self.learn(self.origin.elapsed().as_micros(), now_ms, sent_ms);
    }

    fn at(&self, elapsed_us: u128) -> u64 {
        let at_origin_ms = self.at_origin_ms.load(Ordering::Relaxed);
        if at_origin_ms == UNKNOWN {
            return 0;
        }
        let elapsed_ms = i64::try_from(elapsed_us / 1000).unwrap_or(i64::MAX);
        u64::try_from(at_origin_ms.saturating_add(elapsed_ms)).unwrap_or(0)
    }

    fn learn(&self, elapsed_us: u128, now_ms: u64, sent_ms: u64) {
        // Rounded against this clock, or the fractions of two milliseconds could make one.
        let elapsed_ms = i64::try_from(elapsed_us.div_ceil(1000)).unwrap_or(i64::MAX);
        let at_origin_ms = i64::try_from(now_ms).unwrap_or(i64::MAX).saturating_sub(elapsed_ms);
        if now_ms < sent_ms {
            // It has been set back, or another server answers, or this one runs faster.
            self.at_origin_ms.store(at_origin_ms, Ordering::Relaxed);
        } else {
            self.at_origin_ms.fetch_max(at_origin_ms, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_ahead_and_learns_from_the_quickest_answer() {
        let clock = ServerClock::new();
        assert_eq!(clock.at(5_000), 0, "nothing is known");
        // The server answers at 100 000.9 ms of its own; the answer takes 3.2 ms.
        clock.learn(4_100, 100_000, 0);
        assert_eq!(clock.at(4_100), 99_999);
        assert_eq!(clock.at(7_000), 100_002);
        // The next one takes 0.1 ms: the server's clock is 100 005.1 when 6.1 ms have passed.
        clock.learn(6_200, 100_005, 100_001);
        assert_eq!(clock.at(6_200), 100_004);
        // A slow one changes nothing.
        clock.learn(900_000, 100_100, 100_090);
        assert_eq!(clock.at(6_200), 100_004);
        for us in 6_200_u128..20_000 {
            let server_us = 100_005_100 + (us - 6_100);
            assert!(u128::from(clock.at(us)) * 1000 <= server_us, "{us}");
        }
    }

    #[test]
    fn it_follows_a_clock_that_is_set_back() {
        let clock = ServerClock::new();
        clock.learn(1_000, 100_000, 0);
        clock.learn(2_000, 90_000, 100_001);
        assert_eq!(clock.at(3_000), 90_001);
        clock.learn(4_000, 0, 90_002);
        assert_eq!(clock.at(4_000), 0);
    }
}
