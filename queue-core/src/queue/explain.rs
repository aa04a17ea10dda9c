//! Why a job is not running, and why a queue has a backlog.

mod backlog;
mod reason;
mod serving;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use backlog::Backlog;
pub use reason::Reason;
use serving::{Serving, serving_lanes};

use super::Queue;
use crate::{
    Blocked, Error, JobId, JobRecord, JobState, LaneSummary, LimitKey, LimitStatus, LiveWorker,
    Place, Timestamp, WorkerId,
};

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
    /// waits for a free slot, and if it is running or finished. Where the workers that could run it
    /// add different limit keys, and each of them one without room, all of these are named, as alternatives:
    /// room for one of the workers is enough. (If more than 16 differ, only those count that all of them add.)
    pub blockers: Vec<Blocker>,
    /// What is before it, if it is ready.
    pub place: Option<Place>,
    /// In what time it may start: judged by the rate of a key whose rate is used up, and the jobs of its
    /// queue that need it and come before, else by how often jobs of its queue have started lately; zero if
    /// nothing is before it and its workers seem to have a slot. `None` if that cannot be said, as when
    /// something keeps it that no time alone ends: a pause, a missing worker, a key of which as
    /// many run as may (also if only one of its workers adds it), or a breaker's probe.
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
        /// Whether it is enough that another worker's keys have room: not all that could run the job
        /// add this one.
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
        let Some(record) = self.get(id).await? else { return Ok(None) };
        let state = record.state;
        let placement = self.backend.place_boxed(id).await?;
        let mut explanation = Explanation {
            id,
            state,
            now: placement.now,
            blockers: Vec::new(),
            place: placement.place,
            estimate: None,
        };
        if !state.is_waiting() {
            return Ok(Some(explanation));
        }
        if state != JobState::Ready {
            explanation.blockers.push(Blocker::Due { at: record.due_at });
        }
        if self.backend.paused_boxed().await?.contains(&record.spec.queue) {
            explanation.blockers.push(Blocker::Paused);
        }
        let workers = self.backend.workers_boxed().await?;
        let serving = Serving::of(&workers, &record.spec.queue, &record.spec.kind);
        if serving.nobody() {
            explanation.blockers.push(Blocker::NoWorker { elsewhere: serving.elsewhere.clone() });
        }
        let (always, choices) = self.limits_of(&record, &serving).await?;
        explanation.blockers.extend(always);
        // One worker is enough. If no time tells when one of them has room, which is `None` and the least, it may
        // be before all times that are known.
        let first = choices.iter().min_by_key(|choice| over_at(choice));
        let kept_by: Vec<Blocker> =
            explanation.blockers.iter().chain(first.into_iter().flatten()).cloned().collect();
        explanation.estimate = self.estimated(&record, &workers, &explanation, &kept_by).await?;
        for blocker in choices.into_iter().flatten() {
            if !explanation.blockers.contains(&blocker) {
                explanation.blockers.push(blocker);
            }
        }
        explanation.blockers.sort_by_key(|blocker| blocker.reason().order());
        Ok(Some(explanation))
    }

    /// In what time a job may start that is kept by these.
    async fn estimated(
        &self,
        record: &JobRecord,
        workers: &[LiveWorker],
        of: &Explanation,
        kept_by: &[Blocker],
    ) -> Result<Option<Duration>, Error> {
        let Some(over_at) = over_at(kept_by) else { return Ok(None) };
        let until_open = over_at.since(of.now);
        let rates = || kept_by.iter().filter(|blocker| blocker.reason() == Reason::Rate);
        if rates().next().is_some() {
            let lanes = match of.place {
                Some(_) => self.backend.lanes_boxed(&record.spec.queue).await?.lanes,
                None => Vec::new(),
            };
            let serving = serving_lanes(workers, &record.spec.queue, &lanes);
            let turns = rates().filter_map(|blocker| {
                blocker.turn_by_rate(of.now, |status| {
                    let needs_it = |lane: &LaneSummary| {
                        lane.limits.contains(&status.key) || serving[&lane.kind].adds(&status.key)
                    };
                    starts_before(record, of.place, &lanes, needs_it)
                })
            });
            return Ok(turns.max().map(|turn| until_open.max(turn)));
        }
        let Some(place) = of.place else {
            return Ok((!kept_by.is_empty()).then_some(until_open));
        };
        let before = place.lanes_ahead + place.jobs_ahead * place.lanes.max(1);
        // Without a free slot it waits for a start of its own as well.
        let starts = before + u64::from(!self.has_slot(record, workers).await?);
        let interval = match place.starts.interval(of.now) {
            Some(interval) => interval,
            None if starts == 0 => Duration::ZERO,
            None => return Ok(None),
        };
        let starts = u32::try_from(starts).unwrap_or(u32::MAX);
        Ok(Some(until_open.max(interval.saturating_mul(starts))))
    }

    /// Whether the workers that could run a job seem to have a slot for it: fewer jobs run, of its kind
    /// and of all that they run, than they say they have slots for.
    async fn has_slot(&self, record: &JobRecord, workers: &[LiveWorker]) -> Result<bool, Error> {
        let (kind, queue) = (&record.spec.kind, &record.spec.queue);
        let (mut of_kind, mut of_all, mut kinds) = (0_u64, 0_u64, BTreeSet::new());
        for info in workers.iter().map(|worker| &worker.info) {
            let Some(own) = info.kinds.iter().find(|own| own.kind == *kind) else { continue };
            if info.queues.contains(queue) {
                of_kind += u64::from(own.concurrency.min(info.concurrency));
                of_all += u64::from(info.concurrency);
                kinds.extend(info.kinds.iter().map(|kind| &kind.kind));
            }
        }
        for row in self.stats().await? {
            let running = row.jobs.get(&JobState::Running).copied().unwrap_or(0);
            if row.kind == *kind {
                of_kind = of_kind.saturating_sub(running);
            }
            if kinds.contains(&row.kind) {
                of_all = of_all.saturating_sub(running);
            }
        }
        Ok(of_kind > 0 && of_all > 0)
    }

    /// The keys of the job without room; and, if each worker that could run it adds some without room, these
    /// for each of the workers that differ.
    async fn limits_of(
        &self,
        record: &JobRecord,
        serving: &Serving,
    ) -> Result<(Vec<Blocker>, Vec<Vec<Blocker>>), Error> {
        let own: BTreeSet<&LimitKey> = record.spec.limits.iter().collect();
        let added = serving.added.iter().flatten();
        let keys: BTreeSet<&LimitKey> = own.iter().copied().chain(added).collect();
        let keys: Vec<LimitKey> = keys.into_iter().cloned().collect();
        let mut blocked: BTreeMap<LimitKey, Vec<Blocker>> = BTreeMap::new();
        for status in self.limit_status(&keys).await? {
            let of_worker = !own.contains(&status.key);
            let alternative = of_worker && serving.added.iter().any(|a| !a.contains(&status.key));
            let blockers = status.blocked.iter().map(|blocked| {
                let (status, blocked) = (Box::new(status.clone()), *blocked);
                Blocker::Limit { status, blocked, of_worker, alternative }
            });
            blocked.insert(status.key.clone(), blockers.collect());
        }
        let of = |key: &LimitKey| blocked.get(key).into_iter().flatten().cloned();
        let always = own.iter().flat_map(|key| of(key)).collect();
        let choice = |added: &BTreeSet<LimitKey>| -> Vec<Blocker> {
            added.iter().filter(|key| !own.contains(key)).flat_map(of).collect()
        };
        let mut choices: Vec<Vec<Blocker>> = serving.added.iter().map(choice).collect();
        if choices.iter().any(Vec::is_empty) {
            choices.clear();
        }
        Ok((always, choices))
    }
}

