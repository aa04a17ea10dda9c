//! Jobs, their indexes, and the moves that producers, operators and time make.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use crate::backend::{FINISHED_MAX, PASS_MAX, StateCounts};
use crate::state::{Cause, transition};
use crate::{
    CancelOutcome, ClaimToken, ConflictReason, DeadReason, Due, EnqueueOutcome, Enqueued,
    IdempotencyKey, Interest, JobId, JobRecord, JobState, Kind, Maintained, NewJob, OnConflict,
    Priority, QueueName, QueueStats, Timestamp, Wake, WorkerId,
};

/// One job and what the store must remember beside its record.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) record: JobRecord,
    /// The claim that holds it; `Some` exactly while it is running.
    pub(super) holder: Option<ClaimToken>,
    /// The token of its last settlement, so that a repeat can be told from a stale one.
    pub(super) settled_by: Option<ClaimToken>,
    /// Its place in the claim that holds it: added to the claim's fence.
    pub(super) fence_offset: u64,
    /// Where its record waits to be dropped, and for when; `Some` exactly when it is finished.
    shelved: Option<(Shelf, Timestamp)>,
}

/// Ready jobs of one queue, kind and priority, first in first out; never empty.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) turn: u64,
    pub(super) jobs: VecDeque<JobId>,
}

pub(super) type LaneKey = (QueueName, Kind, Priority);

/// A claim and the jobs it still holds; never empty.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) claimed_at: Timestamp,
    pub(super) until: Timestamp,
    pub(super) fence: u64,
    pub(super) jobs: BTreeSet<JobId>,
}

/// The two groups of finished records that retention counts separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shelf {
    Done,
    Dead,
}

/// The whole store.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// The latest time the store has used.
    pub(super) now: Timestamp,
    /// Ticks when a lane gets its first job and when one is served.
    pub(super) turn: u64,
    pub(super) fence: u64,
    pub(super) jobs: HashMap<JobId, Entry>,
    pub(super) lanes: BTreeMap<LaneKey, Lane>,
    pub(super) due: BTreeSet<(Timestamp, JobId)>,
    pub(super) claims: BTreeMap<ClaimToken, Held>,
    pub(super) keys: HashMap<IdempotencyKey, JobId>,
    /// Finished records by the time they may be dropped.
    pub(super) shelves: BTreeMap<(QueueName, Shelf), BTreeSet<(Timestamp, JobId)>>,
    /// Workers that have not heard yet of a cancel request for one of their jobs.
    cancel_notices: HashSet<WorkerId>,
    /// Queues and kinds whose next job became the first of all to be due: a sleeper has to learn
    /// the new time.
    hints: BTreeSet<(QueueName, Kind)>,
    /// Something happened since the last look that a waiting worker may want to know.
    news: bool,
}

impl Model {
    pub(super) fn set_now(&mut self, clock: Timestamp) {
        self.now = self.now.max(clock);
    }

    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// T1 and T2.
    pub(super) fn enqueue(&mut self, job: &NewJob) -> EnqueueOutcome {
        let key = job.spec.idempotency_key.as_ref();
        if let Some(entry) = self.jobs.get(&job.spec.id) {
            return meet(entry, job, ConflictReason::Id);
        }
        if let Some(entry) = key.and_then(|key| self.keys.get(key)).and_then(|id| self.jobs.get(id))
        {
            return meet(entry, job, ConflictReason::IdempotencyKey);
        }
        let id = job.spec.id;
        let due_at = match job.due {
            Due::Now => self.now,
            Due::After(delay) => self.now.after(delay),
            Due::At(time) => time.max(self.now).min(Timestamp::MAX),
        };
        let state = if due_at > self.now { JobState::Scheduled } else { JobState::Ready };
        let mut record = JobRecord::new(job.spec.clone(), state, self.now);
        record.due_at = due_at;
        self.jobs.insert(
            id,
            Entry { record, holder: None, settled_by: None, fence_offset: 0, shelved: None },
        );
        if let Some(key) = key {
            self.keys.insert(key.clone(), id);
        }
        debug_assert!(transition(Cause::Enqueue, None, Some(state)).is_some());
        match state {
            JobState::Ready => self.push(id, End::Tail),
            _ => self.schedule(id, due_at),
        }
        EnqueueOutcome::Done(Enqueued::created(id, state))
    }

