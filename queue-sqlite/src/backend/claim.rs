//! T4: who gets which jobs. The rule is stated at [`ClaimRequest`].

pub(super) mod lanes;
pub(super) mod next;

use std::collections::{BTreeMap, HashMap};

use queue_core::backend::{CLAIM_MAX_BYTES, PASS_MAX};
use queue_core::{
    Claim, ClaimRequest, DeadReason, JobId, JobState, Kind, KindSlots, Lease, LimitKey, LimitKeys,
    QueueName, Rooms, Timestamp, given_at_most,
};
use rusqlite::{OptionalExtension, params};

use super::limits::{HAS_RECHECK, recheck};
use super::promote::promote;
use super::renew::extend;
use super::taken::{Claimed, Taken};
use crate::errors::Fault;
use crate::open::Room;
use crate::rows::{ms, number, sixteen, time};
use crate::session::{Added, Finish, Runs, Session, runs_of};
use crate::watch::has_work;
use lanes::{HAS_LIMITED, Lanes, Served};
use next::next_room;

pub(super) const SELECT_CLAIM: &str =
    "SELECT claim, claimed_ms, fence, runs FROM claim WHERE token = ?1";
pub(super) const INSERT_CLAIM: &str = "INSERT INTO claim (token, worker, claimed_ms, until_ms, fence, jobs, \
     added, runs) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
/// A run of jobs starts, all of which were chosen. If that fails, so does the call, which is undone
/// as a whole: to undo the statement alone would cost a copy of each page.
pub(super) const UPDATE_HELD: &str =
    "UPDATE OR FAIL job SET state = 4, claim = ?3 WHERE job BETWEEN ?1 AND ?2";
/// When the next job is due, and which it is.
pub(crate) const SELECT_FIRST_DUE: &str = "SELECT due_ms, id, lane FROM job \
     WHERE state <= 2 ORDER BY due_ms, id LIMIT 1";
pub(super) const SELECT_FIRST_LAPSED: &str =
    "SELECT 1 FROM claim WHERE until_ms <= ?1 ORDER BY until_ms LIMIT 1";
pub(super) const SELECT_EXPIRED_SHELF: &str =
    "SELECT 1 FROM shelf WHERE next_expiry_ms <= ?1 LIMIT 1";
pub(super) const SELECT_OVERFULL_SHELF: &str =
    "SELECT 1 FROM shelf WHERE records > 10000 AND part > 0 LIMIT 1";
pub(crate) const HAS_PAUSE: &str = "SELECT 1 FROM pause WHERE queue = ?1";

/// An answer to a claim, and the job whose time `next_due` is: its due time and id.
pub(crate) type Answer = (Claim, Option<(i64, [u8; 16])>);

/// What is left of a request while it is being served.
struct Wanted<'r> {
    missing: u32,
    kinds: Vec<Asked<'r>>,
    rooms: Rooms,
    taken: Vec<Taken>,
    /// The limit keys that these will hold.
    held: HashMap<LimitKey, Vec<JobId>>,
    /// Lanes with limit keys that were served.
    served: Vec<(i64, LimitKeys)>,
    /// Whether there are lanes with limit keys, and such that wait.
    keyed: bool,
    waiting: bool,
    /// Others of which the settings have changed have yet to be looked at.
    rechecks: bool,
    /// Lanes that wait for room were passed over although there is some.
    left_out: bool,
    /// How many more bytes of payload are handed out.
    bytes_left: usize,
    /// How many more jobs this call may meet that nobody gets: expired ones, which it buries, and
    /// unreadable ones, which it puts aside.
    misses_left: u32,
    expired: BTreeMap<(QueueName, Kind), u64>,
    /// How many more lanes this call may look at for nothing.
    looks_left: u32,
}

/// A kind that is asked for.
struct Asked<'r> {
    slots: &'r KindSlots,
    /// How many slots are left.
    left: u32,
}

