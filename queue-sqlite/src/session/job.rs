//! Finding jobs, and the moves that operations share.

use std::collections::HashMap;
use std::time::Duration;

use queue_core::{DeadReason, Hold, JobId, JobState, Retention, Timestamp};
use rusqlite::{OptionalExtension, params};

use super::head::{head_columns, running_columns};
use super::{Broken, End, Head, Part, Plain, Raw, Runs, Session};
use crate::errors::Fault;
use crate::rows::{ms, number, reason_number, sixteen, state_number, whole};

/// How a job's life ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finish {
    pub(crate) state: JobState,
    pub(crate) reason: Option<DeadReason>,
    /// How long the attempt took that finished it, if one did.
    pub(crate) elapsed_ms: Option<i64>,
}

/// A job that a claim holds, as far as its completion wants to know.
#[derive(Debug)]
pub(crate) enum Running {
    /// One of which nothing is kept once it is completed, not even its key.
    Fleeting {
        job: i64,
        lane: i64,
        claim: i64,
    },
    Kept(Box<Head>),
}

impl Running {
    /// The job, if this claim holds it and it has no key.
    pub(crate) fn plain_of(&self, id: JobId, claim: i64) -> Option<Plain> {
        let (job, lane, keep, holder) = match self {
            Self::Fleeting { job, lane, claim } => (*job, *lane, Duration::ZERO, *claim),
            Self::Kept(head) if !head.holds_key => {
                (head.job, head.lane, head.retention.completed, head.claim?)
            }
            Self::Kept(_) => return None,
        };
        (holder == claim).then_some(Plain { id, job, lane, keep })
    }
}

pub(crate) const SELECT_HEAD: &str =
    concat!("SELECT ", head_columns!(), " FROM job WHERE job.job = ?1");
/// Of the jobs of a run, those that a claim holds; first of all, whether it is fleeting.
pub(crate) const SELECT_RUNNING_HELD: &str = concat!(
    "SELECT keep_completed_s = 0 AND holds_key = 0, id, ",
    running_columns!(),
    " FROM job WHERE job BETWEEN ?1 AND ?2 AND claim = ?3 AND state = 4"
);
/// What most calls with an id are about.
pub(crate) const SELECT_RUNNING_BY_ID: &str =
    concat!("SELECT ", running_columns!(), " FROM job WHERE id = ?1");
pub(crate) const SELECT_HEAD_BY_ID: &str =
    concat!("SELECT ", head_columns!(), " FROM job WHERE id = ?1");
/// The job that a key leads to.
pub(crate) const SELECT_HEAD_BY_KEY: &str =
    concat!("SELECT ", head_columns!(), " FROM job WHERE key = ?1 AND holds_key = 1");
/// The first jobs that are due.
pub(crate) const SELECT_DUE_HEADS: &str = concat!(
    "SELECT ",
    head_columns!(),
    " FROM job WHERE state <= 2 AND due_ms <= ?1 ORDER BY due_ms, id LIMIT ?2"
);
/// The records of a shelf that may be dropped first.
pub(crate) const SELECT_OLDEST: &str = concat!(
    "SELECT ",
    head_columns!(),
    " FROM job WHERE shelf = ?1 ORDER BY expiry_ms, id LIMIT ?2"
);
pub(crate) const UPDATE_READY: &str = "UPDATE job SET state = 3, position = ?2, claim = NULL, \
     cancel_requested = 0, due_ms = ?3, failures = ?4, stalls = ?5, snoozes = ?6, \
     settled_by = ?7 WHERE job = ?1";
pub(crate) const UPDATE_WAITING: &str = "UPDATE job SET state = ?2, position = NULL, claim = NULL, \
     cancel_requested = 0, due_ms = ?3, failures = ?4, stalls = ?5, snoozes = ?6, \
     settled_by = ?7 WHERE job = ?1";
