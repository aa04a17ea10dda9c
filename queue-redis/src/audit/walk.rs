//! The tickets of a large namespace's lanes.
//!
//! A lane may have millions of tickets, so nobody can see at one instant that a job has none. A
//! walk goes through a lane from its tail to its head, page by page: what leaves at the head does
//! not move the pages, and what joins at the tail is noticed, because each page begins with the
//! tickets with which the one before has ended. So a ticket that stays is seen exactly once.
//!
//! Jobs that had not exactly the tickets that they should have are suspects, and most of them have
//! only moved. They are looked at, the lane is walked again, and they are looked at once more: of a
//! job to which nothing has happened meanwhile the walk has seen all tickets.

use std::collections::{BTreeMap, BTreeSet};

use queue_core::{Error, JobId};

use super::dump::{Dump, Extent, Other, decimal, text};
use super::fix::Findings;
use super::look::{Looker, PAGE};
use super::rules::{Auditor, check};
use crate::reply::{self, Items};
use crate::scripts;

/// Stale tickets of a lane with more are not looked at in one step.
const STALE_MAX: &[u8] = b"5000";
/// From here on, tickets may be taken out of the midst of a lane (`lua/lib/compact.lua`).
const COMPACTED_MIN: u64 = 2048;
/// So many tickets of a page are those of the one before.
const OVERLAP: usize = 32;
/// How often a walk begins anew that was disturbed.
const WALKS_MAX: usize = 3;

/// A job whose tickets are counted.
struct Tracked {
    id: JobId,
    seen: u8,
    expected: u8,
}

pub(super) async fn look(
    looker: Looker<'_>,
    lanes: &BTreeSet<String>,
    mut ready: BTreeMap<String, Vec<JobId>>,
    findings: &mut Findings<'_>,
) -> Result<(), Error> {
    let lanes: BTreeSet<String> = lanes.iter().chain(ready.keys()).cloned().collect();
    for lane in &lanes {
        let tracked = track(looker, lane, ready.remove(lane).unwrap_or_default(), findings).await?;
        let suspects = suspects(looker, lane, tracked, findings).await?;
        verdicts(looker, lane, &suspects, findings).await?;
    }
    Ok(())
}

/// What tickets a lane should have: those of ready jobs and the stale ones.
async fn track(
    looker: Looker<'_>,
    lane: &str,
    ready: Vec<JobId>,
    findings: &mut Findings<'_>,
) -> Result<Vec<Tracked>, Error> {
    let words: [&[u8]; 3] = [b"stale", lane.as_bytes(), STALE_MAX];
    let dump = looker.dump(&scripts::tickets, &words).await?;
    let stale = if dump.place == "large" {
        many_stale(looker, lane).await?
    } else {
        let mut auditor = Auditor::of(&dump);
        let stale = auditor.gone(lane);
        auditor.no_live_ticket(lane, decimal(dump.place.as_bytes()).unwrap_or(0), &stale);
        findings.add(auditor.found).await?;
        stale.into_iter().collect()
    };
    let ready = ready.into_iter().map(|id| Tracked { id, seen: 0, expected: 1 });
    let stale = stale.into_iter().filter_map(|(ticket, times)| {
        let expected = u8::try_from(times).unwrap_or(u8::MAX);
        Some(Tracked { id: reply::id(&ticket).ok()?, seen: 0, expected })
    });
    let mut tracked: Vec<Tracked> = ready.chain(stale).collect();
    tracked.sort_by_key(|one| one.id);
    tracked.dedup_by(|again, one| {
        let is_same = again.id == one.id;
        if is_same {
            one.expected = one.expected.saturating_add(again.expected);
        }
        is_same
    });
    Ok(tracked)
}

/// The stale tickets of a lane that has many.
async fn many_stale(looker: Looker<'_>, lane: &str) -> Result<Vec<(Vec<u8>, u64)>, Error> {
    let mut stale = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let mut cmd = redis::cmd("HSCAN");
        cmd.arg(format!("{}gone:{lane}", looker.keys.prefix())).arg(&cursor);
        cmd.arg("COUNT").arg(PAGE);
        let mut items = Items::of(looker.plain(cmd).await?)?;
        cursor = text(&items.bytes()?);
        let fields = super::dump::flat(items.value()?)?.into_iter();
        stale.extend(fields.filter_map(|(field, count)| Some((field, decimal(&count)?))));
        if cursor == "0" {
            return Ok(stale);
        }
    }
}

/// Walks through the lane; answers those jobs that had not as many tickets as they should have.
async fn suspects(
    looker: Looker<'_>,
    lane: &str,
    mut tracked: Vec<Tracked>,
    findings: &mut Findings<'_>,
) -> Result<Vec<JobId>, Error> {
    let mut others = BTreeSet::new();
    let mut walk = Walk::of(looker, lane);
    while let Some(page) = walk.next(true).await? {
        for (_, ticket) in page.tickets() {
            let Ok(id) = reply::id(ticket) else { continue };
            if let Ok(at) = tracked.binary_search_by_key(&id, |one| one.id) {
                tracked[at].seen = tracked[at].seen.saturating_add(1);
            }
        }
        // What is wrong with a job that is not ready may be clear already.
        let auditor = check(&page.dump);
        others.extend(auditor.found.iter().filter_map(|finding| finding.violation.job));
        findings.add(auditor.found).await?;
    }
    let odd = tracked.into_iter().filter(|one| one.seen != one.expected).map(|one| one.id);
    Ok(odd.filter(|id| !others.contains(id)).collect())
}

