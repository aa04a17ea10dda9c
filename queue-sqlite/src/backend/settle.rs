//! T6–T10 and T14: how attempts end.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use queue_core::{
    AttemptRecord, ClaimToken, DeadReason, JobId, JobState, Outcome, Payload, Settled, Settlement,
};
use rusqlite::OptionalExtension;

use super::attempts::{note_attempt, worker_of};
use crate::errors::Fault;
use crate::open::Room;
use crate::rows::duration_ms;
use crate::session::{Claims, End, Finish, Head, Holding, Running, Session};

pub(super) const SELECT_CLAIM_ID: &str = "SELECT claim FROM claim WHERE token = ?1";
pub(super) const UPSERT_RESULT: &str = "INSERT INTO note (job, result_codec, result) VALUES (?1, ?2, ?3) \
     ON CONFLICT (job) DO UPDATE SET result_codec = excluded.result_codec, \
     result = excluded.result";

/// Up to so many times as many jobs as end are read at once, in the order of their rowids, rather
/// than those that end one by one.
const MANY: i64 = 3;

/// Ends attempts, in order.
pub(super) fn settle(
    session: &mut Session<'_>,
    settlements: &[Settlement],
    room: &Room,
) -> Result<Vec<Settled>, Fault> {
    room.check_results(settlements.iter().map(result_bytes).sum())?;
    let mut tokens: HashMap<ClaimToken, (Option<Holding>, i64)> = HashMap::new();
    for settlement in settlements {
        let (_, count) = match tokens.entry(settlement.token) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert((session.holding_of(settlement.token)?, 0)),
        };
        *count += 1;
    }
    let mut running = HashMap::with_capacity(settlements.len());
    for (holding, count) in tokens.values() {
        if let Some(holding) = holding.as_ref().filter(|holding| holding.jobs <= count * MANY)
            && !session.careful
        {
            session.running_held(holding.claim, &holding.runs, &mut running)?;
        }
    }
    let mut ends = Ends { running, claims: Claims::default(), dropped: Vec::new() };
    let mut answers = Vec::with_capacity(settlements.len());
    for settlement in settlements {
        let holder = tokens.get(&settlement.token).and_then(|(holding, _)| holding.as_ref());
        answers.push(settle_one(session, settlement, holder, &mut ends)?);
    }
    ends.drop_jobs(session)?;
    ends.claims.save(session)?;
    Ok(answers)
}

/// What ends in one call.
struct Ends {
    /// Of the jobs of claims that end for the most part, what was read at once.
    running: HashMap<JobId, Running>,
    claims: Claims,
    /// Jobs that are not kept.
    dropped: Vec<i64>,
}

impl Ends {
    fn head(&mut self, session: &mut Session<'_>, id: JobId) -> Result<Option<Head>, Fault> {
        match self.running.remove(&id) {
            Some(Running::Kept(head)) => Ok(Some(*head)),
            // What is dropped at the end of this call is gone already.
            _ => Ok(session.head(id)?.filter(|head| !self.dropped.contains(&head.job))),
        }
    }

    /// T6 for a job of which nothing is kept; says whether it is one.
    fn drop_completed(
        &mut self,
        session: &mut Session<'_>,
        settlement: &Settlement,
        holding: &Holding,
    ) -> Result<bool, Fault> {
        let id = settlement.id;
        if !matches!(settlement.outcome, Outcome::Completed { .. }) {
            return Ok(false);
        }
        let (job, lane) = match self.running.get(&id) {
            Some(Running::Fleeting { job, lane, claim }) if *claim == holding.claim => {
                (*job, *lane)
            }
            _ => return Ok(false),
        };
        self.running.remove(&id);
        self.claims.let_go(holding.claim);
        session.let_go_of_keys(lane, id, holding, settlement.outcome.ending())?;
        session.leave(lane, JobState::Running)?;
        self.dropped.push(job);
        Ok(true)
    }

    fn drop_jobs(&mut self, session: &Session<'_>) -> Result<(), Fault> {
        self.dropped.sort_unstable();
        session.drop_jobs(&self.dropped.drain(..).collect())
    }
}

fn result_bytes(settlement: &Settlement) -> u64 {
    match &settlement.outcome {
        Outcome::Completed { result: Some(result) } => result.bytes().len() as u64,
        _ => 0,
    }
}

