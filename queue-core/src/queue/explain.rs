//! Why a job is not running, and why a queue has a backlog.

mod backlog;
mod limits;
mod line;
mod reason;
mod serving;
mod slots;

use std::collections::BTreeSet;
use std::time::Duration;

pub use backlog::Backlog;
use limits::{Limits, keys_of};
use line::Line;
pub use line::Position;
pub use reason::Reason;
use serving::{Serving, serving_lanes};
use slots::Slots;

use super::Queue;
use crate::{
    Blocked, Error, JobId, JobRecord, JobState, Lanes, LimitKey, LimitStatus, Placement, Timestamp,
    WorkerId,
};

/// How often a job that moves all the time is looked at.
const LOOKS_MAX: u32 = 3;

/// Why a job is not running, and when it may.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Explanation {
    /// The job.
    pub id: JobId,
    /// Where it stands.
    pub state: JobState,
    /// The store's time at which this was found out.
    pub now: Timestamp,
    /// What keeps it from running, in the order in which it has to be over. Empty if it only
    /// waits for a free slot (or, being due, for a worker to make it ready), and if it is running or
    /// finished. Where the workers that could run it add different limit keys, and each of them one without room or none of the others has a free slot, all of
    /// these are named, as alternatives: one of the workers is enough. (If more than 16 differ, only those count
    /// that all of them add.)
    pub blockers: Vec<Blocker>,
    /// What is before it, if it is ready.
    pub position: Option<Position>,
    /// When it expires, if that is before it can start: before it is due, its keys have room, or `estimate` would be
    /// over, which is `None` then. One that has expired goes on waiting until a claim meets it.
    pub expires_at: Option<Timestamp>,
    /// In what time it may start. The jobs of its queue that start before it are counted: those before it in its
    /// lane, all of more urgent lanes, and of lanes that take turns with its own as many as they give before, by weight;
    /// but none of lanes that cannot start now, because nobody runs them or a key of theirs has no room. They
    /// start as often as jobs of the queue have lately (not those that find free slots), and no sooner than the
    /// rates of its keys let those start that need them. Zero if nothing is before it and its workers seem to have
    /// a slot. `None` if it cannot be said, as when
    /// something keeps it that no time alone ends: a pause, a missing worker, a key of which as
    /// many run as may (also if only one of its workers adds it), or a breaker's probe; when its workers are busy and
    /// serve other queues first; when they have no slot for its kind but for others; and when nothing that has
    /// started lately has ended.
    pub estimate: Option<Duration>,
}

/// Something that keeps a job from running.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blocker {
    /// It is not its time yet.
    Due {
        /// When it is, by the store's clock.
        at: Timestamp,
    },
    /// Its queue is paused.
    Paused,
    /// No live worker takes jobs of this kind from this queue.
    NoWorker {
        /// Live workers that run the kind, but serve other queues.
        elsewhere: Vec<WorkerId>,
    },
    /// A limit key lets no job start.
    Limit {
        /// The key and what it has running.
        status: Box<LimitStatus>,
        /// Why.
        blocked: Blocked,
        /// Whether the workers add the key, rather than the job.
        of_worker: bool,
        /// Whether another worker is enough, whose keys have room and which has a slot: not all that could run
        /// the job add this one.
        alternative: bool,
    },
}

impl Blocker {
    /// When it is over by time alone.
    #[must_use]
    pub fn over_at(&self) -> Option<Timestamp> {
        match self {
            Self::Due { at } => Some(*at),
            Self::Limit { blocked, .. } => blocked.over_at(),
            Self::Paused | Self::NoWorker { .. } => None,
        }
    }

    /// The reason under which [`Backlog`] counts it.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Due { .. } => Reason::Scheduled,
            Self::Paused => Reason::Paused,
            Self::NoWorker { .. } => Reason::Unroutable,
            Self::Limit { blocked, .. } => Reason::of(blocked),
        }
    }
}

