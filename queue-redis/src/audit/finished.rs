//! Finished jobs, the shelves that time their end, and what is kept apart.

use std::collections::{BTreeMap, BTreeSet};

use queue_core::{Hold, JobId, JobState};

use super::dump::{Dump, Extent, Other};
use super::fix::Fix;
use super::rules::{Auditor, Place};
use crate::record::{Head, state_of};

pub(super) const SHELVES: [&str; 4] = ["done:", "void:", "dead:", "held:"];

/// Whether this is the name of a shelf.
pub(super) fn is_shelf(name: &str) -> bool {
    SHELVES.iter().any(|kind| name.starts_with(kind))
}

/// The ids of an entry of a shelf, and its tag (`lua/lib/shelf.lua`), or nothing; `None` if it is no
/// entry.
fn parts(entry: &[u8]) -> Option<(&[u8], &[u8])> {
    let tag_bytes = match entry.len() % 16 {
        0 => 0,
        _ => usize::from(*entry.last()?),
    };
    let (ids, tag) = entry.split_at_checked(entry.len().checked_sub(tag_bytes)?)?;
    let is_sound = !ids.is_empty() && ids.len().is_multiple_of(16);
    (is_sound && (tag.is_empty() || kind_of(tag).is_some())).then_some((ids, tag))
}

/// The kind that a tag names.
fn kind_of(tag: &[u8]) -> Option<&[u8]> {
    let (_, kind) = tag.split_last()?;
    let kind = kind.strip_suffix(b"\0").unwrap_or(kind);
    let is_legal = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
    (!kind.is_empty() && kind.iter().all(is_legal)).then_some(kind)
}

/// An entry of a shelf.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) shelf: String,
    pub(super) expiry: u64,
    /// Its ids and its tag; empty if it is known only that a job is in it.
    pub(super) bytes: Vec<u8>,
}

impl Entry {
    /// The entry without some of its ids.
    fn without(&self, leaving: &[JobId]) -> Fix {
        let expiry = self.expiry.to_string();
        let shelf = self.shelf.as_bytes();
        let (ids, tag) = parts(&self.bytes).unwrap_or_default();
        let mut left = Vec::new();
        for id in ids.chunks(16) {
            if !leaving.iter().any(|other| other.as_bytes().as_slice() == id) {
                left.extend_from_slice(id);
            }
        }
        let fix = Fix::default()
            .check(&[b"ZSCORE", shelf, &self.bytes], expiry.as_bytes())
            .write(&[b"ZREM", shelf, &self.bytes]);
        if left.is_empty() {
            return fix;
        }
        left.extend_from_slice(tag);
        fix.write(&[b"ZADD", shelf, expiry.as_bytes(), &left])
    }

    /// The entry with ids and nothing else.
    fn without_tag(&self) -> Fix {
        let (shelf, expiry) = (self.shelf.as_bytes(), self.expiry.to_string());
        let (ids, _) = parts(&self.bytes).unwrap_or_default();
        Fix::default()
            .check(&[b"ZSCORE", shelf, &self.bytes], expiry.as_bytes())
            .write(&[b"ZREM", shelf, &self.bytes])
            .write(&[b"ZADD", shelf, expiry.as_bytes(), ids])
    }
}

