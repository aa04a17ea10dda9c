//! One write transaction: the connection, the store's time, and the rows that many jobs share.

pub(crate) mod caps;
pub(crate) mod claims;
pub(crate) mod completed;
pub(crate) mod head;
pub(crate) mod holding;
pub(crate) mod job;
pub(crate) mod lanes;
pub(crate) mod limits;
pub(crate) mod memory;
pub(crate) mod quarantine;
pub(crate) mod queues;
pub(crate) mod runs;
pub(crate) mod shelves;
pub(crate) mod starts;

use std::cell::RefCell;

use queue_core::{Clock, SystemClock, Timestamp};
use rusqlite::Connection;

use crate::errors::Fault;
use crate::rows::{self, number};
pub(crate) use claims::{Claims, runs_of};
pub(crate) use completed::Completed;
pub(crate) use head::{
    Broken, HEAD_COLUMNS, Head, READY_COLUMNS, Raw, head_columns, ready_columns,
};
pub(crate) use holding::{Added, Holding};
pub(crate) use job::{Finish, Running, SELECT_DUE_HEADS, SELECT_HEAD};
pub(crate) use lanes::{End, Lanes};
pub(crate) use limits::Limits;
pub(crate) use memory::{Memory, Plain};
use quarantine::Unread;
use queues::Queues;
pub(crate) use runs::Runs;
pub(crate) use shelves::{Part, Shelves};
use starts::Starts;

/// A write transaction and what it has read so far, or what the one before has left of lanes and limit keys, if
/// nobody else has written since.
///
/// Operations run in it one after the other, each as one *step*: between
/// [`Session::start_step`] and [`Session::end_step`] a step changes lanes, shelves, limit keys
/// and the store's own row in memory, however many jobs it moves, and writes each of them once at its end.
/// One that ends with [`Session::leave_step`] leaves that to the next step or to the end of the transaction.
#[derive(Debug)]
pub(crate) struct Session<'c> {
    pub(crate) conn: &'c Connection,
    /// What is known from transactions before.
    pub(crate) memory: &'c RefCell<Memory>,
    /// The time of this step.
    pub(crate) now: Timestamp,
    pub(crate) store: Store,
    pub(crate) lanes: Lanes<'c>,
    pub(crate) shelves: Shelves<'c>,
    pub(crate) limits: Limits<'c>,
    queues: Queues,
    saved: Store,
    changes_before: u64,
    /// The version of the data when the transaction began.
    version: i64,
    /// Something happened that a waiting worker may want to know.
    news: bool,
    unreadable: Unread,
    /// A call has met a job that breaks a rule of its table: all that there is of every job is
    /// looked at before it is moved.
    pub(crate) careful: bool,
    /// Steps have ended that left something to be written.
    is_unwritten: bool,
    /// The transaction holds new jobs: the space that is kept for finishing others is not for it.
    pub(crate) takes_in: bool,
}

/// The row of the table `store`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Store {
    pub(crate) clock_ms: i64,
    pub(crate) turn: i64,
    pub(crate) fence: i64,
    pub(crate) duplicates: i64,
    /// How many limits of queues are set.
    pub(crate) queue_limits: i64,
    pub(crate) starts: Starts,
}

pub(crate) const SELECT_STORE: &str =
    "SELECT clock_ms, turn, fence, duplicates, queue_limits, starts FROM store WHERE one = 1";
/// Another number once another connection has committed something.
const DATA_VERSION: &str = "PRAGMA data_version";
pub(crate) const UPDATE_STORE: &str = "UPDATE store SET clock_ms = ?1, turn = ?2, fence = ?3, \
     duplicates = ?4, queue_limits = ?5, starts = ?6 WHERE one = 1";

impl Store {
    fn load(conn: &Connection) -> Result<Self, Fault> {
        Ok(conn.prepare_cached(SELECT_STORE)?.query_row([], |row| {
            // Numbers that the table does not allow must not stop everybody.
            let at_least_0 = |column| Ok::<_, rusqlite::Error>(number(row, column)?.max(0));
            Ok(Self {
                clock_ms: at_least_0(0)?.min(head::MS_MAX),
                turn: at_least_0(1)?,
                fence: at_least_0(2)?,
                duplicates: at_least_0(3)?,
                queue_limits: at_least_0(4)?,
                starts: Starts::read(row, 5)?,
            })
        })?)
    }
}

