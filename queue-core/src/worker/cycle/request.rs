//! What goes to the store, and when.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Turning;
use super::ahead::HOLD;
use crate::backend::PASS_MAX;
use crate::worker::attempts::Ended;
use crate::worker::stop::Phase;
use crate::{ClaimRequest, ClaimToken, Outcome, SettleRequest};

/// The most requests that are out at a time.
const FLIGHTS_MAX: usize = 2;

/// A request follows another that is out once it reports one in so many of the jobs that the worker
/// may hold. Fewer jobs in more calls made no drain faster, and cost the store more.
const WORTH_A_FLIGHT: usize = 2;

/// If so many ended attempts or more make a request that follows another, none carries more than that: what
/// is left waits for the next one, which goes out beside it that much sooner. Else one would carry two thirds of
/// the attempts, the other never enough to follow it, and the store stand still while those of the first end.
const PARTED_FROM: usize = 32;

/// The most jobs that a standing claim asks for. They are those that would wait for the end of their
/// lease if the worker's host vanished while it waited, without a word to the server.
const STANDING_MAX: u32 = 8;

/// How long jobs that go back while the worker stops wait for those that have yet to be dropped. What goes
/// back later stands before them.
const GO_BACK_TOGETHER: Duration = Duration::from_millis(20);

/// Whether the job goes back to the head of its lane.
fn goes_back(ended: &Ended) -> bool {
    let outcome = &ended.settlement.outcome;
    !ended.was_started() || matches!(outcome, Outcome::Released | Outcome::Cancelled)
}

impl Turning {
    /// Whether a request may go out beside one that is out.
    pub(super) fn may_follow(&self) -> bool {
        self.flights.len() < FLIGHTS_MAX
            && self.suspects.is_empty()
            && self.set.status.is_store_up()
    }

    /// How many ended attempts make a request that follows another one.
    pub(super) fn worth_a_flight(&self) -> usize {
        let held_at_most = self.set.slots.total() + self.ahead_at_most();
        held_at_most.div_ceil(WORTH_A_FLIGHT).clamp(1, PASS_MAX as usize)
    }

    /// How many ended attempts a request carries so that another one can follow it. Jobs that go back to the head
    /// of their lane travel together, lest a claim between them gets the later ones.
    fn carried_at_most(&self, phase: Phase) -> Option<usize> {
        let worth_it = self.worth_a_flight();
        let is_parted = phase == Phase::Running
            && worth_it >= PARTED_FROM
            && !self.pending.iter().any(goes_back);
        is_parted.then_some(worth_it)
    }

    /// How many jobs may be claimed before there are slots for them.
    fn ahead_at_most(&self) -> usize {
        let slots = &self.set.slots;
        if slots.has_bounded_kinds() { 0 } else { self.ahead.claimable(slots.total()) }
    }

    /// Until when outcomes wait for others, if they do: those of short attempts as long as slots have
    /// something to go on with, and jobs that go back while a worker stops for the rest of them.
    pub(super) fn hold_until(&self, phase: Phase) -> Option<Instant> {
        let slots = &self.set.slots;
        if matches!(phase, Phase::Stopping { .. }) && slots.busy() > 0 {
            let first =
                self.pending.iter().filter(|ended| goes_back(ended)).map(|ended| ended.at).min()?;
            return Some(first + GO_BACK_TOGETHER).filter(|until| Instant::now() < *until);
        }
        let may_wait = phase == Phase::Running
            && slots.free() == 0
            && self.ahead.is_well_filled(slots.total())
            && self.pending.len() < PASS_MAX as usize;
        if !may_wait {
            return None;
        }
        let first = self.pending.iter().map(|ended| ended.at).min()?;
        Some(first + HOLD).filter(|until| Instant::now() < *until)
    }

    /// What to send now, if anything, and the attempts that it reports.
    pub(super) fn next_request(&mut self, phase: Phase) -> Option<(SettleRequest, Vec<Ended>)> {
        let is_worth_it = self.pending.len() >= self.worth_a_flight();
        let may_go_out = self.flights.is_empty() || self.may_follow() && is_worth_it;
        if !may_go_out {
            return None;
        }
        if let Some(suspects) = self.suspects.pop() {
            return Some((settle_request(&suspects, None), suspects));
        }
        if self.hold_until(phase).is_some() {
            return None;
        }
        // What stays behind is what has ended last.
        let at_most = self.carried_at_most(phase);
        if at_most.is_none() {
            // Each job that is given back goes to the head of its lane: the first one goes last.
            let pending = self.pending.make_contiguous();
            pending.sort_by_key(|ended| std::cmp::Reverse(ended.lease.fence));
        }
        let carried = self.pending.len().min(at_most.unwrap_or(PASS_MAX as usize));
        let carried: Vec<Ended> = self.pending.drain(..carried).collect();
        let now = Instant::now();
        self.pace.count(carried.len(), now);
        let asks = self.ask || !carried.is_empty() || now >= self.ask_at;
        // Not by calls of their own: those who wait for jobs are faster then.
        let is_busy = !carried.is_empty();
        let slots = &self.set.slots;
        let are_ahead = self.ahead.len() + slots.asked_ahead();
        let ahead = if is_busy { self.ahead_at_most().saturating_sub(are_ahead) } else { 0 };
        let has_room = self.may_take_jobs(phase) && self.claimable(ahead) > 0;
        // Outcomes first: a store that takes them slowly must not be asked for yet more jobs.
        let are_first = self.pending.is_empty() || at_most.is_some();
        let may_claim = has_room && are_first && now >= self.no_claim_before;
        let in_doubt = self.in_doubt.take_if(|_| phase == Phase::Running);
        let claim = match in_doubt {
            Some(claim) => Some(Arc::unwrap_or_clone(claim)),
            None => (asks && may_claim).then(|| self.next_claim(ahead)),
        };
        if carried.is_empty() && claim.is_none() {
            return None;
        }
        Some((settle_request(&carried, claim), carried))
    }

    /// How many jobs may be claimed for the slots that are free, and `ahead` jobs more. Those whose attempts have
    /// ended and stay behind hold their places in the store: their slots are the next request's to fill.
    fn claimable(&self, ahead: usize) -> usize {
        (self.set.slots.free() + ahead).saturating_sub(self.pending.len())
    }

    /// Whether the worker wants jobs, and the store is one that gives it any.
    pub(super) fn may_take_jobs(&self, phase: Phase) -> bool {
        phase == Phase::Running && !self.set.status.was_reset()
    }

    /// For as many jobs as may be claimed.
    pub(super) fn next_claim(&mut self, ahead: usize) -> ClaimRequest {
        let free = u32::try_from(self.claimable(ahead)).unwrap_or(u32::MAX);
        ClaimRequest {
            token: ClaimToken::random(),
            worker: self.set.id.clone(),
            queues: self.set.selection.next_order(),
            kinds: self.set.slots.per_kind(ahead),
            max: free.min(PASS_MAX),
            round_jobs: self.pace.round_jobs(),
            lease: self.set.lease,
        }
    }

    /// For a few of the slots that are free: while it stands others claim as if it did not.
    pub(super) fn standing_claim(&mut self) -> ClaimRequest {
        let mut claim = self.next_claim(0);
        claim.max = claim.max.min(STANDING_MAX);
        claim.round_jobs = 0;
        claim
    }
}

fn settle_request(carried: &[Ended], claim: Option<ClaimRequest>) -> SettleRequest {
    let settlements = carried.iter().map(|ended| ended.settlement.clone()).collect();
    SettleRequest { settlements, claim }
}
