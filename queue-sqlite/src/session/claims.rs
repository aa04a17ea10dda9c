//! How many jobs claims hold, and which.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row};

use super::{Broken, Head, Runs, Session};
use crate::errors::Fault;
use crate::rows::text;
use crate::session::head::head_columns;

pub(crate) const UPDATE_LEFT: &str =
    "UPDATE claim SET jobs = jobs - ?2 WHERE claim = ?1 AND jobs > ?2";
pub(crate) const UPDATE_HELD_COUNT: &str = "UPDATE claim SET jobs = ?2 WHERE claim = ?1";
pub(crate) const SELECT_RUNS: &str = "SELECT runs FROM claim WHERE claim = ?1";
/// Of the jobs of a run, those that a claim holds.
pub(crate) const COUNT_HELD: &str =
    "SELECT count(*) FROM job WHERE job BETWEEN ?1 AND ?2 AND claim = ?3 AND state = 4";
pub(crate) const SELECT_HEADS_HELD: &str = concat!(
    "SELECT ",
    head_columns!(),
    " FROM job WHERE job BETWEEN ?1 AND ?2 AND claim = ?3 AND state = 4"
);
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

/// The rowids of the jobs that a claim took, from its column. If that cannot be read, any job may
/// be one of them: looking at all of them is slow, but a job that nobody finds runs for ever.
pub(crate) fn runs_of(row: &Row<'_>, column: usize) -> rusqlite::Result<Runs> {
    Ok(text(row, column)?.and_then(Runs::parse).unwrap_or_else(Runs::all))
}

fn runs_of_claim(conn: &Connection, claim: i64) -> Result<Runs, Fault> {
    let mut select = conn.prepare_cached(SELECT_RUNS)?;
    let runs = select.query_row([claim], |row| runs_of(row, 0)).optional()?;
    Ok(runs.unwrap_or_default())
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
        let mut held = 0;
        for (first, last) in runs_of_claim(self.conn, claim)?.sorted().iter() {
            held += count.query_row((first, last, claim), |row| row.get::<_, i64>(0))?;
        }
        if held == 0 {
            self.conn.prepare_cached(DELETE_CLAIM)?.execute([claim])?;
        } else {
            self.conn.prepare_cached(UPDATE_HELD_COUNT)?.execute((claim, held))?;
        }
        Ok(())
    }

    /// The jobs that a claim holds, which should be `jobs`.
    pub(crate) fn heads_held(
        &self,
        claim: i64,
        jobs: i64,
    ) -> Result<Vec<Result<Head, Broken>>, Fault> {
        let heads = self.heads_in(&runs_of_claim(self.conn, claim)?, claim)?;
        if heads.len() as u64 == jobs.unsigned_abs() {
            return Ok(heads);
        }
        // What is damaged must not hide a job.
        self.heads_in(&Runs::all(), claim)
    }

    fn heads_in(&self, runs: &Runs, claim: i64) -> Result<Vec<Result<Head, Broken>>, Fault> {
        let mut select = self.conn.prepare_cached(SELECT_HEADS_HELD)?;
        let mut heads = Vec::new();
        for (first, last) in runs.iter() {
            for head in select.query_map((first, last, claim), Head::read)? {
                heads.push(head?);
            }
        }
        Ok(heads)
    }
}
