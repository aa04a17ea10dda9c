//! What the writer remembers of the claims that it has made, and of what it has read.

use std::collections::BTreeMap;
use std::time::Duration;

use queue_core::{ClaimToken, JobId};

use super::lanes::KnownLanes;
use super::limits::KnownLimits;

/// The most jobs that are remembered (about 3 MiB).
const JOBS_MAX: usize = 64 * 1024;
/// The most lanes, and the most limit keys, that are remembered (about 5 MiB).
const ROWS_MAX: usize = 8 * 1024;

/// Of claims that this process has made, the jobs without a key: these can complete without being
/// read again. Only a hint, since the claims may have lost them and transactions may have been
/// undone: whoever ends such jobs counts what the claim still held.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Few: no need to hash.
    claims: BTreeMap<ClaimToken, Remembered>,
    /// How many jobs these claims had.
    jobs: usize,
    rows: Option<KnownRows>,
}

/// Rows as the last transaction of this connection has left them.
#[derive(Debug)]
struct KnownRows {
    /// The version of the data, which another connection's commit makes another one.
    version: i64,
    lanes: KnownLanes,
    limits: KnownLimits,
}

/// What is remembered of one claim.
#[derive(Debug)]
struct Remembered {
    /// In their order, less those that have ended.
    jobs: Vec<Option<Plain>>,
    left: usize,
    /// The place of the one that has ended last.
    last: Option<usize>,
}

/// A running job without a key, as far as its completion wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plain {
    pub(crate) id: JobId,
    pub(crate) job: i64,
    pub(crate) lane: i64,
    /// How long it is kept once it is completed.
    pub(crate) keep: Duration,
}

impl Memory {
    /// The rows that are known if the data has this version. Forgets them: they are noted again when the
    /// transaction that asks is committed.
    pub(super) fn take_rows(&mut self, version: i64) -> (KnownLanes, KnownLimits) {
        let rows = self.rows.take().filter(|rows| rows.version == version);
        rows.map(|KnownRows { lanes, limits, .. }| (lanes, limits)).unwrap_or_default()
    }

    /// Notes the rows that a transaction has left, which is committed.
    pub(super) fn note_rows(&mut self, version: i64, lanes: KnownLanes, limits: KnownLimits) {
        if lanes.len() <= ROWS_MAX && limits.len() <= ROWS_MAX {
            self.rows = Some(KnownRows { version, lanes, limits });
        }
    }

    /// Notes such jobs of a claim, in their order.
    pub(crate) fn note(&mut self, token: ClaimToken, jobs: Vec<Plain>) {
        if jobs.is_empty() {
            return;
        }
        self.jobs += jobs.len();
        if self.jobs > JOBS_MAX {
            // Of claims that ended elsewhere nobody would ask.
            self.claims.clear();
            self.jobs = jobs.len();
        }
        let left = jobs.len();
        let jobs = jobs.into_iter().map(Some).collect();
        let before = self.claims.insert(token, Remembered { jobs, left, last: None });
        self.jobs = self.jobs.saturating_sub(before.map_or(0, |claim| claim.jobs.len()));
    }

    /// A job that ends, which is forgotten thereby.
    pub(crate) fn take(&mut self, token: ClaimToken, id: JobId) -> Option<Plain> {
        let claim = self.claims.get_mut(&token)?;
        let is_it = |job: &Option<Plain>| job.is_some_and(|job| job.id == id);
        // Workers report the jobs of a claim in their order, or those that began last first.
        let behind = claim.last.map_or(0, |last| last + 1);
        let before = claim.last.and_then(|last| last.checked_sub(1));
        let near = before.filter(|place| is_it(&claim.jobs[*place]));
        let place = match near {
            Some(place) => place,
            None => {
                let (passed, others) = claim.jobs.split_at(behind);
                let further = others.iter().position(is_it).map(|place| behind + place);
                further.or_else(|| passed.iter().position(is_it))?
            }
        };
        let job = claim.jobs.get_mut(place)?.take();
        claim.last = Some(place);
        claim.left -= 1;
        if claim.left == 0 {
            self.jobs = self.jobs.saturating_sub(claim.jobs.len());
            self.claims.remove(&token);
        }
        job
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs(count: u8) -> Vec<Plain> {
        let keep = Duration::ZERO;
        let job = |n: u8| Plain { id: JobId::from_bytes([n; 16]), job: n.into(), lane: 1, keep };
        (0..count).map(job).collect()
    }

    #[test]
    fn a_job_is_taken_once_and_by_its_own_claim() {
        let (mut memory, all) = (Memory::default(), jobs(4));
        let [one, other] = [1, 2].map(|n| ClaimToken::from_bytes([n; 16]));
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1], [1, 2, 0, 3]] {
            memory.note(one, all.clone());
            assert_eq!(memory.take(other, all[0].id), None);
            for job in order.map(|place: usize| all[place]) {
                assert_eq!(memory.take(one, job.id), Some(job));
                assert_eq!(memory.take(one, job.id), None);
            }
            assert!(memory.claims.is_empty());
        }
    }

    #[test]
    fn claims_that_nobody_asks_for_are_not_kept_for_ever() {
        let mut memory = Memory::default();
        let remembered =
            |memory: &Memory| memory.claims.values().map(|c| c.jobs.len()).sum::<usize>();
        let last = ClaimToken::random();
        for _ in 0..3 * JOBS_MAX / 200 {
            memory.note(ClaimToken::random(), jobs(200));
            memory.note(ClaimToken::random(), Vec::new());
            memory.note(last, jobs(2));
            assert!(memory.take(last, jobs(2)[1].id).is_some());
            assert!(remembered(&memory) <= JOBS_MAX);
            assert_eq!(remembered(&memory), memory.jobs);
        }
    }
}