    /// T12 and T13.
    pub(super) fn cancel(&mut self, id: JobId) -> CancelOutcome {
        let Some(entry) = self.jobs.get_mut(&id) else { return CancelOutcome::NotFound };
        let state = entry.record.state;
        match state {
            JobState::Running => {
                entry.record.cancel_requested = true;
                self.cancel_notices.extend(entry.record.worker.clone());
                self.news = true;
                return CancelOutcome::Requested;
            }
            JobState::Ready => self.unlist(id),
            JobState::Scheduled | JobState::Retrying => {
                let due_at = entry.record.due_at;
                self.due.remove(&(due_at, id));
            }
            finished => return CancelOutcome::AlreadyFinished(finished),
        }
        self.finish(id, Cause::Cancel, JobState::Cancelled, None);
        CancelOutcome::Cancelled
    }

    pub(super) fn get(&self, id: JobId) -> Option<JobRecord> {
        let entry = self.jobs.get(&id)?;
        let mut record = entry.record.clone();
        record.lease_until =
            entry.holder.and_then(|token| self.claims.get(&token)).map(|held| held.until);
        Some(record)
    }

    pub(super) fn stats(&self) -> Vec<QueueStats> {
        let mut counts: BTreeMap<(QueueName, Kind), StateCounts> = BTreeMap::new();
        for JobRecord { spec, state, .. } in self.jobs.values().map(|entry| &entry.record) {
            let row = counts.entry((spec.queue.clone(), spec.kind.clone())).or_default();
            *row.entry(*state).or_default() += 1;
        }
        counts.into_iter().map(|((queue, kind), jobs)| QueueStats { queue, kind, jobs }).collect()
    }

    /// What a worker that starts to wait should do instead, if anything.
    pub(super) fn wake_for(&mut self, interest: &Interest) -> Option<Wake> {
        if self.cancel_notices.remove(&interest.worker) {
            return Some(Wake::Cancel);
        }
        let serves = |queue, kind| interest.queues.contains(queue) && interest.kinds.contains(kind);
        let hint = self.hints.iter().find(|(queue, kind)| serves(queue, kind)).cloned();
        let ready = self.lanes.keys().any(|(queue, kind, _)| serves(queue, kind));
        let hinted = hint.is_some_and(|hint| self.hints.remove(&hint));
        (hinted || ready).then_some(Wake::Work)
    }

    /// T3, T11 and T16.
    pub(super) fn maintain(&mut self, budget: u32) -> Maintained {
        let (promoted, more_due) = self.promote(budget);
        let mut done = Maintained { promoted, more: more_due, ..Maintained::default() };
        self.reap(budget, &mut done);
        self.drop_finished(budget, &mut done);
        done
    }

    /// T3: makes due jobs ready, at most `budget`; also says whether more are due.
    pub(super) fn promote(&mut self, budget: u32) -> (u64, bool) {
        let mut promoted = 0;
        while let Some(&(due_at, id)) = self.due.first() {
            if due_at > self.now {
                break;
            }
            if promoted == u64::from(budget) {
                return (promoted, true);
            }
            self.due.pop_first();
            self.turn_to(id, Cause::Promote, JobState::Ready);
            self.push(id, End::Tail);
            promoted += 1;
        }
        (promoted, false)
    }

