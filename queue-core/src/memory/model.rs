//! Jobs, their indexes, and the moves that producers, operators and time make.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::report::Log;
use crate::backend::{FINISHED_MAX, PASS_MAX, StateCounts};
use crate::state::{Cause, transition};
use crate::{
    AttemptRecord, CancelOutcome, ClaimToken, ConflictReason, DeadReason, Due, Ending,
    EnqueueOutcome, Enqueued, HISTORY_MAX, Hold, IdempotencyKey, Interest, JobId, JobRecord,
    JobState, Kind, LimitKey, LimitKeys, LimitSettings, LimitState, LimitTarget, Maintained,
    NewJob, OnConflict, Priority, QueueName, QueueStats, StartRate, Timestamp, Wake, WorkerId,
    WorkerInfo,
};

/// One job and what the store must remember beside its record.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) record: JobRecord,
    /// The claim that holds it; `Some` exactly while it is running.
    pub(super) holder: Option<ClaimToken>,
    /// The limit keys that it holds: its own and those that its worker added; empty unless it is
    /// running.
    pub(super) held: Vec<LimitKey>,
    /// The token of its last settlement, so that a repeat can be told from a stale one.
    pub(super) settled_by: Option<ClaimToken>,
    /// Its place in the claim that holds it: added to the claim's fence.
    pub(super) fence_offset: u64,
    /// Where its record waits to be dropped, and for when; `Some` exactly when it is finished.
    pub(super) shelved: Option<(Shelf, Timestamp)>,
    /// What its attempts reported.
    pub(super) log: Log,
}

/// Ready jobs of one queue, kind, priority and list of keys, first in first out; never empty.
#[derive(Debug, Clone, Default)]
pub(super) struct Lane {
    pub(super) turn: u64,
    pub(super) jobs: VecDeque<JobId>,
}

pub(super) type LaneKey = (QueueName, Kind, Priority, LimitKeys);

/// A claim and the jobs it still holds; never empty.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) claimed_at: Timestamp,
    pub(super) until: Timestamp,
    pub(super) fence: u64,
    pub(super) jobs: BTreeSet<JobId>,
}

/// The groups of finished records that retention treats differently, in the order in which it goes
/// through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shelf {
    /// Completed jobs that hold their key for a time; not bounded in number until that is over.
    Held,
    /// Other completed jobs.
    Done,
    Cancelled,
    /// Dead jobs.
    Dead,
}

impl Shelf {
    const ALL: [Self; 4] = [Self::Held, Self::Done, Self::Cancelled, Self::Dead];
}

