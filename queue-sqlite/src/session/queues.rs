//! How many jobs of queues are live.

use std::collections::HashMap;

use queue_core::QueueName;
use rusqlite::{Connection, OptionalExtension};

use super::Session;
use crate::errors::Fault;
use crate::rows::number;

pub(crate) const SELECT_QUEUE_LIVE: &str = "SELECT live FROM queue_live WHERE queue = ?1";
pub(crate) const COUNT_QUEUE_LIVE: &str = "SELECT CAST(total(scheduled + retrying + ready + running) AS INTEGER) \
     FROM lane WHERE queue = ?1";
pub(crate) const INSERT_QUEUE_LIVE: &str = "INSERT INTO queue_live (queue, live) VALUES (?1, ?2)";
pub(crate) const UPDATE_QUEUE_LIVE: &str =
    "UPDATE queue_live SET live = max(min(live, 4294967295) + ?2, 0) WHERE queue = ?1";
/// A queue that has gone.
pub(crate) const DELETE_QUEUE_LIVE: &str = "DELETE FROM queue_live \
     WHERE queue = ?1 AND live = 0 AND NOT EXISTS (SELECT 1 FROM lane WHERE lane.queue = ?1)";

/// Live jobs of queues that came, less those that went. Counted only while queues have limits.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    live: HashMap<QueueName, i64>,
    /// Those that have lost a lane.
    lost: Vec<QueueName>,
}

impl Queues {
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn count_live(&mut self, queue: &QueueName, by: i64) {
        *self.live.entry(queue.clone()).or_default() += by;
    }

    /// A lane of the queue is gone, which may have been the last one.
    pub(crate) fn lost_lane(&mut self, queue: &QueueName) {
        self.lost.push(queue.clone());
    }

    /// Writes the counts; the lanes have been written.
    pub(crate) fn save(&mut self, conn: &Connection) -> Result<(), Fault> {
        for (queue, by) in self.live.drain().filter(|(_, by)| *by != 0) {
            conn.prepare_cached(UPDATE_QUEUE_LIVE)?.execute((queue.as_str(), by))?;
        }
        for queue in self.lost.drain(..) {
            conn.prepare_cached(DELETE_QUEUE_LIVE)?.execute([queue.as_str()])?;
        }
        Ok(())
    }
}

impl Session<'_> {
    /// How many jobs of a queue are live; counted from now on if nobody has wanted to know before.
    pub(crate) fn live_of_queue(&mut self, queue: &QueueName) -> Result<i64, Fault> {
        let coming = self.queues.live.get(queue).copied().unwrap_or(0);
        let mut select = self.conn.prepare_cached(SELECT_QUEUE_LIVE)?;
        let counted = select.query_row([queue.as_str()], |row| number(row, 0)).optional()?;
        if let Some(live) = counted {
            return Ok(live.max(0).saturating_add(coming));
        }
        self.flush()?;
        let live = live_in_lanes(self.conn, queue)?;
        self.conn.prepare_cached(INSERT_QUEUE_LIVE)?.execute((queue.as_str(), live))?;
        Ok(live)
    }
}

/// How many jobs of a queue its lanes count as live.
pub(crate) fn live_in_lanes(conn: &Connection, queue: &QueueName) -> Result<i64, Fault> {
    let mut count = conn.prepare_cached(COUNT_QUEUE_LIVE)?;
    Ok(count.query_row([queue.as_str()], |row| number(row, 0))?)
}