    fn reap(&mut self, budget: u32, done: &mut Maintained) {
        loop {
            let lapsed = self.claims.iter().filter(|(_, held)| held.until <= self.now);
            let Some((_, token)) = lapsed.map(|(token, held)| (held.until, *token)).min() else {
                return;
            };
            if done.reaped >= u64::from(budget) {
                done.more = true;
                return;
            }
            let jobs = self.claims.get(&token).map(|held| held.jobs.clone()).unwrap_or_default();
            // From the last to the first, each to the head: the lane ends up in order.
            for id in jobs.into_iter().rev() {
                done.reaped += 1;
                done.crash_loops += u64::from(self.reap_job(id));
            }
        }
    }

    /// T11; says whether the job is dead now.
    fn reap_job(&mut self, id: JobId) -> bool {
        let Some(cancel_requested) = self.let_go(id) else { return false };
        let Some(entry) = self.jobs.get_mut(&id) else { return false };
        entry.record.stalls = entry.record.stalls.saturating_add(1);
        if cancel_requested {
            self.finish(id, Cause::Reap, JobState::Cancelled, None);
        } else if entry.record.stalls >= entry.record.spec.max_stalls {
            self.finish(id, Cause::Reap, JobState::Dead, Some(DeadReason::CrashLoop));
            return true;
        } else {
            self.turn_to(id, Cause::Reap, JobState::Ready);
            self.push(id, End::Head);
        }
        false
    }

    fn drop_finished(&mut self, budget: u32, done: &mut Maintained) {
        let shelves: Vec<_> = self.shelves.keys().cloned().collect();
        for shelf in shelves {
            while let Some(id) = self.shelves.get(&shelf).and_then(|set| self.droppable(set)) {
                if done.dropped == u64::from(budget) {
                    done.more = true;
                    return;
                }
                self.forget(id);
                done.dropped += 1;
            }
        }
    }

    fn droppable(&self, shelf: &BTreeSet<(Timestamp, JobId)>) -> Option<JobId> {
        let (expiry, id) = shelf.first()?;
        (*expiry <= self.now || shelf.len() as u64 > FINISHED_MAX).then_some(*id)
    }

    /// Whether [`Model::maintain`] has something to do now.
    pub(super) fn needs_maintenance(&self) -> bool {
        self.due.first().is_some_and(|(due_at, _)| *due_at <= self.now)
            || self.claims.values().any(|held| held.until <= self.now)
            || self.shelves.values().any(|shelf| self.droppable(shelf).is_some())
    }

    // The steps that the moves are made of.

    /// Changes a job's state; in debug builds, checks that the table allows it.
    pub(super) fn turn_to(&mut self, id: JobId, cause: Cause, to: JobState) {
        if let Some(entry) = self.jobs.get_mut(&id) {
            let from = entry.record.state;
            debug_assert!(
                transition(cause, Some(from), Some(to)).is_some(),
                "{cause:?} must not take a job from {from} to {to}"
            );
            entry.record.state = to;
        }
    }

    /// Puts a ready job into its lane.
    pub(super) fn push(&mut self, id: JobId, end: End) {
        let Some(entry) = self.jobs.get(&id) else { return };
        let lane = self.lanes.entry(lane_key(&entry.record)).or_default();
        if lane.jobs.is_empty() {
            self.turn += 1;
            lane.turn = self.turn;
        }
        match end {
            End::Head => lane.jobs.push_front(id),
            End::Tail => lane.jobs.push_back(id),
        }
        self.news = true;
    }

