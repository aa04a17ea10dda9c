//! The shelves of finished records that a transaction has touched.

use std::collections::HashMap;

use queue_core::QueueName;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::errors::Fault;

/// The finished records of one queue, dead or not. See the table `shelf`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shelf {
    pub(crate) shelf: i64,
    pub(crate) records: i64,
    next_expiry_ms: i64,
    changed: bool,
    /// Records were taken away: the next expiry has to be read again.
    unsure: bool,
}

pub(crate) const SELECT_SHELF: &str =
    "SELECT shelf, records, next_expiry_ms FROM shelf WHERE queue = ?1 AND dead = ?2";
pub(crate) const INSERT_SHELF: &str =
    "INSERT INTO shelf (queue, dead, records, next_expiry_ms) VALUES (?1, ?2, 0, ?3)";
pub(crate) const UPDATE_SHELF: &str =
    "UPDATE shelf SET records = ?2, next_expiry_ms = ?3 WHERE shelf = ?1";
pub(crate) const DELETE_SHELF: &str = "DELETE FROM shelf WHERE shelf = ?1";
/// When the first record of a shelf may be dropped.
pub(crate) const SELECT_NEXT_EXPIRY: &str = "SELECT expiry_ms FROM job \
     WHERE shelf = ?1 ORDER BY expiry_ms, id LIMIT 1";

pub(crate) const COUNT_RECORDS: &str = "SELECT count(*) FROM job WHERE shelf = ?1";

/// The shelves that a transaction has read.
#[derive(Debug)]
pub(crate) struct Shelves<'c> {
    conn: &'c Connection,
    shelves: HashMap<(QueueName, bool), Shelf>,
}

impl<'c> Shelves<'c> {
    pub(super) fn new(conn: &'c Connection) -> Self {
        Self { conn, shelves: HashMap::new() }
    }

    pub(super) fn clear(&mut self) {
        self.shelves.clear();
    }

    /// Counts a record onto a shelf, which is made if there is none.
    pub(crate) fn add(
        &mut self,
        queue: &QueueName,
        dead: bool,
        expiry_ms: i64,
    ) -> Result<Shelf, Fault> {
        let shelf = self.load(queue, dead, expiry_ms)?;
        shelf.records += 1;
        shelf.next_expiry_ms = shelf.next_expiry_ms.min(expiry_ms);
        shelf.changed = true;
        Ok(*shelf)
    }

    /// Counts records off a shelf.
    pub(crate) fn remove(
        &mut self,
        queue: &QueueName,
        dead: bool,
        records: i64,
    ) -> Result<(), Fault> {
        let shelf = self.load(queue, dead, i64::MAX)?;
        shelf.records -= records;
        shelf.changed = true;
        shelf.unsure = true;
        Ok(())
    }

    fn load(&mut self, queue: &QueueName, dead: bool, expiry: i64) -> Result<&mut Shelf, Fault> {
        let name = (queue.clone(), dead);
        if !self.shelves.contains_key(&name) {
            let mut select = self.conn.prepare_cached(SELECT_SHELF)?;
            let found = select.query_row((queue.as_str(), dead), Shelf::read).optional()?;
            let shelf = match found {
                Some(found) => found,
                None => {
                    let mut insert = self.conn.prepare_cached(INSERT_SHELF)?;
                    insert.execute((queue.as_str(), dead, expiry))?;
                    let shelf = self.conn.last_insert_rowid();
                    let (records, next_expiry_ms) = (0, expiry);
                    Shelf { shelf, records, next_expiry_ms, changed: true, unsure: false }
                }
            };
            self.shelves.insert(name.clone(), shelf);
        }
        self.shelves.get_mut(&name).ok_or_else(|| rusqlite::Error::QueryReturnedNoRows.into())
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
        Ok(())
    }
}

impl Shelf {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            shelf: row.get(0)?,
            records: row.get(1)?,
            next_expiry_ms: row.get(2)?,
            changed: false,
            unsure: false,
        })
    }
}
