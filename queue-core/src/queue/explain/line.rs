//! What is before a job, and when its turn is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Blocker;
use super::limits::{Limits, nothing};
use super::serving::Serving;
use super::slots::Slots;
use crate::{Blocked, JobSpec, Kind, LaneSummary, LimitKey, Place, QueueName, Timestamp};

/// What is before a ready job.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Position {
    /// Jobs of its own lane that come before it.
    pub jobs_ahead: u64,
    /// Lanes of its queue that are more urgent: all of their jobs come before it, if they can start.
    pub urgent_lanes: u64,
    /// The jobs of those.
    pub urgent_jobs: u64,
    /// Other lanes of its queue that have its priority: they take turns with its own.
    pub other_lanes: u64,
    /// Those of them whose turn comes before that of its own.
    pub other_lanes_first: u64,
    /// How many of the more urgent and other lanes are passed over, because no live worker runs them or a limit key
    /// of theirs has no room, and that does not keep the job itself. They keep their turn, but nothing waits for them.
    pub held_up_lanes: u64,
    /// Queues that its workers serve before its own, and how many jobs are ready there that they run. Empty unless
    /// that holds for each of its workers.
    pub queues_first: BTreeMap<QueueName, u64>,
    /// There may be more jobs before it in its lane: [`PLACE_MAX`](crate::backend::PLACE_MAX) were looked at.
    pub more_jobs: bool,
    /// There are more lanes in its queue: [`PASS_MAX`](crate::backend::PASS_MAX) were looked at.
    pub more_lanes: bool,
}

const fn is_rate(blocked: &Blocked) -> bool {
    matches!(blocked, Blocked::Rate { .. })
}

/// A job that waits, and those that wait with it.
#[derive(Debug)]
pub(super) struct Line<'s> {
    pub(super) now: Timestamp,
    pub(super) spec: &'s JobSpec,
    /// Where it stands in its lane, if it is ready.
    pub(super) place: Option<Place>,
    /// It is not its time yet.
    pub(super) is_early: bool,
    /// The lanes of its queue that have its priority or are more urgent.
    pub(super) lanes: &'s [LaneSummary],
    pub(super) serving: &'s BTreeMap<&'s Kind, Serving>,
    pub(super) limits: &'s Limits,
}

impl<'s> Line<'s> {
    fn is_own(&self, lane: &LaneSummary) -> bool {
        let JobSpec { kind, priority, limits, .. } = self.spec;
        (&lane.kind, &lane.priority, &lane.limits) == (kind, priority, limits)
    }

    fn is_urgent(&self, lane: &LaneSummary) -> bool {
        lane.priority < self.spec.priority
    }

