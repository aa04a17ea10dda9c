//! How many jobs claims hold, while a step lets go of some.

use std::collections::BTreeMap;

use crate::errors::Fault;
use crate::session::Session;

pub(super) const UPDATE_JOBS: &str =
    "UPDATE claim SET jobs = jobs - ?2 WHERE claim = ?1 AND jobs > ?2";
pub(super) const DELETE_CLAIM: &str = "DELETE FROM claim WHERE claim = ?1";

/// Jobs that left their claims in this step, by the claim's rowid.
#[derive(Debug, Default)]
pub(super) struct Claims {
    left: BTreeMap<i64, i64>,
}

impl Claims {
    /// One job leaves the claim.
    pub(super) fn let_go(&mut self, claim: i64) {
        *self.left.entry(claim).or_default() += 1;
    }

    /// Writes what became of the claims; those without jobs go, and their leases with them.
    pub(super) fn save(&self, session: &Session<'_>) -> Result<(), Fault> {
        for (claim, jobs) in &self.left {
            let kept = session.conn.prepare_cached(UPDATE_JOBS)?.execute((claim, jobs))?;
            if kept == 0 {
                session.conn.prepare_cached(DELETE_CLAIM)?.execute([claim])?;
            }
        }
        Ok(())
    }
}
