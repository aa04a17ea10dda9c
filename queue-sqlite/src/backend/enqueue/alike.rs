//! New jobs of one kind in one statement: what surrounds an INSERT costs as much as a job.

use std::collections::HashSet;

use queue_core::{Due, EnqueueOutcome, Enqueued, JobId, JobState, NewJob};

use super::{Carried, SMALL_BYTES, enqueue_one};
use crate::errors::Fault;
use crate::rows::{LaneName, hold_ms, ms, seconds, sixteen};
use crate::session::Session;

/// How many jobs one statement takes.
const MANY: usize = 16;

/// What the rows share comes first.
macro_rules! row {
    ($id:literal, $payload:literal, $place:literal) => {
        concat!(
            "(?",
            $id,
            ", ?1, 3, ?2 + ",
            $place,
            ", ?3, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?",
            $payload,
            ")"
        )
    };
}
macro_rules! rows {
    ($first:expr, $($row:expr),*) => {
        concat!($first, $(", ", $row),*)
    };
}
/// Leaves those out whose id is taken. If another rule is broken, the call fails and is undone as a
/// whole.
pub(in crate::backend) const INSERT_ALIKE: &str = concat!(
    "INSERT OR FAIL INTO job (id, lane, state, position, due_ms, enqueued_ms, max_attempts, max_stalls, \
     expires_ms, keep_completed_s, keep_dead_s, hold_ms, codec, options, payload) VALUES ",
    rows!(
        row!(12, 13, 0),
        row!(14, 15, 1),
        row!(16, 17, 2),
        row!(18, 19, 3),
        row!(20, 21, 4),
        row!(22, 23, 5),
        row!(24, 25, 6),
        row!(26, 27, 7),
        row!(28, 29, 8),
        row!(30, 31, 9),
        row!(32, 33, 10),
        row!(34, 35, 11),
        row!(36, 37, 12),
        row!(38, 39, 13),
        row!(40, 41, 14),
        row!(42, 43, 15)
    ),
    " ON CONFLICT DO NOTHING"
);
pub(in crate::backend) const SELECT_IDS: &str = "SELECT id FROM job WHERE job BETWEEN ?1 AND ?2";

/// The first of these jobs, if so many are ready at once, differ in their ids and payloads only, and
/// there is nothing that they could meet but their own ids.
pub(super) fn first<'j>(session: &Session<'_>, jobs: &'j [NewJob]) -> Option<&'j [NewJob]> {
    let alike = jobs.get(..MANY)?;
    let (first, others) = alike.split_first()?;
    let is_plain = session.store.queue_limits == 0
        && first.spec.limits.is_empty()
        && first.spec.idempotency_key.is_none();
    let is_small = alike.iter().map(|job| job.spec.payload.bytes().len()).max()
        <= SMALL_BYTES.checked_sub(Carried::of(&first.spec).options.len());
    (is_plain
        && is_small
        && matches!(first.due, Due::Now)
        && others.iter().all(|other| is_alike(first, other)))
    .then_some(alike)
}

fn is_alike(first: &NewJob, other: &NewJob) -> bool {
    let (one, spec) = (&first.spec, &other.spec);
    matches!(other.due, Due::Now)
        && spec.payload.codec() == one.payload.codec()
        && (&spec.queue, &spec.kind, spec.priority) == (&one.queue, &one.kind, one.priority)
        && (spec.max_attempts, spec.max_stalls) == (one.max_attempts, one.max_stalls)
        && (spec.expires_at, spec.retention) == (one.expires_at, one.retention)
        && (&spec.idempotency_key, spec.hold) == (&one.idempotency_key, one.hold)
        && spec.limits == one.limits
        && spec.options == one.options
}

/// Takes them in.
pub(super) fn enqueue(
    session: &mut Session<'_>,
    jobs: &[NewJob],
) -> Result<Vec<EnqueueOutcome>, Fault> {
    let Some(first) = jobs.first().map(|job| &job.spec) else { return Ok(Vec::new()) };
    let lane = session.lanes.of_name(LaneName::of(first))?;
    let position = session.lanes.load(lane)?.next_position();
    let mut insert = session.conn.prepare_cached(INSERT_ALIKE)?;
    let Carried { codec, options, .. } = Carried::of(first);
    insert.raw_bind_parameter(1, lane)?;
    insert.raw_bind_parameter(2, position)?;
    insert.raw_bind_parameter(3, ms(session.now))?;
    insert.raw_bind_parameter(4, first.max_attempts)?;
    insert.raw_bind_parameter(5, first.max_stalls)?;
    insert.raw_bind_parameter(6, first.expires_at.map(ms))?;
    insert.raw_bind_parameter(7, seconds(first.retention.completed))?;
    insert.raw_bind_parameter(8, seconds(first.retention.dead))?;
    insert.raw_bind_parameter(9, hold_ms(first.hold))?;
    insert.raw_bind_parameter(10, codec)?;
    insert.raw_bind_parameter(11, options)?;
    for (place, job) in (12..).step_by(2).zip(jobs) {
        insert.raw_bind_parameter(place, job.spec.id.as_bytes())?;
        insert.raw_bind_parameter(place + 1, job.spec.payload.bytes().as_ref())?;
    }
    let inserted = insert.raw_execute()?;
    drop(insert);
    let created =
        |job: &NewJob| EnqueueOutcome::Done(Enqueued::created(job.spec.id, JobState::Ready));
    if inserted > 0 {
        session.takes_in = true;
        session.push_many(lane, inserted, jobs.len())?;
    }
    if inserted == jobs.len() {
        return Ok(jobs.iter().map(created).collect());
    }
    let mut new = last_inserted(session, inserted)?;
    let mut outcomes = Vec::with_capacity(jobs.len());
    for job in jobs {
        outcomes.push(match new.remove(&job.spec.id) {
            true => created(job),
            false => enqueue_one(session, job)?,
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