/// When all of these are over by time alone; `None` if one of them is not. The beginning of time
/// if there are none.
fn over_at(blockers: &[Blocker]) -> Option<Timestamp> {
    let times: Option<Vec<Timestamp>> = blockers.iter().map(Blocker::over_at).collect();
    Some(times?.into_iter().max().unwrap_or_default())
}

/// How many jobs that need a key start before a job does: all that are more urgent, and of the lanes that take
/// turns with its own as many as are before it there.
fn starts_before(
    record: &JobRecord,
    place: Option<Place>,
    lanes: &[LaneSummary],
    needs_it: impl Fn(&LaneSummary) -> bool,
) -> u64 {
    let Some(place) = place else { return 0 };
    let spec = &record.spec;
    let is_own = |lane: &LaneSummary| lane.kind == spec.kind && lane.limits == spec.limits;
    let (mut before, mut others, mut urgent) = (place.jobs_ahead, 0, 0);
    for lane in lanes {
        match lane.priority.cmp(&spec.priority) {
            Ordering::Less => {
                before += if needs_it(lane) { lane.jobs } else { 0 };
                urgent += 1;
            }
            Ordering::Equal if !is_own(lane) && needs_it(lane) => {
                before += lane.jobs.min(place.jobs_ahead);
                others += u64::from(lane.jobs > place.jobs_ahead);
            }
            _ => {}
        }
    }
    before + place.lanes_ahead.saturating_sub(urgent).min(others)
}

impl Blocker {
    /// In what time a used up rate reaches a job, if so many start before.
    fn turn_by_rate(
        &self,
        now: Timestamp,
        starts_before: impl FnOnce(&LimitStatus) -> u64,
    ) -> Option<Duration> {
        let Self::Limit { status, blocked: Blocked::Rate { next_at }, .. } = self else {
            return None;
        };
        let rate = status.settings.as_ref()?.1.rate?;
        let before = starts_before(status);
        let before = Duration::from_micros(rate.interval_us().saturating_mul(before));
        Some(next_at.since(now).saturating_add(before))
    }
}
