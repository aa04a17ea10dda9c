//! Reading jobs that a claim takes or holds.

use std::collections::VecDeque;

use queue_core::backend::PASS_MAX;
use queue_core::{ClaimToken, JobSpec, Lease, Timestamp};
use rusqlite::Row;

use crate::errors::Fault;
use crate::rows::{LaneName, body_join, number, spec, spec_columns};
use crate::session::{
    Broken, HEAD_COLUMNS, Head, Plain, READY_COLUMNS, Raw, Runs, Session, head_columns,
    ready_columns,
};

macro_rules! claimed_columns {
    () => {
        concat!("SELECT ", head_columns!(), ", ", spec_columns!(), " FROM job", body_join!())
    };
}
macro_rules! ready {
    () => {
        concat!("SELECT ", ready_columns!(), ", ", spec_columns!(), " FROM job", body_join!())
    };
}
macro_rules! first_of_lane {
    () => {
        "WHERE job.lane = ?1 AND job.position >= ?2 AND job.state = 3 \
         ORDER BY job.position LIMIT ?3"
    };
}
macro_rules! next_of_lane {
    () => {
        "WHERE job.lane = ?1 AND job.position > ?2 AND job.state = 3 ORDER BY job.position LIMIT ?3"
    };
}
/// The first ready jobs of a lane from a position on.
pub(super) const SELECT_FIRST_READY: &str = concat!(ready!(), first_of_lane!());
/// The first ready jobs of a lane after a position.
pub(super) const SELECT_READY: &str = concat!(ready!(), next_of_lane!());
/// The same with all that there is of a job.
pub(super) const SELECT_FIRST_READY_WHOLE: &str = concat!(claimed_columns!(), first_of_lane!());
pub(super) const SELECT_READY_WHOLE: &str = concat!(claimed_columns!(), next_of_lane!());
/// Of the jobs of a run, those that a claim holds.
pub(super) const SELECT_HELD: &str = concat!(
    claimed_columns!(),
    "WHERE job.job BETWEEN ?1 AND ?2 AND job.claim = ?3 AND job.state = 4 ORDER BY job.job"
);

/// Payloads are read ahead up to so many bytes (1 MiB), or one job's.
const READ_AHEAD_BYTES: usize = 1024 * 1024;

/// A job that a claim takes, with what its lease says.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) job: i64,
    lane: i64,
    due_at: Timestamp,
    enqueued_at: Timestamp,
    failures: u16,
    stalls: u8,
    pub(super) spec: JobSpec,
}

impl Taken {
    fn read(row: &Row<'_>, lane: &LaneName) -> rusqlite::Result<Result<Self, Broken>> {
        let head = match Head::read(row)? {
            Ok(head) => head,
            Err(broken) => return Ok(Err(broken)),
        };
        Self::with_spec(row, HEAD_COLUMNS, &head, lane)
    }

    /// As [`Taken::read`], from what a claim needs only.
    fn read_ready(
        row: &Row<'_>,
        rowid: i64,
        lane: &LaneName,
    ) -> rusqlite::Result<Result<Self, Broken>> {
        let raw = Raw::read_ready(row, rowid)?;
        match raw.flaw() {
            None => Self::with_spec(row, READY_COLUMNS, &raw.head(), lane),
            Some(column) => Ok(Err(raw.broken_rule(column))),
        }
    }

    fn with_spec(
        row: &Row<'_>,
        first: usize,
        head: &Head,
        lane: &LaneName,
    ) -> rusqlite::Result<Result<Self, Broken>> {
        Ok(match spec(row, first, head, lane)? {
            Ok(spec) => {
                let Head { job, lane, due_at, enqueued_at, failures, stalls, .. } = *head;
                Ok(Self { job, lane, due_at, enqueued_at, failures, stalls, spec })
            }
            Err(reason) => Err(head.broken(reason)),
        })
    }

    /// Itself, if it has no key.
    pub(super) fn plain(&self) -> Option<Plain> {
        let Self { job, lane, spec, .. } = self;
        let (id, job, lane, keep) = (spec.id, *job, *lane, spec.retention.completed);
        spec.idempotency_key.is_none().then_some(Plain { id, job, lane, keep })
    }

    pub(super) fn bytes(&self) -> usize {
        self.spec.payload.bytes().len()
    }
}

/// Reads the ready jobs of a lane from its head, some at a time.
#[derive(Debug, Default)]
pub(super) struct Pick {
    /// Jobs and their positions.
    read: VecDeque<(i64, Result<Taken, Broken>)>,
    /// The position of the last job that was read.
    after: Option<i64>,
}

