//! Promise P4: every index and counter agrees with the records.
//!
//! The ready, due, held and finished jobs are partial indexes of the job table, so SQLite's own
//! integrity check says whether they agree with it. What remains are the numbers that other tables
//! keep about jobs, and the references between the tables.

use queue_core::JobId;
use queue_core::backend::Violation;
use rusqlite::Connection;

use crate::errors::Fault;

/// Each row of an answer is a violation: the job's id or NULL, and what is wrong.
const QUERIES: &[&str] = &[
    include_str!("../../sql/audit_references.sql"),
    include_str!("../../sql/audit_lanes.sql"),
    include_str!("../../sql/audit_claims.sql"),
    include_str!("../../sql/audit_shelves.sql"),
];
/// The most violations of one kind that are listed.
const LISTED_MAX: usize = 100;

/// Reads everything and lists what disagrees.
pub(super) fn audit(conn: &Connection) -> Result<Vec<Violation>, Fault> {
    let mut found = integrity(conn)?;
    for sql in QUERIES {
        let mut query = conn.prepare(sql)?;
        let rows = query.query_map([], |row| {
            let job: Option<[u8; 16]> = row.get(0)?;
            let what: String = row.get(1)?;
            Ok(match job {
                Some(id) => Violation::of_job(JobId::from_bytes(id), what),
                None => Violation::of_store(what),
            })
        })?;
        for violation in rows.take(LISTED_MAX) {
            found.push(violation?);
        }
    }
    Ok(found)
}

/// Broken pages, CHECKs that do not hold, and indexes that miss a row or have one too many.
fn integrity(conn: &Connection) -> Result<Vec<Violation>, Fault> {
    let mut query = conn.prepare(&format!("PRAGMA integrity_check({LISTED_MAX})"))?;
    let lines = query.query_map([], |row| row.get::<_, String>(0))?;
    let mut found = Vec::new();
    for line in lines {
        let line = line?;
        if line != "ok" {
            found.push(Violation::of_store(line));
        }
    }
    Ok(found)
}
