//! T17: looking at quarantined jobs, and taking them back.

use queue_core::backend::QuarantinedJob;
use queue_core::{JobId, JobState, RecoverOutcome};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, params};

use super::get::{self, SELECT_RECORD, result};
use super::operate::{KeyHolder, holder_of_key};
use crate::errors::Fault;
use crate::rows::{
    NAME_COLUMNS, SPEC_COLUMNS, body_join, ms, name_columns, names, spec, spec_columns,
    state_number, state_of, whole,
};
use crate::session::head::MS_MAX;
use crate::session::job::{holds_key_after, place};
use crate::session::quarantine::DELETE_QUARANTINE;
use crate::session::{End, HEAD_COLUMNS, Head, Raw, SELECT_HEAD, Session, head_columns};

pub(super) const SELECT_RAW_JOB: &str = "SELECT job.*, quarantine.reason FROM job LEFT JOIN quarantine ON quarantine.job = job.job \
     WHERE job.id = ?1 AND +job.state = 8";
pub(super) const SELECT_RAW_LANE: &str =
    "SELECT queue, kind, priority, limits FROM lane WHERE lane = ?1";
pub(super) const SELECT_RAW_BODY: &str = "SELECT * FROM body WHERE job = ?1";
pub(super) const SELECT_RAW_NOTE: &str = "SELECT * FROM note WHERE job = ?1";
pub(super) const SELECT_ASIDE: &str = concat!(
    "SELECT ",
    head_columns!(),
    ", ",
    spec_columns!(),
    ", ",
    name_columns!(),
    ", note.result_codec, note.result, quarantine.state \
     FROM job LEFT JOIN lane ON lane.lane = job.lane",
    body_join!(),
    "LEFT JOIN note ON note.job = job.job LEFT JOIN quarantine ON quarantine.job = job.job \
     WHERE job.id = ?1"
);
pub(super) const UPDATE_RECOVERED: &str = "UPDATE job SET state = ?2, position = ?3, due_ms = ?4, \
     holds_key = ?5, claim = NULL, cancel_requested = 0, shelf = ?6, finished_ms = ?7, \
     expiry_ms = ?8, elapsed_ms = ?9, dead_reason = ?10 WHERE job = ?1";

/// Puts those of these jobs aside that cannot be read, which a reader has found.
pub(super) fn put_aside(session: &mut Session<'_>, jobs: &[i64]) -> Result<(), Fault> {
    for job in jobs {
        let mut select = session.conn.prepare_cached(SELECT_HEAD)?;
        let Some(found) = select.query_row([job], Head::read).optional()? else { continue };
        let Some(head) = session.sound(found)? else { continue };
        // Its head is whole: the rest is looked at again, because it may have changed since.
        let mut select = session.conn.prepare_cached(SELECT_RECORD)?;
        let read = select.query_row([head.id.as_bytes()], get::read).optional()?;
        if let Some(Err(get::Unread::Broken { reason, .. })) = read {
            session.put_aside(&head.broken(reason))?;
        }
    }
    Ok(())
}

/// The raw parts of quarantined jobs; `None` for an id that is not quarantined.
pub(super) fn quarantined(
    conn: &Connection,
    ids: &[JobId],
) -> Result<Vec<Option<QuarantinedJob>>, Fault> {
    ids.iter().map(|id| raw(conn, *id)).collect()
}

fn raw(conn: &Connection, id: JobId) -> Result<Option<QuarantinedJob>, Fault> {
    let (mut parts, mut reason) = (Vec::new(), String::new());
    add_parts(conn, SELECT_RAW_JOB, "job", &id.as_bytes()[..], &mut parts)?;
    if parts.is_empty() {
        return Ok(None);
    }
    parts.retain(|(name, bytes)| {
        let is_reason = name == "job.reason";
        if is_reason {
            reason = String::from_utf8_lossy(bytes).into_owned();
        }
        !is_reason
    });
    let number = |name: &str| {
        let (_, bytes) = parts.iter().find(|(part, _)| part == name)?;
        std::str::from_utf8(bytes).ok()?.parse::<i64>().ok()
    };
    let (job, lane) = (number("job.job"), number("job.lane"));
    add_parts(conn, SELECT_RAW_LANE, "lane", lane, &mut parts)?;
    add_parts(conn, SELECT_RAW_BODY, "body", job, &mut parts)?;
    add_parts(conn, SELECT_RAW_NOTE, "note", job, &mut parts)?;
    Ok(Some(QuarantinedJob::new(id, reason, parts)))
}

/// Adds the columns of a row that are not NULL: bytes as they are, numbers as text.
fn add_parts(
    conn: &Connection,
    sql: &str,
    table: &str,
    key: impl rusqlite::ToSql,
    parts: &mut Vec<(String, Vec<u8>)>,
) -> Result<(), Fault> {
    let mut select = conn.prepare_cached(sql)?;
    // Not all names at once: what that answers differs between the versions of rusqlite.
    let columns = (0..select.column_count())
        .map(|at| Ok(format!("{table}.{}", select.column_name(at)?)))
        .collect::<rusqlite::Result<Vec<String>>>()?;
    let mut rows = select.query([key])?;
    let Some(row) = rows.next()? else { return Ok(()) };
    for (column, name) in columns.into_iter().enumerate() {
        let bytes = match row.get_ref(column)? {
            ValueRef::Null => continue,
            ValueRef::Integer(number) => number.to_string().into_bytes(),
            ValueRef::Real(number) => number.to_string().into_bytes(),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.to_vec(),
        };
        parts.push((name, bytes));
    }
    Ok(())
}

