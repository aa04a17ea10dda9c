//! How many jobs claims hold.

use std::collections::BTreeMap;

use super::Session;
use crate::errors::Fault;

pub(crate) const UPDATE_LEFT: &str =
    "UPDATE claim SET jobs = jobs - ?2 WHERE claim = ?1 AND jobs > ?2";
pub(crate) const UPDATE_HELD_COUNT: &str = "UPDATE claim SET jobs = ?2 WHERE claim = ?1";
pub(crate) const COUNT_HELD: &str = "SELECT count(*) FROM job WHERE claim = ?1 AND state = 4";
pub(crate) const DELETE_CLAIM: &str = "DELETE FROM claim WHERE claim = ?1";

/// Jobs that left their claims in this step, by the claim's rowid.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    left: BTreeMap<i64, i64>,
}

impl Claims {
    /// One job leaves the claim.
    pub(crate) fn let_go(&mut self, claim: i64) {
        *self.left.entry(claim).or_default() += 1;
    }

    /// Writes what became of the claims; the jobs that left them have been moved.
    pub(crate) fn save(&self, session: &Session<'_>) -> Result<(), Fault> {
        for (claim, jobs) in &self.left {
            session.let_go(*claim, *jobs)?;
        }
        Ok(())
    }
}

impl Session<'_> {
    /// Counts jobs out of a claim, from which they have been taken. A claim without jobs goes,
    /// and its lease with it.
    pub(crate) fn let_go(&self, claim: i64, jobs: i64) -> Result<(), Fault> {
        let kept = self.conn.prepare_cached(UPDATE_LEFT)?.execute((claim, jobs))?;
        if kept == 0 {
            self.count_held(claim)?;
        }
        Ok(())
    }

    /// Counts the jobs of a claim again, rather than trusting its count: a job without a claim
    /// would run for ever.
    pub(crate) fn count_held(&self, claim: i64) -> Result<(), Fault> {
        let mut count = self.conn.prepare_cached(COUNT_HELD)?;
        let held: i64 = count.query_row([claim], |row| row.get(0))?;
        if held == 0 {
            self.conn.prepare_cached(DELETE_CLAIM)?.execute([claim])?;
        } else {
            self.conn.prepare_cached(UPDATE_HELD_COUNT)?.execute((claim, held))?;
        }
        Ok(())
    }
}