pub(super) fn claim_of(session: &Session<'_>, token: ClaimToken) -> Result<Option<i64>, Fault> {
    let mut select = session.conn.prepare_cached(SELECT_CLAIM_ID)?;
    Ok(select.query_row([token.as_bytes()], |row| row.get(0)).optional()?)
}

fn settle_one(
    session: &mut Session<'_>,
    settlement: &Settlement,
    holder: Option<&Holding>,
    ends: &mut Ends,
) -> Result<Settled, Fault> {
    if let Some(holding) = holder
        && ends.drop_completed(session, settlement, holding)?
    {
        return Ok(Settled::Applied(JobState::Completed));
    }
    let Some(mut head) = ends.head(session, settlement.id)? else { return Ok(Settled::Gone) };
    let token = Some(settlement.token);
    let Some(holding) = holder.filter(|holding| head.claim == Some(holding.claim)) else {
        let repeated = head.settled_by == token;
        return Ok(match head.state {
            state if repeated => Settled::AlreadyDone(state),
            state => Settled::Stale(state),
        });
    };
    ends.claims.let_go(holding.claim);
    session.let_go_of_keys(head.lane, head.id, holding, settlement.outcome.ending())?;
    if let Outcome::Throttled { delay, limits } = &settlement.outcome {
        let until = session.now.after(*delay);
        for key in limits.iter() {
            session.limits.throttle(key, until, holding.claimed_at, session.now)?;
        }
    }
    head.settled_by = token;
    conclude(session, head, settlement, ends).map(Settled::Applied)
}

/// Moves a job that its claim lets go to where the outcome takes it.
fn conclude(
    session: &mut Session<'_>,
    mut head: Head,
    settlement: &Settlement,
    ends: &mut Ends,
) -> Result<JobState, Fault> {
    let outcome = &settlement.outcome;
    if let Outcome::Retry { error, .. } | Outcome::Dead { error } = outcome {
        head.failures = head.failures.saturating_add(1);
        let (number, worker) = (head.failures, worker_of(session, &head)?);
        let elapsed = Duration::from_millis(elapsed_ms(settlement).unsigned_abs());
        let attempt = AttemptRecord::failed(number, worker, session.now, error, elapsed);
        note_attempt(session, head.job, &attempt, Some(error))?;
    }
    let exhausted = head.failures >= head.max_attempts;
    let (state, reason) = match outcome {
        Outcome::Completed { result } => {
            if let Some(result) = result {
                note_result(session, &head, result)?;
            }
            (JobState::Completed, None)
        }
        Outcome::Dead { .. } => (JobState::Dead, Some(DeadReason::Failed)),
        _ if head.cancel_requested => (JobState::Cancelled, None),
        Outcome::Retry { .. } if exhausted => (JobState::Dead, Some(DeadReason::AttemptsExhausted)),
        Outcome::Retry { delay, .. } => return again(session, head, *delay),
        Outcome::Snoozed { delay } | Outcome::Throttled { delay, .. } => {
            head.snoozes = head.snoozes.saturating_add(1);
            return again(session, head, *delay);
        }
        Outcome::Released | Outcome::Cancelled => {
            session.make_ready(&head, End::Head)?;
            return Ok(JobState::Ready);
        }
        _ => {
            let reason = "this outcome is not known to the SQLite store".to_owned();
            return Err(queue_core::Error::Unsupported(reason).into());
        }
    };
    let elapsed_ms = Some(elapsed_ms(settlement));
    if !session.end_life(&head, Finish { state, reason, elapsed_ms })? {
        ends.dropped.push(head.job);
    }
    Ok(state)
}

/// Runs again after `delay`; at once means the tail of its lane.
fn again(session: &mut Session<'_>, mut head: Head, delay: Duration) -> Result<JobState, Fault> {
    let due_at = session.now.after(delay);
    head.due_at = due_at;
    if due_at > session.now {
        return session.make_wait(&head);
    }
    session.make_ready(&head, End::Tail)?;
    Ok(JobState::Ready)
}

fn elapsed_ms(settlement: &Settlement) -> i64 {
    duration_ms(settlement.elapsed)
}

fn note_result(session: &Session<'_>, head: &Head, result: &Payload) -> Result<(), Fault> {
    let (codec, bytes) = (result.codec().number(), result.bytes().as_ref());
    session.conn.prepare_cached(UPSERT_RESULT)?.execute((head.job, codec, bytes))?;
    Ok(())
}