impl<'c> Session<'c> {
    /// Reads the store's row; the transaction has begun.
    pub(crate) fn new(conn: &'c Connection, memory: &'c RefCell<Memory>) -> Result<Self, Fault> {
        let store = Store::load(conn)?;
        let version = conn.prepare_cached(DATA_VERSION)?.query_row([], |row| row.get(0))?;
        let (lanes, limits) = memory.borrow_mut().take_rows(version);
        Ok(Self {
            conn,
            memory,
            now: rows::time(store.clock_ms),
            saved: store.clone(),
            store,
            lanes: Lanes::new(conn, lanes),
            shelves: Shelves::new(conn),
            limits: Limits::knowing(conn, limits),
            queues: Queues::default(),
            changes_before: conn.total_changes(),
            version,
            news: false,
            unreadable: Unread::default(),
            careful: false,
            is_unwritten: false,
            takes_in: false,
        })
    }

    /// Begins a step at the later of the clock and the latest time used before.
    pub(crate) fn start_step(&mut self) {
        let clock = SystemClock.now().min(Timestamp::MAX);
        self.now = clock.max(rows::time(self.store.clock_ms));
        self.changes_before = self.conn.total_changes();
    }

    /// Writes what the step changed in memory.
    pub(crate) fn end_step(&mut self) -> Result<(), Fault> {
        self.flush()?;
        self.note_time();
        self.save_store()
    }

    /// Ends a step that need not have written yet what it changed in memory, for a following one that
    /// reads none of it but by this session.
    pub(crate) fn leave_step(&mut self) {
        self.note_time();
        self.is_unwritten = true;
    }

    /// Writes what steps have left, for whoever reads it otherwise.
    pub(crate) fn write_out(&mut self) -> Result<(), Fault> {
        if std::mem::take(&mut self.is_unwritten) {
            self.flush()?;
            self.save_store()?;
        }
        Ok(())
    }

    fn note_time(&mut self) {
        // Else nothing carries this time: it need not be remembered, and a step that changed
        // nothing, such as an idle worker's claim, costs no sync.
        if self.conn.total_changes() != self.changes_before || self.store != self.saved {
            self.store.clock_ms = rows::ms(self.now);
        }
    }

    fn save_store(&mut self) -> Result<(), Fault> {
        if self.store != self.saved {
            let Store { clock_ms, turn, fence, duplicates, queue_limits, starts } = &self.store;
            let mut update = self.conn.prepare_cached(UPDATE_STORE)?;
            let starts = starts.text();
            update.execute((clock_ms, turn, fence, duplicates, queue_limits, starts))?;
            self.saved.clone_from(&self.store);
        }
        Ok(())
    }

    /// Writes what jobs share and what has changed of it, for statements that read it.
    pub(crate) fn flush(&mut self) -> Result<(), Fault> {
        self.keep_caps()?;
        self.unreadable.log();
        self.save_lanes()?;
        self.limits.save(self.now)?;
        self.queues.save(self.conn)?;
        self.shelves.save()
    }

    /// Forgets everything read so far: the step was rolled back.
    pub(crate) fn reload(&mut self) -> Result<(), Fault> {
        self.lanes.clear();
        self.shelves.clear();
        self.limits.clear();
        self.queues.clear();
        self.unreadable = Unread::default();
        self.store = Store::load(self.conn)?;
        self.saved.clone_from(&self.store);
        Ok(())
    }

    /// Says that waiting workers may have something to do.
    pub(crate) fn announce(&mut self) {
        self.news = true;
    }

    /// The transaction is committed: what it knows of rows holds until somebody else commits. Says whether
    /// waiting workers may have something to do.
    pub(crate) fn committed(self) -> bool {
        let Self { memory, version, lanes, limits, news, .. } = self;
        memory.borrow_mut().note_rows(version, lanes.into_known(), limits.into_known());
        news
    }
}
