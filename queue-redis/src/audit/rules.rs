//! What must agree with what.

use std::collections::{BTreeMap, BTreeSet};

use queue_core::backend::Violation;
use queue_core::{JobId, JobState};

use super::dump::{Dump, Extent, Other, decimal};
use super::fix::Fix;
use crate::record::Head;

/// How long a job whose lane is broken waits in `due`, as the scripts have it.
const PARKED_MS: u64 = 60_000;

/// Something that disagrees, and what would put it right, if anything safe would.
pub(super) struct Finding {
    pub(super) violation: Violation,
    pub(super) fix: Option<Fix>,
}

/// Where a job is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Lane(String),
    Due(JobState),
    Run,
    End(JobState),
    Bad,
}

impl Place {
    fn state(&self) -> JobState {
        match self {
            Self::Lane(_) => JobState::Ready,
            Self::Due(state) | Self::End(state) => *state,
            Self::Run => JobState::Running,
            Self::Bad => JobState::Quarantined,
        }
    }

    /// Of several places the one to be kept: the lowest.
    fn rank(&self, is_readable: bool) -> u8 {
        match self {
            Self::Bad if !is_readable => 0,
            Self::End(_) => 1,
            Self::Run => 2,
            Self::Due(_) => 3,
            Self::Lane(_) => 4,
            Self::Bad => 5,
        }
    }

    /// Takes the job out of this place, if it is still there.
    fn leave(&self, fix: Fix, id: JobId, auditor: &Auditor<'_>) -> Fix {
        let bytes = id.as_bytes().as_slice();
        match self {
            Self::Lane(lane) => auditor.without_ticket(fix, lane, id),
            Self::Due(_) => fix.write(&[b"ZREM", b"due", bytes]),
            Self::Run => fix.write(&[b"HDEL", b"run", bytes]).write(&[b"SREM", b"cancel", bytes]),
            Self::End(_) => {
                fix.write(&[b"HDEL", b"fin", bytes]).write(&[b"HDEL", b"result", bytes])
            }
            Self::Bad => fix.write(&[b"ZREM", b"bad", bytes]).write(&[b"HDEL", b"whence", bytes]),
        }
    }

    /// It must still be here when the fix is made.
    fn stay(&self, fix: Fix, id: JobId, dump: &Dump) -> Fix {
        let bytes = id.as_bytes().as_slice();
        match self {
            Self::Lane(_) | Self::Bad => fix,
            Self::Due(_) => match dump.due.get(&id) {
                Some(due) => fix.check(&[b"ZSCORE", b"due", bytes], due.to_string().as_bytes()),
                None => fix,
            },
            Self::Run => match dump.run.get(&id) {
                Some(run) => fix.check(&[b"HGET", b"run", bytes], &run.raw),
                None => fix,
            },
            Self::End(_) => fix.present("fin", bytes),
        }
    }
}

/// Collects findings while the rules go through what was seen.
pub(super) struct Auditor<'a> {
    pub(super) dump: &'a Dump,
    pub(super) found: Vec<Finding>,
    /// Where each job is listed.
    places: BTreeMap<JobId, Vec<Place>>,
    /// Ids in the entries of each shelf.
    pub(super) shelved: BTreeMap<String, u64>,
    /// Jobs that are listed nowhere but perhaps in their lane, which was not seen.
    pub(super) ready: Vec<JobId>,
}

/// Lets every rule look at what was seen.
pub(super) fn check(dump: &Dump) -> Auditor<'_> {
    let mut auditor = Auditor::of(dump);
    auditor.lanes();
    auditor.waiting();
    auditor.claims();
    auditor.shelves();
    auditor.one_place_each();
    if dump.extent == Extent::Whole {
        auditor.counters();
    }
    auditor.keys();
    auditor.large();
    auditor.limits();
    auditor.leftovers();
    auditor
}

impl<'a> Auditor<'a> {
    pub(super) fn of(dump: &'a Dump) -> Self {
        Self {
            dump,
            found: Vec::new(),
            places: BTreeMap::new(),
            shelved: BTreeMap::new(),
            ready: Vec::new(),
        }
    }
}

