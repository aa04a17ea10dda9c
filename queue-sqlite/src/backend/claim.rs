//! T4: who gets which jobs. The rule is stated at [`ClaimRequest`].

use std::collections::HashMap;

use queue_core::backend::{CLAIM_MAX_BYTES, PASS_MAX};
use queue_core::{Claim, ClaimRequest, DeadReason, JobState, Kind, Lease, QueueName, Timestamp};
use rusqlite::{OptionalExtension, params};

use super::promote::promote;
use super::renew::extend;
use super::taken::{Claimed, Pick, Taken};
use crate::errors::Fault;
use crate::open::Room;
use crate::rows::{ms, number, sixteen, time};
use crate::session::{Finish, Session};
use crate::watch::SELECT_HAS_READY;

/// The most lanes of a queue that one round looks at.
const LANES_PER_ROUND_MAX: usize = 32;

pub(super) const SELECT_CLAIM: &str = "SELECT claim, claimed_ms, fence FROM claim WHERE token = ?1";
pub(super) const INSERT_CLAIM: &str = "INSERT INTO claim (token, worker, claimed_ms, until_ms, fence, jobs) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
pub(super) const UPDATE_HELD: &str =
    "UPDATE job SET state = 4, position = ?2, claim = ?3 WHERE job = ?1";
/// When the next job is due, and which it is.
pub(crate) const SELECT_FIRST_DUE: &str = "SELECT due_ms, id, lane FROM job \
     WHERE state <= 2 ORDER BY due_ms, id LIMIT 1";
pub(super) const SELECT_FIRST_LAPSED: &str =
    "SELECT 1 FROM claim WHERE until_ms <= ?1 ORDER BY until_ms LIMIT 1";
pub(super) const SELECT_EXPIRED_SHELF: &str =
    "SELECT 1 FROM shelf WHERE next_expiry_ms <= ?1 LIMIT 1";
pub(super) const SELECT_OVERFULL_SHELF: &str =
    "SELECT 1 FROM shelf WHERE records > 10000 AND part > 0 LIMIT 1";
pub(super) const HAS_PAUSE: &str = "SELECT 1 FROM pause WHERE queue = ?1";

/// An answer to a claim, and the job whose time `next_due` is: its due time and id.
pub(crate) type Answer = (Claim, Option<(i64, [u8; 16])>);

/// What is left of a request while it is being served.
struct Wanted {
    missing: u32,
    slots: HashMap<Kind, u32>,
    taken: Vec<Taken>,
    /// How many more bytes of payload are handed out.
    bytes_left: usize,
    /// How many more jobs this call may meet that nobody gets: expired ones, which it buries, and
    /// unreadable ones, which it puts aside.
    misses_left: u32,
}

impl Wanted {
    /// Whether a bound was reached that is not one of the request.
    fn is_bounded(&self) -> bool {
        self.misses_left == 0 || self.bytes_left == 0
    }
}

/// A lane while a claim serves it.
struct Served {
    lane: i64,
    kind: Kind,
    pick: Pick,
}

/// Serves a claim, or repeats the answer to it.
pub(super) fn claim(
    session: &mut Session<'_>,
    request: &ClaimRequest,
    room: &Room,
) -> Result<Answer, Fault> {
    let mut select = session.conn.prepare_cached(SELECT_CLAIM)?;
    let repeated = select.query_row([request.token.as_bytes()], |row| {
        let claimed_at = time(number(row, 1)?);
        Ok(Claimed { claim: number(row, 0)?, claimed_at, fence: number(row, 2)? })
    });
    if let Some(claimed) = repeated.optional()? {
        // Nobody was there to renew it.
        let until_ms = ms(session.now.after(request.lease));
        extend(session, request.token, until_ms)?;
        let leases = claimed.leases(session, request.token)?;
        return answer(session, leases, false);
    }
    room.check_claim(session.conn)?;
    let (_, more_due) = promote(session, PASS_MAX)?;
    let mut wanted = Wanted {
        missing: request.max,
        slots: request.kinds.iter().map(|k| (k.kind.clone(), k.slots)).collect(),
        taken: Vec::new(),
        bytes_left: CLAIM_MAX_BYTES,
        misses_left: PASS_MAX,
    };
    for queue in &request.queues {
        if wanted.missing == 0 || wanted.is_bounded() {
            break;
        }
        if session.conn.prepare_cached(HAS_PAUSE)?.exists([queue.as_str()])? {
            continue;
        }
        serve_queue(session, queue, &mut wanted)?;
    }
    let more = wanted.missing == 0 || wanted.is_bounded() || more_due;
    let leases = hold(session, request, wanted.taken)?;
    leave_to_others(session, request)?;
    answer(session, leases, more)
}

