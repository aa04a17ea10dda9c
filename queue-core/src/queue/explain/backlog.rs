//! Why a queue has a backlog.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::limits::keys_of;
use super::reason::Reason;
use super::serving::{kinds_served, serving_lanes};
use crate::{Error, JobState, LaneSummary, LimitKey, ListRequest, Queue, QueueName};

/// Why the jobs of a queue wait.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backlog {
    /// How many jobs wait for each reason; the first that holds for a job counts. Workers make those ready
    /// that are due: as long as none lives, the first [`PASS_MAX`](crate::backend::PASS_MAX) that are
    /// scheduled and as many that are retrying are looked at, and those that are due count as ready.
    pub reasons: BTreeMap<Reason, u64>,
    /// Ready jobs in lanes that were not looked at, because a queue has more lanes than a bounded
    /// look sees. Those of kinds that no worker runs are not among them: they are counted by kind.
    pub not_looked_at: u64,
    /// For how long the ready job that has waited longest could have run, as far as its lane was
    /// looked at; `None` without ready jobs. The first jobs of lanes are compared.
    pub oldest: Option<Duration>,
}

impl Queue {
    /// Why the jobs of a queue wait, by how many. Looks at no more than
    /// [`PASS_MAX`](crate::backend::PASS_MAX) lanes.
    ///
    /// # Errors
    /// Those of every [`Backend`](crate::Backend) call.
    pub async fn backlog(&self, queue: &QueueName) -> Result<Backlog, Error> {
        let mut backlog = Backlog::default();
        let (mut ready_of, mut delayed) = (BTreeMap::new(), 0);
        for row in self.stats().await?.iter().filter(|row| row.queue == *queue) {
            let count = |state| row.jobs.get(&state).copied().unwrap_or(0);
            ready_of.insert(row.kind.clone(), count(JobState::Ready));
            delayed += count(JobState::Scheduled) + count(JobState::Retrying);
        }
        let mut ready: u64 = ready_of.values().sum();
        let workers = self.backend.workers_boxed().await?;
        let due = match workers.is_empty() && delayed > 0 {
            true => self.due(queue).await?.min(delayed),
            false => 0,
        };
        backlog.add(Reason::Scheduled, delayed - due);
        let lanes = self.backend.lanes_boxed(queue).await?.lanes;
        backlog.oldest = lanes.iter().map(|lane| lane.waiting).max();
        if self.backend.paused_boxed().await?.contains(queue) {
            backlog.add(Reason::Paused, ready + due);
            return Ok(backlog);
        }
        backlog.add(Reason::Unroutable, due);
        let served = kinds_served(&workers, queue);
        for (_, jobs) in ready_of.iter().filter(|(kind, _)| !served.contains(kind)) {
            backlog.add(Reason::Unroutable, *jobs);
            ready -= jobs;
        }
        let lanes: Vec<LaneSummary> =
            lanes.into_iter().filter(|lane| served.contains(&lane.kind)).collect();
        let serving = serving_lanes(&workers, queue, &lanes);
        let keys: BTreeSet<LimitKey> = keys_of(&lanes, &serving).cloned().collect();
        let keys: Vec<LimitKey> = keys.into_iter().collect();
        let mut closed: BTreeMap<LimitKey, Reason> = BTreeMap::new();
        for status in self.limit_status(&keys).await? {
            let reasons = status.blocked.iter().map(Reason::of);
            closed.extend(reasons.min_by_key(|reason| reason.order()).map(|r| (status.key, r)));
        }
        for lane in &lanes {
            let serving = &serving[&lane.kind];
            let first = |keys: &mut dyn Iterator<Item = &LimitKey>| {
                let closed = keys.filter_map(|key| closed.get(key).copied());
                closed.min_by_key(|reason| reason.order())
            };
            // One of the workers is enough: that which would come last.
            let added = serving.added.iter().map(|added| first(&mut added.iter()));
            let added = added.max_by_key(|r| r.map_or(usize::MAX, Reason::order)).flatten();
            let closed = first(&mut lane.limits.iter()).into_iter().chain(added);
            let reason = closed.min_by_key(|reason| reason.order()).unwrap_or(Reason::Slot);
            backlog.add(reason, lane.jobs);
            ready = ready.saturating_sub(lane.jobs);
        }
        backlog.not_looked_at = ready;
        Ok(backlog)
    }

    /// How many of the first delayed jobs of a queue are due.
    async fn due(&self, queue: &QueueName) -> Result<u64, Error> {
        let mut due = 0;
        for state in [JobState::Scheduled, JobState::Retrying] {
            let request = ListRequest { queue: Some(queue.clone()), ..ListRequest::new(state) };
            let page = self.backend.list_boxed(&request).await?;
            due += page.jobs.iter().filter(|job| job.due_at <= page.now).count() as u64;
        }
        Ok(due)
    }
}

impl Backlog {
    fn add(&mut self, reason: Reason, jobs: u64) {
        if jobs > 0 {
            *self.reasons.entry(reason).or_default() += jobs;
        }
    }
}