impl<'r> Wanted<'r> {
    fn of(session: &mut Session<'_>, request: &'r ClaimRequest) -> Result<Self, Fault> {
        let asked = |slots: &'r KindSlots| Asked { slots, left: slots.slots };
        let mut limited = session.conn.prepare_cached(HAS_LIMITED)?;
        let (keyed, waiting, changed): (bool, bool, bool) =
            limited.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        if changed {
            recheck(session)?;
            session.flush()?;
        }
        Ok(Self {
            missing: request.max,
            kinds: request.kinds.iter().map(asked).collect(),
            rooms: Rooms::default(),
            taken: Vec::new(),
            held: HashMap::new(),
            served: Vec::new(),
            keyed,
            waiting,
            rechecks: changed && session.conn.prepare_cached(HAS_RECHECK)?.exists([])?,
            left_out: false,
            bytes_left: CLAIM_MAX_BYTES,
            misses_left: PASS_MAX,
            expired: BTreeMap::new(),
            looks_left: PASS_MAX,
        })
    }

    /// Whether a bound was reached that is not one of the request.
    fn is_bounded(&self) -> bool {
        self.misses_left == 0 || self.bytes_left == 0 || self.looks_left == 0
    }

    /// Whether jobs of a kind may start, as far as the worker is concerned.
    fn is_kind_open(&mut self, session: &mut Session<'_>, kind: usize) -> Result<bool, Fault> {
        let asked = &self.kinds[kind];
        Ok(asked.left > 0 && self.room(session, &asked.slots.limits)? != Some(0))
    }

    /// How many more jobs may start that need all these keys.
    fn room(&mut self, session: &mut Session<'_>, keys: &[LimitKey]) -> Result<Option<u32>, Fault> {
        let now = session.now;
        self.rooms.of(keys, |key| session.limits.key_room(key, now))
    }

    /// Of these keys, the one at which a lane should wait; `None` if all have room.
    fn closed(
        &mut self,
        session: &mut Session<'_>,
        keys: &[LimitKey],
    ) -> Result<Option<LimitKey>, Fault> {
        for key in keys {
            let is_used_up = self.room(session, std::slice::from_ref(key))? == Some(0);
            if is_used_up && session.limits.room(key, session.now)?.is_open() {
                // By this claim itself: mostly until one of its jobs ends.
                return Ok(Some(key.clone()));
            }
        }
        session.limits.closed(keys, session.now)
    }
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
        let claimed = Claimed { claim: number(row, 0)?, claimed_at, fence: number(row, 2)? };
        Ok((claimed, runs_of(row, 3)?))
    });
    if let Some((claimed, runs)) = repeated.optional()? {
        // Nobody was there to renew it.
        let until_ms = ms(session.now.after(request.lease));
        extend(session, request.token, until_ms)?;
        let leases = claimed.leases(session, &runs, request.token)?;
        session.flush()?;
        return answer(session, request, leases, false, true);
    }
    room.check_claim(session.conn)?;
    let (_, more_due) = promote(session, PASS_MAX)?;
    // What is read from now on must show what has changed so far.
    session.flush()?;
    let mut wanted = Wanted::of(session, request)?;
    for queue in &request.queues {
        if wanted.missing == 0 || wanted.is_bounded() {
            break;
        }
        if session.conn.prepare_cached(HAS_PAUSE)?.exists([queue.as_str()])? {
            continue;
        }
        let mut lanes = Lanes::of(session, queue, &mut wanted)?;
        while wanted.missing > 0 && serve_round(session, &mut lanes, &mut wanted)? {}
    }
    let more = wanted.missing == 0 || wanted.is_bounded() || wanted.left_out || more_due;
    let has_run_out = |asked: &Asked<'_>| asked.left == 0 && asked.slots.slots > 0;
    if more || wanted.kinds.iter().any(has_run_out) {
        // Others may take what this one leaves.
        session.announce();
    }
    let (keyed, served) = (wanted.keyed || wanted.waiting, std::mem::take(&mut wanted.served));
    let (rechecks, expired) = (wanted.rechecks, std::mem::take(&mut wanted.expired));
    let spare = wanted.rooms.are_spare();
    let leases = hold(session, request, wanted)?;
    block_served(session, &served)?;
    if keyed {
        session.flush()?;
    }
    leave_to_others(session, request)?;
    let mut answer = answer(session, request, leases, more, keyed)?;
    answer.0.maintain |= rechecks;
    answer.0.expired = expired;
    answer.0.spare = spare;
    Ok(answer)
}