/// Says so if there are jobs of kinds for which this worker has no slots: it may be the one that
/// was woken for them.
fn leave_to_others(session: &mut Session<'_>, request: &ClaimRequest) -> Result<(), Fault> {
    let mut has_ready = session.conn.prepare_cached(SELECT_HAS_READY)?;
    for kind in request.kinds.iter().filter(|kind| kind.slots == 0) {
        for queue in &request.queues {
            if has_ready.exists((queue.as_str(), kind.kind.as_str()))? {
                session.announce();
                return Ok(());
            }
        }
    }
    Ok(())
}

fn answer(session: &Session<'_>, leases: Vec<Lease>, more: bool) -> Result<Answer, Fault> {
    let mut first_due = session.conn.prepare_cached(SELECT_FIRST_DUE)?;
    let first_due =
        first_due.query_row([], |row| Ok((number(row, 0)?, sixteen(row, 1)?.unwrap_or_default())));
    let first_due = first_due.optional()?;
    let mut claim = Claim::default();
    claim.leases = leases;
    claim.more = more;
    claim.next_due = first_due.map(|(due_ms, _)| time(due_ms).since(session.now));
    claim.maintain = needs_maintenance(session, first_due.map(|(due_ms, _)| time(due_ms)))?;
    Ok((claim, first_due))
}

fn needs_maintenance(session: &Session<'_>, first_due: Option<Timestamp>) -> Result<bool, Fault> {
    if first_due.is_some_and(|due_at| due_at <= session.now) {
        return Ok(true);
    }
    let now = ms(session.now);
    let mut lapsed = session.conn.prepare_cached(SELECT_FIRST_LAPSED)?;
    if lapsed.exists([now])? {
        return Ok(true);
    }
    let mut expired = session.conn.prepare_cached(SELECT_EXPIRED_SHELF)?;
    let mut overfull = session.conn.prepare_cached(SELECT_OVERFULL_SHELF)?;
    Ok(expired.exists([now])? || overfull.exists([])?)
}

/// Rounds over the lanes of a queue, until nothing is missing or no lane can serve.
fn serve_queue(
    session: &mut Session<'_>,
    queue: &QueueName,
    wanted: &mut Wanted,
) -> Result<(), Fault> {
    let mut lanes = Vec::new();
    for kind in wanted.slots.iter().filter(|(_, slots)| **slots > 0).map(|(kind, _)| kind) {
        for lane in session.lanes.ready_lanes(queue, kind)? {
            lanes.push(Served { lane: lane.lane, kind: lane.kind, pick: Pick::default() });
        }
    }
    while wanted.missing > 0 && serve_round(session, &mut lanes, wanted)? {}
    Ok(())
}

/// One round; says whether it changed anything and another one may.
fn serve_round(
    session: &mut Session<'_>,
    lanes: &mut [Served],
    wanted: &mut Wanted,
) -> Result<bool, Fault> {
    let group = group(session, lanes, wanted)?;
    let Ok(size) = u32::try_from(group.len()) else { return Ok(false) };
    let share = wanted.missing.div_ceil(size.max(1));
    let mut served_any = false;
    for index in group {
        let served = &mut lanes[index];
        let slots = wanted.slots.get(&served.kind).copied().unwrap_or(0);
        let most = share.min(wanted.missing).min(slots);
        served_any |= serve_lane(session, served, most, wanted)?;
    }
    Ok(served_any && !wanted.is_bounded())
}