impl Auditor<'_> {
    pub(super) fn job(&mut self, id: JobId, what: impl Into<String>, fix: Option<Fix>) {
        self.found.push(Finding { violation: Violation::of_job(id, what), fix });
    }

    pub(super) fn store(&mut self, what: impl Into<String>, fix: Option<Fix>) {
        self.found.push(Finding { violation: Violation::of_store(what), fix });
    }

    pub(super) fn wrong_type(&mut self, name: &str, should_be: &str) {
        let kind = match should_be {
            "a list" => "list",
            "a hash" => "hash",
            _ => "zset",
        };
        let fix = Fix::default().write(&[b"RETYPE", b"", name.as_bytes(), kind.as_bytes()]);
        self.store(format!("{name} is not {should_be}"), Some(fix));
    }

    pub(super) fn head(&self, id: JobId) -> Option<&Head> {
        self.dump.jobs.get(&id).and_then(Option::as_ref)
    }

    pub(super) fn place(&mut self, id: JobId, place: Place) {
        self.places.entry(id).or_default().push(place);
    }

    fn waiting(&mut self) {
        for (id, noted) in &self.dump.due {
            let attempts = self.dump.att.get(id);
            let failed = attempts.is_some_and(|attempts| attempts.failures > 0);
            let state = if failed { JobState::Retrying } else { JobState::Scheduled };
            self.place(*id, Place::Due(state));
            let Some(head) = self.head(*id) else { continue };
            let known = attempts.map(|attempts| attempts.due_at.as_ms()).filter(|due| *due > 0);
            let due_ms = known.unwrap_or(head.due_ms);
            // A job whose lane cannot be written is tried again a little later.
            let latest = due_ms.max(self.dump.now_ms + PARKED_MS);
            if *noted < due_ms || *noted > latest {
                let bytes = id.as_bytes().as_slice();
                let fix = Fix::default()
                    .check(&[b"ZSCORE", b"due", bytes], noted.to_string().as_bytes())
                    .write(&[b"ZADD", b"due", due_ms.to_string().as_bytes(), bytes]);
                self.job(*id, format!("is due at {due_ms}, noted is {noted}"), Some(fix));
            }
        }
    }

    fn one_place_each(&mut self) {
        for id in &self.dump.bad {
            self.place(*id, Place::Bad);
        }
        let places = std::mem::take(&mut self.places);
        for (id, listed) in &places {
            let states: Vec<_> = listed.iter().map(Place::state).collect();
            if !self.dump.jobs.contains_key(id) {
                let fix = Fix::default().absent("jobs", id.as_bytes().as_slice());
                let fix = listed.iter().fold(fix, |fix, place| place.leave(fix, *id, self));
                self.job(*id, format!("is listed as {states:?} but has no record"), Some(fix));
            } else if listed.len() > 1 {
                let fix = self.keep_one(*id, listed);
                self.job(*id, format!("is listed as {states:?}"), Some(fix));
            }
        }
        let unlisted: Vec<JobId> =
            self.dump.jobs.keys().filter(|id| !places.contains_key(*id)).copied().collect();
        for id in unlisted {
            let lane = self.head(id).map(|head| &head.lane);
            let is_seen = match self.dump.extent {
                Extent::Whole => true,
                Extent::Jobs => lane.is_none(),
                Extent::Tickets => lane.is_none_or(|lane| *lane == self.dump.place),
            };
            if !is_seen {
                self.ready.push(id);
            } else {
                let fix = self.listed_again(id);
                self.job(id, "is listed nowhere", Some(fix));
            }
        }
        self.places = places;
    }

    /// Leaves the job in the best of several places.
    fn keep_one(&self, id: JobId, listed: &[Place]) -> Fix {
        let is_readable = self.head(id).is_some();
        let fix = Fix::default().present("jobs", id.as_bytes().as_slice());
        let mut fix = listed.iter().fold(fix, |fix, place| place.stay(fix, id, self.dump));
        let mut others: Vec<&Place> = listed.iter().collect();
        let kept = (0..others.len()).min_by_key(|at| others[*at].rank(is_readable));
        kept.map(|at| others.remove(at));
        for place in others {
            fix = place.leave(fix, id, self);
        }
        fix
    }

    /// A job that is in no index becomes ready, or is quarantined if it cannot be read.
    fn listed_again(&self, id: JobId) -> Fix {
        let bytes = id.as_bytes().as_slice();
        let fix = Fix::default().present("jobs", bytes).absent("fin", bytes).absent("run", bytes);
        let fix = fix.check(&[b"ZSCORE", b"due", bytes], b"");
        let fix = fix.check(&[b"ZSCORE", b"bad", bytes], b"");
        let Some(head) = self.head(id) else {
            let now = self.dump.now_ms.to_string();
            return fix
                .write(&[b"ZADD", b"bad", now.as_bytes(), bytes])
                .write(&[b"HSET", b"whence", bytes, b""]);
        };
        let att = self.dump.raw_att.get(&id).cloned().unwrap_or_default();
        let stale = self.dump.stale_times(&head.lane, bytes).unwrap_or(0).to_string();
        fix.write(&[b"PUSH", b"", bytes, &att, stale.as_bytes()])
    }

    /// Which counter counts each job that is in one place, unless it is quarantined.
    pub(super) fn counted(&self) -> impl Iterator<Item = (JobId, String)> {
        self.places.iter().filter_map(|(id, listed)| {
            let (Some(head), [place]) = (self.head(*id), listed.as_slice()) else { return None };
            let is_counted = *place != Place::Bad;
            is_counted.then(|| (*id, format!("{}/{}", head.pair, place.state())))
        })
    }

    /// What counts each quarantined job.
    pub(super) fn quarantined(&self) -> impl Iterator<Item = (JobId, String)> {
        let whence = self.dump.bad.iter().filter_map(|id| Some((*id, self.dump.whence.get(id)?)));
        let known = whence.filter(|(_, pair)| is_pair(pair));
        known.map(|(id, pair)| (id, format!("{pair}/quarantined")))
    }

    fn counters(&mut self) {
        let mut expected = std::mem::take(&mut self.shelved);
        for (id, field) in self.counted().chain(self.quarantined()) {
            if let Some(live) = self.head(id).and_then(|head| live_field(&head.queue, &field)) {
                *expected.entry(live).or_default() += 1;
            }
            *expected.entry(field).or_default() += 1;
        }
        self.compare(&expected, &self.dump.count, |_| true);
        let mut of_keys: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for (id, field) in self.counted() {
            let Some(head) = self.head(id).filter(|head| live_field(&head.queue, &field).is_some())
            else {
                continue;
            };
            for key in head.limits.iter() {
                *of_keys.entry(key.as_str().into()).or_default() += 1;
            }
        }
        self.compare_live(&of_keys);
    }

    /// Compares some counters with what they should be.
    pub(super) fn compare(
        &mut self,
        expected: &BTreeMap<String, u64>,
        noted: &BTreeMap<String, Vec<u8>>,
        is_asked: impl Fn(&str) -> bool,
    ) {
        let fields: BTreeSet<&String> = expected.keys().chain(noted.keys()).collect();
        for field in fields.into_iter().filter(|field| is_asked(field)) {
            let wanted = expected.get(field).copied().unwrap_or(0);
            let raw = noted.get(field).map(Vec::as_slice);
            self.counter(field, wanted, raw);
        }
    }

    pub(super) fn counter(&mut self, field: &str, wanted: u64, raw: Option<&[u8]>) {
        let noted = raw.and_then(decimal);
        let is_right = match raw {
            None => wanted == 0,
            Some(_) => wanted > 0 && noted == Some(wanted),
        };
        if is_right {
            return;
        }
        // What calls count meanwhile is added to either.
        let noted = noted.unwrap_or(0);
        let by = (i128::from(wanted) - i128::from(noted)).to_string();
        let fix = match (wanted, raw) {
            (0, Some(raw)) if by == "0" => Fix::default()
                .check(&[b"HGET", b"meta", field.as_bytes()], raw)
                .write(&[b"HDEL", b"meta", field.as_bytes()]),
            _ => Fix::default().write(&[b"COUNT", b"", field.as_bytes(), by.as_bytes()]),
        };
        self.store(format!("the counter {field} should be {wanted}, not {noted}"), Some(fix));
    }

    /// Nothing is left of jobs that are gone, and no key is there that nobody knows.
    fn leftovers(&mut self) {
        let Dump { jobs, att, histories, logs, whence, bad, .. } = self.dump;
        let orphans = (att.keys().map(|id| ("att", id)))
            .chain(histories.iter().map(|id| ("history", id)))
            .chain(logs.iter().map(|id| ("log", id)));
        for (key, id) in orphans.filter(|(_, id)| !jobs.contains_key(*id)) {
            let bytes = id.as_bytes().as_slice();
            let fix = Fix::default().absent("jobs", bytes);
            let fix = fix.write(&[b"HDEL", key.as_bytes(), bytes]);
            self.job(*id, format!("is in {key} and has no record"), Some(fix));
        }
        for id in whence.keys().filter(|id| !bad.contains(*id)) {
            let bytes = id.as_bytes().as_slice();
            let fix = Fix::default().check(&[b"ZSCORE", b"bad", bytes], b"");
            let fix = fix.write(&[b"HDEL", b"whence", bytes]);
            self.job(*id, "is in whence and not quarantined", Some(fix));
        }
        for (key, member) in &self.dump.strays {
            let remove: Option<&[u8]> = match key.as_str() {
                // Perhaps all that is left of a job: that is for people to decide.
                "jobs" | "body" | "result" => None,
                "due" | "bad" | "ages" => Some(b"ZREM"),
                "cancel" => Some(b"SREM"),
                _ => Some(b"HDEL"),
            };
            let fix = remove.map(|verb| Fix::default().write(&[verb, key.as_bytes(), member]));
            self.store(format!("{key} holds {} bytes that are no id or name", member.len()), fix);
        }
        for (name, other) in &self.dump.others {
            let tokens = match other {
                Other::List(tokens) => Some(tokens.len() as u64),
                _ => None,
            };
            self.name(name, tokens);
        }
    }

    /// A key without a fixed name is one of those that there are; `tokens` is the length of a list.
    pub(super) fn name(&mut self, name: &str, tokens: Option<u64>) {
        let is_known = match name.split(':').next() {
            Some("wake") => tokens.is_some_and(|count| count <= 1 || name.starts_with("wake:w:")),
            Some("lane" | "lanes" | "gone" | "done" | "void" | "dead" | "held") => true,
            Some("parked" | "waits" | "hold" | "starts" | "workers" | "alive") => true,
            _ => false,
        };
        if let Some(key) = name.strip_prefix("mend:") {
            let fix = Fix::default().write(&[b"REHOLD", b"", key.as_bytes()]);
            self.store(format!("the holders of {key} are being gathered anew"), Some(fix));
        } else if !is_known {
            self.store(format!("{name} does not belong here"), None);
        }
    }
}

/// The counter of a queue's live jobs, if `field` counts some of them.
pub(super) fn live_field(queue: &str, field: &str) -> Option<String> {
    let state = field.rsplit('/').next()?;
    let is_live = ["scheduled", "ready", "running", "retrying"].contains(&state);
    is_live.then(|| format!("live:{queue}"))
}

pub(super) fn is_pair(text: &str) -> bool {
    let is_legal = |name: &str| {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        !name.is_empty() && name.bytes().all(|byte| legal(byte) || b"_.-".contains(&byte))
    };
    text.split_once('/').is_some_and(|(queue, kind)| is_legal(queue) && is_legal(kind))
}
