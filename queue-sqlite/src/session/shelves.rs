//! The shelves of finished records that a transaction has touched.

use std::collections::HashMap;

use queue_core::QueueName;
use queue_core::backend::FINISHED_MAX;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::errors::Fault;
use crate::rows::number;

/// The finished records of a queue that retention treats alike. Dropped in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part {
    /// Completed jobs that hold their key for a time; not bounded in number until that is over.
    Held,
    /// Other completed jobs.
    Done,
    Cancelled,
    Dead,
}

impl Part {
    pub(crate) const ALL: [Self; 4] = [Self::Held, Self::Done, Self::Cancelled, Self::Dead];

    /// Its number in the tables.
    pub(crate) const fn number(self) -> i64 {
        match self {
            Self::Held => 0,
            Self::Done => 1,
            Self::Cancelled => 2,
            Self::Dead => 3,
        }
    }
}

/// [`FINISHED_MAX`] as SQLite takes it. Queries have it as a literal, so that the planner can prove
/// that the partial index of fuller shelves fits.
pub(crate) const RECORDS_MAX: i64 = {
    assert!(FINISHED_MAX == 10_000);
    FINISHED_MAX as i64
};

/// One part of the finished records of a queue. See the table `shelf`.
#[derive(Debug, Clone)]
pub(crate) struct Shelf {
    pub(crate) shelf: i64,
    pub(crate) records: i64,
    /// How many have come since somebody looked whether these are too many.
    added: i64,
    next_expiry_ms: i64,
    changed: bool,
    /// Records were taken away: the next expiry has to be read again.
    unsure: bool,
}

pub(crate) const SELECT_SHELF: &str =
    "SELECT shelf, records, next_expiry_ms FROM shelf WHERE shelf = ?1";
pub(crate) const SELECT_SHELF_BY_NAME: &str =
    "SELECT shelf, records, next_expiry_ms FROM shelf WHERE queue = ?1 AND part = ?2";
pub(crate) const INSERT_SHELF: &str =
    "INSERT INTO shelf (queue, part, records, next_expiry_ms) VALUES (?1, ?2, 0, ?3)";
pub(crate) const UPDATE_SHELF: &str =
    "UPDATE shelf SET records = ?2, next_expiry_ms = ?3 WHERE shelf = ?1";
pub(crate) const DELETE_SHELF: &str = "DELETE FROM shelf WHERE shelf = ?1";
/// When the first record of a shelf may be dropped.
pub(crate) const SELECT_NEXT_EXPIRY: &str = "SELECT expiry_ms FROM job \
     WHERE shelf = ?1 AND expiry_ms IS NOT NULL ORDER BY expiry_ms, id LIMIT 1";

pub(crate) const COUNT_RECORDS: &str = "SELECT count(*) FROM job WHERE shelf = ?1";

/// The shelves that a transaction has read, by their rowid.
#[derive(Debug)]
pub(crate) struct Shelves<'c> {
    conn: &'c Connection,
    shelves: HashMap<i64, Shelf>,
    names: HashMap<(QueueName, Part), i64>,
}

impl<'c> Shelves<'c> {
    pub(super) fn new(conn: &'c Connection) -> Self {
        Self { conn, shelves: HashMap::new(), names: HashMap::new() }
    }

    pub(super) fn clear(&mut self) {
        self.shelves.clear();
        self.names.clear();
    }

    /// Counts records onto a shelf, which is made if there is none.
    pub(crate) fn add(
        &mut self,
        queue: &QueueName,
        part: Part,
        expiry_ms: i64,
        records: i64,
    ) -> Result<i64, Fault> {
        let shelf = match self.find(queue, part)? {
            Some(shelf) => shelf.shelf,
            None => self.make(queue, part, expiry_ms)?,
        };
        let Some(shelf) = self.shelves.get_mut(&shelf) else {
            return Err(rusqlite::Error::QueryReturnedNoRows.into());
        };
        shelf.records = shelf.records.saturating_add(records);
        shelf.next_expiry_ms = shelf.next_expiry_ms.min(expiry_ms);
        shelf.changed = true;
        Ok(shelf.shelf)
    }

    /// Counts records off a shelf. Those that lead to no shelf are counted nowhere.
    pub(crate) fn remove(&mut self, shelf: i64, records: i64) -> Result<(), Fault> {
        if !self.shelves.contains_key(&shelf) {
            let mut select = self.conn.prepare_cached(SELECT_SHELF)?;
            let Some(found) = select.query_row([shelf], Shelf::read).optional()? else {
                return Ok(());
            };
            self.shelves.insert(shelf, found);
        }
        if let Some(shelf) = self.shelves.get_mut(&shelf) {
            shelf.records = shelf.records.saturating_sub(records);
            shelf.changed = true;
            shelf.unsure = true;
        }
        Ok(())
    }

