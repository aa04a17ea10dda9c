//! New jobs of one sort in one statement: what surrounds an INSERT costs as much as a job.

use std::collections::HashSet;

use queue_core::{EnqueueOutcome, Enqueued, JobId, JobState, NewJob};

use super::{Carried, SMALL_BYTES, enqueue_one, start_of};
use crate::errors::Fault;
use crate::rows::{hold_ms, ms, seconds, sixteen};
use crate::session::{End, Session};

/// How many jobs one statement takes.
const MANY: usize = 16;

/// A ready job, whose place is its position. What the rows share comes first.
macro_rules! ready {
    ($id:literal, $lane:literal, $place:literal, $payload:literal) => {
        row!($id, $lane, "3, ?", $place, ", ?1, ?1", $payload)
    };
}
/// A job that waits, whose place is when it is due.
macro_rules! scheduled {
    ($id:literal, $lane:literal, $place:literal, $payload:literal) => {
        row!($id, $lane, "1, NULL, ?", $place, ", ?1", $payload)
    };
}
macro_rules! row {
    (
        $id:literal, $lane:literal, $state:literal, $place:literal, $times:literal,
        $payload:literal
    ) => {
        concat!(
            "(?",
            $id,
            ", ?",
            $lane,
            ", ",
            $state,
            $place,
            $times,
            ", ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?",
            $payload,
            ")"
        )
    };
}
/// Leaves those out whose id is taken. If another rule is broken, the call fails and is undone as a
/// whole.
macro_rules! insert {
    ($row:ident) => {
        concat!(
            "INSERT OR FAIL INTO job (id, lane, state, position, due_ms, enqueued_ms, \
             max_attempts, max_stalls, expires_ms, keep_completed_s, keep_dead_s, hold_ms, codec, \
             options, payload) VALUES ",
            $row!(10, 11, 12, 13), ", ",
            $row!(14, 15, 16, 17), ", ",
            $row!(18, 19, 20, 21), ", ",
            $row!(22, 23, 24, 25), ", ",
            $row!(26, 27, 28, 29), ", ",
            $row!(30, 31, 32, 33), ", ",
            $row!(34, 35, 36, 37), ", ",
            $row!(38, 39, 40, 41), ", ",
            $row!(42, 43, 44, 45), ", ",
            $row!(46, 47, 48, 49), ", ",
            $row!(50, 51, 52, 53), ", ",
            $row!(54, 55, 56, 57), ", ",
            $row!(58, 59, 60, 61), ", ",
            $row!(62, 63, 64, 65), ", ",
            $row!(66, 67, 68, 69), ", ",
            $row!(70, 71, 72, 73),
            " ON CONFLICT DO NOTHING"
        )
    };
}
pub(in crate::backend) const INSERT_READY: &str = insert!(ready);
pub(in crate::backend) const INSERT_SCHEDULED: &str = insert!(scheduled);
pub(in crate::backend) const SELECT_IDS: &str = "SELECT id FROM job WHERE job BETWEEN ?1 AND ?2";

/// The first of these jobs, if so many are ready at once, or all wait, differ in their lanes, ids,
/// payloads and times only, and there is nothing that they could meet but their own ids.
pub(super) fn first<'j>(
    session: &mut Session<'_>,
    jobs: &'j [NewJob],
) -> Result<Option<&'j [NewJob]>, Fault> {
    let Some(alike) = jobs.get(..MANY) else { return Ok(None) };
    let Some((first, others)) = alike.split_first() else { return Ok(None) };
    let state = start_of(session, first).0;
    let largest = alike.iter().map(|job| job.spec.payload.bytes().len()).max();
    let is_alike = session.store.queue_limits == 0
        && first.spec.idempotency_key.is_none()
        && others.iter().all(|other| is_alike(first, other))
        && others.iter().all(|other| start_of(session, other).0 == state)
        && largest <= SMALL_BYTES.checked_sub(Carried::of(&first.spec).options.len());
    if !is_alike {
        return Ok(None);
    }
    if session.limits.is_any_set()? {
        for key in alike.iter().flat_map(|job| job.spec.limits.iter()) {
            if session.limits.in_force(key)?.settings.max_live.is_some() {
                return Ok(None);
            }
        }
    }
    Ok(Some(alike))
}

