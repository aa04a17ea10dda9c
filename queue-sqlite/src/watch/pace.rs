//! How often the watching thread looks.

use std::time::{Duration, Instant};

/// At least between two looks, however much is committed.
const GAP: Duration = Duration::from_millis(2);
/// Between two looks, by how long nothing has happened before: at most so long, so often. A write
/// to the log is heard before its commit can be seen, which takes a sync, so the first looks after
/// it come close.
const PAUSES: &[(Duration, Duration)] = &[
    (Duration::from_millis(20), GAP),
    (Duration::from_secs(1), Duration::from_millis(10)),
    (Duration::from_secs(10), Duration::from_millis(100)),
];
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// After a failed look.
const PAUSE_FAILED: Duration = Duration::from_secs(1);

/// When to look next.
#[derive(Debug)]
pub(super) struct Pace {
    /// The last sign that somebody commits.
    active: Instant,
    looked: Instant,
    failed: bool,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { active: now, looked: now, failed: false }
    }

    /// Somebody commits, or has come who may expect something.
    pub(super) fn quicken(&mut self, now: Instant) {
        self.active = now;
    }

    /// A look was made; `found` says whether somebody has committed.
    pub(super) fn looked(&mut self, now: Instant, found: bool) {
        self.looked = now;
        self.failed = false;
        if found {
            self.active = now;
        }
    }

    /// A look failed; says whether it is the first that did.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        self.looked = now;
        !std::mem::replace(&mut self.failed, true)
    }

    /// How long not even a call is followed.
    pub(super) fn held_back(&self, now: Instant) -> Duration {
        let until = if self.failed { self.looked + PAUSE_FAILED } else { now };
        until.saturating_duration_since(now)
    }

    /// How long not even writes are listened to.
    pub(super) fn deaf(&self, now: Instant) -> Duration {
        (self.looked + GAP).saturating_duration_since(now)
    }

    /// How long until the next look if nothing happens.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        let quiet = self.looked.saturating_duration_since(self.active);
        let pause = PAUSES.iter().find(|(most, _)| quiet < *most).map_or(PAUSE_MAX, |(_, p)| *p);
        (self.looked + pause).saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it looks within `time` if nothing happens.
    fn looks(pace: &mut Pace, start: Instant, time: Duration) -> u32 {
        let (mut now, mut looks) = (start, 0);
        while now < start + time {
            now += pace.pause(now);
            pace.looked(now, false);
            looks += 1;
        }
        looks
    }

    #[test]
    fn an_idle_watch_rests_and_a_commit_wakes_it() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let minute = Duration::from_secs(60);
        let first = looks(&mut pace, start, minute);
        assert!((200..=400).contains(&first), "{first}");
        let second = looks(&mut pace, start + minute, minute);
        assert!((59..=61).contains(&second), "{second}");
        // The last look was within the last second, and longer ago than the gap.
        let now = start + minute * 2 + PAUSE_MAX;
        pace.quicken(now);
        assert_eq!(pace.pause(now), Duration::ZERO);
        pace.looked(now, false);
        assert_eq!((pace.pause(now), pace.deaf(now)), (GAP, GAP));
        assert!(pace.deaf(now + GAP).is_zero());
    }

    #[test]
    fn failures_are_told_once_and_pause() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        assert!(pace.held_back(now).is_zero());
        assert!(pace.failed(now) && !pace.failed(now));
        assert_eq!(pace.held_back(now), PAUSE_FAILED);
        pace.looked(now, false);
        assert!(pace.held_back(now).is_zero() && pace.failed(now));
    }
}
