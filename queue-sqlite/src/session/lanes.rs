//! The lanes that a transaction has read.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use hashbrown::HashMap;
use queue_core::{Error, JobSpec, JobState, Kind, LimitKey, LimitKeys, QueueName, is_turn_over};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Session, Store};
use crate::errors::Fault;
use crate::rows::{LaneName, LaneOf, limits_text, names, number, state_number, text};

/// The jobs of one queue, kind, priority and list of limit keys. See the table `lane`.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    pub(crate) lane: i64,
    pub(crate) name: LaneName,
    pub(crate) turn: i64,
    head: i64,
    tail: i64,
    /// Jobs per state, by the state's number less one.
    jobs: [i64; 8],
    /// The key at which it waits for room.
    blocked_by: Option<LimitKey>,
    /// The same as it is stored.
    counted_at: Option<LimitKey>,
    changed: bool,
    /// So has what its place among others depends on: its turn, its ready jobs, or the key at which it waits.
    moved: bool,
    /// It is among those that may have changed.
    touched: bool,
    /// It counted fewer jobs than it has: it does not go although it seems empty.
    kept: bool,
}

/// The end of a lane that a job joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Before all others: it was taken out and is put back.
    Head,
    /// After all others.
    Tail,
}

macro_rules! lane_columns {
    () => {
        "lane, queue, kind, priority, limits, turn, head, tail, scheduled, retrying, ready, \
         running, completed, dead, cancelled, quarantined, blocked_by"
    };
}
pub(crate) const SELECT_LANE: &str =
    concat!("SELECT ", lane_columns!(), " FROM lane WHERE lane = ?1");
pub(crate) const SELECT_LANE_BY_NAME: &str = concat!(
    "SELECT ",
    lane_columns!(),
    " FROM lane WHERE queue = ?1 AND kind = ?2 AND limits = ?3 AND priority = ?4"
);
/// The lanes of one queue and kind without keys that hold ready jobs, also if they count none: at
/// most one per priority.
pub(crate) const SELECT_READY_LANES: &str = concat!(
    "SELECT ",
    lane_columns!(),
    " FROM lane WHERE queue = ?1 AND kind = ?2 AND limits = '' AND (ready > 0 \
     OR EXISTS (SELECT 1 FROM job WHERE job.lane = lane.lane AND job.position >= lane.head \
     AND job.state = 3))"
);
pub(crate) const COUNT_READY: &str =
    "SELECT count(*) FROM job WHERE lane = ?1 AND position IS NOT NULL AND state = 3";
pub(crate) const INSERT_LANE: &str = "INSERT INTO lane (queue, kind, limits, priority, turn, head, tail, \
     scheduled, retrying, ready, running, completed, dead, cancelled, quarantined) \
     VALUES (?1, ?2, ?3, ?4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)";
pub(crate) const UPDATE_LANE: &str = "UPDATE lane SET turn = ?2, head = ?3, tail = ?4, scheduled = ?5, \
     retrying = ?6, ready = ?7, running = ?8, completed = ?9, dead = ?10, cancelled = ?11, \
     quarantined = ?12, blocked_by = ?13 WHERE lane = ?1";
/// The same for a lane that keeps its place among others: no index changes.
pub(crate) const UPDATE_LANE_COUNTS: &str = "UPDATE lane SET head = ?2, tail = ?3, scheduled = ?4, \
     retrying = ?5, running = ?6, completed = ?7, dead = ?8, cancelled = ?9, quarantined = ?10 \
     WHERE lane = ?1";
pub(crate) const DELETE_LANE: &str = "DELETE FROM lane WHERE lane = ?1";

