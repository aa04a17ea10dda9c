//! T17: jobs that cannot be read are put aside, bytes and all, so that they block nobody.

use queue_core::{Ending, JobId, JobState};

use super::{Broken, Session};
use crate::errors::Fault;
use crate::rows::{ms, state_number, state_of};

/// Takes a job out of every index; what is wrong with it stays as it is.
pub(crate) const UPDATE_QUARANTINED: &str = "UPDATE job SET state = 8, position = NULL, \
     claim = NULL, cancel_requested = 0, shelf = NULL, holds_key = 0 WHERE job = ?1";
pub(crate) const UPSERT_QUARANTINE: &str = "INSERT OR REPLACE INTO quarantine \
     (job, state, at_ms, reason) VALUES (?1, ?2, ?3, ?4)";
pub(crate) const DELETE_QUARANTINE: &str = "DELETE FROM quarantine WHERE job = ?1";
pub(crate) const SELECT_ID_TEXT: &str = "SELECT hex(id) FROM job WHERE job = ?1";
pub(crate) const UPDATE_ID: &str = "UPDATE job SET id = ?2 WHERE job = ?1";

impl Session<'_> {
    /// Puts a job aside, whatever state it was in.
    pub(crate) fn put_aside(&mut self, broken: &Broken) -> Result<(), Fault> {
        let job = broken.job;
        if broken.claim.is_some() || broken.state == state_number(JobState::Running) {
            self.let_go_somehow(broken)?;
        }
        if self.lanes.has(broken.lane)? {
            // Of a number that is no state it cannot be known where the job was counted.
            if let Some(state) = state_of(broken.state) {
                self.leave(broken.lane, state)?;
            }
            self.enter(broken.lane, JobState::Quarantined)?;
        }
        let mut reason = broken.reason.clone();
        let id = match broken.id {
            Some(id) => id,
            None => self.give_id(job, &mut reason)?,
        };
        self.conn.prepare_cached(UPDATE_QUARANTINED)?.execute([job])?;
        let mut upsert = self.conn.prepare_cached(UPSERT_QUARANTINE)?;
        upsert.execute((job, broken.state, ms(self.now), &reason))?;
        if let Some(claim) = broken.claim {
            self.let_go(claim, 1)?;
        }
        if let Some(shelf) = broken.shelf {
            self.shelves.remove(shelf, 1)?;
        }
        self.unreadable.0.push((id, reason));
        Ok(())
    }

    /// A broken job that may have been running lets go of its limit keys, whichever these were.
    fn let_go_somehow(&mut self, broken: &Broken) -> Result<(), Fault> {
        self.limits.recount();
        self.announce();
        let Some(claim) = broken.claim else { return Ok(()) };
        let Some(holding) = self.holding(claim)? else { return Ok(()) };
        if !self.lanes.has(broken.lane)? {
            return Ok(());
        }
        let keys = holding.keys_of(&self.lanes.load(broken.lane)?.name);
        let id = broken.id.unwrap_or_else(|| JobId::from_bytes([0; 16]));
        for key in keys {
            self.limits.end(&key, &[(id, Ending::Neutral)], holding.claimed_at, self.now)?;
        }
        Ok(())
    }

    /// A job without a legal id gets a new one: nobody could name it otherwise.
    fn give_id(&self, job: i64, reason: &mut String) -> Result<JobId, Fault> {
        let mut select = self.conn.prepare_cached(SELECT_ID_TEXT)?;
        let was: String = select.query_row([job], |row| row.get(0))?;
        reason.push_str(&format!("; its id was x'{was}'"));
        let id = JobId::new();
        self.conn.prepare_cached(UPDATE_ID)?.execute((job, id.as_bytes()))?;
        Ok(id)
    }
}

/// The jobs that a step has put aside, and why.
#[derive(Debug, Default)]
pub(crate) struct Unread(Vec<(JobId, String)>);

impl Unread {
    pub(super) fn log(&mut self) {
        for (job_id, reason) in self.0.drain(..) {
            tracing::error!(
                event = "job_quarantined",
                %job_id,
                reason,
                "a stored job cannot be read and is quarantined"
            );
        }
    }
}
