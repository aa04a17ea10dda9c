//! T4 and T5: who gets which jobs, and for how long. The rule is stated at [`ClaimRequest`].

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use super::model::{Held, LaneKey, Model, PROMOTED_BY_CLAIM_MAX};
use crate::backend::PASS_MAX;
use crate::state::Cause;
use crate::{
    Claim, ClaimRequest, ClaimToken, DeadReason, JobId, JobState, Kind, KindSlots, Lease, LimitKey,
    QueueName, Renewal, Rooms, Timestamp, given_at_most, is_turn_over,
};

/// The most lanes of a queue that one round looks at.
const LANES_PER_ROUND_MAX: usize = 32;

/// What is left of a request while it is being served.
struct Wanted {
    missing: u32,
    kinds: BTreeMap<Kind, KindSlots>,
    rooms: Rooms,
    taken: Vec<JobId>,
    /// How many more expired jobs this call may bury.
    burials_left: u32,
    expired: BTreeMap<(QueueName, Kind), u64>,
}

impl Wanted {
    /// How many more jobs may start that need all these keys.
    fn room(&mut self, model: &Model, keys: &[LimitKey]) -> Option<u32> {
        let Ok(room) = self.rooms.of(keys, |key| Ok::<_, Infallible>(model.key_room(key)));
        room
    }
}

impl Model {
    pub(super) fn claim(&mut self, request: &ClaimRequest) -> Claim {
        if let Some(held) = self.claims.get_mut(&request.token) {
            held.until = held.until.max(self.now.after(request.lease));
            return self.claimed(request, false);
        }
        let (_, more_due) = self.promote(PROMOTED_BY_CLAIM_MAX);
        let mut wanted = Wanted {
            missing: request.max,
            kinds: request.kinds.iter().map(|k| (k.kind.clone(), k.clone())).collect(),
            rooms: Rooms::default(),
            taken: Vec::new(),
            burials_left: PASS_MAX,
            expired: BTreeMap::new(),
        };
        for queue in &request.queues {
            if self.paused.contains(queue) {
                continue;
            }
            while wanted.missing > 0 && self.serve_round(queue, &mut wanted) {}
        }
        let more = wanted.missing == 0 || wanted.burials_left == 0 || more_due;
        if !wanted.taken.is_empty() {
            self.hold(request, &wanted.taken);
        }
        let spare = wanted.rooms.are_spare();
        Claim { expired: wanted.expired, spare, ..self.claimed(request, more) }
    }

    /// An answer but for what a new claim alone can tell.
    fn claimed(&self, request: &ClaimRequest, more: bool) -> Claim {
        let due = self.due.first().map(|(due_at, _)| *due_at);
        let next = [due, self.next_room(request)].into_iter().flatten().min();
        Claim {
            leases: self.leases_of(request.token),
            more,
            next_due: next.map(|at| at.since(self.now)),
            maintain: self.needs_maintenance(),
            expired: BTreeMap::new(),
            spare: false,
            was_reset: false,
        }
    }

    /// When the first lane that the request could be served from has room again by time alone.
    fn next_room(&self, request: &ClaimRequest) -> Option<Timestamp> {
        let reopens = self.lanes.keys().filter_map(|(queue, kind, _, limits)| {
            let asked =
                request.kinds.iter().find(|asked| asked.kind == *kind && asked.slots > 0)?;
            let is_served = request.queues.contains(queue) && !self.paused.contains(queue);
            self.reopens_at(&limits.union(&asked.limits)).filter(|_| is_served)
        });
        reopens.min()
    }

    /// One round over the lanes of a queue; says whether it changed anything.
    fn serve_round(&mut self, queue: &QueueName, wanted: &mut Wanted) -> bool {
        let group = self.group(queue, wanted);
        let weights: Vec<u32> = group.iter().map(|lane| self.weight(&lane.3)).collect();
        let weight_of_group: u32 = weights.iter().sum();
        let missing = wanted.missing;
        let mut served_any = false;
        for (lane, weight) in group.into_iter().zip(weights) {
            let share = (missing * weight).div_ceil(weight_of_group);
            let Some(keys) = Self::keys_of(&lane, wanted) else { continue };
            let slots = wanted.kinds.get(&lane.1).map_or(0, |kind| kind.slots);
            let most =
                share.min(wanted.missing).min(slots).min(given_at_most(wanted.room(self, &keys)));
            served_any |= self.serve_lane(&lane, most, &keys, wanted);
        }
        served_any && wanted.burials_left > 0
    }

    /// The lanes that take turns now: the best priority among those looked at.
    fn group(&self, queue: &QueueName, wanted: &mut Wanted) -> Vec<LaneKey> {
        let mut lanes: Vec<_> = self
            .lanes
            .iter()
            .filter(|(key, _)| key.0 == *queue && self.is_eligible(key, wanted))
            .map(|(key, lane)| (key.2, lane.turn, key))
            .collect();
        lanes.sort();
        lanes.truncate(LANES_PER_ROUND_MAX);
        let best = lanes.first().map(|(priority, ..)| *priority);
        lanes.retain(|(priority, ..)| Some(*priority) == best);
        lanes.into_iter().map(|(.., key)| key.clone()).collect()
    }

