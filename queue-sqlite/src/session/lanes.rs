//! The lanes that a transaction has touched.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use queue_core::{Error, JobState, Kind, Priority, QueueName};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Session, Store};
use crate::errors::Fault;
use crate::rows::{names, number, state_number};

/// The jobs of one queue, kind and priority. See the table `lane`.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    pub(crate) lane: i64,
    pub(crate) queue: QueueName,
    pub(crate) kind: Kind,
    pub(crate) priority: Priority,
    pub(crate) turn: i64,
    head: i64,
    tail: i64,
    /// Jobs per state, by the state's number less one.
    jobs: [i64; 8],
    changed: bool,
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
        "lane, queue, kind, priority, turn, head, tail, scheduled, retrying, ready, running, \
         completed, dead, cancelled, quarantined"
    };
}
pub(crate) const SELECT_LANE: &str =
    concat!("SELECT ", lane_columns!(), " FROM lane WHERE lane = ?1");
pub(crate) const SELECT_LANE_BY_NAME: &str = concat!(
    "SELECT ",
    lane_columns!(),
    " FROM lane WHERE queue = ?1 AND kind = ?2 AND priority = ?3"
);
/// The lanes of one queue and kind that hold ready jobs, also if they count none: at most one per
/// priority.
pub(crate) const SELECT_READY_LANES: &str = concat!(
    "SELECT ",
    lane_columns!(),
    " FROM lane WHERE queue = ?1 AND kind = ?2 AND (ready > 0 \
     OR EXISTS (SELECT 1 FROM job WHERE job.lane = lane.lane AND job.state = 3))"
);
pub(crate) const COUNT_READY: &str = "SELECT count(*) FROM job WHERE lane = ?1 AND state = 3";
pub(crate) const INSERT_LANE: &str = "INSERT INTO lane (queue, kind, priority, turn, head, tail, scheduled, \
     retrying, ready, running, completed, dead, cancelled, quarantined) \
     VALUES (?1, ?2, ?3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)";
pub(crate) const UPDATE_LANE: &str = "UPDATE lane SET turn = ?2, head = ?3, tail = ?4, scheduled = ?5, \
     retrying = ?6, ready = ?7, running = ?8, completed = ?9, dead = ?10, cancelled = ?11, \
     quarantined = ?12 WHERE lane = ?1";
pub(crate) const DELETE_LANE: &str = "DELETE FROM lane WHERE lane = ?1";

impl Lane {
    /// A lane of which only the names are of interest.
    pub(crate) const fn named(lane: i64, queue: QueueName, kind: Kind, priority: Priority) -> Self {
        let (turn, head, tail, jobs) = (0, 0, 0, [0; 8]);
        Self { lane, queue, kind, priority, turn, head, tail, jobs, changed: false, kept: false }
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Result<Self, Error>> {
        let lane = number(row, 0)?;
        let Some((queue, kind, priority)) = names(row, 1)? else {
            return Ok(Err(Error::Corrupt(format!("lane {lane} has an illegal name"))));
        };
        // Numbers that the table does not allow would stop whoever writes the lane back.
        let mut jobs = [0; 8];
        for (index, count) in jobs.iter_mut().enumerate() {
            *count = number(row, 7 + index)?.max(0);
        }
        let (turn, head, tail) = (number(row, 4)?, number(row, 5)?, number(row, 6)?);
        let (head, tail) = (head.min(tail), head.max(tail));
        Ok(Ok(Self {
            lane,
            queue,
            kind,
            priority,
            turn,
            head,
            tail,
            jobs,
            changed: false,
            kept: false,
        }))
    }

    pub(crate) fn ready(&self) -> i64 {
        self.jobs[count_index(JobState::Ready)]
    }

    /// The position of the next job that joins at the end.
    pub(crate) fn next_position(&self) -> i64 {
        self.tail
    }

    fn is_empty(&self) -> bool {
        self.jobs.iter().all(|count| *count == 0)
    }
}

fn count_index(state: JobState) -> usize {
    usize::try_from(state_number(state) - 1).unwrap_or(0)
}

/// The lanes that a transaction has read, by their rowid.
#[derive(Debug)]
pub(crate) struct Lanes<'c> {
    conn: &'c Connection,
    lanes: HashMap<i64, Lane>,
    names: HashMap<(QueueName, Kind, Priority), i64>,
}

impl<'c> Lanes<'c> {
    pub(super) fn new(conn: &'c Connection) -> Self {
        Self { conn, lanes: HashMap::new(), names: HashMap::new() }
    }

    pub(super) fn clear(&mut self) {
        self.lanes.clear();
        self.names.clear();
    }