impl Auditor<'_> {
    pub(super) fn shelves(&mut self) {
        let mut listed: BTreeSet<(JobId, Entry)> = self.entries();
        let (unnamed, named): (Vec<_>, Vec<_>) =
            self.dump.shelved.iter().cloned().partition(|(_, entry)| entry.bytes.is_empty());
        listed.extend(named);
        let place = |(id, entry): &(JobId, Entry)| (*id, entry.shelf.clone(), entry.expiry);
        let known: BTreeSet<_> = listed.iter().map(place).collect();
        listed.extend(unnamed.into_iter().filter(|found| !known.contains(&place(found))));
        let mut wrong: BTreeMap<Entry, Vec<JobId>> = BTreeMap::new();
        let mut right: BTreeMap<JobId, ()> = BTreeMap::new();
        for (id, entry) in listed {
            let is_right = self
                .expected(id)
                .iter()
                .any(|place| place.0 == entry.shelf && place.1 == entry.expiry);
            if !is_right || right.insert(id, ()).is_some() {
                wrong.entry(entry).or_default().push(id);
            } else if !self.is_as_tagged(id, &entry) {
                let what = format!("is not what its entry of {} says", entry.shelf);
                self.job(id, what, Some(entry.without_tag()));
            }
        }
        for (entry, ids) in wrong {
            for id in &ids {
                let what = format!("is on the shelf {} at {} wrongly", entry.shelf, entry.expiry);
                self.job(*id, what, Some(entry.without(&ids)));
            }
        }
        for (id, end) in &self.dump.fin {
            let state = state_of(end.state).filter(|state| is_end(*state));
            let bytes = id.as_bytes().as_slice();
            if self.dump.bad.contains(id) || !self.dump.is_subject(*id) {
                continue;
            }
            if !self.dump.jobs.contains_key(id) && state.is_none() {
                let fix = Fix::default().absent("jobs", bytes).write(&[b"HDEL", b"fin", bytes]);
                self.job(*id, "is in fin and has no record", Some(fix));
                continue;
            }
            let Some(state) = state else {
                let now = self.dump.now_ms.to_string();
                let pair = self.head(*id).map(|head| head.pair.clone()).unwrap_or_default();
                let fix = Fix::default()
                    .present("jobs", bytes)
                    .write(&[b"ZADD", b"bad", b"NX", now.as_bytes(), bytes])
                    .write(&[b"HSET", b"whence", bytes, pair.as_bytes()]);
                self.job(*id, "has an end that is no end", Some(fix));
                continue;
            };
            self.place(*id, Place::End(state));
            if right.contains_key(id) {
                continue;
            }
            if let Some((shelf, expiry)) = self.expected(*id).into_iter().next() {
                let at = expiry.to_string();
                let fix = Fix::default().present("fin", bytes).write(&[
                    b"ZADD",
                    shelf.as_bytes(),
                    at.as_bytes(),
                    bytes,
                ]);
                self.job(*id, format!("should be on the shelf {shelf} at {expiry}"), Some(fix));
            }
        }
    }

    /// The ids on all shelves, each with its entry; looks at `ages` on the way.
    fn entries(&mut self) -> BTreeSet<(JobId, Entry)> {
        let mut found = BTreeSet::new();
        let mut ages: BTreeMap<String, u64> = BTreeMap::new();
        for (name, other) in &self.dump.others {
            if !is_shelf(name) {
                continue;
            }
            let Other::Sorted(batches) = other else {
                self.wrong_type(name, "a sorted set");
                continue;
            };
            for (ids, expiry) in batches {
                let soonest = ages.entry(name.clone()).or_insert(*expiry);
                *soonest = (*soonest).min(*expiry);
                let members = parts(ids).and_then(|(ids, _)| crate::reply::ids(ids).ok());
                let Some(members) = members else {
                    let fix = Fix::default().write(&[b"ZREM", name.as_bytes(), ids]);
                    self.store(format!("{name} holds an entry that is no ids"), Some(fix));
                    continue;
                };
                if !name.starts_with("held:") {
                    *self.shelved.entry(name.clone()).or_default() += members.len() as u64;
                }
                let entry = Entry { shelf: name.clone(), expiry: *expiry, bytes: ids.clone() };
                found.extend(members.into_iter().map(|id| (id, entry.clone())));
            }
        }
        if self.dump.extent == Extent::Whole {
            let names: BTreeSet<String> =
                ages.keys().chain(self.dump.ages.keys()).cloned().collect();
            for name in names {
                let (soonest, noted) = (ages.get(&name), self.dump.ages.get(&name));
                self.age(&name, soonest.copied(), noted.copied());
            }
        }
        found
    }

    /// `ages` has the soonest expiry of each shelf.
    pub(super) fn age(&mut self, shelf: &str, soonest: Option<u64>, noted: Option<u64>) {
        if soonest != noted {
            let fix = Fix::default().write(&[b"AGE", b"", shelf.as_bytes()]);
            let what = format!("the shelf {shelf} ends at {soonest:?}, noted is {noted:?}");
            self.store(what, Some(fix));
        }
    }

    /// Whether a job is what the tag of its entry says, if that is known and there is one.
    fn is_as_tagged(&self, id: JobId, entry: &Entry) -> bool {
        let (Some((_, tag)), Some(head), Some(end)) =
            (parts(&entry.bytes), self.head(id), self.dump.fin.get(&id))
        else {
            return true;
        };
        let Some(kind) = kind_of(tag) else { return true };
        let is_alike = head.pair.as_bytes().strip_prefix(head.queue.as_bytes())
            == Some([b"/", kind].concat().as_slice());
        is_alike && head.key.is_empty() && !head.body_apart && !end.result_apart
    }

    /// Where a job may be shelved, the best place first; nowhere if it has not finished.
    fn expected(&self, id: JobId) -> Vec<(String, u64)> {
        let (Some(end), Some(head)) = (self.dump.fin.get(&id), self.head(id)) else {
            return Vec::new();
        };
        let Some(state) = state_of(end.state).filter(|state| is_end(*state)) else {
            return Vec::new();
        };
        if self.dump.bad.contains(&id) {
            return Vec::new();
        }
        let cap = queue_core::Timestamp::MAX.as_ms();
        let (shelf, kept_ms) = match state {
            JobState::Dead => ("dead", head.dead_ms),
            JobState::Cancelled => ("void", head.completed_ms),
            _ => ("done", head.completed_ms),
        };
        let own = (format!("{shelf}:{}", head.queue), (end.finished_ms + kept_ms).min(cap));
        let held = (format!("held:{}", head.queue), head.hold_end_ms());
        let is_held = state == JobState::Completed
            && matches!(head.hold, Hold::AtLeast(_))
            && !head.key.is_empty()
            && held.1 > end.finished_ms;
        match is_held {
            false => vec![own],
            true if held.1 > self.dump.now_ms => vec![held],
            // Maintenance moves it.
            true => vec![own, held],
        }
    }

    /// What is apart belongs to a record that says so, and the other way round. Of a record that
    /// cannot be decoded everything is kept.
    pub(super) fn large(&mut self) {
        let Dump { jobs, fin, bodies, results, bad, .. } = self.dump;
        let drop_from = |key: &str, id: &JobId, fix: Fix| {
            fix.write(&[b"HDEL", key.as_bytes(), id.as_bytes().as_slice()])
        };
        let own = |word: &str, id: &JobId| {
            Fix::default().write(&[word.as_bytes(), b"", id.as_bytes().as_slice()])
        };
        let lost = |head: &Head, id: &JobId| head.body_apart && !bodies.contains(id);
        for (id, head) in jobs.iter().filter(|(id, _)| !bad.contains(*id)) {
            let Some(head) = head else { continue };
            if lost(head, id) {
                self.job(*id, "has lost its payload", None);
            } else if !head.body_apart && bodies.contains(id) {
                self.job(*id, "has a second payload", Some(own("UNBODY", id)));
            }
        }
        for id in bodies.iter().filter(|id| !jobs.contains_key(*id)) {
            let fix = Fix::default().absent("jobs", id.as_bytes().as_slice());
            self.job(*id, "has a payload but no record", Some(drop_from("body", id, fix)));
        }
        for (id, end) in fin.iter().filter(|(id, _)| !bad.contains(*id)) {
            match (end.result_apart, results.contains(id)) {
                (true, false) => self.job(*id, "has lost its result", None),
                (false, true) => {
                    self.job(*id, "has two results", Some(own("UNRESULT", id)));
                }
                _ => {}
            }
        }
        for id in results.iter().filter(|id| !fin.contains_key(*id) && !bad.contains(*id)) {
            let fix = Fix::default().absent("fin", id.as_bytes().as_slice());
            let fix = drop_from("result", id, fix);
            self.job(*id, "has a result but has not finished", Some(fix));
        }
    }
}

fn is_end(state: JobState) -> bool {
    state.is_finished() && state != JobState::Quarantined
}
