//! Which limit keys have no room.

use std::collections::{BTreeMap, BTreeSet};

use super::Blocker;
use super::serving::Serving;
use crate::{Blocked, JobSpec, Kind, LaneSummary, LimitKey, LimitKeys, LimitStatus};

/// The limit keys that an explanation is about.
#[derive(Debug)]
pub(super) struct Limits(pub(super) BTreeMap<LimitKey, LimitStatus>);

/// The keys that some of the workers add, and what of them has no room.
#[derive(Debug)]
pub(super) struct Choice<'s> {
    pub(super) added: &'s BTreeSet<LimitKey>,
    pub(super) blockers: Vec<Blocker>,
}

/// What does not matter if everything does.
pub(super) const fn nothing(_: &LimitKey, _: &Blocked) -> bool {
    false
}

/// The keys of lanes, and those that the workers which serve them add.
pub(super) fn keys_of<'a>(
    lanes: &'a [LaneSummary],
    serving: &'a BTreeMap<&Kind, Serving>,
) -> impl Iterator<Item = &'a LimitKey> {
    let of_lanes = lanes.iter().flat_map(|lane| lane.limits.iter());
    of_lanes.chain(serving.values().flat_map(|serving| serving.added.iter().flatten()))
}

impl Limits {
    /// Whether each of these keys has room, or lacks it only for what does not matter here.
    pub(super) fn have_room<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k LimitKey>,
        does_not_matter: &impl Fn(&LimitKey, &Blocked) -> bool,
    ) -> bool {
        keys.into_iter().filter_map(|key| self.0.get(key)).all(|status| {
            status.blocked.iter().all(|blocked| does_not_matter(&status.key, blocked))
        })
    }

    /// How many jobs a lane with these keys gives in a turn: what the heaviest of them weighs, at least one.
    pub(super) fn weight(&self, keys: &LimitKeys) -> u64 {
        let settings = keys.iter().filter_map(|key| self.0.get(key)?.settings.as_ref());
        settings.map(|(_, settings)| u64::from(settings.weight())).max().unwrap_or(1)
    }

    /// What the keys of a job itself lack; and for each of the workers that differ what the keys lack that it adds.
    pub(super) fn keeping<'s>(
        &self,
        spec: &JobSpec,
        serving: &'s Serving,
    ) -> (Vec<Blocker>, Vec<Choice<'s>>) {
        let of = |key: &LimitKey, of_worker: bool| {
            let alternative = of_worker && serving.added.iter().any(|added| !added.contains(key));
            let status = self.0.get(key);
            let blocked = status.into_iter().flat_map(|status| {
                status.blocked.iter().map(|blocked| (Box::new(status.clone()), *blocked))
            });
            let blockers = blocked.map(|(status, blocked)| Blocker::Limit {
                status,
                blocked,
                of_worker,
                alternative,
            });
            blockers.collect::<Vec<_>>()
        };
        let always = spec.limits.iter().flat_map(|key| of(key, false)).collect();
        let is_own = |key: &LimitKey| spec.limits.contains(key);
        let choice = |added: &'s BTreeSet<LimitKey>| {
            let blockers = added.iter().filter(|key| !is_own(key)).flat_map(|key| of(key, true));
            Choice { added, blockers: blockers.collect() }
        };
        (always, serving.added.iter().map(choice).collect())
    }
}
