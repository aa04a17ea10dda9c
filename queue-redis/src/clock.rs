//! What this process knows of the server's clock.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::connect::Link;
use crate::record::millis;
use crate::reply;
use crate::store;

/// Answers that took longer tell too little of when the server gave them.
const QUICK: Duration = Duration::from_millis(5);

/// What is known longer than this counts no more: clocks run differently.
const FRESH: Duration = Duration::from_secs(60);

/// The server is not asked for its time more often.
const BETWEEN_ASKS: Duration = Duration::from_secs(1);

/// Follows the server's clock from the times in its answers, so that records can be sent with the
/// time that they are to have (`lua/lib/times.lua`). It is not ahead of the server's unless that
/// one is set back or runs slower, and at most [`QUICK`] and a millisecond behind it.
#[derive(Debug)]
pub(crate) struct ServerClock {
    origin: Instant,
    known: Mutex<Option<Known>>,
    /// When the server was asked last, from `origin` on.
    asked: Mutex<Option<Duration>>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    /// The server's clock at `origin`, in milliseconds.
    at_origin_ms: i64,
    /// When an answer has told that last, from `origin` on.
    told: Duration,
}

impl ServerClock {
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now(), known: Mutex::new(None), asked: Mutex::new(None) }
    }

    /// The server's clock now, in milliseconds; 0 if it is not known.
    pub(crate) fn now_ms(&self) -> u64 {
        self.at(self.origin.elapsed())
    }

    /// Notes that the server's clock was `now_ms` when it answered a call that was made at `called`,
    /// when this one was `sent_ms`.
    pub(crate) fn note(&self, now_ms: u64, sent_ms: u64, called: Instant) {
        let took = called.elapsed();
        self.learn(self.origin.elapsed(), now_ms, sent_ms, took);
    }

    /// Asks the server for its time if nothing is known of it, or only what will soon be forgotten. For those
    /// whose own calls take too long to learn from: polled before such a call, it goes ahead of it.
    ///
    /// # Cancel safety
    /// A dropped call has learnt nothing.
    pub(crate) async fn ask(&self, link: &Link) {
        if !self.is_to_be_asked(self.origin.elapsed()) {
            return;
        }
        let (sent_ms, called) = (self.now_ms(), Instant::now());
        let answer = store::once(link, &redis::cmd("TIME")).await;
        if let Some(now) = answer.and_then(|answer| reply::time(answer).ok()) {
            self.note(millis(now), sent_ms, called);
        }
    }

    fn is_to_be_asked(&self, elapsed: Duration) -> bool {
        let is_known =
            self.known().is_some_and(|known| elapsed.saturating_sub(known.told) < FRESH / 2);
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_asked = asked.is_some_and(|asked| elapsed.saturating_sub(asked) < BETWEEN_ASKS);
        if is_known || is_asked {
            return false;
        }
        *asked = Some(elapsed);
        true
    }

    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, elapsed: Duration) -> u64 {
        let known = self.known().filter(|known| elapsed.saturating_sub(known.told) < FRESH);
        let Some(known) = known else { return 0 };
        let elapsed_ms = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
        u64::try_from(known.at_origin_ms.saturating_add(elapsed_ms)).unwrap_or(0)
    }

    fn learn(&self, elapsed: Duration, now_ms: u64, sent_ms: u64, took: Duration) {
        let mut known = self.known();
        let is_newer = known.is_some_and(|known| known.told + took > elapsed);
        if now_ms < sent_ms && !is_newer {
            // It has been set back, or another server answers, or this clock runs faster.
            *known = None;
        }
        if took > QUICK {
            return;
        }
        // Rounded against this clock, or the fractions of two milliseconds could make one.
        let elapsed_ms = i64::try_from(elapsed.as_micros().div_ceil(1000)).unwrap_or(i64::MAX);
        let at_origin_ms = i64::try_from(now_ms).unwrap_or(i64::MAX).saturating_sub(elapsed_ms);
        let before = known.filter(|known| elapsed.saturating_sub(known.told) < FRESH);
        // The quickest answer knows it best.
        let at_origin_ms =
            before.map_or(at_origin_ms, |known| known.at_origin_ms.max(at_origin_ms));
        *known = Some(Known { at_origin_ms, told: elapsed });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn it_is_never_ahead_and_learns_from_the_quickest_answer() {
        let clock = ServerClock::new();
        assert_eq!(clock.at(us(5_000)), 0, "nothing is known");
        // The server answers at 100 000.9 ms of its own; the answer takes 3.2 ms.
        clock.learn(us(4_100), 100_000, 0, us(3_500));
        assert_eq!(clock.at(us(4_100)), 99_999);
        assert_eq!(clock.at(us(7_000)), 100_002);
        // The next one takes 0.1 ms: the server's clock is 100 005.1 when 6.1 ms have passed.
        clock.learn(us(6_200), 100_005, 100_001, us(200));
        assert_eq!(clock.at(us(6_200)), 100_004);
        // Slower ones change nothing.
        clock.learn(us(900_000), 100_890, 100_880, us(4_900));
        clock.learn(us(950_000), 100_000, 100_000, us(900_000));
        assert_eq!(clock.at(us(6_200)), 100_004);
        for at in 6_200..20_000 {
            let server_us = 100_005_100 + (at - 6_100);
            assert!(clock.at(us(at)) * 1000 <= server_us, "{at}");
        }
    }

    #[test]
    fn it_knows_nothing_from_slow_answers_and_forgets() {
        let clock = ServerClock::new();
        clock.learn(us(4_100), 100_000, 0, us(5_100));
        assert_eq!(clock.at(us(5_000)), 0);
        clock.learn(us(7_000), 100_000, 0, us(4_900));
        assert_eq!(clock.at(us(7_000) + FRESH - us(1)), 159_999);
        assert_eq!(clock.at(us(7_000) + FRESH), 0);
        // What was known too long ago is no bound for what is learnt now.
        clock.learn(us(8_000) + FRESH, 150_000, 0, us(100));
        assert_eq!(clock.at(us(8_000) + FRESH), 150_000);
    }

    #[test]
    fn it_is_asked_for_while_nothing_is_known_and_not_too_often() {
        let clock = ServerClock::new();
        let asks = |ms: u64| clock.is_to_be_asked(us(ms * 1000));
        assert!(asks(10), "nothing is known");
        assert!(!asks(1009), "it has just been asked");
        assert!(asks(1010), "that has brought nothing");
        clock.learn(us(1_011_000), 100_000, 0, us(100));
        assert!(!asks(31_010));
        assert!(asks(31_011), "before it is forgotten");
    }

    #[test]
    fn it_follows_a_clock_that_is_set_back() {
        let clock = ServerClock::new();
        clock.learn(us(1_000), 100_000, 0, us(100));
        clock.learn(us(2_000), 90_000, 100_001, us(100));
        assert_eq!(clock.at(us(3_000)), 90_001);
        clock.learn(us(4_000), 80_000, 90_002, us(1_900));
        assert_eq!(clock.at(us(4_000)), 80_000);
        // A call that was sent before the clock was set back is answered late: what is known is newer.
        clock.learn(us(15_000), 80_001, 90_003, us(12_000));
        assert_eq!(clock.at(us(15_000)), 80_011);
        clock.learn(us(40_000), 70_000, 80_020, us(9_000));
        assert_eq!(clock.at(us(40_000)), 0, "but not from a slow answer");
    }
}