impl Lane {
    /// A lane without jobs.
    fn new(lane: i64, name: LaneName) -> Self {
        Self {
            lane,
            name,
            turn: 0,
            head: 0,
            tail: 0,
            jobs: [0; 8],
            blocked_by: None,
            counted_at: None,
            changed: false,
            moved: false,
            touched: false,
            kept: false,
        }
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Result<Self, Error>> {
        let lane = number(row, 0)?;
        let Some(name) = names(row, 1)? else {
            return Ok(Err(Error::Corrupt(format!("lane {lane} has an illegal name"))));
        };
        // Numbers that the table does not allow would stop whoever writes the lane back.
        let mut jobs = [0; 8];
        for (index, count) in jobs.iter_mut().enumerate() {
            *count = number(row, 8 + index)?.max(0);
        }
        let (turn, head, tail) = (number(row, 5)?, number(row, 6)?, number(row, 7)?);
        let (head, tail) = (head.min(tail), head.max(tail));
        let blocked_by = text(row, 16)?.and_then(|key| LimitKey::new(key).ok());
        let counted_at = blocked_by.clone();
        let new = Self::new(lane, name);
        Ok(Ok(Self { turn, head, tail, jobs, blocked_by, counted_at, ..new }))
    }

    pub(crate) fn ready(&self) -> i64 {
        self.jobs[count_index(JobState::Ready)]
    }

    /// No ready job stands before this position.
    pub(crate) fn first_position(&self) -> i64 {
        self.head
    }

    /// The ready jobs up to this position leave.
    pub(crate) fn pass(&mut self, position: i64) {
        let next = position.saturating_add(1).min(self.tail);
        if next > self.head {
            (self.head, self.changed) = (next, true);
        }
    }

    /// There is a ready job at this position, before what was taken for the first one.
    pub(crate) fn go_back(&mut self, position: i64) {
        (self.head, self.changed) = (position, true);
    }

    /// The position of a job that joins.
    pub(crate) fn give_place(&mut self, end: End) -> i64 {
        match end {
            End::Head => {
                self.head = self.head.saturating_sub(1);
                self.head
            }
            End::Tail => {
                let position = self.tail;
                self.tail = self.tail.saturating_add(1);
                position
            }
        }
    }

    /// The position of the next job that joins at the end.
    pub(crate) fn next_position(&self) -> i64 {
        self.tail
    }

    /// Counts jobs that come into a state, or leave it.
    fn count(&mut self, state: JobState, by: i64) {
        let count = &mut self.jobs[count_index(state)];
        let jobs = count.saturating_add(by);
        // A wrong count, which an audit finds, must not stop the jobs.
        self.kept |= jobs < 0;
        *count = jobs.max(0);
        self.changed = true;
        self.moved |= state == JobState::Ready;
    }

    /// Counts the ready jobs anew.
    fn set_ready(&mut self, jobs: i64) {
        self.jobs[count_index(JobState::Ready)] = jobs;
        (self.changed, self.moved, self.kept) = (true, true, true);
    }

    fn set_turn(&mut self, turn: i64) {
        (self.turn, self.changed, self.moved) = (turn, true, true);
    }

    fn set_blocked_by(&mut self, key: Option<LimitKey>) {
        if self.blocked_by != key {
            (self.blocked_by, self.changed, self.moved) = (key, true, true);
        }
    }

    fn is_empty(&self) -> bool {
        self.jobs.iter().all(|count| *count == 0)
    }
}

fn count_index(state: JobState) -> usize {
    usize::try_from(state_number(state) - 1).unwrap_or(0)
}

/// Lanes as they are stored, by their rowid and by their name.
#[derive(Debug, Default)]
pub(crate) struct KnownLanes {
    lanes: BTreeMap<i64, Lane>,
    names: HashMap<LaneName, i64>,
}

impl KnownLanes {
    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }
}

/// The lanes that a transaction has read, or that are known from the one before.
#[derive(Debug)]
pub(crate) struct Lanes<'c> {
    conn: &'c Connection,
    known: KnownLanes,
    /// Those that may have changed.
    touched: Vec<i64>,
    /// Those that count fewer jobs than they have.
    kept: Vec<i64>,
}

