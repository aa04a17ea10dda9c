//! T1 and T2: jobs come in, or meet the job that has their id or key.

use queue_core::{
    ConflictReason, Due, EnqueueOutcome, Enqueued, Error, JobId, JobState, NewJob, OnConflict,
    Timestamp,
};
use rusqlite::{OptionalExtension, Row, params};

use crate::errors::Fault;
use crate::open::Room;
use crate::rows::{id_of, ms, seconds, state_number, state_of};
use crate::session::{End, Session};

/// Does nothing if the id or the key is taken: finding out is the rare case.
pub(super) const INSERT_JOB: &str = "INSERT INTO job (id, lane, state, position, due_ms, enqueued_ms, \
     max_attempts, max_stalls, expires_ms, keep_completed_s, keep_dead_s, key) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT DO NOTHING";
pub(super) const INSERT_BODY: &str =
    "INSERT INTO body (job, codec, options, payload) VALUES (?1, ?2, ?3, ?4)";

macro_rules! met_columns {
    () => {
        "SELECT job.id, job.state, lane.kind, body.codec, body.payload FROM job \
         LEFT JOIN lane ON lane.lane = job.lane LEFT JOIN body ON body.job = job.job "
    };
}
pub(super) const SELECT_MET_BY_ID: &str = concat!(met_columns!(), "WHERE job.id = ?1");
pub(super) const SELECT_MET_BY_KEY: &str =
    concat!(met_columns!(), "WHERE job.key = ?1 AND job.state <= 5");

/// An existing job, as far as an enqueue that met it wants to know.
struct Met {
    id: JobId,
    state: JobState,
    same_work: bool,
}

/// Takes jobs in, in order.
pub(crate) fn enqueue(
    session: &mut Session<'_>,
    jobs: &[NewJob],
    room: &Room,
) -> Result<Vec<EnqueueOutcome>, Fault> {
    let (mut created, mut bytes) = (0, 0);
    let mut outcomes = Vec::with_capacity(jobs.len());
    for job in jobs {
        let outcome = enqueue_one(session, job)?;
        if matches!(&outcome, EnqueueOutcome::Done(done) if !done.duplicate) {
            created += 1;
            bytes += job.spec.payload.bytes().len() as u64;
        }
        outcomes.push(outcome);
    }
    // Asked afterwards, since only now it is known what is new: a repeat needs no room. The
    // caller undoes the step if there is none.
    if created > 0 {
        room.check_new(session.conn, created, bytes)?;
    }
    Ok(outcomes)
}

fn enqueue_one(session: &mut Session<'_>, job: &NewJob) -> Result<EnqueueOutcome, Fault> {
    let spec = &job.spec;
    let due_at = match job.due {
        Due::Now => session.now,
        Due::After(delay) => session.now.after(delay),
        Due::At(time) => time.clamp(session.now, Timestamp::MAX.max(session.now)),
    };
    let state = if due_at > session.now { JobState::Scheduled } else { JobState::Ready };
    let lane = session.lanes.of_name(&spec.queue, &spec.kind, spec.priority)?;
    let position = match state {
        JobState::Ready => Some(session.lanes.load(lane)?.next_position()),
        _ => None,
    };
    let inserted = session.conn.prepare_cached(INSERT_JOB)?.execute(params![
        spec.id.as_bytes(),
        lane,
        state_number(state),
        position,
        ms(due_at),
        ms(session.now),
        spec.max_attempts,
        spec.max_stalls,
        spec.expires_at.map(ms),
        seconds(spec.retention.completed),
        seconds(spec.retention.dead),
        spec.idempotency_key.as_ref().map(|key| key.as_str()),
    ])?;
    if inserted == 0 {
        return meet(session, job);
    }
    session.takes_in = true;
    session.conn.prepare_cached(INSERT_BODY)?.execute(params![
        session.conn.last_insert_rowid(),
        spec.payload.codec().number(),
        spec.options.encode(),
        spec.payload.bytes().as_ref(),
    ])?;
    if state == JobState::Ready {
        session.push(lane, End::Tail)?;
    } else {
        session.enter(lane, state)?;
        session.announce();
    }
    Ok(EnqueueOutcome::Done(Enqueued::created(spec.id, state)))
}

/// T2. The id counts before the key.
fn meet(session: &mut Session<'_>, job: &NewJob) -> Result<EnqueueOutcome, Fault> {
    session.store.duplicates += 1;
    let mut by_id = session.conn.prepare_cached(SELECT_MET_BY_ID)?;
    let met = by_id.query_row([job.spec.id.as_bytes()], |row| Met::read(row, job)).optional()?;
    if let Some(met) = met {
        return Ok(met.answer(job, ConflictReason::Id));
    }
    let key = job.spec.idempotency_key.as_ref().map(|key| key.as_str());
    let mut by_key = session.conn.prepare_cached(SELECT_MET_BY_KEY)?;
    match by_key.query_row([key], |row| Met::read(row, job)).optional()? {
        Some(met) => Ok(met.answer(job, ConflictReason::IdempotencyKey)),
        None => Err(Error::Corrupt(format!(
            "job {} was refused for its id or key, but no job has it",
            job.spec.id
        ))
        .into()),
    }
}

impl Met {
    fn read(row: &Row<'_>, job: &NewJob) -> rusqlite::Result<Self> {
        let codec: Option<i64> = row.get(3)?;
        let payload = row.get_ref(4)?.as_blob_or_null()?;
        let kind = row.get_ref(2)?.as_bytes_or_null()?;
        let same_work = kind == Some(job.spec.kind.as_str().as_bytes())
            && codec == Some(i64::from(job.spec.payload.codec().number()))
            && payload == Some(job.spec.payload.bytes().as_ref());
        Ok(Self { id: id_of(row, 0)?, state: state_of(row.get(1)?), same_work })
    }

    fn answer(self, job: &NewJob, reason: ConflictReason) -> EnqueueOutcome {
        let reason = match job.on_conflict {
            _ if !self.same_work => reason,
            OnConflict::Existing => {
                return EnqueueOutcome::Done(Enqueued::duplicate(self.id, self.state));
            }
            _ => ConflictReason::Rejected,
        };
        EnqueueOutcome::Conflict { existing: self.id, reason }
    }
}