    fn is_eligible(&self, lane: &LaneKey, wanted: &mut Wanted) -> bool {
        let Some(keys) = Self::keys_of(lane, wanted) else { return false };
        wanted.room(self, &keys) != Some(0)
    }

    /// The keys that the jobs of a lane need on this worker; `None` if it has no slots for them.
    fn keys_of(lane: &LaneKey, wanted: &Wanted) -> Option<Vec<LimitKey>> {
        let kind = wanted.kinds.get(&lane.1).filter(|kind| kind.slots > 0)?;
        Some(lane.3.union(&kind.limits))
    }

    /// Takes up to `most` jobs from the head of a lane; says whether the lane changed.
    fn serve_lane(
        &mut self,
        key: &LaneKey,
        most: u32,
        keys: &[LimitKey],
        wanted: &mut Wanted,
    ) -> bool {
        let mut taken = 0;
        let mut changed = false;
        let weight = self.weight(&key.3);
        while taken < most && wanted.burials_left > 0 {
            let Some(id) = self.lanes.get_mut(key).and_then(|lane| lane.jobs.pop_front()) else {
                break;
            };
            changed = true;
            if self.is_expired(id) {
                wanted.burials_left -= 1;
                *wanted.expired.entry((key.0.clone(), key.1.clone())).or_default() += 1;
                self.finish(id, Cause::Expire, JobState::Dead, Some(DeadReason::Expired));
            } else {
                wanted.taken.push(id);
                taken += 1;
                if let Some(entry) = self.jobs.get_mut(&id) {
                    entry.held = keys.to_vec();
                }
            }
        }
        wanted.missing -= taken;
        wanted.rooms.take(keys, taken);
        if let Some(kind) = wanted.kinds.get_mut(&key.1) {
            kind.slots -= taken;
        }
        match self.lanes.get_mut(key) {
            Some(lane) if lane.jobs.is_empty() => {
                self.lanes.remove(key);
            }
            Some(lane) if changed => {
                self.turn += 1;
                if is_turn_over(self.turn, weight, taken) {
                    lane.turn = self.turn;
                }
            }
            _ => {}
        }
        changed
    }

    fn is_expired(&self, id: JobId) -> bool {
        let spec = self.jobs.get(&id).map(|entry| &entry.record.spec);
        spec.and_then(|spec| spec.expires_at).is_some_and(|expires_at| expires_at <= self.now)
    }

    fn hold(&mut self, request: &ClaimRequest, taken: &[JobId]) {
        let fence = (self.fence + 1).max(self.now.as_ms() * 1000);
        self.fence = fence + taken.len() as u64 - 1;
        for (offset, id) in (0..).zip(taken) {
            self.turn_to(*id, Cause::Claim, JobState::Running);
            if let Some(entry) = self.jobs.get_mut(id) {
                entry.holder = Some(request.token);
                entry.fence_offset = offset;
                entry.record.worker = Some(request.worker.clone());
            }
        }
        let held = Held {
            claimed_at: self.now,
            until: self.now.after(request.lease),
            fence,
            jobs: taken.iter().copied().collect(),
        };
        self.claims.insert(request.token, held);
        self.start(taken);
    }

    /// The leases of the jobs that a claim holds, in the order in which they were chosen.
    fn leases_of(&self, token: ClaimToken) -> Vec<Lease> {
        let Some(held) = self.claims.get(&token) else { return Vec::new() };
        let lease = |id: &JobId| {
            let entry = self.jobs.get(id)?;
            let fence = held.fence + entry.fence_offset;
            let mut lease = Lease::new(entry.record.spec.clone(), token, fence, held.claimed_at);
            lease.failures = entry.record.failures;
            lease.stalls = entry.record.stalls;
            lease.enqueued_at = entry.record.enqueued_at;
            lease.due_at = entry.record.due_at;
            Some(lease)
        };
        let mut leases: Vec<Lease> = held.jobs.iter().filter_map(lease).collect();
        leases.sort_by_key(|lease| lease.fence);
        leases
    }

    /// T5.
    pub(super) fn renew(&mut self, token: ClaimToken, lease: Duration) -> Renewal {
        let until = self.now.after(lease);
        let Some(held) = self.claims.get_mut(&token) else { return Renewal::Lost };
        held.until = held.until.max(until);
        let asked =
            |id: &&JobId| self.jobs.get(*id).is_some_and(|entry| entry.record.cancel_requested);
        Renewal::Held { cancel_requested: held.jobs.iter().filter(asked).copied().collect() }
    }
}
