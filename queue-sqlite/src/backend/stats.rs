//! Counting jobs, without looking at them.

use queue_core::backend::StateCounts;
use queue_core::{Kind, QueueName, QueueStats};
use rusqlite::Connection;

use crate::errors::Fault;
use crate::rows::{COUNTED_STATES, number, text};

/// Reads one row per queue, kind and priority, however many jobs there are.
pub(super) const SELECT_COUNTS: &str = "SELECT queue, kind, scheduled, retrying, ready, running, \
     completed, dead, cancelled, quarantined FROM lane ORDER BY queue, kind";

/// Jobs per queue, kind and state, ordered by queue and kind.
pub(super) fn stats(conn: &Connection) -> Result<Vec<QueueStats>, Fault> {
    let mut select = conn.prepare_cached(SELECT_COUNTS)?;
    let mut rows = select.query([])?;
    let mut stats: Vec<QueueStats> = Vec::new();
    while let Some(row) = rows.next()? {
        let queue = QueueName::new(text(row, 0)?.unwrap_or_default());
        let kind = Kind::new(text(row, 1)?.unwrap_or_default());
        let (Ok(queue), Ok(kind)) = (queue, kind) else { continue };
        let is_same = |last: &QueueStats| last.queue == queue && last.kind == kind;
        if !stats.last().is_some_and(is_same) {
            stats.push(QueueStats::new(queue, kind, StateCounts::new()));
        }
        let Some(last) = stats.last_mut() else { continue };
        for (index, state) in COUNTED_STATES.into_iter().enumerate() {
            let count = number(row, 2 + index)?;
            if count > 0 {
                let jobs = last.jobs.entry(state).or_default();
                *jobs = jobs.saturating_add(count.unsigned_abs());
            }
        }
    }
    stats.retain(|row| !row.jobs.is_empty());
    Ok(stats)
}