impl<'c> Lanes<'c> {
    pub(super) fn new(conn: &'c Connection, known: KnownLanes) -> Self {
        Self { conn, known, touched: Vec::new(), kept: Vec::new() }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.conn, KnownLanes::default());
    }

    /// What is known of lanes once all that has changed is written. A lane that counts fewer jobs than it
    /// has is read again.
    pub(super) fn into_known(mut self) -> KnownLanes {
        for lane in self.kept {
            if let Some(lane) = self.known.lanes.remove(&lane) {
                self.known.names.remove(&lane.name);
            }
        }
        self.known
    }

    /// The lane of a rowid.
    pub(crate) fn load(&mut self, lane: i64) -> Result<&mut Lane, Fault> {
        let known = match self.known.lanes.entry(lane) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let mut select = self.conn.prepare_cached(SELECT_LANE)?;
                let found = select.query_row([lane], Lane::read).optional()?;
                let missing = || Error::Corrupt(format!("lane {lane} is missing"));
                let found = found.ok_or_else(missing)??;
                self.known.names.insert(found.name.clone(), lane);
                place.insert(found)
            }
        };
        if !known.touched {
            known.touched = true;
            self.touched.push(lane);
        }
        Ok(known)
    }

    /// Knows a lane as it is now.
    fn learn(&mut self, lane: Lane) {
        self.touched.push(lane.lane);
        let lane = Lane { touched: true, ..lane };
        self.known.names.insert(lane.name.clone(), lane.lane);
        self.known.lanes.insert(lane.lane, lane);
    }

    /// Whether there is a lane of this rowid that can be read.
    pub(crate) fn has(&mut self, lane: i64) -> Result<bool, Fault> {
        match self.load(lane) {
            Ok(_) => Ok(true),
            Err(Fault::Told(Error::Corrupt(_))) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// The limit keys of a lane, if it is known.
    pub(crate) fn known_limits(&self, lane: i64) -> Option<&LimitKeys> {
        self.known.lanes.get(&lane).map(|lane| &lane.name.limits)
    }

    /// The lane of a new job; made if there is none.
    pub(crate) fn of_job(&mut self, spec: &JobSpec) -> Result<i64, Fault> {
        if let Some(lane) = self.known.names.get(&LaneOf(spec)) {
            return Ok(*lane);
        }
        let JobSpec { queue, kind, priority, limits, .. } = spec;
        let limits = limits_text(limits);
        let values = params![queue.as_str(), kind.as_str(), limits, priority.level()];
        let mut select = self.conn.prepare_cached(SELECT_LANE_BY_NAME)?;
        let lane = match select.query_row(values, Lane::read).optional()? {
            Some(found) => found?,
            None => {
                self.conn.prepare_cached(INSERT_LANE)?.execute(values)?;
                let lane = self.conn.last_insert_rowid();
                // Changed, so that it goes again if no job joins it.
                Lane { changed: true, ..Lane::new(lane, LaneName::of(spec)) }
            }
        };
        let rowid = lane.lane;
        self.learn(lane);
        Ok(rowid)
    }

    /// The lanes of a queue and kind that hold ready jobs without limit keys.
    pub(crate) fn ready_lanes(
        &mut self,
        queue: &QueueName,
        kind: &Kind,
    ) -> Result<Vec<Lane>, Fault> {
        let mut select = self.conn.prepare_cached(SELECT_READY_LANES)?;
        let found = select.query_map((queue.as_str(), kind.as_str()), Lane::read)?;
        let mut lanes = Vec::new();
        for lane in found {
            let Ok(mut lane) = lane? else { continue };
            if lane.ready() == 0 {
                // A wrong count, which an audit finds, must not keep its jobs from running.
                let mut count = self.conn.prepare_cached(COUNT_READY)?;
                lane.set_ready(count.query_row([lane.lane], |row| row.get(0))?);
            }
            self.learn(lane.clone());
            lanes.push(lane);
        }
        Ok(lanes)
    }

    /// Writes the lanes that changed; those without jobs go. To be called when every job is
    /// counted somewhere, not between its leaving one state and entering the next.
    fn save(&mut self, mut tell: impl FnMut(Change<'_>)) -> Result<(), Fault> {
        let mut gone = Vec::new();
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        for rowid in touched.drain(..) {
            let Some(lane) = self.known.lanes.get_mut(&rowid) else { continue };
            lane.touched = false;
            if !lane.changed {
                continue;
            }
            if lane.kept {
                self.kept.push(rowid);
            }
            if lane.ready() == 0 {
                // It would have a new turn when it is looked for again.
                lane.set_blocked_by(None);
            }
            let moved = std::mem::take(&mut lane.moved);
            lane.changed = false;
            if lane.blocked_by != lane.counted_at {
                for (key, by) in [(&lane.counted_at, -1), (&lane.blocked_by, 1)] {
                    if let Some(key) = key {
                        tell(Change::Waits(key, &lane.name, by));
                    }
                }
                lane.counted_at.clone_from(&lane.blocked_by);
            }
            if lane.is_empty() && !lane.kept {
                self.conn.prepare_cached(DELETE_LANE)?.execute([lane.lane])?;
                tell(Change::Gone(&lane.name));
                gone.push(lane.name.clone());
                continue;
            }
            let jobs = &lane.jobs;
            if !moved {
                self.conn.prepare_cached(UPDATE_LANE_COUNTS)?.execute(params![
                    lane.lane, lane.head, lane.tail, jobs[0], jobs[1], jobs[3], jobs[4], jobs[5],
                    jobs[6], jobs[7]
                ])?;
                continue;
            }
            let blocked_by = lane.blocked_by.as_ref().map(LimitKey::as_str);
            self.conn.prepare_cached(UPDATE_LANE)?.execute(params![
                lane.lane, lane.turn, lane.head, lane.tail, jobs[0], jobs[1], jobs[2], jobs[3],
                jobs[4], jobs[5], jobs[6], jobs[7], blocked_by
            ])?;
        }
        self.touched = touched; // its room is used again
        for name in gone {
            if let Some(lane) = self.known.names.remove(&name) {
                self.known.lanes.remove(&lane);
            }
        }
        Ok(())
    }
}

/// What the writing of a lane changes elsewhere.
enum Change<'l> {
    /// It begins to wait at a key, or ceases to.
    Waits(&'l LimitKey, &'l LaneName, i64),
    /// It is gone.
    Gone(&'l LaneName),
}

impl Session<'_> {
    /// Writes the lanes that changed. See [`Session::flush`].
    pub(super) fn save_lanes(&mut self) -> Result<(), Fault> {
        let Self { lanes, limits, queues, store, .. } = self;
        lanes.save(|change| match change {
            Change::Waits(key, LaneName { queue, kind, .. }, by) => {
                limits.count_waiting((key.clone(), queue.clone(), kind.clone()), by);
            }
            Change::Gone(name) if store.queue_limits > 0 => queues.lost_lane(&name.queue),
            Change::Gone(_) => {}
        })
    }

    /// Counts a job that comes into a lane, in this state. Ready jobs come by [`Session::push`].
    pub(crate) fn enter(&mut self, lane: i64, state: JobState) -> Result<(), Fault> {
        self.enter_many(lane, state, 1)
    }

    /// The same for several.
    pub(crate) fn enter_many(
        &mut self,
        lane: i64,
        state: JobState,
        jobs: i64,
    ) -> Result<(), Fault> {
        self.count_live(lane, state, jobs)?;
        self.lanes.load(lane)?.count(state, jobs);
        Ok(())
    }

    /// Counts a job by its queue and keys, if it is live and somebody wants to know.
    fn count_live(&mut self, lane: i64, state: JobState, by: i64) -> Result<(), Fault> {
        if !(state.is_waiting() || state == JobState::Running) {
            return Ok(());
        }
        let name = &self.lanes.load(lane)?.name;
        if !name.limits.is_empty() {
            self.limits.count_live(&name.limits, by);
        }
        if self.store.queue_limits > 0 {
            self.queues.count_live(&name.queue, by);
        }
        Ok(())
    }

    /// Counts a job out that leaves this state.
    pub(crate) fn leave(&mut self, lane: i64, state: JobState) -> Result<(), Fault> {
        self.leave_many(lane, state, 1)
    }

    /// The same for several.
    pub(crate) fn leave_many(
        &mut self,
        lane: i64,
        state: JobState,
        jobs: i64,
    ) -> Result<(), Fault> {
        self.count_live(lane, state, -jobs)?;
        self.lanes.load(lane)?.count(state, -jobs);
        Ok(())
    }

    /// Counts ready jobs of a lane that start.
    pub(crate) fn start_jobs(&mut self, lane: i64, jobs: u32) -> Result<(), Fault> {
        if jobs == 0 {
            return Ok(());
        }
        let (lane, jobs) = (self.lanes.load(lane)?, i64::from(jobs));
        lane.count(JobState::Ready, -jobs);
        lane.count(JobState::Running, jobs);
        Ok(())
    }

    /// Counts a job that becomes ready and answers its position in the lane.
    pub(crate) fn push(&mut self, lane: i64, end: End) -> Result<i64, Fault> {
        self.count_ready(lane)?;
        Ok(self.lanes.load(lane)?.give_place(end))
    }

    /// Counts a job that becomes ready at a place that it was given.
    pub(crate) fn count_ready(&mut self, lane: i64) -> Result<(), Fault> {
        self.count_live(lane, JobState::Ready, 1)?;
        let Store { turn, .. } = &mut self.store;
        let lane = self.lanes.load(lane)?;
        if lane.ready() == 0 {
            *turn = turn.saturating_add(1);
            lane.set_turn(*turn);
        }
        lane.count(JobState::Ready, 1);
        self.announce();
        Ok(())
    }

    /// Counts a lane as one without ready jobs, in which none was found; says whether it was
    /// counted otherwise.
    pub(crate) fn correct_ready(&mut self, lane: i64) -> Result<bool, Fault> {
        let lane = self.lanes.load(lane)?;
        let was_wrong = lane.ready() > 0;
        if was_wrong {
            lane.set_ready(0);
        }
        Ok(was_wrong)
    }

    /// Stamps a lane that was served and still holds ready jobs.
    pub(crate) fn next_turn(&mut self, lane: i64, weight: u32, given: u32) -> Result<(), Fault> {
        self.store.turn = self.store.turn.saturating_add(1);
        let turn = self.store.turn;
        if is_turn_over(turn.unsigned_abs(), weight, given) {
            self.lanes.load(lane)?.set_turn(turn);
        }
        Ok(())
    }

    /// Lets a lane wait at a key that has no room, or be looked at again.
    pub(crate) fn block(&mut self, lane: i64, at: Option<LimitKey>) -> Result<(), Fault> {
        self.lanes.load(lane)?.set_blocked_by(at);
        Ok(())
    }
}
