//! Which workers could run jobs.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Error, Kind, LaneSummary, LimitKey, LiveWorker, Queue, QueueName, WorkerId};

/// How many workers that add different limit keys are looked at: with a key for each host there may be
/// thousands.
const CHOICES_MAX: usize = 16;

/// Who could run jobs of a queue and kind.
#[derive(Debug, Default)]
pub(super) struct Serving {
    pub(super) workers: usize,
    pub(super) elsewhere: Vec<WorkerId>,
    /// The limit keys that these workers add: what differs, once. If they differ too much, those alone
    /// that all of them add.
    pub(super) added: BTreeSet<BTreeSet<LimitKey>>,
}

impl Serving {
    pub(super) fn of(workers: &[LiveWorker], queue: &QueueName, kind: &Kind) -> Self {
        let mut serving = Self::default();
        for worker in workers {
            let Some(of_kind) = worker.info.kinds.iter().find(|k| k.kind == *kind) else {
                continue;
            };
            if !worker.info.queues.contains(queue) {
                serving.elsewhere.push(worker.info.id.clone());
                continue;
            }
            serving.workers += 1;
            serving.added.insert(of_kind.limits.iter().cloned().collect());
        }
        if serving.added.len() > CHOICES_MAX {
            let common = serving.added.into_iter().reduce(|common, added| &common & &added);
            serving.added = common.into_iter().collect();
        }
        serving
    }

    pub(super) fn adds(&self, key: &LimitKey) -> bool {
        self.added.iter().any(|added| added.contains(key))
    }

    pub(super) fn nobody(&self) -> bool {
        self.workers == 0
    }
}

/// The kinds that some worker runs from this queue.
pub(super) fn kinds_served<'w>(workers: &'w [LiveWorker], queue: &QueueName) -> BTreeSet<&'w Kind> {
    let here = workers.iter().filter(|worker| worker.info.queues.contains(queue));
    here.flat_map(|worker| worker.info.kinds.iter().map(|of_kind| &of_kind.kind)).collect()
}

/// Who could run the jobs of these lanes of a queue, by their kinds.
pub(super) fn serving_lanes<'l>(
    workers: &[LiveWorker],
    queue: &QueueName,
    lanes: &'l [LaneSummary],
) -> BTreeMap<&'l Kind, Serving> {
    let mut serving = BTreeMap::new();
    for lane in lanes {
        serving.entry(&lane.kind).or_insert_with(|| Serving::of(workers, queue, &lane.kind));
    }
    serving
}

impl Queue {
    /// The workers that have said lately that they are there.
    ///
    /// # Errors
    /// Those of every [`Backend`](crate::Backend) call.
    pub async fn workers(&self) -> Result<Vec<LiveWorker>, Error> {
        self.backend.workers_boxed().await
    }
}
