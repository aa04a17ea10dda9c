//! T1 and T2: jobs come in, or meet the job that has their id or key.

pub(super) mod alike;

use queue_core::{
    ConflictReason, Due, Durability, EnqueueOutcome, Enqueued, Error, JobId, JobSpec, JobState,
    NewJob, OnConflict, Timestamp,
};
use rusqlite::{OptionalExtension, Row, params};

use super::admit;
use crate::errors::Fault;
use crate::open::Room;
use crate::rows::{
    body_join, bytes, hold_ms, ms, number, seconds, sixteen, state_number, state_of,
};
use crate::session::{End, Finish, Head, Session};

/// Does nothing if the id or the key is taken: finding out is the rare case.
pub(super) const INSERT_JOB: &str = "INSERT INTO job (id, lane, state, position, due_ms, enqueued_ms, \
     max_attempts, max_stalls, expires_ms, keep_completed_s, keep_dead_s, key, hold_ms, holds_key, \
     codec, options, payload) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?12 IS NOT NULL, ?14, ?15, ?16) \
     ON CONFLICT DO NOTHING";
pub(super) const INSERT_BODY: &str =
    "INSERT INTO body (job, codec, options, payload) VALUES (?1, ?2, ?3, ?4)";

macro_rules! met_columns {
    () => {
        concat!(
            "SELECT job.id, job.state, lane.kind, ifnull(job.codec, body.codec), \
             ifnull(job.payload, body.payload) FROM job LEFT JOIN lane ON lane.lane = job.lane",
            body_join!()
        )
    };
}
pub(super) const SELECT_MET_BY_ID: &str = concat!(met_columns!(), "WHERE job.id = ?1");
pub(super) const SELECT_MET_BY_KEY: &str =
    concat!(met_columns!(), "WHERE job.key = ?1 AND job.holds_key = 1");

/// An existing job, as far as an enqueue that met it wants to know.
struct Met {
    id: JobId,
    state: JobState,
    same_work: bool,
}

/// What an enqueue found out about the job that has its id or key.
enum Meeting {
    /// The answer to the enqueue.
    Answer(EnqueueOutcome),
    /// The id is free, and so is the key now, if it was held no longer.
    Free,
    /// This job has the key and makes way.
    Replaces(Box<Head>),
}

/// Takes jobs in, in order. What they survive once this is committed is `durability`.
pub(crate) fn enqueue(
    session: &mut Session<'_>,
    jobs: &[NewJob],
    durability: Durability,
    room: &Room,
) -> Result<Vec<EnqueueOutcome>, Fault> {
    let (mut created, mut bytes) = (0, 0);
    let mut outcomes = Vec::with_capacity(jobs.len());
    while let Some(job) = jobs.get(outcomes.len()) {
        let some = match alike::first(session, &jobs[outcomes.len()..])? {
            Some(alike) => alike::enqueue(session, alike)?,
            None => vec![enqueue_one(session, job)?],
        };
        for outcome in some {
            let bytes_of = |job: &NewJob| job.spec.payload.bytes().len() as u64;
            outcomes.push(match outcome {
                EnqueueOutcome::Done(done) => {
                    if !done.duplicate {
                        created += 1;
                        bytes += jobs.get(outcomes.len()).map_or(0, bytes_of);
                    }
                    EnqueueOutcome::Done(done.with_durability(durability))
                }
                refused => refused,
            });
        }
    }
    // Asked afterwards, since only now it is known what is new: a repeat needs no room. The
    // caller undoes the step if there is none.
    if created > 0 {
        room.check_new(session.conn, created, bytes)?;
    }
    Ok(outcomes)
}

fn enqueue_one(session: &mut Session<'_>, job: &NewJob) -> Result<EnqueueOutcome, Fault> {
    let refusal = admit::refusal(session, job, None)?;
    if refusal.is_none()
        && let Some(state) = insert(session, job)?
    {
        return Ok(EnqueueOutcome::Done(Enqueued::created(job.spec.id, state)));
    }
    let replaced = match meet(session, job)? {
        Meeting::Answer(outcome) => return Ok(outcome),
        Meeting::Free => None,
        Meeting::Replaces(holder) => Some(holder),
    };
    // A job that exists, or makes way, may make up for it.
    let refusal = match (refusal, &replaced) {
        (Some(_), Some(holder)) => admit::refusal(session, job, Some(holder))?,
        (refusal, _) => refusal,
    };
    if let Some(refused) = refusal {
        return Ok(refused);
    }
    if let Some(holder) = &replaced {
        let end = Finish { state: JobState::Cancelled, reason: None, elapsed_ms: None };
        session.finish(holder, end)?;
    }
    match insert(session, job)? {
        Some(state) => {
            let replaced = replaced.map(|holder| holder.id);
            let done = Enqueued::created(job.spec.id, state).replacing(replaced);
            Ok(EnqueueOutcome::Done(done))
        }
        None => {
            let id = job.spec.id;
            let what = format!("job {id} was refused for its id or key, but no job has it");
            Err(Error::Corrupt(what).into())
        }
    }
}