/// Lets the lanes that were served wait if their keys have no room any more: they are being
/// written anyway.
fn block_served(session: &mut Session<'_>, served: &[(i64, LimitKeys)]) -> Result<(), Fault> {
    for (lane, limits) in served {
        let closed = session.limits.closed(limits, session.now)?;
        session.block(*lane, closed)?;
    }
    Ok(())
}

/// Says so if there are jobs of kinds for which this worker has no slots, or has no room where
/// others may have: it may be the one that was woken for them.
fn leave_to_others(session: &mut Session<'_>, request: &ClaimRequest) -> Result<(), Fault> {
    for asked in &request.kinds {
        let has_slots = asked.slots > 0;
        if has_slots && session.limits.is_open(&asked.limits, session.now)? {
            continue;
        }
        for queue in &request.queues {
            let Session { conn, limits, now, .. } = session;
            if has_work(conn, limits, queue, &asked.kind, *now)? {
                session.announce();
                return Ok(());
            }
        }
    }
    Ok(())
}

fn answer(
    session: &mut Session<'_>,
    request: &ClaimRequest,
    leases: Vec<Lease>,
    more: bool,
    keyed: bool,
) -> Result<Answer, Fault> {
    let mut first_due = session.conn.prepare_cached(SELECT_FIRST_DUE)?;
    let first_due =
        first_due.query_row([], |row| Ok((number(row, 0)?, sixteen(row, 1)?.unwrap_or_default())));
    let first_due = first_due.optional()?;
    let mut claim = Claim::default();
    claim.leases = leases;
    claim.more = more;
    let due_at = first_due.map(|(due_ms, _)| time(due_ms));
    let room_at = next_room(session, request, keyed)?;
    let next = [due_at, room_at].into_iter().flatten().min();
    claim.next_due = next.map(|at| at.since(session.now));
    claim.maintain = needs_maintenance(session, due_at)?;
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

/// One round; says whether it changed anything and another one may.
fn serve_round(
    session: &mut Session<'_>,
    lanes: &mut Lanes<'_>,
    wanted: &mut Wanted<'_>,
) -> Result<bool, Fault> {
    let group = lanes.group(session, wanted)?;
    let mut weights = Vec::with_capacity(group.len());
    for served in &group {
        weights.push(session.limits.weight(&served.limits)?);
    }
    let weight_of_group: u32 = weights.iter().sum();
    let missing = wanted.missing;
    let mut served_any = false;
    for (mut served, weight) in group.into_iter().zip(weights) {
        let share = (missing * weight).div_ceil(weight_of_group.max(1));
        let asked = &wanted.kinds[served.kind];
        let (slots, keys) = (asked.left, served.limits.union(&asked.slots.limits));
        let room = given_at_most(wanted.room(session, &keys)?);
        let most = share.min(wanted.missing).min(slots).min(room);
        served_any |= serve_lane(session, &mut served, weight, most, &keys, wanted)?;
        lanes.put_back(session, served)?;
    }
    Ok(served_any && !wanted.is_bounded())
}

/// Takes up to `most` jobs from the head of a lane; says whether the lane changed.
fn serve_lane(
    session: &mut Session<'_>,
    served: &mut Served,
    weight: u32,
    most: u32,
    keys: &[LimitKey],
    wanted: &mut Wanted<'_>,
) -> Result<bool, Fault> {
    let mut taken = 0;
    let mut changed = false;
    while taken < most && !wanted.is_bounded() {
        let Some(next) = served.pick.next(session, served.lane, most - taken)? else {
            // It may count jobs that are not there: it would be first for ever. Unless it gave
            // some, after which the next claim looks for others before its head.
            changed |= served.pick.is_fresh() && session.correct_ready(served.lane)?;
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
                let of = (job.spec.queue, job.spec.kind);
                *wanted.expired.entry(of).or_default() += 1;
            }
            Ok(job) => {
                wanted.bytes_left = wanted.bytes_left.saturating_sub(job.bytes());
                if taken == 0 {
                    wanted.taken.reserve(most.min(PASS_MAX) as usize);
                }
                wanted.taken.push(job);
                taken += 1;
            }
        }
    }
    let first = wanted.taken.len().saturating_sub(taken as usize);
    for key in keys.iter().filter(|_| taken > 0) {
        let ids = wanted.taken.iter().skip(first).map(|job| job.spec.id);
        wanted.held.entry(key.clone()).or_default().extend(ids);
    }
    session.start_jobs(served.lane, taken)?;
    wanted.missing -= taken;
    wanted.kinds[served.kind].left -= taken;
    wanted.rooms.take(keys, taken);
    if changed && !served.limits.is_empty() {
        session.block(served.lane, None)?;
        wanted.served.push((served.lane, served.limits.clone()));
    }
    if changed && session.lanes.load(served.lane)?.ready() > 0 {
        session.next_turn(served.lane, weight, taken)?;
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
    wanted: Wanted<'_>,
) -> Result<Vec<Lease>, Fault> {
    let Wanted { taken, held, kinds, .. } = wanted;
    if taken.is_empty() {
        return Ok(Vec::new());
    }
    let jobs = i64::try_from(taken.len()).unwrap_or(i64::MAX);
    let runs: Runs = taken.iter().map(|job| job.job).collect();
    let kinds = kinds.iter().filter(|asked| asked.left < asked.slots.slots);
    let fence = session.store.fence.saturating_add(1).max(ms(session.now).saturating_mul(1000));
    session.store.fence = fence.saturating_add(jobs - 1);
    session.conn.prepare_cached(INSERT_CLAIM)?.execute(params![
        request.token.as_bytes(),
        request.worker.as_str(),
        ms(session.now),
        ms(session.now.after(request.lease)),
        fence,
        jobs,
        Added::text(kinds.map(|asked| (&asked.slots.kind, &asked.slots.limits))),
        runs.text(),
    ])?;
    let claim = session.conn.last_insert_rowid();
    start(session, &taken, &held)?;
    let claimed = Claimed { claim, claimed_at: session.now, fence };
    let mut update = session.conn.prepare_cached(UPDATE_HELD)?;
    for (first, last) in runs.sorted().iter() {
        update.execute((first, last, claim))?;
    }
    let plain = taken.iter().filter_map(Taken::plain).collect();
    session.memory.borrow_mut().note(request.token, plain);
    let lease = |(number, job)| claimed.lease(job, number, request.token);
    Ok((0..).zip(taken).map(lease).collect())
}

/// The chosen jobs start: by their keys and by their queues.
fn start(
    session: &mut Session<'_>,
    taken: &[Taken],
    held: &HashMap<LimitKey, Vec<JobId>>,
) -> Result<(), Fault> {
    for (key, jobs) in held {
        session.limits.start(key, jobs, session.now)?;
    }
    // Mostly of one queue.
    let mut started: BTreeMap<&QueueName, u64> = BTreeMap::new();
    for job in taken {
        *started.entry(&job.spec.queue).or_default() += 1;
    }
    for (queue, jobs) in started {
        session.store.starts.add(queue, jobs, session.now);
    }
    Ok(())
}