    /// Takes a ready job out of the middle of its lane.
    fn unlist(&mut self, id: JobId) {
        let Some(entry) = self.jobs.get(&id) else { return };
        let key = lane_key(&entry.record);
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.jobs.retain(|other| *other != id);
            if lane.jobs.is_empty() {
                self.lanes.remove(&key);
            }
        }
    }

    pub(super) fn schedule(&mut self, id: JobId, due_at: Timestamp) {
        if self.due.first().is_none_or(|first| (due_at, id) < *first) {
            let spec = self.jobs.get(&id).map(|entry| &entry.record.spec);
            self.hints.extend(spec.map(|spec| (spec.queue.clone(), spec.kind.clone())));
            self.news = true;
        }
        self.due.insert((due_at, id));
    }

    /// Takes a running job out of the claim that holds it; answers whether somebody asked to
    /// cancel it, or `None` if no claim holds it.
    pub(super) fn let_go(&mut self, id: JobId) -> Option<bool> {
        let entry = self.jobs.get_mut(&id)?;
        let token = entry.holder.take()?;
        entry.record.worker = None;
        if let Some(held) = self.claims.get_mut(&token) {
            held.jobs.remove(&id);
            if held.jobs.is_empty() {
                self.claims.remove(&token);
            }
        }
        Some(std::mem::take(&mut entry.record.cancel_requested))
    }

    /// Ends a job's life: its key is freed unless it completed, and its retention starts.
    pub(super) fn finish(
        &mut self,
        id: JobId,
        cause: Cause,
        state: JobState,
        reason: Option<DeadReason>,
    ) {
        self.turn_to(id, cause, state);
        let now = self.now;
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        let record = &mut entry.record;
        record.finished_at = Some(now);
        record.dead_reason = reason;
        let (shelf, kept) = match state {
            JobState::Dead => (Shelf::Dead, record.spec.retention.dead),
            _ => (Shelf::Done, record.spec.retention.completed),
        };
        let keeps_key = state == JobState::Completed;
        if let Some(key) = record.spec.idempotency_key.as_ref().filter(|_| !keeps_key) {
            self.keys.remove(key);
        }
        let kept = Duration::from_secs(kept.as_secs());
        entry.shelved = Some((shelf, now.after(kept)));
        let shelf = self.shelves.entry((record.spec.queue.clone(), shelf)).or_default();
        shelf.insert((now.after(kept), id));
        let over_cap = (shelf.len() as u64 > FINISHED_MAX).then(|| shelf.first()).flatten();
        let over_cap = over_cap.map(|(_, oldest)| *oldest);
        if kept.is_zero() {
            self.forget(id);
        } else if let Some(oldest) = over_cap {
            self.forget(oldest);
        }
    }

    /// T16: drops a finished job and everything that belongs to it.
    fn forget(&mut self, id: JobId) {
        let Some(entry) = self.jobs.remove(&id) else { return };
        debug_assert!(transition(Cause::Retain, Some(entry.record.state), None).is_some());
        let spec = &entry.record.spec;
        if let Some(key) =
            spec.idempotency_key.as_ref().filter(|key| self.keys.get(*key) == Some(&id))
        {
            self.keys.remove(key);
        }
        let Some((shelf, expiry)) = entry.shelved else { return };
        let key = (spec.queue.clone(), shelf);
        if let Some(set) = self.shelves.get_mut(&key) {
            set.remove(&(expiry, id));
            if set.is_empty() {
                self.shelves.remove(&key);
            }
        }
    }
}

/// The end of a lane that a job joins.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// Before all others: it was taken out and is put back.
    Head,
    /// After all others.
    Tail,
}

/// The most due jobs that a claim makes ready.
pub(super) const PROMOTED_BY_CLAIM_MAX: u32 = PASS_MAX;

pub(super) fn lane_key(record: &JobRecord) -> LaneKey {
    (record.spec.queue.clone(), record.spec.kind.clone(), record.spec.priority)
}

/// T2: an enqueue meets the job that has its id or key.
fn meet(entry: &Entry, job: &NewJob, reason: ConflictReason) -> EnqueueOutcome {
    let JobRecord { spec, state, .. } = &entry.record;
    if !spec.is_same_work(&job.spec) {
        return EnqueueOutcome::Conflict { existing: spec.id, reason };
    }
    match job.on_conflict {
        OnConflict::Existing => EnqueueOutcome::Done(Enqueued::duplicate(spec.id, *state)),
        OnConflict::Reject => {
            EnqueueOutcome::Conflict { existing: spec.id, reason: ConflictReason::Rejected }
        }
    }
}