/// What a job carries up to this size stands beside its head, which is read and written with it;
/// more stands apart.
const SMALL_BYTES: usize = 512;

/// What a job carries, as columns.
struct Carried<'j> {
    codec: u8,
    options: Vec<u8>,
    payload: &'j [u8],
}

impl<'j> Carried<'j> {
    fn of(spec: &'j JobSpec) -> Self {
        let (codec, options) = (spec.payload.codec().number(), spec.options.encode());
        Self { codec, options, payload: spec.payload.bytes().as_ref() }
    }

    fn is_small(&self) -> bool {
        self.options.len() + self.payload.len() <= SMALL_BYTES
    }
}

/// The state of a new job, and when it is due.
fn start_of(session: &Session<'_>, job: &NewJob) -> (JobState, Timestamp) {
    let now = session.now;
    let due_at = match job.due {
        Due::Now => now,
        Due::After(delay) => now.after(delay),
        Due::At(time) => time.clamp(now, Timestamp::MAX.max(now)),
    };
    (if due_at > now { JobState::Scheduled } else { JobState::Ready }, due_at)
}

/// Answers the state of the new job; `None` if its id or key is taken.
fn insert(session: &mut Session<'_>, job: &NewJob) -> Result<Option<JobState>, Fault> {
    let spec = &job.spec;
    let (state, due_at) = start_of(session, job);
    let lane = session.lanes.of_job(spec)?;
    let position = match state {
        JobState::Ready => Some(session.lanes.load(lane)?.next_position()),
        _ => None,
    };
    let carried = Carried::of(spec);
    let beside = carried.is_small().then_some(&carried);
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
        hold_ms(spec.hold),
        beside.map(|carried| carried.codec),
        beside.map(|carried| &carried.options),
        beside.map(|carried| carried.payload),
    ])?;
    if inserted == 0 {
        return Ok(None);
    }
    session.takes_in = true;
    if beside.is_none() {
        session.conn.prepare_cached(INSERT_BODY)?.execute(params![
            session.conn.last_insert_rowid(),
            carried.codec,
            carried.options,
            carried.payload,
        ])?;
    }
    if state == JobState::Ready {
        session.push(lane, End::Tail)?;
    } else {
        session.enter(lane, state)?;
        session.announce();
    }
    Ok(Some(state))
}

/// T2 and T19. The id counts before the key.
fn meet(session: &mut Session<'_>, job: &NewJob) -> Result<Meeting, Fault> {
    let mut by_id = session.conn.prepare_cached(SELECT_MET_BY_ID)?;
    let met = by_id.query_row([job.spec.id.as_bytes()], |row| Met::read(row, job)).optional()?;
    if let Some(met) = met {
        session.store.duplicates = session.store.duplicates.saturating_add(1);
        return Ok(Meeting::Answer(met.answer(job, ConflictReason::Id)));
    }
    let Some(key) = job.spec.idempotency_key.as_ref() else { return Ok(Meeting::Free) };
    let Some(holder) = session.key_holder(key.as_str())? else { return Ok(Meeting::Free) };
    if job.on_conflict == OnConflict::Replace && holder.state.is_waiting() {
        return Ok(Meeting::Replaces(Box::new(holder)));
    }
    session.store.duplicates = session.store.duplicates.saturating_add(1);
    let mut by_key = session.conn.prepare_cached(SELECT_MET_BY_KEY)?;
    let met = by_key.query_row([key.as_str()], |row| Met::read(row, job))?;
    Ok(Meeting::Answer(met.answer(job, ConflictReason::of_key(job.on_conflict))))
}

impl Met {
    fn read(row: &Row<'_>, job: &NewJob) -> rusqlite::Result<Self> {
        let same_work = bytes(row, 2)? == Some(job.spec.kind.as_str().as_bytes())
            && number(row, 3)? == i64::from(job.spec.payload.codec().number())
            && bytes(row, 4)? == Some(job.spec.payload.bytes().as_ref());
        let id = JobId::from_bytes(sixteen(row, 0)?.unwrap_or_default());
        let state = state_of(number(row, 1)?).unwrap_or(JobState::Quarantined);
        Ok(Self { id, state, same_work })
    }

    fn answer(self, job: &NewJob, reason: ConflictReason) -> EnqueueOutcome {
        let reason = match job.on_conflict {
            _ if !self.same_work => reason,
            OnConflict::Existing | OnConflict::Replace => {
                return EnqueueOutcome::Done(Enqueued::duplicate(self.id, self.state));
            }
            _ => ConflictReason::Rejected,
        };
        EnqueueOutcome::Conflict { existing: self.id, reason }
    }
}
