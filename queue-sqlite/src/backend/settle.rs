//! T6–T10 and T14: how attempts end.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use queue_core::{
    AttemptRecord, ClaimToken, DeadReason, Ending, JobId, JobState, Outcome, Payload, Settled,
    Settlement,
};
use rusqlite::OptionalExtension;

use super::attempts::{note_attempt, worker_of};
use crate::errors::Fault;
use crate::open::Room;
use crate::rows::duration_ms;
use crate::session::{Claims, Completed, End, Finish, Head, Holding, Plain, Running, Session};

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
    // Few.
    let mut tokens: BTreeMap<ClaimToken, (Option<Holding>, i64)> = BTreeMap::new();
    let mut remembered = Vec::with_capacity(settlements.len());
    for settlement in settlements {
        let token = settlement.token;
        let (holding, unread) = match tokens.entry(token) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert((session.holding_of(token)?, 0)),
        };
        let known = session.memory.borrow_mut().take(token, settlement.id);
        let known = match &settlement.outcome {
            Outcome::Completed { .. } if holding.is_some() && !session.careful => {
                let has_lane = known.map(|known| session.lanes.has(known.lane)).transpose()?;
                known.filter(|_| has_lane == Some(true))
            }
            _ => None,
        };
        *unread += i64::from(known.is_none());
        remembered.push(known);
    }
    let mut running = HashMap::new();
    for (holding, unread) in tokens.values().filter(|(_, unread)| *unread > 0) {
        if let Some(holding) = holding.as_ref().filter(|holding| holding.jobs <= unread * MANY)
            && !session.careful
        {
            session.running_held(holding.claim, &holding.runs, &mut running)?;
        }
    }
    let mut ends = Ends { running, ..Ends::default() };
    let mut answers = Vec::with_capacity(settlements.len());
    for (settlement, known) in settlements.iter().zip(remembered) {
        let holder = tokens.get(&settlement.token).and_then(|(holding, _)| holding.as_ref());
        answers.push(settle_one(session, settlement, holder, known, &mut ends)?);
    }
    ends.save_jobs(session)?;
    ends.claims.save(session)?;
    Ok(answers)
}

/// What ends in one call.
#[derive(Default)]
struct Ends<'h> {
    /// Of the jobs of claims that end for the most part, what was read at once.
    running: HashMap<JobId, Running>,
    claims: Claims,
    completed: Completed,
    /// Other jobs that are not kept.
    dropped: Vec<i64>,
    letting_go: Option<LettingGo<'h>>,
}

/// The last jobs that completed one after the other, of one lane and claim: they let go of their keys
/// together.
struct LettingGo<'h> {
    lane: i64,
    holding: &'h Holding,
    jobs: Vec<(JobId, Ending)>,
}

impl<'h> Ends<'h> {
    fn head(&mut self, session: &mut Session<'_>, id: JobId) -> Result<Option<Head>, Fault> {
        match self.take_running(id) {
            Some(Running::Kept(head)) => Ok(Some(*head)),
            _ => {
                let head = session.head(id)?;
                let has_ended =
                    |head: &Head| self.completed.has(head.job) || self.dropped.contains(&head.job);
                if !head.as_ref().is_some_and(has_ended) {
                    return Ok(head);
                }
                // By this call, twice: it is read as the first time has left it.
                self.save_jobs(session)?;
                session.head(id)
            }
        }
    }

    fn take_running(&mut self, id: JobId) -> Option<Running> {
        // Mostly nothing had to be read.
        if self.running.is_empty() { None } else { self.running.remove(&id) }
    }

    /// T6 for a job that is known to have no key; says whether it is one.
    fn complete(
        &mut self,
        session: &mut Session<'_>,
        settlement: &Settlement,
        holding: &'h Holding,
        known: Option<Plain>,
    ) -> Result<bool, Fault> {
        let Outcome::Completed { result } = &settlement.outcome else { return Ok(false) };
        let id = settlement.id;
        let read = || self.running.get(&id)?.plain_of(id, holding.claim);
        let Some(job) = known.or_else(read) else { return Ok(false) };
        self.take_running(id);
        self.claims.let_go(holding.claim);
        let ending = (id, settlement.outcome.ending());
        match &mut self.letting_go {
            Some(those) if (those.lane, those.holding.claim) == (job.lane, holding.claim) => {
                those.jobs.push(ending);
            }
            _ => {
                self.save_keys(session)?;
                self.letting_go = Some(LettingGo { lane: job.lane, holding, jobs: vec![ending] });
            }
        }
        if let Some(result) = result
            && !job.keep.is_zero()
        {
            note_result(session, job.job, result)?;
        }
        self.completed.add(holding, settlement.token, job, elapsed_ms(settlement));
        Ok(true)
    }

    /// Has jobs that completed let go of their keys.
    fn save_keys(&mut self, session: &mut Session<'_>) -> Result<(), Fault> {
        let Some(LettingGo { lane, holding, jobs }) = self.letting_go.take() else { return Ok(()) };
        session.let_go_of_keys(lane, &jobs, holding)
    }

    /// Writes what ended so far.
    fn save_jobs(&mut self, session: &mut Session<'_>) -> Result<(), Fault> {
        self.save_keys(session)?;
        self.completed.save(session)?;
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

fn settle_one<'h>(
    session: &mut Session<'_>,
    settlement: &Settlement,
    holder: Option<&'h Holding>,
    known: Option<Plain>,
    ends: &mut Ends<'h>,
) -> Result<Settled, Fault> {
    if let Some(holding) = holder
        && ends.complete(session, settlement, holding, known)?
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
    ends.save_keys(session)?;
    session.let_go_of_keys(head.lane, &[(head.id, settlement.outcome.ending())], holding)?;
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
    ends: &mut Ends<'_>,
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
                note_result(session, head.job, result)?;
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

fn note_result(session: &Session<'_>, job: i64, result: &Payload) -> Result<(), Fault> {
    let (codec, bytes) = (result.codec().number(), result.bytes().as_ref());
    session.conn.prepare_cached(UPSERT_RESULT)?.execute((job, codec, bytes))?;
    Ok(())
}