/// The lanes that take turns now: the best priority among those looked at.
fn group(
    session: &mut Session<'_>,
    lanes: &[Served],
    wanted: &Wanted,
) -> Result<Vec<usize>, Fault> {
    let mut looked_at = Vec::with_capacity(lanes.len());
    for (index, served) in lanes.iter().enumerate() {
        let has_slots = wanted.slots.get(&served.kind).is_some_and(|slots| *slots > 0);
        let lane = session.lanes.load(served.lane)?;
        if has_slots && lane.ready() > 0 {
            looked_at.push((lane.priority, lane.turn, index));
        }
    }
    looked_at.sort_unstable();
    looked_at.truncate(LANES_PER_ROUND_MAX);
    let best = looked_at.first().map(|(priority, ..)| *priority);
    looked_at.retain(|(priority, ..)| Some(*priority) == best);
    Ok(looked_at.into_iter().map(|(.., index)| index).collect())
}

/// Takes up to `most` jobs from the head of a lane; says whether the lane changed.
fn serve_lane(
    session: &mut Session<'_>,
    served: &mut Served,
    most: u32,
    wanted: &mut Wanted,
) -> Result<bool, Fault> {
    let mut taken = 0;
    let mut changed = false;
    while taken < most && !wanted.is_bounded() {
        let Some(next) = served.pick.next(session, served.lane, most - taken)? else {
            // It may count jobs that are not there: it would be first for ever.
            changed |= session.correct_ready(served.lane)?;
            break;
        };
        changed = true;
        match next {
            Err(broken) => {
                wanted.misses_left -= 1;
                session.put_aside(&broken)?;
            }
            Ok(job) if job.spec.expires_at.is_some_and(|at| at <= session.now) => {
                wanted.misses_left -= 1;
                bury(session, &job)?;
            }
            Ok(job) => {
                wanted.bytes_left = wanted.bytes_left.saturating_sub(job.bytes());
                session.leave(served.lane, JobState::Ready)?;
                session.enter(served.lane, JobState::Running)?;
                wanted.taken.push(job);
                taken += 1;
            }
        }
    }
    wanted.missing -= taken;
    if let Some(slots) = wanted.slots.get_mut(&served.kind) {
        *slots -= taken;
    }
    if changed && session.lanes.load(served.lane)?.ready() > 0 {
        session.next_turn(served.lane)?;
        // Others may take what this one leaves.
        session.announce();
    }
    Ok(changed)
}

/// T18: a job is met after its `expires_at`.
fn bury(session: &mut Session<'_>, job: &Taken) -> Result<(), Fault> {
    let reason = Some(DeadReason::Expired);
    match session.head(job.spec.id)? {
        Some(head) if head.state == JobState::Ready => {
            session.finish(&head, Finish { state: JobState::Dead, reason, elapsed_ms: None })
        }
        _ => Ok(()),
    }
}

/// Gives the chosen jobs to the claim.
fn hold(
    session: &mut Session<'_>,
    request: &ClaimRequest,
    taken: Vec<Taken>,
) -> Result<Vec<Lease>, Fault> {
    if taken.is_empty() {
        return Ok(Vec::new());
    }
    let jobs = i64::try_from(taken.len()).unwrap_or(i64::MAX);
    let fence = session.store.fence.saturating_add(1).max(ms(session.now).saturating_mul(1000));
    session.store.fence = fence.saturating_add(jobs - 1);
    session.conn.prepare_cached(INSERT_CLAIM)?.execute(params![
        request.token.as_bytes(),
        request.worker.as_str(),
        ms(session.now),
        ms(session.now.after(request.lease)),
        fence,
        jobs,
    ])?;
    let claim = session.conn.last_insert_rowid();
    let claimed = Claimed { claim, claimed_at: session.now, fence };
    let mut leases = Vec::with_capacity(taken.len());
    let mut update = session.conn.prepare_cached(UPDATE_HELD)?;
    for (position, job) in (0..).zip(taken) {
        update.execute((job.head.job, position, claim))?;
        leases.push(claimed.lease(job, position, request.token));
    }
    Ok(leases)
}
