//! How fast a worker's jobs end.
//!
//! Claims tell the store, which may take more jobs from fewer lanes if they are short
//! ([`ClaimRequest::round_jobs`](crate::ClaimRequest::round_jobs)): a lane that it touches can cost it more than
//! a job. A new lane stands behind the turns of all others, so what these take is bounded by a time.

use std::time::{Duration, Instant};

use super::ahead::SHORT;
use crate::worker::attempts::Ended;

/// How long one turn of every lane may take this worker, where turns are longer than they have to be.
const ROUND: Duration = Duration::from_millis(150);

/// For so long ended jobs are counted, before the count counts.
const WINDOW: Duration = Duration::from_millis(20);

/// The mean at first: many short attempts have to follow.
const LONG: Duration = Duration::from_secs(1);

pub(super) struct Pace {
    /// How long attempts take, the last ones counting most.
    mean: Duration,
    /// Since when jobs are counted, and how many there were.
    since: Instant,
    ended: u32,
    /// How many end in the time of a round.
    per_round: u32,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { mean: LONG, since: now, ended: 0, per_round: 0 }
    }

    /// Notes how long an attempt took, if it was one.
    pub(super) fn note(&mut self, ended: &Ended) {
        if ended.was_started() {
            self.mean = (self.mean * 7 + ended.settlement.elapsed.min(LONG)) / 8;
        }
    }

    /// Counts attempts that have ended by now.
    pub(super) fn count(&mut self, ended: usize, now: Instant) {
        self.ended = self.ended.saturating_add(u32::try_from(ended).unwrap_or(u32::MAX));
        let counted = now.saturating_duration_since(self.since);
        if counted >= WINDOW {
            let per_round = u128::from(self.ended) * ROUND.as_nanos() / counted.as_nanos();
            self.per_round = u32::try_from(per_round).unwrap_or(u32::MAX);
            (self.since, self.ended) = (now, 0);
        }
    }

    /// How many jobs one turn of every lane may have together; 0 if jobs are not short.
    pub(super) fn round_jobs(&self) -> u32 {
        if self.mean < SHORT { self.per_round } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_has_as_many_jobs_as_end_in_its_time() {
        let start = Instant::now();
        let mut pace = Pace { mean: Duration::from_micros(10), ..Pace::new(start) };
        let mut count = |ended, at_ms| {
            pace.count(ended, start + Duration::from_millis(at_ms));
            pace.round_jobs()
        };
        assert_eq!(count(900, 10), 0, "too soon to say");
        assert_eq!(count(100, 20), 1000 * 150 / 20);
        assert_eq!(count(400, 39), 1000 * 150 / 20);
        assert_eq!(count(0, 60), 400 * 150 / 40);
        assert_eq!(count(1, 60_060), 0, "after a rest");
        pace.mean = SHORT;
        pace.per_round = 7;
        assert_eq!(pace.round_jobs(), 0);
    }
}
