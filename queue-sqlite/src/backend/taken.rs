//! Reading jobs that a claim takes or holds.

use std::collections::VecDeque;

use queue_core::{ClaimToken, JobId, JobSpec, Lease, Timestamp};
use rusqlite::Row;

use crate::errors::Fault;
use crate::rows::{AFTER_SPEC, decoded, id_of, number, spec, spec_columns, time};
use crate::session::{Lane, Session};

/// The first ready jobs of a lane after a position.
pub(super) const SELECT_READY: &str = concat!(
    "SELECT ",
    spec_columns!(),
    ", job.job, job.lane, job.position, job.enqueued_ms, job.due_ms, job.failures, job.stalls \
     FROM job LEFT JOIN body ON body.job = job.job \
     WHERE job.lane = ?1 AND job.state = 3 AND job.position > ?2 ORDER BY job.position LIMIT ?3"
);
/// The jobs that a claim holds, in the order in which they were chosen.
pub(super) const SELECT_HELD: &str = concat!(
    "SELECT ",
    spec_columns!(),
    ", job.job, job.lane, job.position, job.enqueued_ms, job.due_ms, job.failures, job.stalls \
     FROM job LEFT JOIN body ON body.job = job.job \
     WHERE job.claim = ?1 AND job.state = 4 ORDER BY job.position"
);

/// A job that a claim takes, with what its lease says.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) job: i64,
    pub(super) spec: JobSpec,
    position: i64,
    enqueued_at: Timestamp,
    due_at: Timestamp,
    failures: u16,
    stalls: u8,
}

/// A job whose record cannot be read.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) job: i64,
    pub(super) id: JobId,
    pub(super) reason: String,
    position: i64,
}

impl Taken {
    fn read(row: &Row<'_>, lane: &Lane) -> rusqlite::Result<Result<Self, Unreadable>> {
        let job = row.get(AFTER_SPEC)?;
        let position = row.get(AFTER_SPEC + 2)?;
        match decoded(spec(row, lane.queue.clone(), lane.kind.clone(), lane.priority))? {
            Ok(spec) => Ok(Ok(Self {
                job,
                spec,
                position,
                enqueued_at: time(row.get(AFTER_SPEC + 3)?),
                due_at: time(row.get(AFTER_SPEC + 4)?),
                failures: number(row, AFTER_SPEC + 5, u16::MAX)?,
                stalls: number(row, AFTER_SPEC + 6, u8::MAX)?,
            })),
            Err(reason) => Ok(Err(Unreadable { job, id: id_of(row, 0)?, reason, position })),
        }
    }
}

/// Reads the ready jobs of a lane from its head, some at a time.
#[derive(Debug)]
pub(super) struct Pick {
    read: VecDeque<Result<Taken, Unreadable>>,
    /// The position of the last job that was read.
    after: i64,
}

impl Default for Pick {
    fn default() -> Self {
        Self { read: VecDeque::new(), after: i64::MIN }
    }
}

impl Pick {
    /// The next job of the lane; `want` says how many the caller may still need.
    pub(super) fn next(
        &mut self,
        session: &mut Session<'_>,
        lane: i64,
        want: u32,
    ) -> Result<Option<Result<Taken, Unreadable>>, Fault> {
        if self.read.is_empty() {
            let lane = session.lanes.load(lane)?.clone();
            let mut select = session.conn.prepare_cached(SELECT_READY)?;
            let values = (lane.lane, self.after, want);
            let rows = select.query_map(values, |row| Taken::read(row, &lane))?;
            self.read = rows.collect::<Result<_, _>>()?;
            self.after = match self.read.back() {
                Some(Ok(taken)) => taken.position,
                Some(Err(unreadable)) => unreadable.position,
                None => self.after,
            };
        }
        Ok(self.read.pop_front())
    }
}

/// A claim that holds jobs.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) claim: i64,
    pub(super) claimed_at: Timestamp,
    pub(super) fence: i64,
}

impl Claimed {
    pub(super) fn lease(&self, job: Taken, position: i64, token: ClaimToken) -> Lease {
        let fence = self.fence.saturating_add(position).unsigned_abs();
        let mut lease = Lease::new(job.spec, token, fence, self.claimed_at);
        lease.failures = job.failures;
        lease.stalls = job.stalls;
        lease.enqueued_at = job.enqueued_at;
        lease.due_at = job.due_at;
        lease
    }

    /// The leases of all jobs that it still holds.
    pub(super) fn leases(
        &self,
        session: &mut Session<'_>,
        token: ClaimToken,
    ) -> Result<Vec<Lease>, Fault> {
        let mut select = session.conn.prepare_cached(SELECT_HELD)?;
        let mut rows = select.query([self.claim])?;
        let mut leases = Vec::new();
        while let Some(row) = rows.next()? {
            let lane = row.get(AFTER_SPEC + 1)?;
            // What cannot be read is left out. Its lease ends like that of a job whose worker
            // died, and the next claim that meets it puts it aside.
            if !session.lanes.has(lane)? {
                session.unreadable.note(id_of(row, 0)?, "its lane is missing");
                continue;
            }
            match Taken::read(row, session.lanes.load(lane)?)? {
                Ok(taken) => {
                    let position = taken.position;
                    leases.push(self.lease(taken, position, token));
                }
                Err(unreadable) => session.unreadable.note(unreadable.id, &unreadable.reason),
            }
        }
        Ok(leases)
    }
}