    /// The lane of a rowid.
    pub(crate) fn load(&mut self, lane: i64) -> Result<&mut Lane, Fault> {
        match self.lanes.entry(lane) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(place) => {
                let mut select = self.conn.prepare_cached(SELECT_LANE)?;
                let found = select.query_row([lane], Lane::read).optional()?;
                let missing = || Error::Corrupt(format!("lane {lane} is missing"));
                let found = found.ok_or_else(missing)??;
                self.names.insert(name_of(&found), lane);
                Ok(place.insert(found))
            }
        }
    }

    /// Whether there is a lane of this rowid that can be read.
    pub(crate) fn has(&mut self, lane: i64) -> Result<bool, Fault> {
        match self.load(lane) {
            Ok(_) => Ok(true),
            Err(Fault::Told(Error::Corrupt(_))) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// The lane for new jobs of this queue, kind and priority; made if there is none.
    pub(crate) fn of_name(
        &mut self,
        queue: &QueueName,
        kind: &Kind,
        priority: Priority,
    ) -> Result<i64, Fault> {
        let name = (queue.clone(), kind.clone(), priority);
        if let Some(lane) = self.names.get(&name) {
            return Ok(*lane);
        }
        let values = params![queue.as_str(), kind.as_str(), priority.level()];
        let mut select = self.conn.prepare_cached(SELECT_LANE_BY_NAME)?;
        let lane = match select.query_row(values, Lane::read).optional()? {
            Some(found) => found?,
            None => {
                self.conn.prepare_cached(INSERT_LANE)?.execute(values)?;
                let lane = self.conn.last_insert_rowid();
                let named = Lane::named(lane, queue.clone(), kind.clone(), priority);
                // Changed, so that it goes again if no job joins it.
                Lane { changed: true, ..named }
            }
        };
        let rowid = lane.lane;
        self.names.insert(name, rowid);
        self.lanes.insert(rowid, lane);
        Ok(rowid)
    }

    /// The lanes of a queue and kind that hold ready jobs.
    pub(crate) fn ready_lanes(
        &mut self,
        queue: &QueueName,
        kind: &Kind,
    ) -> Result<Vec<Lane>, Fault> {
        // The query must see what this step has changed so far.
        self.save()?;
        let mut select = self.conn.prepare_cached(SELECT_READY_LANES)?;
        let found = select.query_map((queue.as_str(), kind.as_str()), Lane::read)?;
        let mut lanes = Vec::new();
        for lane in found {
            let Ok(mut lane) = lane? else { continue };
            if lane.ready() == 0 {
                // A wrong count, which an audit finds, must not keep its jobs from running.
                let mut count = self.conn.prepare_cached(COUNT_READY)?;
                lane.jobs[count_index(JobState::Ready)] =
                    count.query_row([lane.lane], |row| row.get(0))?;
                (lane.changed, lane.kept) = (true, true);
            }
            self.names.insert(name_of(&lane), lane.lane);
            self.lanes.insert(lane.lane, lane.clone());
            lanes.push(lane);
        }
        Ok(lanes)
    }

    /// Writes the lanes that changed; those without jobs go. To be called when every job is
    /// counted somewhere, not between its leaving one state and entering the next.
    pub(super) fn save(&mut self) -> Result<(), Fault> {
        let mut gone = Vec::new();
        for lane in self.lanes.values_mut().filter(|lane| lane.changed) {
            lane.changed = false;
            if lane.is_empty() && !lane.kept {
                self.conn.prepare_cached(DELETE_LANE)?.execute([lane.lane])?;
                gone.push(name_of(lane));
                continue;
            }
            let jobs = &lane.jobs;
            self.conn.prepare_cached(UPDATE_LANE)?.execute(params![
                lane.lane, lane.turn, lane.head, lane.tail, jobs[0], jobs[1], jobs[2], jobs[3],
                jobs[4], jobs[5], jobs[6], jobs[7]
            ])?;
        }
        for name in gone {
            if let Some(lane) = self.names.remove(&name) {
                self.lanes.remove(&lane);
            }
        }
        Ok(())
    }
}

fn name_of(lane: &Lane) -> (QueueName, Kind, Priority) {
    (lane.queue.clone(), lane.kind.clone(), lane.priority)
}

impl Session<'_> {
    /// Counts a job that comes into a lane, in this state. Ready jobs come by [`Session::push`].
    pub(crate) fn enter(&mut self, lane: i64, state: JobState) -> Result<(), Fault> {
        let lane = self.lanes.load(lane)?;
        let count = &mut lane.jobs[count_index(state)];
        *count = count.saturating_add(1);
        lane.changed = true;
        Ok(())
    }

    /// Counts a job out that leaves this state.
    pub(crate) fn leave(&mut self, lane: i64, state: JobState) -> Result<(), Fault> {
        let lane = self.lanes.load(lane)?;
        let count = &mut lane.jobs[count_index(state)];
        // A wrong count, which an audit finds, must not stop the job.
        lane.kept |= *count <= 0;
        *count = (*count - 1).max(0);
        lane.changed = true;
        Ok(())
    }

    /// Counts a job that becomes ready and answers its position in the lane.
    pub(crate) fn push(&mut self, lane: i64, end: End) -> Result<i64, Fault> {
        let Store { turn, .. } = &mut self.store;
        let lane = self.lanes.load(lane)?;
        if lane.ready() == 0 {
            *turn = turn.saturating_add(1);
            lane.turn = *turn;
        }
        let count = &mut lane.jobs[count_index(JobState::Ready)];
        *count = count.saturating_add(1);
        lane.changed = true;
        let position = match end {
            End::Head => {
                lane.head = lane.head.saturating_sub(1);
                lane.head
            }
            End::Tail => {
                let position = lane.tail;
                lane.tail = lane.tail.saturating_add(1);
                position
            }
        };
        self.announce();
        Ok(position)
    }

    /// Counts a lane as one without ready jobs, in which none was found; says whether it was
    /// counted otherwise.
    pub(crate) fn correct_ready(&mut self, lane: i64) -> Result<bool, Fault> {
        let lane = self.lanes.load(lane)?;
        let was_wrong = lane.ready() > 0;
        if was_wrong {
            lane.jobs[count_index(JobState::Ready)] = 0;
            (lane.changed, lane.kept) = (true, true);
        }
        Ok(was_wrong)
    }

    /// Stamps a lane that was served and still holds ready jobs.
    pub(crate) fn next_turn(&mut self, lane: i64) -> Result<i64, Fault> {
        self.store.turn = self.store.turn.saturating_add(1);
        let turn = self.store.turn;
        let lane = self.lanes.load(lane)?;
        lane.turn = turn;
        lane.changed = true;
        Ok(turn)
    }
}