    fn others(&self) -> impl Iterator<Item = &'s LaneSummary> {
        self.lanes.iter().filter(|lane| !self.is_own(lane))
    }

    /// One that is not ready yet comes last of its lane, which comes last if it is not there yet.
    fn own_place(&self) -> Place {
        let own = || self.lanes.iter().find(|lane| self.is_own(lane));
        let last = || own().map(|lane| Place::new(lane.jobs, false, lane.turn));
        self.place.or_else(last).unwrap_or(Place::new(0, false, u64::MAX))
    }

    /// Whether jobs of a lane may start now, if it were not for what does not matter here.
    fn may_start(
        &self,
        lane: &LaneSummary,
        does_not_matter: &impl Fn(&LimitKey, &Blocked) -> bool,
    ) -> bool {
        let mut added = self.serving.get(&lane.kind).into_iter().flat_map(|s| s.added.iter());
        self.limits.have_room(lane.limits.iter(), does_not_matter)
            && added.any(|added| self.limits.have_room(added, does_not_matter))
    }

    /// Whether a lane is kept by something that does not keep the job itself.
    fn is_held_up(&self, lane: &LaneSummary, kept_by: &[Blocker]) -> bool {
        let keeps_job = |key: &LimitKey, _: &Blocked| {
            let is_it =
                |by: &Blocker| matches!(by, Blocker::Limit { status, .. } if status.key == *key);
            kept_by.iter().any(is_it)
        };
        let is_nobody = |by: &Blocker| matches!(by, Blocker::NoWorker { .. });
        let is_alike = lane.kind == self.spec.kind && kept_by.iter().any(is_nobody);
        !is_alike && !self.may_start(lane, &keeps_job)
    }

    /// How many jobs of the other lanes that count start before it: all that are more urgent; and of each other
    /// lane as many as it gives in a turn for each turn that its own lane has before, and once more where its turn
    /// comes first.
    fn others_before(
        &self,
        counts: impl Fn(&LaneSummary) -> bool,
        gives: impl Fn(&LaneSummary) -> u64,
    ) -> u64 {
        let own = self.own_place();
        let own_turns = own.jobs_ahead / self.limits.weight(&self.spec.limits);
        let before = |lane: &LaneSummary| {
            let turns = own_turns + u64::from(lane.turn < own.turn);
            match self.is_urgent(lane) {
                true => lane.jobs,
                false => lane.jobs.min(turns.saturating_mul(gives(lane))),
            }
        };
        self.others().filter(|lane| counts(lane)).map(before).sum()
    }

    /// How many jobs a lane gives in a turn: as many as it weighs.
    fn weight(&self, lane: &LaneSummary) -> u64 {
        self.limits.weight(&lane.limits)
    }

    /// The same while all of so many slots are busy. If a key that the job itself does not need lets fewer jobs run
    /// than there are slots, the lane gives no more than that before one is left to others.
    fn gives(&self, lane: &LaneSummary, slots: u64) -> u64 {
        let needs = |key: &&LimitKey| {
            let own = self.serving.get(&self.spec.kind);
            self.spec.limits.contains(key) || own.is_some_and(|own| own.adds(key))
        };
        let others = lane.limits.iter().filter(|key| !needs(key));
        let allowed = others.filter_map(|key| self.limits.0.get(key)?.allowed).map(u64::from);
        let least = allowed.min().filter(|allowed| *allowed < slots);
        self.weight(lane).min(least.unwrap_or(u64::MAX))
    }

    /// When all rates let it start of the keys that it carries and of those that one of its workers adds.
    pub(super) fn turn_by_rates<'k>(
        &self,
        added: impl Iterator<Item = &'k BTreeSet<LimitKey>>,
    ) -> Timestamp {
        let last = |keys: &mut dyn Iterator<Item = &LimitKey>| {
            keys.filter_map(|key| self.turn_by_rate(key)).max().unwrap_or_default()
        };
        let of_worker = added.map(|added| last(&mut added.iter())).min().unwrap_or_default();
        last(&mut self.spec.limits.iter()).max(of_worker)
    }

    fn turn_by_rate(&self, key: &LimitKey) -> Option<Timestamp> {
        let status = self.limits.0.get(key)?;
        let needs_it = |lane: &LaneSummary| {
            lane.limits.contains(key) || self.serving.get(&lane.kind).is_some_and(|s| s.adds(key))
        };
        let is_it = |by: &LimitKey, blocked: &Blocked| by == key && is_rate(blocked);
        let counts = |lane: &LaneSummary| needs_it(lane) && self.may_start(lane, &is_it);
        let before = self.others_before(counts, |lane| self.weight(lane));
        status.turn_by_rate(before + self.own_place().jobs_ahead, self.now)
    }

    /// In what time there is a slot for it, if that can be said; `is_kept` if it could not start now.
    pub(super) fn turn_by_slots(&self, slots: &Slots, is_kept: bool) -> Option<Duration> {
        let gives = |lane: &LaneSummary| self.gives(lane, slots.all);
        let waits_for = if slots.free == 0 {
            if !slots.first.is_empty() {
                return None;
            }
            // What waits for the rates that it waits for as well needs a slot, too.
            let keys = self.serving.get(&self.spec.kind).into_iter().flat_map(|s| s.added.iter());
            let own: BTreeSet<&LimitKey> = self.spec.limits.iter().chain(keys.flatten()).collect();
            let is_own = |key: &LimitKey, blocked: &Blocked| own.contains(key) && is_rate(blocked);
            let before = self.others_before(|lane| self.may_start(lane, &is_own), gives);
            before + self.own_place().jobs_ahead + 1
        } else {
            // Of its own lane nothing can start, if it cannot.
            let own = if is_kept { 0 } else { self.own_place().jobs_ahead };
            let before = self.others_before(|lane| self.may_start(lane, &nothing), gives) + own;
            (before + 1).saturating_sub(slots.free)
        };
        match slots.interval {
            Some(interval) => {
                Some(interval.saturating_mul(u32::try_from(waits_for).unwrap_or(u32::MAX)))
            }
            // What is before one that is not due yet has time until then.
            None => (waits_for == 0 || self.is_early).then_some(Duration::ZERO),
        }
    }

    /// What is before it, if it is ready.
    pub(super) fn position(
        &self,
        kept_by: &[Blocker],
        more_lanes: bool,
        queues_first: BTreeMap<QueueName, u64>,
    ) -> Option<Position> {
        let own = self.place?;
        let (urgent, other): (Vec<_>, Vec<_>) =
            self.others().partition(|lane| self.is_urgent(lane));
        let count = |lanes: usize| lanes as u64;
        let held_up = self.others().filter(|lane| self.is_held_up(lane, kept_by));
        Some(Position {
            jobs_ahead: own.jobs_ahead,
            urgent_lanes: count(urgent.len()),
            urgent_jobs: urgent.iter().map(|lane| lane.jobs).sum(),
            other_lanes: count(other.len()),
            other_lanes_first: count(other.iter().filter(|lane| lane.turn < own.turn).count()),
            held_up_lanes: count(held_up.count()),
            queues_first,
            more_jobs: own.more,
            more_lanes,
        })
    }
}
