//! Jobs that run although their rows say that they are ready.
//!
//! Most jobs end soon after they started, and meanwhile nobody but their worker asks for them. So a
//! claim may leave their rows as they are and name them in its own row instead, which saves a write of
//! each. Its jobs complete from there. Whatever else looks at jobs, or puts one before the head of a
//! lane, has all such claims mark their jobs first, after which all is as if that had been done at once.

use std::collections::BTreeMap;

use queue_core::JobState;
use rusqlite::Connection;

use super::{Broken, Head, Runs, SELECT_HEAD, Session};
use crate::errors::Fault;
use crate::rows::{ms, number, state_number, text};

/// The most claims that leave their jobs unmarked: each transaction reads their rows.
const CLAIMS_MAX: usize = 16;
/// The most jobs that they leave so: whoever wants them marked pays for all.
const JOBS_MAX: i64 = 2000;
/// For how long claims mark their jobs at once after somebody has read some: those who watch jobs
/// read often, and must not have to wait for the writer each time.
const READ_PAUSE_MS: i64 = 250;

pub(crate) const SELECT_UNMARKED: &str =
    "SELECT claim, unmarked FROM claim WHERE unmarked IS NOT NULL ORDER BY claim";
pub(crate) const HAS_UNMARKED: &str = "SELECT 1 FROM claim WHERE unmarked IS NOT NULL LIMIT 1";
/// If a row breaks a rule, the call fails and is undone as a whole: to undo the statement alone would
/// cost a copy of each page.
pub(crate) const UPDATE_MARKED: &str =
    "UPDATE OR FAIL job SET state = 4, claim = ?3 WHERE job BETWEEN ?1 AND ?2 AND state = 3";
pub(crate) const UPDATE_ALL_MARKED: &str = "UPDATE claim SET unmarked = NULL WHERE claim = ?1";

/// The claims that have not marked their jobs, and which jobs these are.
#[derive(Debug, Default)]
pub(crate) struct Unmarked {
    claims: BTreeMap<i64, Runs>,
    /// How many jobs these are.
    jobs: i64,
}

impl Unmarked {
    pub(super) fn load(conn: &Connection) -> Result<Self, Fault> {
        let mut select = conn.prepare_cached(SELECT_UNMARKED)?;
        let mut rows = select.query([])?;
        let mut unmarked = Self::default();
        while let Some(row) = rows.next()? {
            let claim = number(row, 0)?;
            let Some(jobs) = text(row, 1)?.and_then(Runs::parse) else {
                // Its jobs stay where they are, and an audit finds them.
                tracing::error!(claim, "the jobs of a claim cannot be read; audit and repair");
                unmarked.add(claim, Runs::default());
                continue;
            };
            unmarked.add(claim, jobs);
        }
        Ok(unmarked)
    }

    /// Adds a claim that leaves these jobs unmarked.
    pub(crate) fn add(&mut self, claim: i64, jobs: Runs) {
        self.jobs = self.jobs.saturating_add(jobs.len());
        self.claims.insert(claim, jobs);
    }

    /// Whether some of these jobs run.
    pub(crate) fn has_some_of(&self, jobs: &Runs) -> bool {
        self.claims.values().any(|held| held.meets(jobs))
    }

    /// What a claim still holds of the jobs that it has not marked, if there are such.
    pub(super) fn of(&self, claim: i64) -> Option<&Runs> {
        self.claims.get(&claim).filter(|jobs| !jobs.is_empty())
    }

    /// A claim is gone.
    pub(super) fn forget(&mut self, claim: i64) {
        if let Some(jobs) = self.claims.remove(&claim) {
            self.jobs = self.jobs.saturating_sub(jobs.len());
        }
    }

    /// Jobs leave their claim. Says whether it had not marked them, and fails if it had not and does
    /// not hold all of them.
    pub(super) fn take(&mut self, claim: i64, jobs: &Runs) -> Result<bool, Fault> {
        let Some(held) = self.claims.get_mut(&claim) else { return Ok(false) };
        *held = held.without(jobs).ok_or(Fault::Misremembered)?;
        self.jobs = self.jobs.saturating_sub(jobs.len());
        Ok(true)
    }
}

impl Session<'_> {
    /// Lets the rows of all running jobs say that they run.
    pub(crate) fn mark_all(&mut self) -> Result<(), Fault> {
        for (claim, jobs) in std::mem::take(&mut self.unmarked).claims {
            self.conn.prepare_cached(UPDATE_ALL_MARKED)?.execute([claim])?;
            if self.careful {
                self.mark_carefully(claim, &jobs)?;
            } else {
                self.mark(claim, &jobs)?;
            }
        }
        Ok(())
    }

    /// The same for somebody who reads, and is likely to read again.
    pub(crate) fn mark_for_readers(&mut self) -> Result<(), Fault> {
        self.store.mark_until_ms = ms(self.now).saturating_add(READ_PAUSE_MS);
        self.mark_all()
    }

    /// Writes that jobs run. Fails if they are not all ready.
    pub(crate) fn mark(&self, claim: i64, jobs: &Runs) -> Result<(), Fault> {
        let mut update = self.conn.prepare_cached(UPDATE_MARKED)?;
        let mut marked: i64 = 0;
        for (first, last) in jobs.iter() {
            marked += i64::try_from(update.execute((first, last, claim))?).unwrap_or(i64::MAX);
        }
        if marked == jobs.len() { Ok(()) } else { Err(Fault::Misremembered) }
    }

    /// Marks those that can be read, and puts the others aside.
    fn mark_carefully(&mut self, claim: i64, jobs: &Runs) -> Result<(), Fault> {
        let mut select = self.conn.prepare_cached(SELECT_HEAD)?;
        for job in jobs.iter().flat_map(|(first, last)| first..=last) {
            let mut found = select.query_map([job], Head::read)?;
            match found.next().transpose()? {
                Some(Ok(head)) if head.state == JobState::Ready => {
                    self.conn.prepare_cached(UPDATE_MARKED)?.execute((job, job, claim))?;
                }
                Some(Err(broken)) if broken.state == state_number(JobState::Ready) => {
                    let state = state_number(JobState::Running);
                    self.put_aside(&Broken { state, claim: Some(claim), ..broken })?;
                }
                Some(_) | None => {}
            }
        }
        self.count_held(claim)
    }

    /// Whether a claim of so many jobs may leave them unmarked. Others may have to mark theirs for it.
    pub(crate) fn may_leave_unmarked(&mut self, jobs: i64) -> Result<bool, Fault> {
        if self.careful || ms(self.now) < self.store.mark_until_ms {
            return Ok(false);
        }
        let Unmarked { claims, jobs: left } = &self.unmarked;
        if claims.len() >= CLAIMS_MAX || left.saturating_add(jobs) > JOBS_MAX {
            self.mark_all()?;
        }
        Ok(jobs <= JOBS_MAX)
    }
}