/// The whole store.
#[derive(Debug, Clone, Default)]
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
    pub(super) paused: BTreeSet<QueueName>,
    /// Who has announced itself, and until when it is believed.
    pub(super) workers: BTreeMap<(WorkerId, u64), (WorkerInfo, Timestamp)>,
    pub(super) limits: BTreeMap<LimitTarget, LimitSettings>,
    /// What is remembered of limit keys; none is the default.
    pub(super) limit_states: BTreeMap<LimitKey, LimitState>,
    /// How often jobs start.
    pub(super) starts: BTreeMap<QueueName, StartRate>,
    /// Workers that have not heard yet of a cancel request for one of their jobs.
    cancel_notices: HashSet<WorkerId>,
    /// Queues and kinds whose next job became the first of all to be due: a sleeper has to learn
    /// the new time.
    hints: BTreeSet<(QueueName, Kind)>,
    /// Something happened since the last look that a waiting worker may want to know.
    pub(super) news: bool,
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
        let mut replaced = None;
        if let Some(entry) = key.and_then(|key| self.key_holder(key)) {
            if job.on_conflict != OnConflict::Replace || !entry.record.state.is_waiting() {
                return meet(entry, job, ConflictReason::of_key(job.on_conflict));
            }
            replaced = Some(entry.record.spec.id);
        }
        if let Some(refused) = self.admit(job, replaced) {
            return refused;
        }
        if let Some(id) = replaced {
            self.unlist(id);
            self.finish(id, Cause::Replace, JobState::Cancelled, None);
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
            Entry {
                record,
                holder: None,
                held: Vec::new(),
                settled_by: None,
                fence_offset: 0,
                shelved: None,
                log: Log::default(),
            },
        );
        if let Some(key) = key {
            self.keys.insert(key.clone(), id);
        }
        debug_assert!(transition(Cause::Enqueue, None, Some(state)).is_some());
        match state {
            JobState::Ready => self.push(id, End::Tail),
            _ => self.schedule(id, due_at),
        }
        EnqueueOutcome::Done(Enqueued::created(id, state).replacing(replaced))
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
            waiting if waiting.is_waiting() => self.unlist(id),
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
        let served = |queue: &QueueName, kind: &Kind| {
            let free = interest.kinds.iter().find(|free| free.kind == *kind);
            free.filter(|_| interest.queues.contains(queue) && !self.paused.contains(queue))
        };
        let hint = self.hints.iter().find(|(queue, kind)| served(queue, kind).is_some()).cloned();
        let ready = self.lanes.keys().any(|(queue, kind, _, limits)| {
            let keys = served(queue, kind).map(|free| limits.union(&free.limits));
            keys.is_some_and(|keys| keys.iter().all(|key| self.room(key).is_open()))
        });
        let hinted = hint.is_some_and(|hint| self.hints.remove(&hint));
        (hinted || ready).then_some(Wake::Work)
    }

    /// T3, T11 and T16.
    pub(super) fn maintain(&mut self, budget: u32) -> Maintained {
        let (promoted, more_due) = self.promote(budget);
        let mut done = Maintained { promoted, more: more_due, ..Maintained::default() };
        self.reap(budget, &mut done);
        self.drop_finished(budget, &mut done);
        self.tidy_limits();
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
                if let Some(entry) = self.jobs.get(&id) {
                    let queue = entry.record.spec.queue.clone();
                    *done.reaped_of.entry(queue).or_default() += 1;
                }
                done.crash_loops += u64::from(self.reap_job(id));
            }
        }
    }

    /// T11; says whether the job is dead now.
    fn reap_job(&mut self, id: JobId) -> bool {
        let Some(let_go) = self.let_go(id, Ending::Neutral) else { return false };
        let LetGo { cancel_requested, worker, .. } = let_go;
        let now = self.now;
        let Some(entry) = self.jobs.get_mut(&id) else { return false };
        let number = entry.record.failures.saturating_add(1);
        note(&mut entry.record, AttemptRecord::lease_expired(number, worker, now));
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
        let queues: BTreeSet<_> = self.shelves.keys().map(|(queue, _)| queue.clone()).collect();
        let mut handled = 0;
        for queue in queues {
            for shelf in Shelf::ALL {
                let key = (queue.clone(), shelf);
                while let Some(id) = self.shelves.get(&key).and_then(|set| self.over(shelf, set)) {
                    if handled == budget {
                        done.more = true;
                        return;
                    }
                    handled += 1;
                    done.dropped += u64::from(self.expire_record(id, shelf));
                }
            }
        }
    }

    /// A record's time on its shelf is over: it is dropped, or, if it was only kept for its key
    /// so far, joins the others of its queue. Says whether it was dropped.
    fn expire_record(&mut self, id: JobId, shelf: Shelf) -> bool {
        if shelf == Shelf::Held {
            self.free_key(id);
            let record = self.jobs.get(&id).map(|entry| &entry.record);
            let kept_until = record.map(|record| retention_end(record, self.now));
            if let Some(expiry) = kept_until.filter(|expiry| *expiry > self.now) {
                self.unshelve(id);
                self.shelve(id, Shelf::Done, expiry);
                return false;
            }
        }
        let state = self.jobs.get(&id).map(|entry| entry.record.state);
        debug_assert!(transition(Cause::Retain, state, None).is_some());
        self.forget(id);
        true
    }

    /// The next record of a shelf whose time is over.
    fn over(&self, shelf: Shelf, records: &BTreeSet<(Timestamp, JobId)>) -> Option<JobId> {
        let (expiry, id) = records.first()?;
        let too_many = shelf != Shelf::Held && records.len() as u64 > FINISHED_MAX;
        (*expiry <= self.now || too_many).then_some(*id)
    }

    /// Whether [`Model::maintain`] has something to do now.
    pub(super) fn needs_maintenance(&self) -> bool {
        self.due.first().is_some_and(|(due_at, _)| *due_at <= self.now)
            || self.claims.values().any(|held| held.until <= self.now)
            || self.shelves.iter().any(|((_, shelf), set)| self.over(*shelf, set).is_some())
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

    /// Takes a waiting job out of its index: its lane, or the jobs that are due.
    pub(super) fn unlist(&mut self, id: JobId) {
        let Some(entry) = self.jobs.get(&id) else { return };
        self.due.remove(&(entry.record.due_at, id));
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

    /// Takes a running job out of the claim that holds it, and from the limit keys that it holds;
    /// `None` if no claim does.
    pub(super) fn let_go(&mut self, id: JobId, ending: Ending) -> Option<LetGo> {
        let entry = self.jobs.get_mut(&id)?;
        let token = entry.holder.take()?;
        let worker = entry.record.worker.take();
        let mut claimed_at = self.now;
        if let Some(held) = self.claims.get_mut(&token) {
            claimed_at = held.claimed_at;
            held.jobs.remove(&id);
            if held.jobs.is_empty() {
                self.claims.remove(&token);
            }
        }
        let cancel_requested = std::mem::take(&mut entry.record.cancel_requested);
        let held = std::mem::take(&mut entry.held);
        self.end(id, &held, ending, claimed_at);
        Some(LetGo { cancel_requested, worker, claimed_at })
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
        let holds_key = holds_key(record, now);
        if let Some(key) = record.spec.idempotency_key.as_ref().filter(|_| !holds_key) {
            self.keys.remove(key);
        }
        let (shelf, expiry) = shelf_of(record, now, holds_key);
        if expiry <= now {
            self.forget(id);
            return;
        }
        self.shelve(id, shelf, expiry);
        self.drop_over_cap(id);
    }

    /// Puts a finished job where it waits to be dropped.
    pub(super) fn shelve(&mut self, id: JobId, shelf: Shelf, expiry: Timestamp) {
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        entry.shelved = Some((shelf, expiry));
        let key = (entry.record.spec.queue.clone(), shelf);
        self.shelves.entry(key).or_default().insert((expiry, id));
    }

    /// Takes a finished job off its shelf.
    pub(super) fn unshelve(&mut self, id: JobId) {
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        let Some((shelf, expiry)) = entry.shelved.take() else { return };
        let key = (entry.record.spec.queue.clone(), shelf);
        if let Some(set) = self.shelves.get_mut(&key) {
            set.remove(&(expiry, id));
            if set.is_empty() {
                self.shelves.remove(&key);
            }
        }
    }

    /// Drops the record that is the first to go from the shelf that `id` has just joined, if
    /// there are more than are kept.
    fn drop_over_cap(&mut self, id: JobId) {
        let Some(entry) = self.jobs.get(&id) else { return };
        let Some((shelf, _)) = entry.shelved.filter(|(shelf, _)| *shelf != Shelf::Held) else {
            return;
        };
        let set = self.shelves.get(&(entry.record.spec.queue.clone(), shelf));
        let over = set.filter(|set| set.len() as u64 > FINISHED_MAX).and_then(BTreeSet::first);
        if let Some((_, oldest)) = over.copied() {
            self.forget(oldest);
        }
    }

    /// The job that an idempotency key leads to.
    pub(super) fn key_holder(&self, key: &IdempotencyKey) -> Option<&Entry> {
        let entry = self.jobs.get(self.keys.get(key)?)?;
        // The hold of a completed job may be over before maintenance has freed its key.
        holds_key(&entry.record, self.now).then_some(entry)
    }

    /// Frees the key of a job if it leads to this job.
    pub(super) fn free_key(&mut self, id: JobId) {
        let key = self.jobs.get(&id).and_then(|entry| entry.record.spec.idempotency_key.clone());
        if let Some(key) = key.filter(|key| self.keys.get(key) == Some(&id)) {
            self.keys.remove(&key);
        }
    }

    /// T16: drops a job that is in no index but a shelf, and everything that belongs to it.
    pub(super) fn forget(&mut self, id: JobId) {
        self.free_key(id);
        self.unshelve(id);
        self.jobs.remove(&id);
    }
}

/// What a claim knew about a job that it held.
pub(super) struct LetGo {
    /// Whether somebody asked to cancel it.
    pub(super) cancel_requested: bool,
    pub(super) worker: Option<WorkerId>,
    pub(super) claimed_at: Timestamp,
}

/// Adds an attempt to a job's history.
pub(super) fn note(record: &mut JobRecord, attempt: AttemptRecord) {
    record.history.push(attempt);
    if record.history.len() > HISTORY_MAX {
        record.history.remove(0);
    }
}

/// Whether the job holds its idempotency key, if it has one.
pub(super) fn holds_key(record: &JobRecord, now: Timestamp) -> bool {
    match record.state {
        JobState::Dead | JobState::Cancelled => false,
        JobState::Completed => record.spec.hold.outlives_completion(record.enqueued_at, now),
        _ => true,
    }
}

/// Where a job that finishes now waits to be dropped, and for when.
fn shelf_of(record: &JobRecord, now: Timestamp, holds_key: bool) -> (Shelf, Timestamp) {
    let shelf = match (record.state, record.spec.hold) {
        (JobState::Dead, _) => Shelf::Dead,
        (JobState::Cancelled, _) => Shelf::Cancelled,
        (_, Hold::AtLeast(time)) if holds_key && record.spec.idempotency_key.is_some() => {
            return (Shelf::Held, record.enqueued_at.after(time));
        }
        _ => Shelf::Done,
    };
    (shelf, retention_end(record, now))
}

/// When retention is over.
fn retention_end(record: &JobRecord, now: Timestamp) -> Timestamp {
    let kept = match record.state {
        JobState::Dead => record.spec.retention.dead,
        _ => record.spec.retention.completed,
    };
    record.finished_at.unwrap_or(now).after(Duration::from_secs(kept.as_secs()))
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
    let spec = &record.spec;
    (spec.queue.clone(), spec.kind.clone(), spec.priority, spec.limits.clone())
}

/// T2: an enqueue meets the job that has its id or key.
fn meet(entry: &Entry, job: &NewJob, reason: ConflictReason) -> EnqueueOutcome {
    let JobRecord { spec, state, .. } = &entry.record;
    if !spec.is_same_work(&job.spec) {
        return EnqueueOutcome::Conflict { existing: spec.id, reason };
    }
    match job.on_conflict {
        OnConflict::Existing | OnConflict::Replace => {
            EnqueueOutcome::Done(Enqueued::duplicate(spec.id, *state))
        }
        OnConflict::Reject => {
            EnqueueOutcome::Conflict { existing: spec.id, reason: ConflictReason::Rejected }
        }
    }
}