/// Takes quarantined jobs back that can be read, in order.
pub(super) fn recover(
    session: &mut Session<'_>,
    ids: &[JobId],
) -> Result<Vec<RecoverOutcome>, Fault> {
    ids.iter().map(|id| recover_one(session, *id)).collect()
}

fn recover_one(session: &mut Session<'_>, id: JobId) -> Result<RecoverOutcome, Fault> {
    let Some(head) = session.head(id)? else { return Ok(RecoverOutcome::NotFound) };
    if head.state != JobState::Quarantined {
        return Ok(RecoverOutcome::Unchanged(head.state));
    }
    let mut select = session.conn.prepare_cached(SELECT_ASIDE)?;
    let now_ms = ms(session.now);
    let Some(back) = select.query_row([id.as_bytes()], |row| readable(row, now_ms))? else {
        return Ok(RecoverOutcome::Unreadable);
    };
    let key_is_free = match holder_of_key(session, &back.head)? {
        KeyHolder::None => back.head.has_key,
        KeyHolder::Other(_) | KeyHolder::Unreadable => false,
    };
    take_back(session, &back, key_is_free)?;
    Ok(RecoverOutcome::Recovered(back.head.state))
}

/// A quarantined job that can be read, as it will be.
struct Back {
    head: Head,
    raw: Raw,
}

/// `None` if it cannot be read.
fn readable(row: &rusqlite::Row<'_>, now_ms: i64) -> rusqlite::Result<Option<Back>> {
    let at = |offset: usize| HEAD_COLUMNS + SPEC_COLUMNS + offset;
    let mut raw = Raw::read(row)?;
    let Ok(result) = result(row, at(NAME_COLUMNS))? else { return Ok(None) };
    let state = match whole(row, at(NAME_COLUMNS + 2))?.and_then(state_of) {
        Some(JobState::Quarantined) | None => guess(&raw, result.is_some()),
        Some(state) => Some(state),
    };
    let Some(state) = state else { return Ok(None) };
    let state = if state.is_finished() { state } else { JobState::Ready };
    raw.state = state_number(state);
    if state == JobState::Ready {
        raw.position = Some(0);
        raw.due_ms = now_ms;
        (raw.finished_ms, raw.elapsed_ms, raw.dead_reason) = (None, None, None);
        (raw.shelf, raw.expiry_ms) = (None, None);
    } else {
        // Where it goes is found out anew.
        (raw.shelf, raw.expiry_ms) = (Some(0), Some(MS_MAX));
    }
    if raw.flaw().is_some() {
        return Ok(None);
    }
    let head = raw.head();
    let Some(lane) = names(row, at(0))? else { return Ok(None) };
    Ok(spec(row, HEAD_COLUMNS, &head, &lane)?.is_ok().then_some(Back { head, raw }))
}

/// The state of a job whose state is not known, by what else it has. A job that may be finished
/// must not run again.
fn guess(raw: &Raw, has_result: bool) -> Option<JobState> {
    match (raw.finished_ms, raw.dead_reason) {
        (_, Some(_)) => Some(JobState::Dead),
        (Some(_), None) if has_result => Some(JobState::Completed),
        (Some(_), None) => None,
        (None, None) => Some(JobState::Ready),
    }
}

fn take_back(session: &mut Session<'_>, back: &Back, key_is_free: bool) -> Result<(), Fault> {
    let Back { head, raw } = back;
    let holds_key = key_is_free && holds_key_after(head, head.state, session.now);
    session.leave(head.lane, JobState::Quarantined)?;
    let (mut position, mut shelved) = (None, None);
    if head.state == JobState::Ready {
        position = Some(session.push(head.lane, End::Tail)?);
    } else {
        session.enter(head.lane, head.state)?;
        let finished_at = head.finished_at.unwrap_or(session.now);
        let (part, expiry) = place(head, head.state, finished_at, holds_key);
        let queue = session.lanes.load(head.lane)?.name.queue.clone();
        shelved = Some((session.shelves.add(&queue, part, ms(expiry), 1)?, part, expiry));
    }
    session.conn.prepare_cached(UPDATE_RECOVERED)?.execute(params![
        head.job,
        state_number(head.state),
        position,
        raw.due_ms,
        holds_key,
        shelved.map(|(shelf, ..)| shelf),
        raw.finished_ms,
        shelved.map(|(.., expiry)| ms(expiry)),
        raw.elapsed_ms,
        raw.dead_reason,
    ])?;
    session.conn.prepare_cached(DELETE_QUARANTINE)?.execute([head.job])?;
    if let Some((shelf, part, _)) = shelved {
        session.shelves.came_in(part, shelf, 1);
    }
    Ok(())
}
