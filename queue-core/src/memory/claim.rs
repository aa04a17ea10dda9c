//! T4 and T5: who gets which jobs, and for how long. The rule is stated at [`ClaimRequest`].

use std::collections::BTreeMap;
use std::time::Duration;

use super::model::{Held, LaneKey, Model, PROMOTED_BY_CLAIM_MAX};
use crate::backend::PASS_MAX;
use crate::state::Cause;
use crate::{
    Claim, ClaimRequest, ClaimToken, DeadReason, JobId, JobState, Kind, Lease, QueueName, Renewal,
};

/// The most lanes of a queue that one round looks at.
const LANES_PER_ROUND_MAX: usize = 32;

/// What is left of a request while it is being served.
struct Wanted {
    missing: u32,
    slots: BTreeMap<Kind, u32>,
    taken: Vec<JobId>,
    /// How many more expired jobs this call may bury.
    burials_left: u32,
}

impl Model {
    pub(super) fn claim(&mut self, request: &ClaimRequest) -> Claim {
        if let Some(held) = self.claims.get_mut(&request.token) {
            held.until = held.until.max(self.now.after(request.lease));
            return self.claimed(request.token, false);
        }
        let (_, more_due) = self.promote(PROMOTED_BY_CLAIM_MAX);
        let mut wanted = Wanted {
            missing: request.max,
            slots: request.kinds.iter().map(|k| (k.kind.clone(), k.slots)).collect(),
            taken: Vec::new(),
            burials_left: PASS_MAX,
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
        self.claimed(request.token, more)
    }

    fn claimed(&self, token: ClaimToken, more: bool) -> Claim {
        Claim {
            leases: self.leases_of(token),
            more,
            next_due: self.due.first().map(|(due_at, _)| due_at.since(self.now)),
            maintain: self.needs_maintenance(),
        }
    }

    /// One round over the lanes of a queue; says whether it changed anything.
    fn serve_round(&mut self, queue: &QueueName, wanted: &mut Wanted) -> bool {
        let group = self.group(queue, wanted);
        let Ok(size) = u32::try_from(group.len()) else { return false };
        let share = wanted.missing.div_ceil(size.max(1));
        let mut served_any = false;
        for lane in group {
            let slots = wanted.slots.get(&lane.1).copied().unwrap_or(0);
            let most = share.min(wanted.missing).min(slots);
            served_any |= self.serve_lane(&lane, most, wanted);
        }
        served_any && wanted.burials_left > 0
    }

    /// The lanes that take turns now: the best priority among those looked at.
    fn group(&self, queue: &QueueName, wanted: &Wanted) -> Vec<LaneKey> {
        let has_slots = |kind: &Kind| wanted.slots.get(kind).is_some_and(|slots| *slots > 0);
        let mut lanes: Vec<_> = self
            .lanes
            .iter()
            .filter(|((lane_queue, kind, _), _)| lane_queue == queue && has_slots(kind))
            .map(|(key, lane)| (key.2, lane.turn, key))
            .collect();
        lanes.sort();
        lanes.truncate(LANES_PER_ROUND_MAX);
        let best = lanes.first().map(|(priority, ..)| *priority);
        lanes.retain(|(priority, ..)| Some(*priority) == best);
        lanes.into_iter().map(|(.., key)| key.clone()).collect()
    }

    /// Takes up to `most` jobs from the head of a lane; says whether the lane changed.
    fn serve_lane(&mut self, key: &LaneKey, most: u32, wanted: &mut Wanted) -> bool {
        let mut taken = 0;
        let mut changed = false;
        while taken < most && wanted.burials_left > 0 {
            let Some(id) = self.lanes.get_mut(key).and_then(|lane| lane.jobs.pop_front()) else {
                break;
            };
            changed = true;
            if self.is_expired(id) {
                wanted.burials_left -= 1;
                self.finish(id, Cause::Expire, JobState::Dead, Some(DeadReason::Expired));
            } else {
                wanted.taken.push(id);
                taken += 1;
            }
        }
        wanted.missing -= taken;
        if let Some(slots) = wanted.slots.get_mut(&key.1) {
            *slots -= taken;
        }
        match self.lanes.get_mut(key) {
            Some(lane) if lane.jobs.is_empty() => {
                self.lanes.remove(key);
            }
            Some(lane) if changed => {
                self.turn += 1;
                lane.turn = self.turn;
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