impl Queue {
    /// Why a job is not running: what keeps it, in order, what is before it, and an estimate. Reads
    /// a bounded part of the store, in several steps; `None` if the store does not know the job.
    ///
    /// # Errors
    /// Those of every [`Backend`](crate::Backend) call.
    pub async fn explain(&self, id: JobId) -> Result<Option<Explanation>, Error> {
        let Some((record, Placement { now, place, .. })) = self.record_in_place(id).await? else {
            return Ok(None);
        };
        let mut explanation = Explanation {
            id,
            state: record.state,
            now,
            blockers: Vec::new(),
            position: None,
            expires_at: None,
            estimate: None,
        };
        if !record.state.is_waiting() {
            return Ok(Some(explanation));
        }
        let spec = &record.spec;
        let Lanes { mut lanes, more, starts } = self.backend.lanes_boxed(&spec.queue).await?;
        lanes.retain(|lane| lane.priority <= spec.priority);
        let workers = self.backend.workers_boxed().await?;
        let mut serving = serving_lanes(&workers, &spec.queue, &lanes);
        let own = || Serving::of(&workers, &spec.queue, &spec.kind);
        serving.entry(&spec.kind).or_insert_with(own);
        let keys = keys_of(&lanes, &serving).chain(spec.limits.iter());
        let keys: BTreeSet<LimitKey> = keys.cloned().collect();
        let keys: Vec<LimitKey> = keys.into_iter().collect();
        let statuses = self.limit_status(&keys).await?.into_iter();
        let limits = Limits(statuses.map(|status| (status.key.clone(), status)).collect());
        let (paused, stats) = (self.backend.paused_boxed().await?, self.stats().await?);
        // Workers make those ready that are due: what is due keeps no job.
        let is_early = record.state != JobState::Ready && record.due_at > now;
        let (lanes, serving, limits) = (&lanes, &serving, &limits);
        let line = Line { now, spec, place, is_early, lanes, serving, limits };
        let slots = Slots::of(&workers, &stats, &paused, &line, starts);
        if is_early {
            explanation.blockers.push(Blocker::Due { at: record.due_at });
        }
        if paused.contains(&spec.queue) {
            explanation.blockers.push(Blocker::Paused);
        }
        explanation.tell(&line, slots, more);
        Ok(Some(explanation))
    }

    /// A job and where it stands, which are two reads: looks again if it has moved between them.
    async fn record_in_place(&self, id: JobId) -> Result<Option<(JobRecord, Placement)>, Error> {
        let mut looks = 1;
        loop {
            let Some(record) = self.get(id).await? else { return Ok(None) };
            let placement = self.backend.place_boxed(id).await?;
            let agree = (record.state == JobState::Ready) == placement.place.is_some();
            if agree || looks == LOOKS_MAX {
                return Ok(Some((record, placement)));
            }
            looks += 1;
        }
    }
}

impl Explanation {
    /// Adds what workers and limits say. `more` if its queue has other lanes.
    fn tell(&mut self, line: &Line<'_>, slots: Slots, more: bool) {
        let own = &line.serving[&line.spec.kind];
        if own.nobody() {
            self.blockers.push(Blocker::NoWorker { elsewhere: own.elsewhere.clone() });
        }
        let (always, choices) = line.limits.keeping(line.spec, own);
        self.blockers.extend(always);
        let (open, shut): (Vec<_>, Vec<_>) =
            choices.into_iter().partition(|choice| choice.blockers.is_empty());
        // One worker is enough. If no time tells when one of them has room, which is `None` and the least, it may
        // be before all times that are known.
        let first = shut.iter().min_by_key(|choice| over_at(&choice.blockers));
        let first = first.filter(|_| open.is_empty());
        let of_first = first.into_iter().flat_map(|choice| &choice.blockers);
        let kept_by: Vec<Blocker> = self.blockers.iter().chain(of_first).cloned().collect();
        let estimate = over_at(&kept_by).and_then(|over_at| {
            let added = open.iter().chain(first).map(|choice| choice.added);
            let by_keys = over_at.max(line.turn_by_rates(added)).since(line.now);
            Some(by_keys.max(line.turn_by_slots(&slots, !kept_by.is_empty())?))
        });
        if open.is_empty() || slots.free == 0 {
            for blocker in shut.into_iter().flat_map(|choice| choice.blockers) {
                if !self.blockers.contains(&blocker) {
                    self.blockers.push(blocker);
                }
            }
        }
        self.blockers.sort_by_key(|blocker| blocker.reason().order());
        self.position = line.position(&kept_by, more, slots.first);
        // Whatever cannot be said comes later than this.
        let known = kept_by.iter().filter_map(Blocker::over_at).max().unwrap_or_default();
        let starts_at = known.max(line.now.after(estimate.unwrap_or_default()));
        self.expires_at = line.spec.expires_at.filter(|at| *at <= starts_at);
        self.estimate = estimate.filter(|_| self.expires_at.is_none());
    }
}

/// When all of these are over by time alone; `None` if one of them is not. The beginning of time
/// if there are none.
fn over_at(blockers: &[Blocker]) -> Option<Timestamp> {
    let times: Option<Vec<Timestamp>> = blockers.iter().map(Blocker::over_at).collect();
    Some(times?.into_iter().max().unwrap_or_default())
}