pub(crate) const UPDATE_FINISHED: &str = "UPDATE job SET state = ?2, position = NULL, claim = NULL, \
     cancel_requested = 0, failures = ?3, stalls = ?4, settled_by = ?5, shelf = ?6, \
     finished_ms = ?7, expiry_ms = ?8, elapsed_ms = ?9, dead_reason = ?10, holds_key = ?11 \
     WHERE job = ?1";
/// A finished job whose time on one shelf is over goes to another.
pub(crate) const UPDATE_SHELVED: &str =
    "UPDATE job SET shelf = ?2, expiry_ms = ?3, holds_key = 0 WHERE job = ?1";
pub(crate) const UPDATE_KEY_FREED: &str = "UPDATE job SET holds_key = 0 WHERE job = ?1";
pub(crate) const DELETE_JOBS: &str = "DELETE FROM job WHERE job BETWEEN ?1 AND ?2";
pub(crate) const DELETE_BODIES: &str = "DELETE FROM body WHERE job BETWEEN ?1 AND ?2";
/// Whether there are bodies and notes at all.
pub(crate) const HAS_PARTS: &str =
    "SELECT EXISTS (SELECT 1 FROM body), EXISTS (SELECT 1 FROM note)";
pub(crate) const DELETE_NOTES: &str = "DELETE FROM note WHERE job BETWEEN ?1 AND ?2";
pub(crate) const DELETE_ALL_LINES: &str = "DELETE FROM line WHERE job BETWEEN ?1 AND ?2";

