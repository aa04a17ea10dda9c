//! Ready jobs: the live tickets of the lanes.

use std::collections::{BTreeSet, HashMap};

use queue_core::JobId;

use super::dump::{Extent, Other, decimal, text};
use super::fix::Fix;
use super::rules::{Auditor, Place};

/// A lane's tickets that count no more, by id.
pub(super) type Gone = HashMap<Vec<u8>, u64>;

impl Auditor<'_> {
    pub(super) fn lanes(&mut self) {
        if self.dump.extent != Extent::Whole {
            for (name, other) in &self.dump.others {
                if let (Some(lane), Other::List(tickets)) = (name.strip_prefix("lane:"), other) {
                    self.tickets(lane, tickets);
                }
            }
            return;
        }
        let mut stale = 0;
        let mut listed = BTreeSet::new();
        for (name, other) in &self.dump.others {
            if let Some(lane) = name.strip_prefix("lane:") {
                stale += self.lane(lane, name, other);
                listed.insert(lane.to_owned());
            } else if let Some(lane) = name.strip_prefix("gone:")
                && !self.dump.others.contains_key(&format!("lane:{lane}"))
            {
                self.gone_without_lane(lane);
            }
        }
        self.stale(stale, &self.dump.stale);
        self.lane_indexes(&listed);
    }

    /// How many tickets of all lanes are stale.
    pub(super) fn stale(&mut self, sum: u64, noted: &[u8]) {
        let known = decimal(noted).unwrap_or(0);
        if known != sum {
            let by = i128::from(sum) - i128::from(known);
            let fix = Fix::default().write(&[b"STALE", b"", by.to_string().as_bytes()]);
            self.store(format!("{sum} stale tickets, {known} counted"), Some(fix));
        }
    }

    pub(super) fn gone_without_lane(&mut self, lane: &str) {
        let (list, name) = (format!("lane:{lane}"), format!("gone:{lane}"));
        let fix = Fix::default().check(&[b"EXISTS", list.as_bytes()], b"0");
        let fix = fix.write(&[b"DEL", name.as_bytes()]);
        self.store(format!("{name} is there without its lane"), Some(fix));
    }

    /// Answers how many stale tickets the lane has.
    fn lane(&mut self, lane: &str, name: &str, other: &Other) -> u64 {
        let Other::List(tickets) = other else {
            self.wrong_type(name, "a list");
            return 0;
        };
        let noted = self.gone(lane);
        let (live, left) = self.tickets(lane, tickets);
        if live == 0 || !left.is_empty() {
            let fix = unmatched(lane, tickets.len() as u64, live, &noted, &left);
            let what = format!("{name} has {live} live tickets and {} unmatched", left.len());
            self.store(what, Some(fix));
        }
        noted.values().sum::<u64>()
    }

    /// Looks at some tickets of a lane; answers how many are live, and the stale ones that are not
    /// among them.
    fn tickets(&mut self, lane: &str, tickets: &[Vec<u8>]) -> (u64, Gone) {
        let noted = self.stale_of(lane);
        let mut left = noted.clone();
        let mut live = 0;
        for (behind, ticket) in (self.dump.behind..).zip(tickets.iter().rev()) {
            if let Some(count) = left.get_mut(ticket).filter(|count| **count > 0) {
                *count -= 1;
                continue;
            }
            let Ok(id) = crate::reply::id(ticket) else {
                let behind = behind.to_string();
                let words: [&[u8]; 5] =
                    [b"UNTICKET", b"", lane.as_bytes(), ticket, behind.as_bytes()];
                let fix = Fix::default().write(&words);
                self.store(format!("lane:{lane} holds a ticket that is no id"), Some(fix));
                continue;
            };
            live += 1;
            if self.head(id).is_some_and(|head| head.lane == lane) {
                self.place(id, Place::Lane(lane.to_owned()));
            } else {
                let fix = self.without_ticket(Fix::default(), lane, id);
                self.job(id, format!("has a ticket in the lane {lane} wrongly"), Some(fix));
            }
        }
        left.retain(|_, count| *count > 0);
        if self.dump.extent == Extent::Tickets {
            for (ticket, surplus) in &left {
                self.surplus(lane, ticket, *surplus, &noted);
            }
        }
        (live, left)
    }

    /// A lane without a live ticket should not be there.
    pub(super) fn no_live_ticket(&mut self, lane: &str, length: u64, stale: &Gone) {
        let sum = stale.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
        if length > 0 && length <= sum {
            let fix = unmatched(lane, length, 0, stale, &Gone::new());
            self.store(format!("lane:{lane} has no live ticket among {length}"), Some(fix));
        }
    }

    /// Takes a live ticket out.
    pub(super) fn without_ticket(&self, fix: Fix, lane: &str, id: JobId) -> Fix {
        let (gone, bytes) = (format!("gone:{lane}"), id.as_bytes().as_slice());
        let stale = self.dump.stale_times(lane, bytes);
        let stale = stale.as_ref().map(u64::to_string).unwrap_or_default();
        let behind = self.dump.behind_of.get(&id).copied().unwrap_or(self.dump.behind).to_string();
        fix.check(&[b"HGET", gone.as_bytes(), bytes], stale.as_bytes()).write(&[
            b"UNTICKET",
            b"",
            lane.as_bytes(),
            bytes,
            behind.as_bytes(),
        ])
    }

    fn surplus(&mut self, lane: &str, ticket: &[u8], surplus: u64, noted: &Gone) {
        let gone = format!("gone:{lane}");
        let have = noted.get(ticket).copied().unwrap_or(0).to_string();
        let by = surplus.to_string();
        let fix = Fix::default().check(&[b"HGET", gone.as_bytes(), ticket], have.as_bytes());
        let fix = fix.write(&[b"UNSTALE", b"", lane.as_bytes(), ticket, by.as_bytes()]);
        let what = format!("{surplus} of its stale tickets are not in the lane {lane}");
        match crate::reply::id(ticket) {
            Ok(id) => self.job(id, what, Some(fix)),
            Err(_) => self.store(format!("no id: {what}"), Some(fix)),
        }
    }

    /// The stale tickets of a lane by id, as far as they are known.
    pub(super) fn stale_of(&self, lane: &str) -> Gone {
        let Some(Other::Hash(fields)) = self.dump.others.get(&format!("gone:{lane}")) else {
            return HashMap::new();
        };
        let counts = fields.iter().filter(|(field, _)| field != b"n");
        counts.filter_map(|(field, count)| Some((field.clone(), decimal(count)?))).collect()
    }

    /// The stale tickets of a lane by id; complains if their sum is not the noted one.
    pub(super) fn gone(&mut self, lane: &str) -> Gone {
        let name = format!("gone:{lane}");
        let Some(other) = self.dump.others.get(&name) else {
            return HashMap::new();
        };
        let Other::Hash(fields) = other else {
            self.wrong_type(&name, "a hash");
            return HashMap::new();
        };
        for (field, count) in fields {
            if decimal(count).is_none() {
                let fix = Fix::default().check(&[b"HGET", name.as_bytes(), field], count).write(&[
                    b"HDEL",
                    name.as_bytes(),
                    field,
                ]);
                self.store(format!("{name} holds what is no count"), Some(fix));
            }
        }
        let counts = self.stale_of(lane);
        let noted = fields.iter().find(|(field, _)| field == b"n");
        let noted = noted.and_then(|(_, count)| decimal(count)).unwrap_or(0);
        let sum = counts.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
        if noted != sum || noted == 0 {
            let fix = Fix::default().write(&[b"SUM", b"", lane.as_bytes()]);
            self.store(format!("{name} notes {noted} stale tickets, not {sum}"), Some(fix));
        }
        counts
    }

    /// `lanes:<queue>/<kind>` and `parked:<queue>/<kind>` list exactly the lanes that exist.
    pub(super) fn lane_indexes(&mut self, listed: &BTreeSet<String>) {
        let mut indexed = self.parked(listed);
        for (name, other) in &self.dump.others {
            let Some(pair) = name.strip_prefix("lanes:") else { continue };
            let Other::Sorted(members) = other else {
                self.wrong_type(name, "a sorted set");
                continue;
            };
            for (member, score) in members {
                if member.starts_with(b"@") {
                    continue; // a limit key
                }
                let index = text(member);
                let lane = format!("{pair}/{index}");
                let priority = index.split('/').next().unwrap_or_default();
                if index.contains('/') && listed.contains(&lane) {
                    if priority.parse() != Ok(score >> 48) || indexed.contains(&lane) {
                        self.place_again(pair, member, "has a wrong place in its indexes");
                    }
                    indexed.insert(lane);
                } else if priority.parse() != Ok(score >> 48) || !listed.contains(&lane) {
                    let list = format!("lane:{lane}");
                    let exists = if listed.contains(&lane) { b"1" } else { b"0" };
                    let fix = Fix::default().check(&[b"EXISTS", list.as_bytes()], exists);
                    let fix = fix.write(&[b"ZREM", name.as_bytes(), member]);
                    self.store(format!("{name} leads to no lane by {index:?}"), Some(fix));
                } else {
                    indexed.insert(lane);
                }
            }
        }
        for lane in listed.difference(&indexed) {
            if let Some((pair, index)) = with_keys(lane) {
                self.place_again(pair, index.as_bytes(), "is in no index");
                continue;
            }
            let Some((pair, priority)) = lane.rsplit_once('/') else { continue };
            let fix = priority.parse::<u64>().ok().filter(|level| *level <= 9).map(|level| {
                let (index, list) = (format!("lanes:{pair}"), format!("lane:{lane}"));
                let score = (level << 48).to_string();
                let fix = Fix::default().check(&[b"EXISTS", list.as_bytes()], b"1");
                // Its turn may have come meanwhile.
                fix.write(&[
                    b"ZADD",
                    index.as_bytes(),
                    b"NX",
                    score.as_bytes(),
                    priority.as_bytes(),
                ])
            });
            self.store(format!("the lane {lane} is not in its index"), fix);
        }
    }
}

