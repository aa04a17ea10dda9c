//! Promise P4: every index and counter agrees with the records.
//!
//! The ready, due and finished jobs are partial indexes of the job table, so SQLite's own
//! integrity check says whether they agree with it. What remains are the numbers that other tables
//! keep about jobs, the references between the tables, and whether every job can be read.

mod claims;
pub(super) mod limits;

use queue_core::backend::Violation;
use queue_core::{JobId, JobState};
use rusqlite::{Connection, Row};

use crate::errors::Fault;
use crate::rows::{
    NAME_COLUMNS, SPEC_COLUMNS, body_join, bytes, history, name_columns, names, number, sixteen,
    spec, text,
};
use crate::session::{HEAD_COLUMNS, Head, head_columns};

/// Each row of an answer is a violation: the job's id or NULL, and what is wrong.
const QUERIES: &[&str] = &[
    include_str!("../../sql/audit_references.sql"),
    include_str!("../../sql/audit_keys.sql"),
    include_str!("../../sql/audit_lanes.sql"),
    include_str!("../../sql/audit_claims.sql"),
    include_str!("../../sql/audit_shelves.sql"),
    include_str!("../../sql/audit_logs.sql"),
    include_str!("../../sql/audit_limits.sql"),
];
/// All that must be readable of every job that is not quarantined; but no payloads, since any bytes
/// are one.
const ALL_JOBS: &str = concat!(
    "SELECT ",
    head_columns!(),
    ", job.key, ifnull(job.codec, body.codec), ifnull(job.options, body.options), \
     CASE WHEN job.codec IS NULL OR job.payload IS NOT NULL THEN x'' END, ",
    name_columns!(),
    ", note.history \
     FROM job LEFT JOIN lane ON lane.lane = job.lane",
    body_join!(),
    "LEFT JOIN note ON note.job = job.job"
);
/// The most violations of one kind that are listed.
const LISTED_MAX: usize = 100;

/// Reads everything and lists what disagrees.
pub(super) fn audit(conn: &Connection) -> Result<Vec<Violation>, Fault> {
    let mut found = integrity(conn)?;
    for sql in QUERIES {
        let mut query = conn.prepare(sql)?;
        let rows = query.query_map([], |row| {
            let what = text(row, 1)?.unwrap_or("something that cannot be named").to_owned();
            Ok(match sixteen(row, 0)? {
                Some(id) => Violation::of_job(JobId::from_bytes(id), what),
                None => Violation::of_store(what),
            })
        })?;
        for violation in rows.take(LISTED_MAX) {
            found.push(violation?);
        }
    }
    found.extend(claims::audit(conn)?.into_iter().take(LISTED_MAX));
    found.extend(limits::audit(conn)?.into_iter().take(LISTED_MAX));
    let flawed = flawed(conn, LISTED_MAX)?;
    found.extend(flawed.into_iter().map(|flawed| match flawed.id {
        Some(id) => Violation::of_job(id, flawed.what),
        None => Violation::of_store(format!("job {}: {}", flawed.job, flawed.what)),
    }));
    Ok(found)
}

/// A job of which something cannot be read.
pub(super) struct Flawed {
    pub(super) job: i64,
    id: Option<JobId>,
    what: String,
    /// Whether it is the job itself, and not only what is noted about it.
    pub(super) is_unreadable: bool,
}

/// Jobs of which something cannot be read, at most `limit`.
pub(super) fn flawed(conn: &Connection, limit: usize) -> Result<Vec<Flawed>, Fault> {
    let mut query = conn.prepare(ALL_JOBS)?;
    let mut rows = query.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        if found.len() == limit {
            break;
        }
        if let Some((what, is_unreadable)) = flaw(row)? {
            let id = sixteen(row, 1)?.map(JobId::from_bytes);
            found.push(Flawed { job: number(row, 0)?, id, what, is_unreadable });
        }
    }
    Ok(found)
}

/// What cannot be read, and whether that is the job itself.
fn flaw(row: &Row<'_>) -> rusqlite::Result<Option<(String, bool)>> {
    let head = match Head::read(row)? {
        Ok(head) if head.state == JobState::Quarantined => return Ok(None),
        Ok(head) => head,
        Err(broken) => return Ok(Some((broken.reason, true))),
    };
    // That a lane is missing is told elsewhere.
    if let Some(lane) = names(row, HEAD_COLUMNS + SPEC_COLUMNS)?
        && let Err(reason) = spec(row, HEAD_COLUMNS, &head, &lane)?
    {
        return Ok(Some((reason, true)));
    }
    let history = bytes(row, HEAD_COLUMNS + SPEC_COLUMNS + NAME_COLUMNS)?
        .and_then(|stored| history::decode(stored).err());
    Ok(history.map(|what| (what, false)))
}

/// Broken pages, CHECKs that do not hold, and indexes that miss a row or have one too many.
fn integrity(conn: &Connection) -> Result<Vec<Violation>, Fault> {
    let mut query = conn.prepare(&format!("PRAGMA integrity_check({LISTED_MAX})"))?;
    let lines = query.query_map([], |row| row.get::<_, String>(0))?;
    let mut found = Vec::new();
    for line in lines {
        let line = line?;
        // The CHECKs of that table are looked at job by job, because quarantined ones may break them.
        if line != "ok" && line != "CHECK constraint failed in job" {
            found.push(Violation::of_store(line));
        }
    }
    Ok(found)
}
