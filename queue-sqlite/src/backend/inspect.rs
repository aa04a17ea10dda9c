//! What is before a job.

use std::time::Duration;

use queue_core::backend::{PASS_MAX, PLACE_MAX};
use queue_core::{
    JobId, Kind, LaneSummary, Lanes, LimitKeys, Place, Placement, Priority, QueueName,
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::limits::clock;
use crate::errors::Fault;
use crate::rows::{limits_of, number, text, time};
use crate::session::starts::start_rate;

pub(super) const SELECT_READY_JOB: &str = "SELECT job.lane, job.position, lane.turn, lane.head \
     FROM job JOIN lane ON lane.lane = job.lane WHERE job.id = ?1 AND +job.state = 3";
pub(super) const COUNT_AHEAD: &str = "SELECT count(*) FROM (SELECT 1 FROM job \
     WHERE lane = ?1 AND position >= ?2 AND position < ?3 AND state = 3 LIMIT ?4)";
pub(super) const SELECT_NEXT_KIND: &str =
    "SELECT kind FROM lane WHERE queue = ?1 AND kind > ?2 ORDER BY kind LIMIT 1";
/// The lanes of a kind without limit keys.
pub(super) const SELECT_KEYLESS: &str = "SELECT lane, priority, turn, limits, ready FROM lane \
     WHERE queue = ?1 AND kind = ?2 AND limits = '' AND ready > 0 LIMIT ?3";
/// Those with limit keys that do not wait.
pub(super) const SELECT_KEYED: &str = "SELECT lane, priority, turn, limits, ready FROM lane \
     WHERE queue = ?1 AND kind = ?2 AND limits <> '' AND ready > 0 AND blocked_by IS NULL \
     ORDER BY priority, turn LIMIT ?3";
/// The keys at which lanes of a kind wait.
pub(super) const SELECT_WAITS: &str =
    "SELECT key FROM limit_wait WHERE queue = ?1 AND kind = ?2 LIMIT ?3";
/// The lanes that wait at one of them.
pub(super) const SELECT_WAITING: &str = "SELECT lane, priority, turn, limits, ready FROM lane \
     WHERE blocked_by = ?4 AND queue = ?1 AND kind = ?2 ORDER BY priority, turn LIMIT ?3";

/// When the first job of a lane was due.
pub(super) const SELECT_LANE_DUE: &str = "SELECT due_ms FROM job \
     WHERE lane = ?1 AND position >= (SELECT head FROM lane WHERE lane = ?1) AND state = 3 \
     ORDER BY position LIMIT 1";

/// A lane with ready jobs.
struct Seen {
    lane: i64,
    summary: LaneSummary,
}

/// The place of a job in line.
pub(super) fn place(conn: &Connection, id: JobId) -> Result<Placement, Fault> {
    let now = clock(conn)?;
    let mut select = conn.prepare_cached(SELECT_READY_JOB)?;
    let found = select.query_row([id.as_bytes()], |row| {
        Ok((number(row, 0)?, number(row, 1)?, number(row, 2)?, number(row, 3)?))
    });
    let Some((lane, position, turn, head)) = found.optional()? else {
        return Ok(Placement::new(now, None));
    };
    let mut count = conn.prepare_cached(COUNT_AHEAD)?;
    let most = i64::try_from(PLACE_MAX).unwrap_or(i64::MAX);
    let ahead: i64 = count.query_row((lane, head, position, most), |row| row.get(0))?;
    let place = Place::new(ahead.unsigned_abs(), ahead >= most, turn.max(0).unsigned_abs());
    Ok(Placement::new(now, Some(place)))
}

/// The lanes of a queue.
pub(super) fn lanes(conn: &Connection, queue: &QueueName) -> Result<Lanes, Fault> {
    let mut looking = Looking { conn, queue, lanes: Vec::new() };
    let more = looking.look()?;
    let now = clock(conn)?;
    let mut first_due = conn.prepare_cached(SELECT_LANE_DUE)?;
    let mut summaries = Vec::with_capacity(looking.lanes.len());
    for Seen { lane, mut summary, .. } in looking.lanes {
        let due_at = first_due.query_row([lane], |row| Ok(time(number(row, 0)?))).optional()?;
        summary.waiting = now.since(due_at.unwrap_or(now));
        summaries.push(summary);
    }
    Ok(Lanes::new(summaries, more, start_rate(conn, queue, now)?.at(now)))
}

/// Finds the lanes of a queue that hold ready jobs, some of each kind.
struct Looking<'l> {
    conn: &'l Connection,
    queue: &'l QueueName,
    lanes: Vec<Seen>,
}

impl Looking<'_> {
    /// Says whether there may be more than were found.
    fn look(&mut self) -> Result<bool, Fault> {
        let mut next = self.conn.prepare_cached(SELECT_NEXT_KIND)?;
        let mut after = String::new();
        for _ in 0..PASS_MAX {
            let kind = next.query_row((self.queue.as_str(), &after), |row| {
                Ok(text(row, 0)?.unwrap_or_default().to_owned())
            });
            let Some(text) = kind.optional()?.filter(|text| *text > after) else {
                return Ok(false);
            };
            if let Ok(kind) = Kind::new(&text) {
                self.look_at(&kind)?;
            }
            if self.left() == 0 {
                self.lanes.truncate(PASS_MAX as usize);
                return Ok(true);
            }
            after = text;
        }
        Ok(true)
    }

    /// How many lanes more are looked at: one more than are shown tells whether there are others.
    fn left(&self) -> usize {
        (PASS_MAX as usize + 1).saturating_sub(self.lanes.len())
    }

    fn look_at(&mut self, kind: &Kind) -> Result<(), Fault> {
        for sql in [SELECT_KEYLESS, SELECT_KEYED] {
            self.read(sql, kind, None)?;
        }
        let mut select = self.conn.prepare_cached(SELECT_WAITS)?;
        let keys = select.query_map((self.queue.as_str(), kind.as_str(), PASS_MAX + 1), |row| {
            Ok(text(row, 0)?.unwrap_or_default().to_owned())
        })?;
        for key in keys {
            if self.left() == 0 {
                break;
            }
            self.read(SELECT_WAITING, kind, Some(&key?))?;
        }
        Ok(())
    }

    fn read(&mut self, sql: &str, kind: &Kind, key: Option<&str>) -> Result<(), Fault> {
        let mut select = self.conn.prepare_cached(sql)?;
        let (queue, limit) = (self.queue.as_str(), i64::try_from(self.left()).unwrap_or(0));
        let mut rows = match key {
            None => select.query(params![queue, kind.as_str(), limit])?,
            Some(key) => select.query(params![queue, kind.as_str(), limit, key])?,
        };
        while let Some(row) = rows.next()? {
            self.lanes.extend(seen(row, kind)?);
        }
        Ok(())
    }
}

fn seen(row: &Row<'_>, kind: &Kind) -> rusqlite::Result<Option<Seen>> {
    let priority = u8::try_from(number(row, 1)?).ok().and_then(Priority::new);
    let limits: Option<LimitKeys> = text(row, 3)?.and_then(limits_of);
    let (Some(priority), Some(limits)) = (priority, limits) else { return Ok(None) };
    let jobs = number(row, 4)?.max(0).unsigned_abs();
    let waiting = Duration::ZERO;
    let turn = number(row, 2)?.max(0).unsigned_abs();
    let summary = LaneSummary { kind: kind.clone(), priority, limits, jobs, waiting, turn };
    Ok(Some(Seen { lane: number(row, 0)?, summary }))
}
