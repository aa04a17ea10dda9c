//! Ready jobs: the live tickets of the lanes.

use std::collections::{BTreeSet, HashMap};

use super::dump::Other;
use super::fix::Fix;
use super::rules::{Auditor, Place};

/// A lane's tickets that count no more, by id.
type Gone = HashMap<Vec<u8>, u64>;

impl Auditor<'_> {
    pub(super) fn lanes(&mut self) {
        let mut stale = 0;
        let mut listed = BTreeSet::new();
        for (name, other) in &self.dump.others {
            if let Some(lane) = name.strip_prefix("lane:") {
                stale += self.lane(lane, name, other);
                listed.insert(lane.to_owned());
            } else if let Some(lane) = name.strip_prefix("gone:") {
                let list = format!("lane:{lane}");
                if !self.dump.others.contains_key(&list) {
                    let fix = Fix::default().check(&[b"EXISTS", list.as_bytes()], b"0");
                    let fix = fix.write(&[b"DEL", name.as_bytes()]);
                    self.store(format!("{name} is there without its lane"), Some(fix));
                }
            }
        }
        let noted = String::from_utf8_lossy(&self.dump.stale).into_owned();
        if noted.parse().unwrap_or(0) != stale {
            let fix = Fix::default().check(&[b"HGET", b"meta", b"stale"], &self.dump.stale);
            let fix = fix.write(&[b"HSET", b"meta", b"stale", stale.to_string().as_bytes()]);
            self.store(format!("{stale} stale tickets, {noted} counted"), Some(fix));
        }
        self.lane_indexes(&listed);
    }

    /// Answers how many stale tickets the lane has.
    fn lane(&mut self, lane: &str, name: &str, other: &Other) -> u64 {
        let Other::List(tickets) = other else {
            let fix = Fix::default().write(&[b"DEL", name.as_bytes()]);
            self.store(format!("{name} is not a list"), Some(fix));
            return 0;
        };
        let noted = self.gone(lane);
        let total = noted.values().sum::<u64>();
        let mut left = noted.clone();
        let mut live = 0;
        for ticket in tickets {
            let Ok(id) = crate::reply::id(ticket) else {
                let fix = Fix::default().write(&[b"LREM", name.as_bytes(), b"0", ticket]);
                self.store(format!("{name} holds a ticket that is no id"), Some(fix));
                continue;
            };
            match left.get_mut(ticket).filter(|count| **count > 0) {
                Some(count) => *count -= 1,
                None => {
                    live += 1;
                    if self.head(id).is_some_and(|head| head.lane == lane) {
                        self.place(id, Place::Lane(name.to_owned()));
                    } else {
                        let gone = format!("gone:{lane}");
                        let count = noted.get(ticket).map(u64::to_string).unwrap_or_default();
                        let fix = Fix::default()
                            .check(&[b"HGET", gone.as_bytes(), ticket], count.as_bytes())
                            .write(&[b"LREM", name.as_bytes(), b"-1", ticket]);
                        let what = format!("has a ticket in the lane {lane} wrongly");
                        self.job(id, what, Some(fix));
                    }
                }
            }
        }
        left.retain(|_, count| *count > 0);
        if live == 0 || !left.is_empty() {
            let fix = unmatched(lane, tickets.len(), live, &noted, &left);
            let what = format!("{name} has {live} live tickets and {} unmatched", left.len());
            self.store(what, Some(fix));
        }
        total
    }

    /// The stale tickets of a lane by id; complains if their sum is not the noted one.
    fn gone(&mut self, lane: &str) -> Gone {
        let name = format!("gone:{lane}");
        let Some(other) = self.dump.others.get(&name) else {
            return HashMap::new();
        };
        let Other::Hash(fields) = other else {
            let fix = Fix::default().write(&[b"DEL", name.as_bytes()]);
            self.store(format!("{name} is not a hash"), Some(fix));
            return HashMap::new();
        };
        let number = |bytes: &[u8]| String::from_utf8_lossy(bytes).parse().ok();
        let mut counts: Gone = HashMap::new();
        for (field, count) in fields {
            match number(count).filter(|_| field == b"n" || field.len() == 16) {
                Some(count) => drop(counts.insert(field.clone(), count)),
                None => {
                    let fix = Fix::default().write(&[b"HDEL", name.as_bytes(), field]);
                    self.store(format!("{name} holds what is no count"), Some(fix));
                }
            }
        }
        let noted = counts.remove(&b"n"[..]).unwrap_or(0);
        let sum = counts.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
        if noted != sum || noted == 0 {
            let fix = Fix::default();
            let fix = match sum {
                0 => fix.write(&[b"DEL", name.as_bytes()]),
                sum => fix
                    .check(&[b"HGET", name.as_bytes(), b"n"], noted.to_string().as_bytes())
                    .write(&[b"HSET", name.as_bytes(), b"n", sum.to_string().as_bytes()]),
            };
            self.store(format!("{name} notes {noted} stale tickets"), Some(fix));
        }
        counts
    }

    /// `lanes:<queue>/<kind>` lists exactly the lanes that exist.
    fn lane_indexes(&mut self, listed: &BTreeSet<String>) {
        let mut indexed = BTreeSet::new();
        for (name, other) in &self.dump.others {
            let Some(pair) = name.strip_prefix("lanes:") else { continue };
            let Other::Sorted(members) = other else {
                let fix = Fix::default().write(&[b"DEL", name.as_bytes()]);
                self.store(format!("{name} is not a sorted set"), Some(fix));
                continue;
            };
            for (member, score) in members {
                let priority = String::from_utf8_lossy(member);
                let lane = format!("{pair}/{priority}");
                if priority.parse() != Ok(score >> 48) || !listed.contains(&lane) {
                    let list = format!("lane:{lane}");
                    let exists = if listed.contains(&lane) { b"1" } else { b"0" };
                    let fix = Fix::default().check(&[b"EXISTS", list.as_bytes()], exists);
                    let fix = fix.write(&[b"ZREM", name.as_bytes(), member]);
                    self.store(format!("{name} leads to no lane by {priority:?}"), Some(fix));
                } else {
                    indexed.insert(lane);
                }
            }
        }
        for lane in listed.difference(&indexed) {
            let Some((pair, priority)) = lane.rsplit_once('/') else { continue };
            let fix = priority.parse::<u64>().ok().filter(|level| *level <= 9).map(|level| {
                let (index, list) = (format!("lanes:{pair}"), format!("lane:{lane}"));
                let score = (level << 48).to_string();
                let fix = Fix::default().check(&[b"EXISTS", list.as_bytes()], b"1");
                fix.write(&[b"ZADD", index.as_bytes(), score.as_bytes(), priority.as_bytes()])
            });
            self.store(format!("the lane {lane} is not in its index"), fix);
        }
    }
}

/// Forgets stale tickets that are not there; of a lane without live ones nothing is left.
fn unmatched(lane: &str, length: usize, live: u64, noted: &Gone, left: &Gone) -> Fix {
    let (list, gone) = (format!("lane:{lane}"), format!("gone:{lane}"));
    let length = length.to_string();
    let mut fix = Fix::default().check(&[b"LLEN", list.as_bytes()], length.as_bytes());
    if live == 0 {
        return fix.write(&[b"DEL", list.as_bytes()]).write(&[b"DEL", gone.as_bytes()]);
    }
    let mut total: u64 = noted.values().sum();
    for (ticket, surplus) in left {
        let have = noted.get(ticket).copied().unwrap_or(0);
        total -= surplus;
        fix = match have - surplus {
            0 => fix.write(&[b"HDEL", gone.as_bytes(), ticket]),
            rest => fix.write(&[b"HSET", gone.as_bytes(), ticket, rest.to_string().as_bytes()]),
        };
    }
    fix.write(&[b"HSET", gone.as_bytes(), b"n", total.to_string().as_bytes()])
}
