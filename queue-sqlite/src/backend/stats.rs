//! Counting jobs, without looking at them.

use queue_core::backend::StateCounts;
use queue_core::{Kind, QueueName, QueueStats};
use rusqlite::Connection;

use crate::errors::Fault;
use crate::rows::COUNTED_STATES;

/// Reads one row per queue, kind and priority, however many jobs there are.
pub(super) const SELECT_COUNTS: &str = "SELECT queue, kind, sum(scheduled), sum(retrying), \
     sum(ready), sum(running), sum(completed), sum(dead), sum(cancelled), sum(quarantined) \
     FROM lane GROUP BY queue, kind ORDER BY queue, kind";

/// Jobs per queue, kind and state, ordered by queue and kind.
pub(super) fn stats(conn: &Connection) -> Result<Vec<QueueStats>, Fault> {
    let mut select = conn.prepare_cached(SELECT_COUNTS)?;
    let mut rows = select.query([])?;
    let mut stats = Vec::new();
    while let Some(row) = rows.next()? {
        let queue = QueueName::new(row.get_ref(0)?.as_str().unwrap_or_default());
        let kind = Kind::new(row.get_ref(1)?.as_str().unwrap_or_default());
        let (Ok(queue), Ok(kind)) = (queue, kind) else { continue };
        let mut jobs = StateCounts::new();
        for (index, state) in COUNTED_STATES.into_iter().enumerate() {
            let count: i64 = row.get(2 + index)?;
            if count > 0 {
                jobs.insert(state, count.unsigned_abs());
            }
        }
        if !jobs.is_empty() {
            stats.push(QueueStats::new(queue, kind, jobs));
        }
    }
    Ok(stats)
}