fn is_alike(first: &NewJob, other: &NewJob) -> bool {
    let (one, spec) = (&first.spec, &other.spec);
    spec.payload.codec() == one.payload.codec()
        && (spec.max_attempts, spec.max_stalls) == (one.max_attempts, one.max_stalls)
        && (spec.expires_at, spec.retention) == (one.expires_at, one.retention)
        && (&spec.idempotency_key, spec.hold) == (&one.idempotency_key, one.hold)
        && spec.options == one.options
}

fn has_lane_of(one: &NewJob, other: &NewJob) -> bool {
    let (one, other) = (&one.spec, &other.spec);
    (&one.queue, &one.kind, one.priority) == (&other.queue, &other.kind, other.priority)
        && one.limits == other.limits
}

/// Takes them in.
pub(super) fn enqueue(
    session: &mut Session<'_>,
    jobs: &[NewJob],
) -> Result<Vec<EnqueueOutcome>, Fault> {
    let Some(job) = jobs.first() else { return Ok(Vec::new()) };
    let (first, state) = (&job.spec, start_of(session, job).0);
    let is_ready = state == JobState::Ready;
    let sql = if is_ready { INSERT_READY } else { INSERT_SCHEDULED };
    let mut insert = session.conn.prepare_cached(sql)?;
    let Carried { codec, options, .. } = Carried::of(first);
    insert.raw_bind_parameter(1, ms(session.now))?;
    insert.raw_bind_parameter(2, first.max_attempts)?;
    insert.raw_bind_parameter(3, first.max_stalls)?;
    insert.raw_bind_parameter(4, first.expires_at.map(ms))?;
    insert.raw_bind_parameter(5, seconds(first.retention.completed))?;
    insert.raw_bind_parameter(6, seconds(first.retention.dead))?;
    insert.raw_bind_parameter(7, hold_ms(first.hold))?;
    insert.raw_bind_parameter(8, codec)?;
    insert.raw_bind_parameter(9, options)?;
    let mut lanes: Vec<i64> = Vec::with_capacity(jobs.len());
    for (number, (at, job)) in (10..).step_by(4).zip(jobs).enumerate() {
        // Mostly that of the one before.
        let before = number.checked_sub(1).filter(|before| has_lane_of(&jobs[*before], job));
        let lane = match before.and_then(|before| lanes.get(before)) {
            Some(lane) => *lane,
            None => session.lanes.of_job(&job.spec)?,
        };
        insert.raw_bind_parameter(at, job.spec.id.as_bytes())?;
        insert.raw_bind_parameter(at + 1, lane)?;
        let place = match is_ready {
            true => session.lanes.load(lane)?.give_place(End::Tail),
            false => ms(start_of(session, job).1),
        };
        insert.raw_bind_parameter(at + 2, place)?;
        insert.raw_bind_parameter(at + 3, job.spec.payload.bytes().as_ref())?;
        lanes.push(lane);
    }
    let inserted = insert.raw_execute()?;
    drop(insert);
    session.takes_in |= inserted > 0;
    // None of them is read again if, as mostly, no id was taken.
    let mut new = match inserted == jobs.len() {
        true => None,
        false => Some(last_inserted(session, inserted)?),
    };
    let mut outcomes = Vec::with_capacity(jobs.len());
    for (job, lane) in jobs.iter().zip(lanes) {
        let is_new = new.as_mut().is_none_or(|new| new.remove(&job.spec.id));
        outcomes.push(if is_new {
            if is_ready {
                session.count_ready(lane)?;
            } else {
                session.enter(lane, state)?;
                session.announce();
            }
            EnqueueOutcome::Done(Enqueued::created(job.spec.id, state))
        } else {
            enqueue_one(session, job)?
        });
    }
    Ok(outcomes)
}

/// The ids of the rows that were inserted last.
fn last_inserted(session: &Session<'_>, count: usize) -> Result<HashSet<JobId>, Fault> {
    if count == 0 {
        return Ok(HashSet::new());
    }
    let last = session.conn.last_insert_rowid();
    let before = i64::try_from(count).unwrap_or(i64::MAX) - 1;
    let mut select = session.conn.prepare_cached(SELECT_IDS)?;
    let ids = select.query_map((last - before, last), |row| sixteen(row, 0))?;
    let ids: Vec<_> = ids.collect::<Result<_, _>>()?;
    Ok(ids.into_iter().flatten().map(JobId::from_bytes).collect())
}