impl Pick {
    /// The next job of the lane; `want` says how many the caller may still need.
    pub(super) fn next(
        &mut self,
        session: &mut Session<'_>,
        lane: i64,
        want: u32,
    ) -> Result<Option<Result<Taken, Broken>>, Fault> {
        if self.read.is_empty() {
            let was_fresh = self.is_fresh();
            let head = session.lanes.load(lane)?.first_position();
            self.read_on(session, lane, head, want)?;
            if was_fresh && self.read.is_empty() {
                // What the lane takes for its head may be wrong.
                self.read_on(session, lane, i64::MIN, want)?;
                if let Some((first, _)) = self.read.front() {
                    session.lanes.load(lane)?.go_back(*first);
                }
            }
        }
        let Some((position, job)) = self.read.pop_front() else { return Ok(None) };
        session.lanes.load(lane)?.pass(position);
        Ok(Some(job))
    }

    /// Whether it has found nothing yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.after.is_none()
    }

    /// Reads jobs after the last one that was read, or else from this position on.
    fn read_on(
        &mut self,
        session: &mut Session<'_>,
        rowid: i64,
        from: i64,
        want: u32,
    ) -> Result<(), Fault> {
        let lane = session.lanes.load(rowid)?.name.clone();
        let sql = match (self.after, session.careful) {
            (None, false) => SELECT_FIRST_READY,
            (Some(_), false) => SELECT_READY,
            (None, true) => SELECT_FIRST_READY_WHOLE,
            (Some(_), true) => SELECT_READY_WHOLE,
        };
        let mut select = session.conn.prepare_cached(sql)?;
        let mut rows = match self.after {
            None => select.query((rowid, from, want))?,
            Some(after) => select.query((rowid, after, want))?,
        };
        let mut bytes = 0;
        self.read.reserve(want.min(PASS_MAX) as usize);
        while bytes < READ_AHEAD_BYTES {
            let Some(row) = rows.next()? else { break };
            let (read, position) = if session.careful {
                (Taken::read(row, &lane)?, number(row, 4)?)
            } else {
                (Taken::read_ready(row, rowid, &lane)?, number(row, 2)?)
            };
            self.after = Some(position);
            bytes += read.as_ref().map_or(0, Taken::bytes);
            self.read.push_back((position, read));
        }
        Ok(())
    }
}

/// The last place in a claim.
const PLACE_MAX: i64 = PASS_MAX as i64 - 1;

/// A job that a claim holds.
fn held(row: &Row<'_>, session: &mut Session<'_>) -> Result<Result<Taken, Broken>, Fault> {
    Ok(match Head::read(row)? {
        Err(flawed) => Err(flawed),
        Ok(head) if !session.lanes.has(head.lane)? => {
            Err(head.broken("its lane is missing or cannot be read".to_owned()))
        }
        Ok(head) => Taken::read(row, &session.lanes.load(head.lane)?.name)?,
    })
}

/// A claim that holds jobs.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) claim: i64,
    pub(super) claimed_at: Timestamp,
    pub(super) fence: i64,
}

impl Claimed {
    /// Its job of this number.
    pub(super) fn lease(&self, job: Taken, number: i64, token: ClaimToken) -> Lease {
        let fence = self.fence.saturating_add(number).unsigned_abs();
        let mut lease = Lease::new(job.spec, token, fence, self.claimed_at);
        lease.failures = job.failures;
        lease.stalls = job.stalls;
        lease.enqueued_at = job.enqueued_at;
        lease.due_at = job.due_at;
        lease
    }

    /// The leases of all jobs that it still holds. Jobs that cannot be read are put aside.
    pub(super) fn leases(
        &self,
        session: &mut Session<'_>,
        runs: &Runs,
        token: ClaimToken,
    ) -> Result<Vec<Lease>, Fault> {
        let mut select = session.conn.prepare_cached(SELECT_HELD)?;
        let (mut leases, mut broken) = (Vec::new(), Vec::new());
        for (before, (first, last)) in runs.numbered() {
            let mut rows = select.query((first, last, self.claim))?;
            while let Some(row) = rows.next()? {
                match held(row, session)? {
                    Ok(taken) => {
                        // Of a list that cannot be read, the place in it is not known.
                        let place = taken.job.saturating_sub(first).clamp(0, PLACE_MAX);
                        let number = before.saturating_add(place);
                        leases.push(self.lease(taken, number, token));
                    }
                    Err(flawed) => broken.push(flawed),
                }
            }
        }
        for flawed in &broken {
            session.put_aside(flawed)?;
        }
        Ok(leases)
    }
}
