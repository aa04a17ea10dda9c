//! A large namespace, looked at page by page while others work.
//!
//! All that belongs to one job is looked at in one step, so what is wrong with it is wrong. So it is
//! with a claim, and with an entry of a shelf. Two things are not of one job: which tickets a lane
//! has ([`super::walk`]), and how many jobs a counter should count ([`super::totals`]).

use std::collections::{BTreeMap, BTreeSet};

use queue_core::{Error, JobId};

use super::dump::Dump;
use super::finished::is_shelf;
use super::fix::Findings;
use super::look::{Looker, Pages};
use super::rules::{Auditor, check, live_field};
use super::{totals, walk};

/// The fixed keys of which all members are looked at; what has a record comes with `jobs`.
const INDEXES: [&str; 15] = [
    "jobs", "att", "fin", "run", "cancel", "due", "bad", "whence", "body", "result", "history",
    "log", "idem", "claims", "leases",
];

/// What one pass over all jobs has counted.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// Per counter: jobs, and a sum that only the same jobs in the same condition have.
    pub(super) counts: BTreeMap<String, (u64, u64)>,
    /// The same of those that run, wait, have finished, and are quarantined, counted or not.
    pub(super) members: [(u64, u64); 4],
    /// The same of live jobs per limit key.
    pub(super) live: BTreeMap<Vec<u8>, (u64, u64)>,
}

impl Census {
    pub(super) fn add(&mut self, auditor: &Auditor<'_>) {
        let dump = auditor.dump;
        for (id, field) in auditor.counted().chain(auditor.quarantined()) {
            let head = auditor.head(id);
            if let Some(head) = head.filter(|head| live_field(&head.queue, &field).is_some()) {
                for key in head.limits.iter() {
                    include(self.live.entry(key.as_str().into()).or_default(), dump, id);
                }
            }
            include(self.counts.entry(field).or_default(), dump, id);
        }
        for id in &auditor.ready {
            for key in auditor.head(*id).iter().flat_map(|head| head.limits.iter()) {
                include(self.live.entry(key.as_str().into()).or_default(), dump, *id);
            }
        }
        for id in dump.jobs.keys() {
            let is_in = [
                dump.run.contains_key(id),
                dump.due.contains_key(id),
                dump.fin.contains_key(id),
                dump.bad.contains(id),
            ];
            for (count, _) in self.members.iter_mut().zip(is_in).filter(|(_, is_in)| *is_in) {
                include(count, dump, *id);
            }
        }
    }

    pub(super) async fn take(looker: Looker<'_>) -> Result<Self, Error> {
        let mut census = Self::default();
        let mut pages = Pages::of(looker, ["scan", "jobs"]);
        while let Some(dump) = pages.next().await? {
            census.add(&check(&dump));
        }
        Ok(census)
    }
}

fn include(count: &mut (u64, u64), dump: &Dump, id: JobId) {
    *count = (count.0 + 1, count.1.wrapping_add(dump.condition(id)));
}

/// What there is besides findings.
#[derive(Default)]
struct Sight {
    census: Census,
    /// Per lane the jobs that should have a ticket in it.
    ready: BTreeMap<String, Vec<JobId>>,
    /// `<queue>/<kind>` of ready jobs.
    pairs: BTreeSet<String>,
}

impl Sight {
    fn add(&mut self, auditor: &Auditor<'_>) {
        self.census.add(auditor);
        for id in &auditor.ready {
            let Some(head) = auditor.head(*id) else { continue };
            if !self.ready.contains_key(&head.lane) {
                self.pairs.insert(head.pair.clone());
                self.ready.insert(head.lane.clone(), Vec::new());
            }
            if let Some(ids) = self.ready.get_mut(&head.lane) {
                ids.push(*id);
            }
        }
    }
}

/// Compares everything in a namespace, whose keys without fixed names are these.
pub(super) async fn look(
    looker: Looker<'_>,
    names: &BTreeSet<String>,
    findings: &mut Findings<'_>,
) -> Result<(), Error> {
    let mut sight = Sight::default();
    let counters = totals::counters(looker).await?;
    for index in INDEXES {
        let mut pages = Pages::of(looker, ["scan", index]);
        while let Some(dump) = pages.next().await? {
            let auditor = check(&dump);
            if index == "jobs" {
                sight.add(&auditor);
            }
            findings.add(auditor.found).await?;
        }
    }
    let prefix = looker.keys.prefix();
    let names: BTreeSet<&str> =
        names.iter().map(|name| name.strip_prefix(prefix).unwrap_or(name)).collect();
    for shelf in names.iter().filter(|name| is_shelf(name)) {
        let mut pages = Pages::of(looker, ["shelf", shelf]);
        while let Some(dump) = pages.next().await? {
            findings.add(check(&dump).found).await?;
        }
    }
    let Sight { census, ready, pairs } = sight;
    let scene = totals::Scene::of(&names, pairs);
    let lanes = totals::look(looker, &scene, (counters, census), findings).await?;
    walk::look(looker, &lanes, ready, findings).await
}
