//! Jobs that are claimed before there is a slot for them.
//!
//! Where jobs are so short that a slot would stand idle for a good part of its time, waiting for the
//! store to take one outcome and to give the next job, and calls with one job each would cost the
//! store more than the jobs, a worker with few slots claims a few jobs more than it has slots. A
//! slot that gets free starts one of them at once, and outcomes travel together.
//!
//! Nobody is to notice but by the speed. Jobs wait here only while there are more ready ones than
//! the store was asked for. If no slot gets free for [`PATIENCE`], or attempts get longer, they are
//! given back, and there are none here for a while; nor are there while jobs come that have limit
//! keys, which others may want. They hold their lease, and a worker that stops gives them back.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Kind;
use crate::worker::attempts::Ended;
use crate::worker::leases::Held;

/// Attempts that take less than this on the average are short.
const SHORT: Duration = Duration::from_millis(5);

/// The mean with which no job waits here: many short attempts have to follow.
const LONG: Duration = Duration::from_secs(1);

/// How long jobs wait for a slot to get free: some short attempts.
const PATIENCE: Duration = Duration::from_millis(50);

/// How long the outcome of a short attempt may wait for others.
pub(super) const HOLD: Duration = Duration::from_millis(4);

/// A worker with more slots makes calls with many jobs anyway.
const SLOTS_MAX: usize = 32;

/// The most jobs that wait, in all and for each slot.
const JOBS_MAX: usize = 16;
const JOBS_PER_SLOT_MAX: usize = 4;

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
}

impl Ahead {
    pub(super) fn new() -> Self {
        let freed_at = Instant::now();
        Self { jobs: VecDeque::new(), freed_at, mean: LONG, full_claims: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Takes in the jobs of a claim, and whether there may be more.
    pub(super) fn extend(&mut self, held: Vec<Held>, may_be_more: bool) {
        self.full_claims = if may_be_more { self.full_claims.saturating_add(1) } else { 0 };
        if held.iter().any(|(lease, _)| !lease.spec.limits.is_empty()) {
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
        if self.mean >= SHORT || slots > SLOTS_MAX {
            return 0;
        }
        let per_slot = WORK_MAX.as_nanos() / self.mean.as_nanos().max(1);
        let per_slot = per_slot.min(JOBS_PER_SLOT_MAX as u128) as usize;
        (per_slot * slots).min(JOBS_MAX)
    }

    /// How many more may be claimed now.
    pub(super) fn room(&self, slots: usize) -> usize {
        let is_backlog = self.full_claims >= 2;
        if is_backlog { self.depth(slots).saturating_sub(self.jobs.len()) } else { 0 }
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
