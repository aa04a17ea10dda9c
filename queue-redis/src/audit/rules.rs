//! What must agree with what.

use std::collections::BTreeMap;

use queue_core::backend::Violation;
use queue_core::{Hold, JobId, JobState};

use super::dump::{Dump, Other};
use super::fix::Fix;
use crate::record::{Head, state_of};

/// How long a job whose lane is broken waits in `due`, as the scripts have it.
const PARKED_MS: u64 = 60_000;

/// Something that disagrees, and what would put it right, if anything safe would.
pub(super) struct Finding {
    pub(super) violation: Violation,
    pub(super) fix: Option<Fix>,
}

impl Finding {
    pub(super) fn is(&self, violation: &Violation) -> bool {
        self.violation.job == violation.job && self.violation.what == violation.what
    }
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

    /// Takes the job out of this place.
    fn leave(&self, fix: Fix, id: &[u8]) -> Fix {
        match self {
            // The last ticket is the live one.
            Self::Lane(lane) => fix.write(&[b"LREM", lane.as_bytes(), b"-1", id]),
            Self::Due(_) => fix.write(&[b"ZREM", b"due", id]),
            Self::Run => fix.write(&[b"HDEL", b"run", id]).write(&[b"SREM", b"cancel", id]),
            Self::End(_) => fix.write(&[b"HDEL", b"fin", id]).write(&[b"HDEL", b"result", id]),
            Self::Bad => fix.write(&[b"ZREM", b"bad", id]).write(&[b"HDEL", b"whence", id]),
        }
    }
}

/// Collects findings while the rules go through the dump.
pub(super) struct Auditor<'a> {
    pub(super) dump: &'a Dump,
    found: Vec<Finding>,
    /// Where each job is listed.
    places: BTreeMap<JobId, Vec<Place>>,
    /// Ids in the entries of each shelf.
    pub(super) shelved: BTreeMap<String, u64>,
}

