//! Promise P4 for claims: each lists the jobs that it holds.

use std::collections::HashMap;

use queue_core::backend::Violation;
use rusqlite::Connection;

use crate::errors::Fault;
use crate::rows::{number, text};
use crate::session::{Runs, claims::COUNT_HELD};

/// Lists what disagrees. A claim that holds more than it lists would never be found empty.
pub(super) fn audit(conn: &Connection) -> Result<Vec<Violation>, Fault> {
    let mut held: HashMap<i64, i64> = HashMap::new();
    let mut select =
        conn.prepare("SELECT claim, count(*) FROM job WHERE state = 4 GROUP BY claim")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        held.insert(number(row, 0)?, number(row, 1)?);
    }
    let mut count = conn.prepare_cached(COUNT_HELD)?;
    let mut select = conn.prepare("SELECT claim, worker, runs FROM claim")?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let claim = number(row, 0)?;
        let mut listed = 0;
        for (first, last) in text(row, 2)?.and_then(Runs::parse).unwrap_or_default().iter() {
            listed += count.query_row((first, last, claim), |row| row.get::<_, i64>(0))?;
        }
        let holds = held.get(&claim).copied().unwrap_or(0);
        if listed != holds {
            let worker = text(row, 1)?.unwrap_or_default();
            let what = format!("a claim of worker {worker} lists {listed} of its {holds} jobs");
            found.push(Violation::of_store(what));
        }
    }
    Ok(found)
}
