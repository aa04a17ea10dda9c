//! What is known of queues: how many jobs are live, and how fast they start.

use std::collections::HashMap;

use queue_core::{QueueName, StartRate};
use rusqlite::{Connection, OptionalExtension, params};

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
pub(crate) const SELECT_START_RATE: &str =
    "SELECT span, current, previous FROM start_rate WHERE queue = ?1";
pub(crate) const UPSERT_START_RATE: &str = "INSERT INTO start_rate (queue, span, current, previous) \
     VALUES (?1, ?2, ?3, ?4) ON CONFLICT (queue) DO UPDATE SET span = excluded.span, \
     current = excluded.current, previous = excluded.previous";

pub(crate) const UPDATE_START_RATE: &str = "UPDATE start_rate \
     SET current = max(min(current, 4294967295), 0) + ?2 WHERE queue = ?1 AND span = ?3";

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

    /// Counts jobs of a queue that start.
    pub(crate) fn count_starts(&mut self, queue: &QueueName, started: u64) -> Result<(), Fault> {
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        // Mostly there were others in the same span.
        let span = StartRate::span_at(self.now);
        let mut update = self.conn.prepare_cached(UPDATE_START_RATE)?;
        if update.execute((queue.as_str(), signed(started), signed(span)))? > 0 {
            return Ok(());
        }
        let mut rate = start_rate(self.conn, queue)?;
        rate.add(started, self.now);
        let [span, current, previous] = [rate.span, rate.current, rate.previous].map(signed);
        let mut upsert = self.conn.prepare_cached(UPSERT_START_RATE)?;
        upsert.execute(params![queue.as_str(), span, current, previous])?;
        Ok(())
    }
}

/// How many jobs of a queue its lanes count as live.
pub(crate) fn live_in_lanes(conn: &Connection, queue: &QueueName) -> Result<i64, Fault> {
    let mut count = conn.prepare_cached(COUNT_QUEUE_LIVE)?;
    Ok(count.query_row([queue.as_str()], |row| number(row, 0))?)
}

/// How fast jobs of a queue start.
pub(crate) fn start_rate(conn: &Connection, queue: &QueueName) -> Result<StartRate, Fault> {
    let mut select = conn.prepare_cached(SELECT_START_RATE)?;
    let found = select.query_row([queue.as_str()], |row| {
        // Numbers that the table does not allow, or that nobody can count up to, must not stop
        // anybody.
        let count = |column| {
            let most = i64::from(u32::MAX);
            Ok::<_, rusqlite::Error>(number(row, column)?.clamp(0, most).unsigned_abs())
        };
        Ok(StartRate { span: count(0)?, current: count(1)?, previous: count(2)? })
    });
    Ok(found.optional()?.unwrap_or_default())
}