/// The queue and kind of a lane.
pub(super) fn pair_of(lane: &str) -> &str {
    lane.match_indices('/').nth(1).map_or(lane, |(at, _)| &lane[..at])
}

/// The queue and kind of a lane with limit keys, and what it is called in its index.
pub(super) fn with_keys(lane: &str) -> Option<(&str, &str)> {
    let at = lane.match_indices('/').nth(1)?.0;
    let index = &lane[at + 1..];
    index.contains('/').then_some((&lane[..at], index))
}

/// Forgets stale tickets that are not there; of a lane without live ones nothing is left.
fn unmatched(lane: &str, length: u64, live: u64, noted: &Gone, left: &Gone) -> Fix {
    let (list, gone) = (format!("lane:{lane}"), format!("gone:{lane}"));
    let length = length.to_string();
    let mut fix = Fix::default().check(&[b"LLEN", list.as_bytes()], length.as_bytes());
    if live == 0 {
        for (ticket, times) in noted {
            fix = fix.check(&[b"HGET", gone.as_bytes(), ticket], times.to_string().as_bytes());
        }
        return fix.write(&[b"DEL", list.as_bytes()]).write(&[b"DEL", gone.as_bytes()]);
    }
    for (ticket, surplus) in left {
        let have = noted.get(ticket).copied().unwrap_or(0).to_string();
        let by = surplus.to_string();
        fix = fix.check(&[b"HGET", gone.as_bytes(), ticket], have.as_bytes()).write(&[
            b"UNSTALE",
            b"",
            lane.as_bytes(),
            ticket,
            by.as_bytes(),
        ]);
    }
    fix
}
