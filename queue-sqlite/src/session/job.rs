//! A job's head, and the moves that operations share.

use queue_core::backend::FINISHED_MAX;
use queue_core::{ClaimToken, DeadReason, JobId, JobState};
use rusqlite::{OptionalExtension, Row, params};

use super::{End, Session};
use crate::errors::Fault;
use crate::rows::{id_of, number, reason_number, state_number, state_of};

/// What changes about a job, and what decides how it may change. See the table `job`.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) job: i64,
    pub(crate) id: JobId,
    pub(crate) lane: i64,
    pub(crate) state: JobState,
    pub(crate) due_ms: i64,
    pub(crate) failures: u16,
    pub(crate) stalls: u8,
    pub(crate) snoozes: u32,
    pub(crate) max_attempts: u16,
    pub(crate) max_stalls: u8,
    pub(crate) claim: Option<i64>,
    pub(crate) cancel_requested: bool,
    pub(crate) settled_by: Option<ClaimToken>,
    keep_completed_s: i64,
    keep_dead_s: i64,
}

/// How a job's life ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finish {
    pub(crate) state: JobState,
    pub(crate) reason: Option<DeadReason>,
    /// How long the attempt took that finished it, if one did.
    pub(crate) elapsed_ms: Option<i64>,
}

macro_rules! head_columns {
    () => {
        "job, id, lane, state, due_ms, failures, stalls, snoozes, max_attempts, max_stalls, \
         claim, cancel_requested, settled_by, keep_completed_s, keep_dead_s"
    };
}
pub(crate) const SELECT_HEAD_BY_ID: &str =
    concat!("SELECT ", head_columns!(), " FROM job WHERE id = ?1");
/// The jobs that a claim holds.
pub(crate) const SELECT_HEADS_OF_CLAIM: &str =
    concat!("SELECT ", head_columns!(), " FROM job WHERE claim = ?1 AND state = 4");
/// The first jobs that are due.
pub(crate) const SELECT_DUE_HEADS: &str = concat!(
    "SELECT ",
    head_columns!(),
    " FROM job WHERE state <= 2 AND due_ms <= ?1 ORDER BY due_ms, id LIMIT ?2"
);
pub(crate) const UPDATE_READY: &str = "UPDATE job SET state = 3, position = ?2, claim = NULL, \
     cancel_requested = 0, due_ms = ?3, failures = ?4, stalls = ?5, snoozes = ?6, \
     settled_by = ?7 WHERE job = ?1";
pub(crate) const UPDATE_WAITING: &str = "UPDATE job SET state = ?2, position = NULL, claim = NULL, \
     cancel_requested = 0, due_ms = ?3, failures = ?4, stalls = ?5, snoozes = ?6, \
     settled_by = ?7 WHERE job = ?1";
pub(crate) const UPDATE_FINISHED: &str = "UPDATE job SET state = ?2, position = NULL, claim = NULL, \
     cancel_requested = 0, failures = ?3, stalls = ?4, settled_by = ?5, shelf = ?6, \
     finished_ms = ?7, expiry_ms = ?8, elapsed_ms = ?9, dead_reason = ?10 WHERE job = ?1";
pub(crate) const UPDATE_QUARANTINED: &str = "UPDATE job SET state = 8, position = NULL, claim = NULL, \
     cancel_requested = 0 WHERE job = ?1";
pub(crate) const DELETE_JOB: &str = "DELETE FROM job WHERE job = ?1";
/// The records of a shelf that may be dropped first.
pub(crate) const SELECT_OLDEST: &str = "SELECT job, lane, state FROM job \
     WHERE shelf = ?1 ORDER BY expiry_ms, id LIMIT ?2";

impl Head {
    pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        // A token of another length, which the CHECK does not allow, is nobody's.
        let settled_by = row.get_ref(12)?.as_bytes_or_null()?;
        let settled_by = settled_by.and_then(|token| <[u8; 16]>::try_from(token).ok());
        Ok(Self {
            job: row.get(0)?,
            id: id_of(row, 1)?,
            lane: row.get(2)?,
            state: state_of(row.get(3)?),
            due_ms: row.get(4)?,
            failures: number(row, 5, u16::MAX)?,
            stalls: number(row, 6, u8::MAX)?,
            snoozes: number(row, 7, u32::MAX)?,
            max_attempts: number(row, 8, u16::MAX)?,
            max_stalls: number(row, 9, u8::MAX)?,
            claim: row.get(10)?,
            cancel_requested: row.get(11)?,
            settled_by: settled_by.map(ClaimToken::from_bytes),
            keep_completed_s: row.get(13)?,
            keep_dead_s: row.get(14)?,
        })
    }

    fn settled_by(&self) -> Option<&[u8; 16]> {
        self.settled_by.as_ref().map(ClaimToken::as_bytes)
    }
}

