//! Jobs that are claimed before there is a slot for them.
//!
//! Where jobs are so short that a slot would stand idle for a good part of its time, waiting for the
//! store to take one outcome and to give the next job, and what a call costs however few jobs it
//! carries would cost the store more than they do, a worker claims more jobs than it has slots. A slot
//! that gets free starts one of them at once, and outcomes travel together.
//!
//! Nobody is to notice but by the speed. Jobs wait here only while there are more ready ones than
//! the store was asked for. If no slot gets free for [`PATIENCE`], or attempts get longer, they are
//! given back, and there are none here for a while; nor are there while jobs come of whose limit
//! keys others may want the places ([`Claim::spare`](crate::Claim::spare)). They hold their lease, and a worker that stops gives them back.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Kind;
use crate::backend::PASS_MAX;
use crate::worker::attempts::Ended;
use crate::worker::leases::Held;

/// Attempts that take less than this on the average are short.
pub(super) const SHORT: Duration = Duration::from_millis(5);

/// The mean with which no job waits here: many short attempts have to follow.
const LONG: Duration = Duration::from_secs(1);

/// How long jobs wait for a slot to get free: some short attempts.
const PATIENCE: Duration = Duration::from_millis(50);

/// How long the outcome of a short attempt may wait for others.
pub(super) const HOLD: Duration = Duration::from_millis(4);

/// The most jobs that wait for each slot.
const JOBS_PER_SLOT_MAX: usize = 4;

/// The most jobs that a worker holds if some of them wait: with more slots, it makes large calls anyway.
const HELD_MAX: usize = PASS_MAX as usize;

/// The most work that waits for a slot: another worker might have begun it at once.
const WORK_MAX: Duration = Duration::from_millis(10);

/// What was claimed and has no slot yet.
pub(super) struct Ahead {
    /// With the time at which they came.
    jobs: VecDeque<(Instant, Held)>,
    /// When the last of them got a slot.
    freed_at: Instant,
    /// How long attempts take, the last ones counting most.
    mean: Duration,
    /// How many claims in a row have brought all that they asked for: after two, there are more jobs
    /// in the store than those.
    full_claims: u32,
    /// Whether the last jobs that came may hold places that others wait for: those of their limit keys.
    hold_places: bool,
}

impl Ahead {
    pub(super) fn new() -> Self {
        let freed_at = Instant::now();
        Self { jobs: VecDeque::new(), freed_at, mean: LONG, full_claims: 0, hold_places: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Takes in the jobs of a claim: whether there may be more, and whether nobody waits for their places.
    pub(super) fn extend(&mut self, held: Vec<Held>, may_be_more: bool, spare: bool) {
        self.full_claims = if may_be_more { self.full_claims.saturating_add(1) } else { 0 };
        if !held.is_empty() {
            let has_keys = |(lease, _): &Held| !lease.spec.limits.is_empty();
            self.hold_places = !spare && held.iter().any(has_keys);
        }
        if self.hold_places {
            self.mean = LONG;
        }
        let now = Instant::now();
        self.jobs.extend(held.into_iter().map(|held| (now, held)));
    }

    /// Notes how long an attempt took, if it was one.
    pub(super) fn note(&mut self, ended: &Ended) {
        if ended.was_started() {
            self.mean = (self.mean * 7 + ended.settlement.elapsed.min(LONG)) / 8;
        }
    }

    /// How many may wait beside so many slots.
    fn depth(&self, slots: usize) -> usize {
        if self.mean >= SHORT || self.hold_places {
            return 0;
        }
        let per_slot = WORK_MAX.as_nanos() / self.mean.as_nanos().max(1);
        let per_slot = per_slot.min(JOBS_PER_SLOT_MAX as u128) as usize;
        (per_slot * slots).min(HELD_MAX.saturating_sub(slots))
    }

    /// How many jobs may be claimed now beside those for so many slots.
    pub(super) fn claimable(&self, slots: usize) -> usize {
        let is_backlog = self.full_claims >= 2;
        if is_backlog { self.depth(slots) } else { 0 }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether there are enough for the time of another call, that of a short attempt or so.
    pub(super) fn is_well_filled(&self, slots: usize) -> bool {
        self.jobs.len() > slots.min(self.depth(slots) / 2)
    }

    /// Takes the first job whose kind `has_room`.
    pub(super) fn next(&mut self, has_room: impl Fn(&Kind) -> bool) -> Option<Held> {
        let at = self.jobs.iter().position(|(_, (lease, _))| has_room(&lease.spec.kind))?;
        self.freed_at = Instant::now();
        self.jobs.remove(at).map(|(_, held)| held)
    }

    /// When they will have waited too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let (since, _) = self.jobs.front()?;
        let since = if self.mean < SHORT { self.freed_at.max(*since) } else { *since };
        Some(since + PATIENCE)
    }

    /// Takes all of them if they have waited too long, or if `all` have to go.
    pub(super) fn take_back(&mut self, all: bool) -> impl Iterator<Item = Held> {
        let is_late = self.deadline().is_some_and(|deadline| Instant::now() >= deadline);
        if is_late {
            self.mean = LONG;
        }
        let taken = if all || is_late { std::mem::take(&mut self.jobs) } else { VecDeque::new() };
        taken.into_iter().map(|(_, held)| held)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::handler::CancelSignal;
    use crate::{ClaimToken, Lease, NewJob, Payload, Timestamp};

    fn claimable(mean: Duration, full_claims: u32, slots: usize) -> usize {
        Ahead { mean, full_claims, ..Ahead::new() }.claimable(slots)
    }

    #[test]
    fn a_few_jobs_wait_for_each_slot_and_no_more_in_all_than_one_call_takes() {
        let of_short = |slots| claimable(Duration::from_micros(100), 2, slots);
        let counts = [1, 4, 40, 100, 101, 200, 500, 5000].map(|slots| (slots, of_short(slots)));
        let most = [(1, 4), (4, 16), (40, 160), (100, 400), (101, 399), (200, 300)];
        assert_eq!(counts[..6], most);
        assert_eq!(counts[6..], [(500, 0), (5000, 0)]);
    }

    #[test]
    fn no_job_waits_after_one_whose_place_others_may_want() {
        let job = || NewJob::new(Kind::new("a").unwrap(), Payload::raw(Vec::new()));
        let held = |job: NewJob| {
            let lease = Lease::new(job.spec, ClaimToken::random(), 1, Timestamp::from_ms(0));
            vec![(Arc::new(lease), CancelSignal::default())]
        };
        let mut ahead = Ahead::new();
        let keyed = || job().limit("tenant:a");
        for (job, spare, expected) in
            [(keyed(), false, 0), (job(), false, 300), (keyed(), false, 0), (keyed(), true, 300)]
        {
            ahead.extend(held(job), true, spare);
            ahead.extend(Vec::new(), true, spare);
            // As many short attempts make it.
            ahead.mean = Duration::from_micros(100);
            assert_eq!(ahead.claimable(200), expected);
        }
    }

    #[test]
    fn little_work_waits_and_only_if_there_is_more_than_was_asked_for() {
        assert_eq!(claimable(Duration::from_millis(4), 2, 2), 4);
        assert_eq!(claimable(SHORT, 2, 2), 0);
        assert_eq!(claimable(Duration::ZERO, 1, 2), 0);
    }
}
