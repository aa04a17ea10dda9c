//! Putting right what an audit finds, as far as that is safe: no job and no acknowledgement may be
//! lost by it.
//!
//! The records of the jobs are believed; what is counted about them is counted again, and an index
//! that disagrees with them is made anew. A job whose record breaks a rule is quarantined.

use queue_core::backend::Violation;
use queue_core::{JobState, Timestamp};
use rusqlite::{Row, params};

use super::attempts::SELECT_WORKER;
use super::audit::{audit, flawed, limits};
use super::quarantine;
use crate::errors::Fault;
use crate::rows::{NAME_COLUMNS, ms, name_columns, names, number, state_number, whole};
use crate::session::job::{holds_key_after, place};
use crate::session::{HEAD_COLUMNS, Part, Raw, Session, head_columns};

const BEFORE: &str = include_str!("../../sql/repair_before.sql");
const AFTER: &str = include_str!("../../sql/repair_after.sql");
/// All jobs, with what they refer to.
const ALL_REFERRING: &str = concat!(
    "SELECT ",
    head_columns!(),
    ", ",
    name_columns!(),
    ", claim.claim, shelf.queue IS lane.queue, shelf.part, \
     EXISTS (SELECT 1 FROM job AS holder WHERE holder.key = job.key AND holder.holds_key = 1) \
     FROM job LEFT JOIN lane ON lane.lane = job.lane LEFT JOIN claim ON claim.claim = job.claim \
     LEFT JOIN shelf ON shelf.shelf = job.shelf"
);
pub(super) const UPDATE_PLACES: &str = "UPDATE job SET state = ?2, position = ?3, claim = ?4, \
     cancel_requested = ?5, shelf = ?6, expiry_ms = ?7, holds_key = ?8 WHERE job = ?1";

/// Whether the key of a job leads to another one.
pub(super) const HAS_OTHER_HOLDER: &str = "SELECT 1 FROM job AS holder \
     WHERE key = (SELECT key FROM job WHERE job = ?1) AND holds_key = 1 AND job <> ?1";

/// A position behind all that lanes reach; it is replaced when the lane is counted.
const BEHIND_ALL: i64 = i64::MAX;

/// Lists what disagrees and puts right what can be; each violation says whether it was.
pub(super) fn repair(session: &mut Session<'_>) -> Result<Vec<Violation>, Fault> {
    let mut found = audit(session.conn)?;
    if found.is_empty() {
        return Ok(found);
    }
    if found.iter().any(|violation| is_about_index(&violation.what)) {
        // Fails if two jobs have the same id or key, which only a person can decide.
        if let Err(error) = session.conn.execute_batch("REINDEX") {
            tracing::error!(event = "reindex_failed", %error, "the indexes cannot be made anew");
        }
    }
    session.conn.execute_batch(BEFORE)?;
    session.reload()?;
    put_in_place(session)?;
    session.flush()?;
    session.conn.execute_batch(AFTER)?;
    session.reload()?;
    limits::repair(session)?;
    let left = audit(session.conn)?;
    for violation in &mut found {
        violation.repaired = !left.contains(violation);
    }
    // Such as those that were too many to be listed before.
    let new: Vec<Violation> = left.into_iter().filter(|left| !found.contains(left)).collect();
    found.extend(new);
    session.reload()?;
    Ok(found)
}

/// Whether SQLite's integrity check complains of an index.
fn is_about_index(what: &str) -> bool {
    let complaints = ["missing from index", "entries in index", "values differ from index"];
    complaints.iter().any(|complaint| what.contains(complaint))
}

fn put_in_place(session: &mut Session<'_>) -> Result<(), Fault> {
    let mut query = session.conn.prepare(ALL_REFERRING)?;
    let mut rows = query.query([])?;
    let mut misplaced = Vec::new();
    while let Some(row) = rows.next()? {
        let raw = Raw::read(row)?;
        if !raw.is_aside() && !is_in_place(row, &raw)? {
            misplaced.push(raw);
        }
    }
    drop(rows);
    for raw in misplaced {
        put_one_in_place(session, &raw)?;
    }
    // Those that are where they belong and cannot be read.
    let unreadable = flawed(session.conn, usize::MAX)?.into_iter();
    let unreadable = unreadable.filter(|flawed| flawed.is_unreadable);
    let unreadable: Vec<i64> = unreadable.map(|flawed| flawed.job).collect();
    quarantine::put_aside(session, &unreadable)
}