impl Session<'_> {
    /// The head of a job.
    pub(crate) fn head(&self, id: JobId) -> Result<Option<Head>, Fault> {
        let mut select = self.conn.prepare_cached(SELECT_HEAD_BY_ID)?;
        Ok(select.query_row([id.as_bytes()], Head::read).optional()?)
    }

    /// Moves a job into its lane. `head` holds the counters as they shall be.
    pub(crate) fn make_ready(&mut self, head: &Head, end: End) -> Result<(), Fault> {
        self.leave(head.lane, head.state)?;
        let position = self.push(head.lane, end)?;
        self.conn.prepare_cached(UPDATE_READY)?.execute(params![
            head.job,
            position,
            head.due_ms,
            head.failures,
            head.stalls,
            head.snoozes,
            head.settled_by(),
        ])?;
        Ok(())
    }

    /// Lets a job wait until its `due_ms`. Answers the state it has then.
    pub(crate) fn make_wait(&mut self, head: &Head) -> Result<JobState, Fault> {
        let state = if head.failures > 0 { JobState::Retrying } else { JobState::Scheduled };
        self.leave(head.lane, head.state)?;
        self.enter(head.lane, state)?;
        // It may be the first of all to be due, which sleepers want to know.
        self.announce();
        self.conn.prepare_cached(UPDATE_WAITING)?.execute(params![
            head.job,
            state_number(state),
            head.due_ms,
            head.failures,
            head.stalls,
            head.snoozes,
            head.settled_by(),
        ])?;
        Ok(state)
    }

    /// Ends a job's life: its key is freed unless it completed, and its retention starts, or is
    /// over at once.
    pub(crate) fn finish(&mut self, head: &Head, end: Finish) -> Result<(), Fault> {
        let dead = end.state == JobState::Dead;
        let keep_s = if dead { head.keep_dead_s } else { head.keep_completed_s };
        self.leave(head.lane, head.state)?;
        if keep_s == 0 {
            self.conn.prepare_cached(DELETE_JOB)?.execute([head.job])?;
            return Ok(());
        }
        self.enter(head.lane, end.state)?;
        let kept = std::time::Duration::from_secs(keep_s.unsigned_abs());
        let expiry_ms = crate::rows::ms(self.now.after(kept));
        let queue = self.lanes.load(head.lane)?.queue.clone();
        let shelf = self.shelves.add(&queue, dead, expiry_ms)?;
        self.conn.prepare_cached(UPDATE_FINISHED)?.execute(params![
            head.job,
            state_number(end.state),
            head.failures,
            head.stalls,
            head.settled_by(),
            shelf.shelf,
            crate::rows::ms(self.now),
            expiry_ms,
            end.elapsed_ms,
            end.reason.and_then(reason_number),
        ])?;
        if shelf.records.unsigned_abs() > FINISHED_MAX {
            // Makes room for itself, so that a busy queue cannot outgrow its maintenance.
            self.drop_oldest(shelf.shelf, &queue, dead, 1)?;
        }
        Ok(())
    }

    /// Drops the records of a shelf that may go first, at most `count`; answers how many.
    pub(crate) fn drop_oldest(
        &mut self,
        shelf: i64,
        queue: &queue_core::QueueName,
        dead: bool,
        count: i64,
    ) -> Result<i64, Fault> {
        let mut select = self.conn.prepare_cached(SELECT_OLDEST)?;
        let oldest = select.query_map((shelf, count), |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, state_of(row.get(2)?)))
        })?;
        let oldest: Vec<_> = oldest.collect::<Result<_, _>>()?;
        let mut delete = self.conn.prepare_cached(DELETE_JOB)?;
        for (job, lane, state) in &oldest {
            delete.execute([job])?;
            // A record whose lane is missing goes like others.
            if self.lanes.has(*lane)? {
                self.leave(*lane, *state)?;
            }
        }
        let dropped = i64::try_from(oldest.len()).unwrap_or(count);
        self.shelves.remove(queue, dead, dropped)?;
        Ok(dropped)
    }

    /// Says whether a job can be moved. One whose lane cannot be read is put aside.
    pub(crate) fn is_movable(&mut self, head: &Head) -> Result<bool, Fault> {
        if self.lanes.has(head.lane)? {
            return Ok(true);
        }
        self.put_aside(head.job, head.id, (head.lane, head.state), "its lane is missing")?;
        Ok(false)
    }

    /// Puts an unfinished job aside that cannot be read, bytes and all, so that it blocks nobody.
    /// `place` is its lane and state.
    pub(crate) fn put_aside(
        &mut self,
        job: i64,
        id: JobId,
        (lane, state): (i64, JobState),
        reason: &str,
    ) -> Result<(), Fault> {
        if self.lanes.has(lane)? {
            self.leave(lane, state)?;
            self.enter(lane, JobState::Quarantined)?;
        }
        self.conn.prepare_cached(UPDATE_QUARANTINED)?.execute([job])?;
        self.unreadable.note(id, reason);
        Ok(())
    }

    /// Drops a job that was called off and that can be put nowhere else.
    pub(crate) fn discard(&mut self, head: &Head) -> Result<(), Fault> {
        self.conn.prepare_cached(DELETE_JOB)?.execute([head.job])?;
        Ok(())
    }
}

/// The jobs that a step could not read.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    jobs: u32,
    first: Option<(JobId, String)>,
}

impl Unread {
    pub(crate) fn note(&mut self, id: JobId, reason: &str) {
        self.jobs += 1;
        self.first.get_or_insert_with(|| (id, reason.to_owned()));
    }

    /// One line for all of them.
    pub(super) fn log(&mut self) {
        if let Some((job_id, reason)) = self.first.take() {
            let jobs = std::mem::take(&mut self.jobs);
            tracing::error!(%job_id, reason, jobs, "stored jobs cannot be read; they are put aside");
        }
    }
}