async fn verdicts(
    looker: Looker<'_>,
    lane: &str,
    suspects: &[JobId],
    findings: &mut Findings<'_>,
) -> Result<(), Error> {
    for _ in 0..WALKS_MAX {
        if suspects.is_empty() {
            return Ok(());
        }
        let mut conditions = BTreeMap::new();
        for ids in suspects.chunks(PAGE as usize) {
            let dump = looker.jobs_in(lane, ids).await?;
            conditions.extend(ids.iter().map(|id| (*id, condition(&dump, lane, *id))));
        }
        let mut seen: BTreeMap<JobId, (usize, u64)> = BTreeMap::new();
        let mut walk = Walk::of(looker, lane);
        while let Some(page) = walk.next(false).await? {
            for (behind, ticket) in page.tickets() {
                let Ok(id) = reply::id(ticket) else { continue };
                if conditions.contains_key(&id) {
                    let seen = seen.entry(id).or_default();
                    *seen = (seen.0 + 1, behind);
                }
            }
        }
        if !walk.is_whole {
            continue;
        }
        for ids in suspects.chunks(PAGE as usize) {
            let mut dump = looker.jobs_in(lane, ids).await?;
            dump.extent = Extent::Tickets;
            dump.place = lane.to_owned();
            let mut tickets = Vec::new();
            for id in ids {
                if conditions.get(id) != Some(&condition(&dump, lane, *id)) {
                    dump.forget(*id);
                    forget_stale(&mut dump, lane, *id);
                } else if let Some((count, behind)) = seen.get(id) {
                    tickets.extend(std::iter::repeat_n(id.as_bytes().to_vec(), *count));
                    dump.behind_of.insert(*id, *behind);
                }
            }
            dump.others.insert(format!("lane:{lane}"), Other::List(tickets));
            findings.add(check(&dump).found).await?;
        }
        return Ok(());
    }
    tracing::warn!(
        event = "audit_incomplete",
        lane,
        "a lane could not be walked while the store is at work"
    );
    Ok(())
}

/// What must not change while the lane is walked.
fn condition(dump: &Dump, lane: &str, id: JobId) -> (u64, Option<u64>) {
    (dump.condition(id), dump.stale_times(lane, id.as_bytes()))
}

fn forget_stale(dump: &mut Dump, lane: &str, id: JobId) {
    if let Some(Other::Hash(fields)) = dump.others.get_mut(&format!("gone:{lane}")) {
        fields.retain(|(field, _)| field != id.as_bytes());
    }
}

/// A walk through a lane, from its tail to its head.
struct Walk<'a> {
    looker: Looker<'a>,
    lane: &'a str,
    /// How many tickets have been passed.
    passed: u64,
    /// The last of them, that at the head's end first.
    last: Vec<Vec<u8>>,
    is_over: bool,
    /// Whether every ticket that stayed was seen once; known at the end.
    is_whole: bool,
}

/// A part of a lane.
struct Page {
    dump: Dump,
    lane: String,
    /// How many tickets at the tail's end of it were seen before.
    known: usize,
}

impl Page {
    fn all(&self) -> &[Vec<u8>] {
        match self.dump.others.get(&format!("lane:{}", self.lane)) {
            Some(Other::List(tickets)) => tickets,
            _ => &[],
        }
    }

    /// The tickets that were not seen before, from the tail's end; each with how many are behind it.
    fn tickets(&self) -> impl Iterator<Item = (u64, &Vec<u8>)> {
        (self.dump.behind..).zip(self.all().iter().rev()).skip(self.known)
    }

    /// How many tickets at the tail's end are those, or are behind them. A job that was cancelled
    /// and made ready again has several tickets, so the same ones in a row may come again: then
    /// nobody knows.
    fn up_to(&self, last: &[Vec<u8>]) -> Option<usize> {
        let tickets = self.all();
        let mut places = tickets.windows(last.len()).enumerate().filter(|(_, some)| *some == last);
        let place = places.next().filter(|_| places.next().is_none());
        place.map(|(at, _)| tickets.len() - at)
    }
}

impl<'a> Walk<'a> {
    fn of(looker: Looker<'a>, lane: &'a str) -> Self {
        Self { looker, lane, passed: 0, last: Vec::new(), is_over: false, is_whole: true }
    }

    async fn next(&mut self, with_jobs: bool) -> Result<Option<Page>, Error> {
        while !self.is_over {
            let behind = self.passed - (self.last.len() as u64).min(self.passed);
            let numbers = [behind, PAGE].map(|number| number.to_string());
            let words: [&[u8]; 5] = [
                b"page",
                self.lane.as_bytes(),
                numbers[0].as_bytes(),
                numbers[1].as_bytes(),
                if with_jobs { b"1" } else { b"0" },
            ];
            let mut dump = self.looker.dump(&scripts::tickets, &words).await?;
            dump.behind = behind;
            let may_be_compacted = dump.weight >= COMPACTED_MIN;
            let mut page = Page { dump, lane: self.lane.to_owned(), known: 0 };
            let count = page.all().len();
            self.is_over = (count as u64) < PAGE;
            self.passed = behind + count as u64;
            if !self.last.is_empty() {
                let Some(known) = page.up_to(&self.last) else {
                    // They have left, and so has all that was ahead of them; or more than a page
                    // has come.
                    let has_left = !may_be_compacted && self.last.ends_with(page.all());
                    self.is_whole &= !self.is_over || has_left;
                    continue;
                };
                page.known = known;
            }
            self.last = page.all().iter().take(OVERLAP).cloned().collect();
            return Ok(Some(page));
        }
        Ok(None)
    }
}
