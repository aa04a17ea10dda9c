//! What must agree with what.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use queue_core::backend::Violation;
use queue_core::{JobId, JobState};

use super::dump::{Dump, Other};
use crate::record::{Head, state_of};

/// Collects violations while the rules go through the dump.
struct Auditor<'a> {
    dump: &'a Dump,
    found: Vec<Violation>,
    /// Where each job is listed.
    places: BTreeMap<JobId, Vec<JobState>>,
}

pub(super) fn check(dump: &Dump) -> Vec<Violation> {
    let mut auditor = Auditor { dump, found: Vec::new(), places: BTreeMap::new() };
    auditor.lanes();
    auditor.waiting();
    auditor.claims();
    auditor.shelves();
    auditor.one_place_each();
    auditor.counters();
    auditor.keys();
    auditor.large();
    auditor.leftovers();
    auditor.found
}

impl Auditor<'_> {
    fn job(&mut self, id: JobId, what: impl Into<String>) {
        self.found.push(Violation::of_job(id, what));
    }

    fn store(&mut self, what: impl Into<String>) {
        self.found.push(Violation::of_store(what));
    }

    fn head(&self, id: JobId) -> Option<&Head> {
        self.dump.jobs.get(&id).and_then(Option::as_ref)
    }

    fn place(&mut self, id: JobId, state: JobState) {
        self.places.entry(id).or_default().push(state);
    }

    /// Ready jobs: the live tickets of the lanes.
    fn lanes(&mut self) {
        let mut stale = 0;
        let mut listed = BTreeSet::new();
        for (name, other) in &self.dump.others {
            let Some(lane) = name.strip_prefix("lane:") else { continue };
            let Other::List(tickets) = other else {
                self.store(format!("{name} is not a list"));
                continue;
            };
            let mut gone = self.gone(lane);
            let total = gone.values().sum::<u64>();
            stale += total;
            let mut live = 0;
            for ticket in tickets {
                let Ok(id) = crate::reply::id(ticket) else {
                    self.store(format!("{name} holds a ticket that is no id"));
                    continue;
                };
                match gone.get_mut(ticket).filter(|count| **count > 0) {
                    Some(count) => *count -= 1,
                    None => {
                        live += 1;
                        self.place(id, JobState::Ready);
                        if self.head(id).is_none_or(|head| head.lane != lane) {
                            self.job(id, format!("has a ticket in the lane {lane} wrongly"));
                        }
                    }
                }
            }
            if live == 0 || gone.values().any(|count| *count > 0) {
                self.store(format!("{name} has {live} live tickets and {gone:?} unmatched"));
            }
            listed.insert(lane.to_owned());
        }
        if stale != self.dump.stale {
            self.store(format!("{stale} stale tickets, {} counted", self.dump.stale));
        }
        self.lane_indexes(&listed);
    }

    /// The stale tickets of a lane by id; complains if their sum is not the noted one.
    fn gone(&mut self, lane: &str) -> HashMap<Vec<u8>, u64> {
        let Some(other) = self.dump.others.get(&format!("gone:{lane}")) else {
            return HashMap::new();
        };
        let Other::Hash(fields) = other else {
            self.store(format!("gone:{lane} is not a hash"));
            return HashMap::new();
        };
        let number = |bytes: &[u8]| String::from_utf8_lossy(bytes).parse().unwrap_or(u64::MAX);
        let mut counts: HashMap<Vec<u8>, u64> =
            fields.iter().map(|(field, count)| (field.clone(), number(count))).collect();
        let noted = counts.remove(&b"n"[..]).unwrap_or(0);
        if noted != counts.values().sum::<u64>() || noted == 0 {
            self.store(format!("gone:{lane} notes {noted} stale tickets"));
        }
        counts
    }

    /// `lanes:<queue>/<kind>` lists exactly the lanes that exist.
    fn lane_indexes(&mut self, listed: &BTreeSet<String>) {
        let mut indexed = BTreeSet::new();
        for (name, other) in &self.dump.others {
            let Some(pair) = name.strip_prefix("lanes:") else { continue };
            let Other::Sorted(members) = other else {
                self.store(format!("{name} is not a sorted set"));
                continue;
            };
            for (priority, score) in members {
                let priority = String::from_utf8_lossy(priority);
                if priority.parse() != Ok(score >> 48) {
                    self.store(format!("{name} has the score {score} for {priority}"));
                }
                indexed.insert(format!("{pair}/{priority}"));
            }
        }
        for lane in listed.symmetric_difference(&indexed) {
            self.store(format!("the lane {lane} is not both there and in its index"));
        }
    }

    fn waiting(&mut self) {
        for id in &self.dump.due {
            let failed = self.dump.att.get(id).is_some_and(|failures| *failures > 0);
            self.place(*id, if failed { JobState::Retrying } else { JobState::Scheduled });
        }
    }

    /// Running jobs, and the claims that hold them.
    fn claims(&mut self) {
        let mut held: HashMap<&[u8], u64> = HashMap::new();
        for (id, run) in &self.dump.run {
            self.place(*id, JobState::Running);
            *held.entry(&run.token).or_default() += 1;
            let claim = self.dump.claims.get(&run.token);
            if claim.is_none_or(|claim| !claim.ids.contains(id)) {
                self.job(*id, "runs under a claim that does not list it");
            }
        }
        let tokens: BTreeSet<&[u8]> = (self.dump.claims.keys().chain(self.dump.leases.keys()))
            .map(Vec::as_slice)
            .chain(held.keys().copied())
            .collect();
        for token in tokens {
            let jobs = held.get(token).copied().unwrap_or(0);
            let left = self.dump.claims.get(token).map_or(0, |claim| claim.left);
            let whole =
                self.dump.claims.contains_key(token) && self.dump.leases.contains_key(token);
            if jobs == 0 || jobs != left || !whole {
                self.store(format!(
                    "a claim holds {jobs} jobs, counts {left}, and has lease and list: {whole}"
                ));
            }
        }
        for id in self.dump.cancel.iter().filter(|id| !self.dump.run.contains_key(*id)) {
            self.found.push(Violation::of_job(*id, "has a cancel request but does not run"));
        }
    }

    /// Finished jobs, and the shelves that time their end.
    fn shelves(&mut self) {
        let mut shelved: BTreeMap<JobId, (String, u64)> = BTreeMap::new();
        let mut ages: BTreeMap<String, u64> = BTreeMap::new();
        for (name, other) in &self.dump.others {
            if !name.starts_with("done:") && !name.starts_with("dead:") {
                continue;
            }
            let Other::Sorted(batches) = other else {
                self.store(format!("{name} is not a sorted set"));
                continue;
            };
            for (ids, expiry) in batches {
                let soonest = ages.entry(name.clone()).or_insert(*expiry);
                *soonest = (*soonest).min(*expiry);
                for id in crate::reply::ids(ids).unwrap_or_default() {
                    if shelved.insert(id, (name.clone(), *expiry)).is_some() {
                        self.job(id, "is on a shelf twice");
                    }
                }
            }
        }
        if ages != self.dump.ages {
            self.store(format!("shelves end at {ages:?}, noted are {:?}", self.dump.ages));
        }
        for (id, end) in &self.dump.fin {
            let Some(state) = state_of(end.state).filter(|state| state.is_finished()) else {
                self.job(*id, "has an end that is no end");
                continue;
            };
            self.place(*id, state);
            let Some(head) = self.head(*id) else { continue };
            let (shelf, kept_ms) = match state {
                JobState::Dead => (format!("dead:{}", head.queue), head.dead_ms),
                _ => (format!("done:{}", head.queue), head.completed_ms),
            };
            let expected = Some((shelf, end.finished_ms + kept_ms));
            let listed = shelved.remove(id);
            if listed != expected {
                self.job(*id, format!("should be on the shelf {expected:?}, is on {listed:?}"));
            }
        }
        for id in shelved.into_keys() {
            self.job(id, "is on a shelf and not finished");
        }
    }

    fn one_place_each(&mut self) {
        for id in &self.dump.bad {
            self.place(*id, JobState::Quarantined);
        }
        let places = std::mem::take(&mut self.places);
        for (id, listed) in &places {
            if !self.dump.jobs.contains_key(id) {
                self.job(*id, format!("is listed as {listed:?} but has no record"));
            }
        }
        for id in self.dump.jobs.keys() {
            match places.get(id).map(Vec::as_slice) {
                Some([_]) => {}
                listed => self.job(*id, format!("is listed as {listed:?}")),
            }
        }
        self.places = places;
    }

    fn counters(&mut self) {
        let mut expected: BTreeMap<String, u64> = BTreeMap::new();
        for (id, listed) in &self.places {
            let (Some(head), [state]) = (self.head(*id), listed.as_slice()) else { continue };
            *expected.entry(format!("{}/{state}", head.pair)).or_default() += 1;
            let shelf = match state {
                JobState::Dead => "dead",
                JobState::Completed | JobState::Cancelled => "done",
                _ => continue,
            };
            *expected.entry(format!("{shelf}:{}", head.queue)).or_default() += 1;
        }
        // A record that cannot be decoded does not say what it is counted as.
        let known = |field: &str| !field.ends_with("/quarantined");
        let counted: BTreeMap<String, u64> = self
            .dump
            .count
            .iter()
            .filter(|(f, _)| known(f))
            .map(|(f, n)| (f.clone(), *n))
            .collect();
        if expected != counted {
            self.store(format!("counters should be {expected:?}, are {counted:?}"));
        }
    }

    /// A key leads to the live or completed job that names it, and each such job has its key.
    fn keys(&mut self) {
        let holds_key = |id: &JobId| {
            let end = self.dump.fin.get(id).and_then(|end| state_of(end.state));
            !matches!(end, Some(JobState::Dead | JobState::Cancelled))
        };
        let mut found = Vec::new();
        for (key, id) in &self.dump.idem {
            if self.head(*id).is_none_or(|head| head.key != *key) || !holds_key(id) {
                found.push(Violation::of_job(*id, "an idempotency key leads to it wrongly"));
            }
        }
        for (id, head) in &self.dump.jobs {
            let Some(head) = head.as_ref().filter(|head| !head.key.is_empty()) else { continue };
            if holds_key(id) && self.dump.idem.get(&head.key) != Some(id) {
                found.push(Violation::of_job(*id, "its idempotency key does not lead to it"));
            }
        }
        self.found.append(&mut found);
    }

    /// What is apart belongs to a record that says so, and the other way round. Of a record that
    /// cannot be decoded everything is kept.
    fn large(&mut self) {
        let Dump { jobs, fin, bodies, results, .. } = self.dump;
        for (id, head) in jobs {
            match head {
                Some(head) if head.body_apart && !bodies.contains(id) => {
                    self.job(*id, "has lost its payload");
                }
                Some(head) if !head.body_apart && bodies.contains(id) => {
                    self.job(*id, "has a second payload");
                }
                _ => {}
            }
        }
        for id in bodies.iter().filter(|id| !jobs.contains_key(*id)) {
            self.job(*id, "has a payload but no record");
        }
        for (id, end) in fin {
            if end.result_apart != results.contains(id) {
                let what = if end.result_apart { "has lost its result" } else { "has two results" };
                self.job(*id, what);
            }
        }
        for id in results.iter().filter(|id| !fin.contains_key(*id)) {
            self.job(*id, "has a result but has not finished");
        }
    }

    /// Nothing is left of jobs that are gone, and no key is there that nobody knows.
    fn leftovers(&mut self) {
        for id in self.dump.att.keys().filter(|id| !self.dump.jobs.contains_key(*id)) {
            self.found.push(Violation::of_job(*id, "has attempts but no record"));
        }
        for (name, other) in &self.dump.others {
            match (name.split(':').next(), other) {
                (Some("wake"), Other::List(tokens)) if tokens.len() <= 1 => {}
                (Some("wake"), Other::List(_)) if name.starts_with("wake:w:") => {}
                (Some("lane" | "lanes" | "done" | "dead"), _) => {}
                (Some("gone"), _) => {
                    let lane = name.replacen("gone:", "lane:", 1);
                    if !self.dump.others.contains_key(&lane) {
                        self.store(format!("{name} is there without its lane"));
                    }
                }
                _ => self.store(format!("{name} does not belong here")),
            }
        }
    }
}
