//! Whether the workers that could run a job have a slot for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::limits::{Limits, nothing};
use super::line::Line;
use crate::{
    JobSpec, JobState, Kind, LimitKey, LiveWorker, QueueName, QueueStats, StartRate, WorkerInfo,
};

/// What the workers that could run a job can take.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// How many jobs of its kind those workers can run at a time whose keys have room.
    pub(super) all: u64,
    /// How many jobs more the workers seem to have slots for whose keys have room (if none have: all of them).
    pub(super) free: u64,
    /// In what time one gets free for its kind, on the average, if that can be said.
    pub(super) interval: Option<Duration>,
    /// The queues that each of these workers serves first, if each serves some, and how many jobs are ready there
    /// that it runs.
    pub(super) first: BTreeMap<QueueName, u64>,
}

fn running(row: &QueueStats) -> u64 {
    row.jobs.get(&JobState::Running).copied().unwrap_or(0)
}

impl Slots {
    pub(super) fn of(
        workers: &[LiveWorker],
        stats: &[QueueStats],
        paused: &[QueueName],
        Line { now, spec, limits, .. }: &Line<'_>,
        starts: StartRate,
    ) -> Self {
        let (mut open, mut shut) = (Vec::new(), Vec::new());
        for info in workers.iter().map(|worker| &worker.info) {
            let own = info.kinds.iter().find(|own| own.kind == spec.kind);
            let Some(own) = own.filter(|_| info.queues.contains(&spec.queue)) else { continue };
            // The job's own keys do not tell its workers apart.
            let differing = own.limits.iter().filter(|key| !spec.limits.contains(key));
            if limits.have_room(differing, &nothing) { open.push(info) } else { shut.push(info) }
        }
        if open.is_empty() {
            std::mem::swap(&mut open, &mut shut);
        }
        let all = slots_of(&open, &spec.kind).min(in_all(&open));
        let (of_kind, of_all) = free(&open, &shut, stats, spec, limits);
        let of_queue = || stats.iter().filter(|row| row.queue == spec.queue);
        // How often jobs of other kinds start, which have slots, says nothing about one that has none.
        let is_mixed = of_queue().any(|row| row.kind != spec.kind);
        let is_known = of_kind > 0 || of_all == 0 || !is_mixed;
        let interval = starts.interval(*now, of_queue().map(running).sum());
        let queues = open.iter().map(|info| queues_first(info, stats, paused, &spec.queue));
        let queues: Vec<_> = queues.collect();
        let is_behind = queues.iter().all(|first| !first.is_empty());
        Self {
            all,
            free: of_kind.min(of_all),
            interval: interval.filter(|_| is_known),
            first: queues.into_iter().filter(|_| is_behind).flatten().collect(),
        }
    }
}

/// How many jobs of a kind workers can run at a time.
fn slots_of(infos: &[&WorkerInfo], kind: &Kind) -> u64 {
    let own = |info: &&WorkerInfo| {
        let own = info.kinds.iter().find(|own| own.kind == *kind);
        own.map_or(0, |own| u64::from(own.concurrency.min(info.concurrency)))
    };
    infos.iter().map(own).sum()
}

/// How many jobs they can run at a time, of whatever kinds.
fn in_all(infos: &[&WorkerInfo]) -> u64 {
    infos.iter().map(|info| u64::from(info.concurrency)).sum()
}

/// The queues that a worker serves before another, with the jobs that are ready there and that it runs.
fn queues_first(
    info: &WorkerInfo,
    stats: &[QueueStats],
    paused: &[QueueName],
    than: &QueueName,
) -> BTreeMap<QueueName, u64> {
    let rank = |queue: &QueueName| {
        let index = info.queues.iter().position(|served| served == queue)?;
        info.ranks.get(index).copied()
    };
    let is_first = |row: &&QueueStats| {
        let is_earlier = rank(&row.queue).zip(rank(than)).is_some_and(|(a, b)| a < b);
        let runs = info.kinds.iter().any(|own| own.kind == row.kind);
        is_earlier && runs && !paused.contains(&row.queue)
    };
    let mut first = BTreeMap::new();
    for row in stats.iter().filter(is_first) {
        let ready = row.jobs.get(&JobState::Ready).copied().unwrap_or(0);
        if ready > 0 {
            *first.entry(row.queue.clone()).or_default() += ready;
        }
    }
    first
}

/// How many slots the open workers seem to have left, of the kind and in all: those that they say they have, less
/// the jobs that run of what they run, but as many as can run on the workers that are shut.
fn free(
    open: &[&WorkerInfo],
    shut: &[&WorkerInfo],
    stats: &[QueueStats],
    spec: &JobSpec,
    limits: &Limits,
) -> (u64, u64) {
    let both = || open.iter().chain(shut);
    let queues: BTreeSet<&QueueName> = both().flat_map(|info| &info.queues).collect();
    let mut running_of: BTreeMap<&Kind, u64> = BTreeMap::new();
    for row in stats.iter().filter(|row| queues.contains(&row.queue)) {
        *running_of.entry(&row.kind).or_default() += running(row);
    }
    let on_shut = |kind: &Kind| {
        let running = running_of.get(kind).copied().unwrap_or(0);
        let most = slots_of(shut, kind).min(running);
        if *kind == spec.kind { most.min(holding(shut, kind, limits)) } else { most }
    };
    let kinds: BTreeSet<&Kind> =
        open.iter().flat_map(|info| &info.kinds).map(|k| &k.kind).collect();
    let on_open = |kind: &Kind| running_of.get(kind).copied().unwrap_or(0) - on_shut(kind);
    let of_kind = slots_of(open, &spec.kind).saturating_sub(on_open(&spec.kind));
    let in_use = kinds.iter().filter_map(|kind| running_of.get(kind)).sum::<u64>();
    let on_shut_in_all = kinds.iter().map(|kind| on_shut(kind)).sum::<u64>().min(in_all(shut));
    let of_all = in_all(open).saturating_sub(in_use - on_shut_in_all);
    (of_kind, of_all)
}

/// How many jobs of a kind can run on workers that add keys for it: each holds all that its worker adds.
fn holding(workers: &[&WorkerInfo], kind: &Kind, limits: &Limits) -> u64 {
    let of_kind = workers.iter().flat_map(|info| info.kinds.iter().filter(|own| own.kind == *kind));
    let added: BTreeSet<&[LimitKey]> = of_kind.map(|own| &own.limits[..]).collect();
    let running = |key: &LimitKey| limits.0.get(key).map(|status| status.running);
    let least = |keys: &[LimitKey]| keys.iter().filter_map(running).min().unwrap_or(u64::MAX);
    added.into_iter().map(least).fold(0, u64::saturating_add)
}
