//! Shelves that hold more records than are kept.

use std::collections::BTreeMap;

use queue_core::JobState;

use super::Session;
use super::shelves::RECORDS_MAX;
use crate::errors::Fault;
use crate::rows::{number, state_of};

/// The records of a shelf that may be dropped first, as far as that wants to know.
pub(crate) const SELECT_OLDEST_PLACES: &str =
    "SELECT job, lane, state FROM job WHERE shelf = ?1 ORDER BY expiry_ms, id LIMIT ?2";

impl Session<'_> {
    /// Drops the records that are the first to go from shelves that hold more than are kept, at most
    /// as many as came in: so a busy queue cannot outgrow its maintenance.
    pub(super) fn keep_caps(&mut self) -> Result<(), Fault> {
        for (shelf, mut records, added) in self.shelves.take_overfull() {
            // It should be over by these only: a wrong count must not cost records.
            if records.saturating_sub(RECORDS_MAX) > added {
                records = self.shelves.count(shelf)?;
            }
            let excess = records.saturating_sub(RECORDS_MAX).min(added);
            if excess > 0 && (self.careful || !self.drop_oldest(shelf, excess)?) {
                let heads = self.oldest(shelf, excess)?;
                self.remove_all(&heads)?;
            }
        }
        Ok(())
    }

    /// Drops the records of a shelf that may go first. If not all of them can be counted out of
    /// where they are, says `false` and leaves all of them.
    fn drop_oldest(&mut self, shelf: i64, excess: i64) -> Result<bool, Fault> {
        let mut select = self.conn.prepare_cached(SELECT_OLDEST_PLACES)?;
        let mut rows = select.query((shelf, excess))?;
        let mut places: BTreeMap<(i64, JobState), i64> = BTreeMap::new();
        let mut jobs = Vec::new();
        while let Some(row) = rows.next()? {
            let (lane, state) = (number(row, 1)?, state_of(number(row, 2)?));
            let Some(state) = state.filter(|state| state.is_finished()) else { return Ok(false) };
            *places.entry((lane, state)).or_default() += 1;
            jobs.push(number(row, 0)?);
        }
        for (lane, _) in places.keys() {
            if !self.lanes.has(*lane)? {
                return Ok(false);
            }
        }
        for ((lane, state), count) in places {
            self.leave_many(lane, state, count)?;
            self.shelves.remove(shelf, count)?;
        }
        jobs.sort_unstable();
        self.drop_jobs(&jobs.into_iter().collect())?;
        Ok(true)
    }
}