fn is_in_place(row: &Row<'_>, raw: &Raw) -> rusqlite::Result<bool> {
    let at = |offset: usize| HEAD_COLUMNS + offset;
    let has_lane = names(row, at(0))?.is_some();
    let has_claim = whole(row, at(NAME_COLUMNS))?.is_some();
    let (is_own_queue, part) =
        (number(row, at(NAME_COLUMNS + 1))? == 1, whole(row, at(NAME_COLUMNS + 2))?);
    let is_on = |wanted: Part| part == Some(wanted.number());
    let is_on_shelf = match raw.state {
        5 => is_on(Part::Done) || (is_on(Part::Held) && raw.hold_ms.is_some_and(|ms| ms >= 0)),
        6 => is_on(Part::Dead),
        7 => is_on(Part::Cancelled),
        _ => true,
    };
    let is_finished = (5..=7).contains(&raw.state);
    let lacks_key =
        raw.key_bytes.is_some() && raw.holds_key == 0 && raw.state <= 5 && raw.hold_ms != Some(-1);
    let key_is_free = number(row, at(NAME_COLUMNS + 3))? == 0;
    let holds_wrongly =
        raw.holds_key == 1 && raw.state == 5 && raw.hold_ms.is_some() && !is_on(Part::Held);
    Ok(raw.flaw().is_none()
        && has_lane
        && (raw.state != 4 || has_claim)
        && (!is_finished || (is_on_shelf && is_own_queue))
        && !(lacks_key && key_is_free)
        && !holds_wrongly)
}

fn put_one_in_place(session: &mut Session<'_>, raw: &Raw) -> Result<(), Fault> {
    let mut right = raw.clone();
    right.state = match raw.state {
        1 | 2 if raw.failures > 0 => 2,
        1 | 2 => 1,
        // Where it stood in its lane is not known.
        4 if !has_claim(session, raw)? => state_number(JobState::Ready),
        state => state,
    };
    right.position = match right.state {
        3 => Some(raw.position.filter(|_| raw.state == 3).unwrap_or(BEHIND_ALL)),
        4 => Some(raw.position.unwrap_or(0)),
        _ => None,
    };
    if right.state != 4 {
        (right.claim, right.cancel_requested) = (None, 0);
    }
    right.holds_key = 0;
    let is_finished = (5..=7).contains(&right.state);
    (right.shelf, right.expiry_ms) = if is_finished { (Some(0), Some(0)) } else { (None, None) };
    if let Some(column) = right.flaw() {
        return session.put_aside(&raw.broken_rule(column));
    }
    if !session.lanes.has(raw.lane)? {
        let reason = "its lane is missing or cannot be read".to_owned();
        return session.put_aside(&raw.broken(reason));
    }
    let head = right.head();
    let is_free = !session.conn.prepare_cached(HAS_OTHER_HOLDER)?.exists([raw.job])?;
    let holds_key = head.has_key && is_free && holds_key_after(&head, head.state, session.now);
    if let Some(finished_at) = head.finished_at {
        (right.shelf, right.expiry_ms) = shelve(session, &right, finished_at, holds_key)?;
    }
    session.conn.prepare_cached(UPDATE_PLACES)?.execute(params![
        right.job,
        right.state,
        right.position,
        right.claim,
        right.cancel_requested,
        right.shelf,
        right.expiry_ms,
        holds_key,
    ])?;
    session.announce();
    Ok(())
}

fn has_claim(session: &Session<'_>, raw: &Raw) -> Result<bool, Fault> {
    let mut select = session.conn.prepare_cached(SELECT_WORKER)?;
    Ok(match raw.claim {
        Some(claim) => select.exists([claim])?,
        None => false,
    })
}

/// A place on the right shelf; what the wrong one counts is put right afterwards.
fn shelve(
    session: &mut Session<'_>,
    raw: &Raw,
    finished_at: Timestamp,
    holds_key: bool,
) -> Result<(Option<i64>, Option<i64>), Fault> {
    let head = raw.head();
    let (part, expiry) = place(&head, head.state, finished_at, holds_key);
    let queue = session.lanes.load(head.lane)?.name.queue.clone();
    let shelf = session.shelves.add(&queue, part, ms(expiry), 1)?;
    Ok((Some(shelf), Some(ms(expiry))))
}