pub(super) fn check(dump: &Dump) -> Vec<Finding> {
    let mut auditor =
        Auditor { dump, found: Vec::new(), places: BTreeMap::new(), shelved: BTreeMap::new() };
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
    pub(super) fn job(&mut self, id: JobId, what: impl Into<String>, fix: Option<Fix>) {
        self.found.push(Finding { violation: Violation::of_job(id, what), fix });
    }

    pub(super) fn store(&mut self, what: impl Into<String>, fix: Option<Fix>) {
        self.found.push(Finding { violation: Violation::of_store(what), fix });
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
            let bytes = id.as_bytes().as_slice();
            let states: Vec<_> = listed.iter().map(Place::state).collect();
            if !self.dump.jobs.contains_key(id) {
                let fix = Fix::default().absent("jobs", bytes);
                let fix = listed.iter().fold(fix, |fix, place| place.leave(fix, bytes));
                self.job(*id, format!("is listed as {states:?} but has no record"), Some(fix));
            } else if listed.len() > 1 {
                let is_readable = self.head(*id).is_some();
                let kept = listed.iter().min_by_key(|place| place.rank(is_readable));
                let others = listed.iter().filter(|place| Some(*place) != kept);
                let mut fix = others.fold(Fix::default(), |fix, place| place.leave(fix, bytes));
                if let Some(place) = kept {
                    // The same lane twice.
                    let again = listed.iter().filter(|other| *other == place).skip(1);
                    fix = again.fold(fix, |fix, place| place.leave(fix, bytes));
                }
                self.job(*id, format!("is listed as {states:?}"), Some(fix));
            }
        }
        for (id, head) in &self.dump.jobs {
            if !places.contains_key(id) {
                let fix = listed_again(id.as_bytes().as_slice(), head.is_some(), self.dump.now_ms);
                self.job(*id, "is listed nowhere", Some(fix));
            }
        }
        self.places = places;
    }

    fn counters(&mut self) {
        let mut expected: BTreeMap<String, u64> = self.shelved.clone();
        for (id, listed) in &self.places {
            let (Some(head), [place]) = (self.head(*id), listed.as_slice()) else { continue };
            if *place != Place::Bad {
                *expected.entry(format!("{}/{}", head.pair, place.state())).or_default() += 1;
            }
        }
        for pair in self.dump.bad.iter().filter_map(|id| self.dump.whence.get(id)) {
            if is_pair(pair) {
                *expected.entry(format!("{pair}/quarantined")).or_default() += 1;
            }
        }
        let fields: std::collections::BTreeSet<_> =
            expected.keys().chain(self.dump.count.keys()).cloned().collect();
        for field in fields {
            let wanted = expected.get(&field).copied().unwrap_or(0);
            let noted = self.dump.count.get(&field);
            if noted != expected.get(&field).copied().map(Some).as_ref() {
                // What calls count meanwhile is added to either.
                let noted = noted.copied().flatten().unwrap_or(0);
                let by = i128::from(wanted) - i128::from(noted);
                let by = by.to_string();
                let words: [&[u8]; 4] = [b"COUNT", b"", field.as_bytes(), by.as_bytes()];
                let fix = match wanted {
                    0 if by == "0" => Fix::default().write(&[b"HDEL", b"count", field.as_bytes()]),
                    _ => Fix::default().write(&words),
                };
                self.store(
                    format!("the counter {field} should be {wanted}, not {noted}"),
                    Some(fix),
                );
            }
        }
    }

    /// A key leads to the job that holds it, and each job that holds one is led to by it.
    fn keys(&mut self) {
        for (key, id) in &self.dump.idem {
            let Some(head) = self.head(*id) else {
                // The key of a record that cannot be read may lead to it until somebody else
                // takes it.
                if !self.dump.jobs.contains_key(id) {
                    self.wrong_key(key, *id);
                }
                continue;
            };
            let on_hold = matches!(head.hold, Hold::AtLeast(_)) && self.is_completed(*id);
            if head.key != *key || !(on_hold || self.holds_key(*id, head)) {
                self.wrong_key(key, *id);
            }
        }
        for (id, head) in &self.dump.jobs {
            let Some(head) = head.as_ref().filter(|head| !head.key.is_empty()) else { continue };
            let holder = self.dump.idem.get(&head.key);
            // A job that was quarantined may have lost its key to another.
            let is_taken = holder.and_then(|holder| self.head(*holder));
            let is_taken = is_taken.is_some_and(|other| other.key == head.key);
            if self.holds_key(*id, head) && holder != Some(id) && !is_taken {
                let id_bytes = id.as_bytes().as_slice();
                let fix = Fix::default().present("jobs", id_bytes);
                let fix = fix.write(&[b"HSETNX", b"idem", &head.key, id_bytes]);
                self.job(*id, "its idempotency key does not lead to it", Some(fix));
            }
        }
    }

    fn wrong_key(&mut self, key: &[u8], id: JobId) {
        let fix = Fix::default().check(&[b"HGET", b"idem", key], id.as_bytes().as_slice());
        let fix = fix.write(&[b"HDEL", b"idem", key]);
        self.job(id, "an idempotency key leads to it wrongly", Some(fix));
    }

    fn is_completed(&self, id: JobId) -> bool {
        let end = self.dump.fin.get(&id).and_then(|end| state_of(end.state));
        end == Some(JobState::Completed)
    }

    fn holds_key(&self, id: JobId, head: &Head) -> bool {
        if self.dump.bad.contains(&id) {
            return false;
        }
        match self.dump.fin.get(&id).map(|end| state_of(end.state)) {
            None => true,
            Some(Some(JobState::Completed)) => match head.hold {
                Hold::AtLeast(_) => head.hold_end_ms() > self.dump.now_ms,
                hold => hold == Hold::Kept,
            },
            Some(_) => false,
        }
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
            let remove: Option<&[u8]> = match *key {
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
            match (name.split(':').next(), other) {
                (Some("wake"), Other::List(tokens)) if tokens.len() <= 1 => {}
                (Some("wake"), Other::List(_)) if name.starts_with("wake:w:") => {}
                (Some("lane" | "lanes" | "gone" | "done" | "void" | "dead" | "held"), _) => {}
                _ => self.store(format!("{name} does not belong here"), None),
            }
        }
    }
}

fn is_pair(text: &str) -> bool {
    let is_legal = |name: &str| {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        !name.is_empty() && name.bytes().all(|byte| legal(byte) || b"_.-".contains(&byte))
    };
    text.split_once('/').is_some_and(|(queue, kind)| is_legal(queue) && is_legal(kind))
}

/// A job that is in no index becomes ready, or is quarantined if it cannot be read.
fn listed_again(id: &[u8], is_readable: bool, now_ms: u64) -> Fix {
    let fix = Fix::default().present("jobs", id).absent("fin", id).absent("run", id);
    let fix = fix.check(&[b"ZSCORE", b"due", id], b"").check(&[b"ZSCORE", b"bad", id], b"");
    if is_readable {
        return fix.write(&[b"PUSH", b"", id]);
    }
    let now = now_ms.to_string();
    fix.write(&[b"ZADD", b"bad", now.as_bytes(), id]).write(&[b"HSET", b"whence", id, b""])
}
