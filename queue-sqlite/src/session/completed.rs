//! Completed jobs without a key: those of one claim that end alike are written together.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use queue_core::{ClaimToken, JobState};
use rusqlite::params;

use super::{Holding, Part, Plain, Runs, Session};
use crate::errors::Fault;
use crate::rows::{ms, seconds};

/// Of the jobs of a run, those that a claim holds and of which nothing is kept.
pub(crate) const DELETE_FLEETING: &str = "DELETE FROM job WHERE job BETWEEN ?1 AND ?2 \
     AND claim = ?3 AND state = 4 AND keep_completed_s = 0 AND holds_key = 0";
/// The same for those that are kept for a time. How long each took stands in a text, in so many
/// digits each. If a row breaks a rule, the call fails and is undone as a whole, as a claim is.
pub(crate) const UPDATE_COMPLETED: &str = "UPDATE OR FAIL job SET state = 5, position = NULL, \
     claim = NULL, cancel_requested = 0, settled_by = ?4, shelf = ?5, finished_ms = ?6, \
     expiry_ms = ?7, elapsed_ms = CAST(substr(?8, (job - ?1) * ?9 + 1, ?9) AS INTEGER) \
     WHERE job BETWEEN ?1 AND ?2 AND claim = ?3 AND state = 4 AND keep_completed_s = ?10 \
     AND holds_key = 0 AND lane BETWEEN ?11 AND ?12";

/// Jobs that complete in one call and have no key. They have left their limit keys; all else is
/// written and counted at the end of the call.
#[derive(Debug, Default)]
pub(crate) struct Completed {
    /// Their rowids, and how many milliseconds each took.
    groups: BTreeMap<Group, Vec<(i64, i64)>>,
}

/// What jobs have in common that are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    claim: i64,
    token: ClaimToken,
    keep: Duration,
    lane: i64,
}

/// Jobs of a claim that go onto one shelf together.
struct Shelved {
    of: Group,
    shelf: i64,
    /// Between which their lanes lie; mostly they have one.
    lanes: (i64, i64),
    jobs: Vec<(i64, i64)>,
}

impl Completed {
    /// A job that the claim with this token holds.
    pub(crate) fn add(
        &mut self,
        holding: &Holding,
        token: ClaimToken,
        job: Plain,
        elapsed_ms: i64,
    ) {
        let Plain { lane, keep, .. } = job;
        let group = Group { claim: holding.claim, token, keep, lane };
        self.groups.entry(group).or_default().push((job.job, elapsed_ms));
    }

    /// Whether a job is among them.
    pub(crate) fn has(&self, job: i64) -> bool {
        self.groups.values().flatten().any(|(one, _)| *one == job)
    }

    /// Writes and counts them. If the claims do not hold all of them any more as they are taken to
    /// be, the call fails, which is undone as a whole.
    pub(crate) fn save(&mut self, session: &mut Session<'_>) -> Result<(), Fault> {
        let mut dropped: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        let mut kept: Vec<Shelved> = Vec::new();
        for (group, jobs) in std::mem::take(&mut self.groups) {
            let Group { claim, keep, lane, .. } = group;
            let count = i64::try_from(jobs.len()).unwrap_or(i64::MAX);
            session.leave_many(lane, JobState::Running, count)?;
            let expiry = session.now.after(keep);
            if expiry <= session.now {
                dropped.entry(claim).or_default().extend(jobs.iter().map(|(job, _)| job));
                continue;
            }
            session.enter_many(lane, JobState::Completed, count)?;
            let queue = session.lanes.load(lane)?.name.queue.clone();
            let shelf = session.shelves.add(&queue, Part::Done, ms(expiry), count)?;
            let goes_along = |shelved: &&mut Shelved| {
                (shelved.of.claim, shelved.of.keep, shelved.shelf) == (claim, keep, shelf)
            };
            match kept.last_mut().filter(goes_along) {
                // Groups come in the order of their lanes.
                Some(shelved) => {
                    shelved.lanes.1 = lane;
                    shelved.jobs.extend(jobs);
                }
                None => kept.push(Shelved { of: group, shelf, lanes: (lane, lane), jobs }),
            }
        }
        for (claim, mut jobs) in dropped {
            jobs.sort_unstable();
            session.drop_fleeting(claim, &jobs.into_iter().collect())?;
        }
        for shelved in kept {
            session.shelve_completed(shelved)?;
        }
        Ok(())
    }
}

impl Session<'_> {
    /// Drops jobs that a claim held, that are counted nowhere any more.
    fn drop_fleeting(&self, claim: i64, jobs: &Runs) -> Result<(), Fault> {
        let mut delete = self.conn.prepare_cached(DELETE_FLEETING)?;
        for (first, last) in jobs.iter() {
            let dropped = delete.execute((first, last, claim))?;
            if dropped as u64 != first.abs_diff(last).saturating_add(1) {
                return Err(Fault::Misremembered);
            }
        }
        self.drop_parts(jobs)
    }

    /// Moves jobs onto their shelf, which counts them already.
    fn shelve_completed(&mut self, shelved: Shelved) -> Result<(), Fault> {
        let Shelved { of, shelf, lanes, mut jobs } = shelved;
        jobs.sort_unstable();
        let mut update = self.conn.prepare_cached(UPDATE_COMPLETED)?;
        for run in jobs.chunk_by(|(one, _), (next, _)| one.checked_add(1) == Some(*next)) {
            let [(first, _), ..] = run else { continue };
            let (elapsed, digits) = side_by_side(run.iter().map(|(_, elapsed_ms)| *elapsed_ms));
            let written = update.execute(params![
                first,
                run.last().map(|(last, _)| last),
                of.claim,
                of.token.as_bytes(),
                shelf,
                ms(self.now),
                ms(self.now.after(of.keep)),
                elapsed.as_bytes(),
                digits,
                seconds(of.keep),
                lanes.0,
                lanes.1,
            ])?;
            if written != run.len() {
                return Err(Fault::Misremembered);
            }
        }
        let count = i64::try_from(jobs.len()).unwrap_or(i64::MAX);
        self.shelves.came_in(Part::Done, shelf, count);
        Ok(())
    }
}

/// Numbers as a text in which all are equally long, and how long.
fn side_by_side(numbers: impl Iterator<Item = i64> + Clone) -> (String, u32) {
    let digits = numbers.clone().max().map_or(1, |most| most.max(1).ilog10() + 1);
    let (mut text, width) = (String::new(), digits as usize);
    for number in numbers {
        // Text takes whatever is written.
        let _ = write!(text, "{number:width$}");
    }
    (text, digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_side_by_side() {
        let of = |numbers: &[i64]| side_by_side(numbers.iter().copied());
        assert_eq!(of(&[0, 0]), ("00".to_owned(), 1));
        assert_eq!(of(&[9, 10, 0]), (" 910 0".to_owned(), 2));
        assert_eq!(of(&[i64::MAX, 1]).0, format!("{}{:19}", i64::MAX, 1));
    }
}