    /// The shelf of a part of a queue, if it has records.
    pub(crate) fn find(
        &mut self,
        queue: &QueueName,
        part: Part,
    ) -> Result<Option<&mut Shelf>, Fault> {
        let name = (queue.clone(), part);
        let shelf = match self.names.get(&name) {
            Some(shelf) => *shelf,
            None => {
                let mut select = self.conn.prepare_cached(SELECT_SHELF_BY_NAME)?;
                let values = (queue.as_str(), part.number());
                let found = select.query_row(values, Shelf::read).optional()?;
                let Some(found) = found else { return Ok(None) };
                let shelf = found.shelf;
                self.names.insert(name, shelf);
                // It may be known by its rowid already, and have changed since it was read.
                self.shelves.entry(shelf).or_insert(found);
                shelf
            }
        };
        Ok(self.shelves.get_mut(&shelf))
    }

    /// Counts the records of a shelf again, rather than dropping some for a wrong count; answers
    /// how many there are.
    pub(crate) fn count(&mut self, shelf: i64) -> Result<i64, Fault> {
        let mut count = self.conn.prepare_cached(COUNT_RECORDS)?;
        let records = count.query_row([shelf], |row| row.get(0))?;
        if let Some(shelf) = self.shelves.get_mut(&shelf) {
            shelf.records = records;
            shelf.changed = true;
        }
        Ok(records)
    }

    /// Records have come onto a shelf, which may hold more than are kept now.
    pub(crate) fn came_in(&mut self, part: Part, shelf: i64, records: i64) {
        if let Some(shelf) = self.shelves.get_mut(&shelf).filter(|_| part != Part::Held) {
            shelf.added += records;
        }
    }

    /// Of the shelves onto which records have come, those that hold more than are kept: their
    /// records, and how many have come. Each is named once.
    pub(super) fn take_overfull(&mut self) -> Vec<(i64, i64, i64)> {
        let mut overfull = Vec::new();
        for shelf in self.shelves.values_mut() {
            let added = std::mem::take(&mut shelf.added);
            if added > 0 && shelf.records > RECORDS_MAX {
                overfull.push((shelf.shelf, shelf.records, added));
            }
        }
        overfull
    }

    /// Has the next expiry of a shelf read again.
    pub(crate) fn look_again(&mut self, shelf: i64) {
        if let Some(shelf) = self.shelves.get_mut(&shelf) {
            shelf.changed = true;
            shelf.unsure = true;
        }
    }

    fn make(&mut self, queue: &QueueName, part: Part, expiry_ms: i64) -> Result<i64, Fault> {
        let mut insert = self.conn.prepare_cached(INSERT_SHELF)?;
        insert.execute((queue.as_str(), part.number(), expiry_ms))?;
        let shelf = self.conn.last_insert_rowid();
        self.names.insert((queue.clone(), part), shelf);
        let (records, added, next_expiry_ms) = (0, 0, expiry_ms);
        let made = Shelf { shelf, records, added, next_expiry_ms, changed: true, unsure: false };
        self.shelves.insert(shelf, made);
        Ok(shelf)
    }

    /// Writes the shelves that changed; those without records go.
    pub(crate) fn save(&mut self) -> Result<(), Fault> {
        for shelf in self.shelves.values_mut().filter(|shelf| shelf.changed) {
            shelf.changed = false;
            if shelf.records <= 0 {
                // Counted again rather than trusted: records without a shelf would never go.
                let mut count = self.conn.prepare_cached(COUNT_RECORDS)?;
                shelf.records = count.query_row([shelf.shelf], |row| row.get(0))?;
            }
            if shelf.records == 0 {
                self.conn.prepare_cached(DELETE_SHELF)?.execute([shelf.shelf])?;
                continue;
            }
            if std::mem::take(&mut shelf.unsure) {
                let mut select = self.conn.prepare_cached(SELECT_NEXT_EXPIRY)?;
                let next = select.query_row([shelf.shelf], |row| row.get(0)).optional()?;
                shelf.next_expiry_ms = next.unwrap_or(i64::MAX);
            }
            let mut update = self.conn.prepare_cached(UPDATE_SHELF)?;
            update.execute((shelf.shelf, shelf.records, shelf.next_expiry_ms))?;
        }
        self.shelves.retain(|_, shelf| shelf.records > 0);
        self.names.retain(|_, shelf| self.shelves.contains_key(shelf));
        Ok(())
    }
}

impl Shelf {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            shelf: number(row, 0)?,
            // The table allows no less than 0.
            records: number(row, 1)?.max(0),
            added: 0,
            next_expiry_ms: number(row, 2)?,
            changed: false,
            unsure: false,
        })
    }
}