impl Session<'_> {
    /// The head of a job. One that cannot be read is put aside first, so what is not quarantined
    /// can be moved.
    pub(crate) fn head(&mut self, id: JobId) -> Result<Option<Head>, Fault> {
        if !self.careful {
            let mut select = self.conn.prepare_cached(SELECT_RUNNING_BY_ID)?;
            let found = select.query_row([id.as_bytes()], |row| Raw::read_running(row, 0, id));
            match found.optional()? {
                None => return Ok(None),
                Some(Some(raw)) if raw.flaw().is_none() && self.lanes.has(raw.lane)? => {
                    return Ok(Some(raw.head()));
                }
                Some(_) => {}
            }
        }
        let mut select = self.conn.prepare_cached(SELECT_HEAD_BY_ID)?;
        let Some(found) = select.query_row([id.as_bytes()], Head::read).optional()? else {
            return Ok(None);
        };
        match self.sound(found)? {
            Some(head) => Ok(Some(head)),
            None => {
                Ok(select.query_row([id.as_bytes()], Head::read).optional()?.and_then(Result::ok))
            }
        }
    }

    /// The jobs that a claim holds. Those that have a flaw are left out.
    pub(crate) fn running_held(
        &mut self,
        claim: i64,
        runs: &Runs,
        found: &mut HashMap<JobId, Running>,
    ) -> Result<(), Fault> {
        const FIRST: usize = 2;
        let mut select = self.conn.prepare_cached(SELECT_RUNNING_HELD)?;
        for (first, last) in runs.sorted().iter() {
            let mut rows = select.query((first, last, claim))?;
            while let Some(row) = rows.next()? {
                let Some(id) = sixteen(row, 1)?.map(JobId::from_bytes) else { continue };
                let (job, lane) = (number(row, FIRST)?, number(row, FIRST + 1)?);
                if !self.lanes.has(lane)? {
                    continue;
                }
                if whole(row, 0)? == Some(1) {
                    found.insert(id, Running::Fleeting { job, lane, claim });
                } else if let Some(raw) = Raw::read_running(row, FIRST, id)?
                    && raw.flaw().is_none()
                {
                    found.insert(id, Running::Kept(Box::new(raw.head())));
                }
            }
        }
        Ok(())
    }

    /// Puts a job aside that was found broken, or whose lane cannot be read.
    pub(crate) fn sound(&mut self, found: Result<Head, Broken>) -> Result<Option<Head>, Fault> {
        let broken = match found {
            Ok(head) if head.state == JobState::Quarantined || self.lanes.has(head.lane)? => {
                return Ok(Some(head));
            }
            Ok(head) => head.broken("its lane is missing or cannot be read".to_owned()),
            Err(broken) => broken,
        };
        self.put_aside(&broken)?;
        Ok(None)
    }

    /// The job that an idempotency key leads to. The hold of a completed job may be over before
    /// maintenance has freed its key, which is done here then.
    pub(crate) fn key_holder(&mut self, key: &str) -> Result<Option<Head>, Fault> {
        let mut select = self.conn.prepare_cached(SELECT_HEAD_BY_KEY)?;
        let Some(found) = select.query_row([key], Head::read).optional()? else {
            return Ok(None);
        };
        let Some(head) = self.sound(found)? else { return Ok(None) };
        let is_held = head.state != JobState::Completed
            || head.hold.outlives_completion(head.enqueued_at, self.now);
        if is_held {
            return Ok(Some(head));
        }
        self.conn.prepare_cached(UPDATE_KEY_FREED)?.execute([head.job])?;
        Ok(None)
    }

    /// Moves a job into its lane. `head` holds the counters as they shall be.
    pub(crate) fn make_ready(&mut self, head: &Head, end: End) -> Result<(), Fault> {
        self.leave(head.lane, head.state)?;
        let position = self.push(head.lane, end)?;
        self.conn.prepare_cached(UPDATE_READY)?.execute(params![
            head.job,
            position,
            ms(head.due_at),
            head.failures,
            head.stalls,
            head.snoozes,
            head.settled_by(),
        ])?;
        Ok(())
    }

    /// Lets a job wait until its `due_at`. Answers the state it has then.
    pub(crate) fn make_wait(&mut self, head: &Head) -> Result<JobState, Fault> {
        let state = if head.failures > 0 { JobState::Retrying } else { JobState::Scheduled };
        self.leave(head.lane, head.state)?;
        self.enter(head.lane, state)?;
        // It may be the first of all to be due, which sleepers want to know.
        self.announce();
        self.conn.prepare_cached(UPDATE_WAITING)?.execute(params![
            head.job,
            state_number(state),
            ms(head.due_at),
            head.failures,
            head.stalls,
            head.snoozes,
            head.settled_by(),
        ])?;
        Ok(state)
    }

    /// Ends a job's life: its key is freed unless it completed and holds it longer, and its
    /// retention starts, or is over at once.
    pub(crate) fn finish(&mut self, head: &Head, end: Finish) -> Result<(), Fault> {
        if self.end_life(head, end)? { Ok(()) } else { self.drop_jobs(&Runs::of(head.job)) }
    }

    /// The same, but for a job whose retention is over at once: of such a one it says `false`, and
    /// leaves it to the caller to drop it in this step.
    pub(crate) fn end_life(&mut self, head: &Head, end: Finish) -> Result<bool, Fault> {
        let now = self.now;
        let holds_key = head.holds_key && holds_key_after(head, end.state, now);
        let (part, expiry) = place(head, end.state, now, holds_key);
        self.leave(head.lane, head.state)?;
        if expiry <= now {
            return Ok(false);
        }
        self.enter(head.lane, end.state)?;
        let queue = self.lanes.load(head.lane)?.name.queue.clone();
        let shelf = self.shelves.add(&queue, part, ms(expiry), 1)?;
        self.shelves.came_in(part, shelf, 1);
        self.conn.prepare_cached(UPDATE_FINISHED)?.execute(params![
            head.job,
            state_number(end.state),
            head.failures,
            head.stalls,
            head.settled_by(),
            shelf,
            ms(now),
            ms(expiry),
            end.elapsed_ms,
            end.reason.and_then(reason_number),
            holds_key,
        ])?;
        Ok(true)
    }

    /// Drops jobs that are counted nowhere any more, and everything that belongs to them.
    pub(crate) fn drop_jobs(&self, jobs: &Runs) -> Result<(), Fault> {
        if jobs.is_empty() {
            return Ok(());
        }
        for run in jobs.iter() {
            self.conn.prepare_cached(DELETE_JOBS)?.execute(run)?;
        }
        self.drop_parts(jobs)
    }

    /// Drops what belongs to jobs that are gone.
    pub(super) fn drop_parts(&self, jobs: &Runs) -> Result<(), Fault> {
        // Mostly there are none.
        let (has_bodies, has_notes): (bool, bool) = self
            .conn
            .prepare_cached(HAS_PARTS)?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        for run in jobs.iter() {
            if has_bodies {
                self.conn.prepare_cached(DELETE_BODIES)?.execute(run)?;
            }
            if has_notes && self.conn.prepare_cached(DELETE_NOTES)?.execute(run)? > 0 {
                self.conn.prepare_cached(DELETE_ALL_LINES)?.execute(run)?;
            }
        }
        Ok(())
    }

    /// The records of a shelf that may go first, at most `count`, less those that cannot be read,
    /// which are put aside.
    pub(crate) fn oldest(&mut self, shelf: i64, count: i64) -> Result<Vec<Head>, Fault> {
        let mut select = self.conn.prepare_cached(SELECT_OLDEST)?;
        let found = select.query_map((shelf, count), Head::read)?;
        let found: Vec<_> = found.collect::<Result<_, _>>()?;
        let mut heads = Vec::with_capacity(found.len());
        for head in found {
            heads.extend(self.sound(head)?);
        }
        Ok(heads)
    }

    /// T16: drops a job that no claim holds, and everything that belongs to it.
    pub(crate) fn remove(&mut self, head: &Head) -> Result<(), Fault> {
        self.remove_all(std::slice::from_ref(head))
    }

    /// The same for several.
    pub(crate) fn remove_all(&mut self, heads: &[Head]) -> Result<(), Fault> {
        let mut jobs: Vec<i64> = heads.iter().map(|head| head.job).collect();
        jobs.sort_unstable();
        self.drop_jobs(&jobs.into_iter().collect())?;
        for head in heads {
            if head.state == JobState::Quarantined {
                let mut delete = self.conn.prepare_cached(super::quarantine::DELETE_QUARANTINE)?;
                delete.execute([head.job])?;
            }
            if self.lanes.has(head.lane)? {
                self.leave(head.lane, head.state)?;
            }
            if let Some(shelf) = head.shelf {
                self.shelves.remove(shelf, 1)?;
            }
        }
        Ok(())
    }

    /// Moves a finished record to a shelf of its queue where it waits until `expiry`, without its
    /// key.
    pub(crate) fn reshelve(
        &mut self,
        head: &Head,
        part: Part,
        expiry: Timestamp,
    ) -> Result<(), Fault> {
        let queue = self.lanes.load(head.lane)?.name.queue.clone();
        let shelf = self.shelves.add(&queue, part, ms(expiry), 1)?;
        let mut update = self.conn.prepare_cached(UPDATE_SHELVED)?;
        update.execute((head.job, shelf, ms(expiry)))?;
        match head.shelf {
            Some(shelf) => self.shelves.remove(shelf, 1),
            None => Ok(()),
        }
    }
}

/// Whether a job that has its key still has it when it is in `state`.
pub(crate) fn holds_key_after(head: &Head, state: JobState, now: Timestamp) -> bool {
    match state {
        JobState::Completed => head.hold.outlives_completion(head.enqueued_at, now),
        state => state.is_waiting() || state == JobState::Running,
    }
}

/// Where a job that finished at `finished_at` waits to be dropped, and for when.
pub(crate) fn place(
    head: &Head,
    state: JobState,
    finished_at: Timestamp,
    holds_key: bool,
) -> (Part, Timestamp) {
    let Retention { completed, dead } = head.retention;
    match (state, head.hold) {
        (JobState::Dead, _) => (Part::Dead, finished_at.after(dead)),
        (JobState::Cancelled, _) => (Part::Cancelled, finished_at.after(completed)),
        (_, Hold::AtLeast(time)) if holds_key => (Part::Held, head.enqueued_at.after(time)),
        _ => (Part::Done, finished_at.after(completed)),
    }
}
