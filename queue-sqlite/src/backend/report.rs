//! Progress and logs of running jobs, and looks at watched ones.

use std::collections::HashMap;

use queue_core::{
    ClaimToken, JobState, LOG_LINES_MAX, LOG_MAX_BYTES, LogLine, Report, Reported, WatchRequest,
    Watched,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::get::progress;
use super::settle::claim_of;
use crate::errors::Fault;
use crate::open::Room;
use crate::rows::{ms, number, sixteen, text, time};
use crate::session::{HEAD_COLUMNS, Head, Session, head_columns};

pub(super) const SELECT_LOG: &str =
    "SELECT last_line, seen_token, seen_lines FROM note WHERE job = ?1";
pub(super) const UPSERT_LOG: &str = "INSERT INTO note \
     (job, last_line, seen_token, seen_lines, percent, doing) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
     ON CONFLICT (job) DO UPDATE SET last_line = excluded.last_line, \
     seen_token = excluded.seen_token, seen_lines = excluded.seen_lines, \
     percent = ifnull(excluded.percent, percent), doing = ifnull(excluded.doing, doing)";
/// The lines that are kept, last one first.
pub(super) const SELECT_LINE_SIZES: &str =
    "SELECT number, octet_length(text) FROM line WHERE job = ?1 ORDER BY number DESC LIMIT ?2";
pub(super) const DELETE_LINES: &str = "DELETE FROM line WHERE job = ?1 AND number < ?2";
pub(super) const INSERT_LINE: &str = "INSERT OR REPLACE INTO line \
     (job, number, at_ms, attempt, text) VALUES (?1, ?2, ?3, ?4, ?5)";
pub(super) const SELECT_WATCHED: &str = concat!(
    "SELECT ",
    head_columns!(),
    ", note.percent, note.doing FROM job LEFT JOIN note ON note.job = job.job WHERE job.id = ?1"
);
pub(super) const SELECT_LINES: &str = "SELECT number, at_ms, attempt, text FROM line \
     WHERE job = ?1 AND number > ?2 ORDER BY number LIMIT ?3";

/// [`LOG_LINES_MAX`] as SQLite takes it.
const LINES_MAX: i64 = LOG_LINES_MAX as i64;

/// Takes the reports of running attempts, in order.
pub(super) fn report(
    session: &mut Session<'_>,
    reports: &[Report],
    room: &Room,
) -> Result<Vec<Reported>, Fault> {
    let bytes = reports.iter().flat_map(|report| &report.lines).map(|line| line.len() as u64);
    // What room is left is for ending jobs, not for what they say meanwhile.
    room.check_results(bytes.sum())?;
    let mut claims = HashMap::new();
    let mut answers = Vec::with_capacity(reports.len());
    for report in reports {
        let head = session.head(report.id)?;
        let held = head.and_then(|head| head.claim.map(|claim| (claim, head)));
        let Some((claim, head)) = held else {
            answers.push(Reported::Stale);
            continue;
        };
        let holder = match claims.get(&report.token) {
            Some(known) => *known,
            None => {
                let holder = claim_of(session, report.token)?;
                claims.insert(report.token, holder);
                holder
            }
        };
        if holder == Some(claim) {
            write(session, &head, report)?;
            answers.push(Reported::Applied);
        } else {
            answers.push(Reported::Stale);
        }
    }
    Ok(answers)
}

/// What is known of a job's log.
#[derive(Default)]
struct Log {
    /// The number of the last line ever written.
    last: i64,
    /// Whose lines were counted last, and how many of them have been seen.
    seen: Option<(ClaimToken, u64)>,
}

fn write(session: &Session<'_>, head: &Head, report: &Report) -> Result<(), Fault> {
    let mut select = session.conn.prepare_cached(SELECT_LOG)?;
    let log = select.query_row([head.job], |row| {
        let lines = number(row, 2)?.max(0).unsigned_abs();
        let seen = sixteen(row, 1)?.map(|token| (ClaimToken::from_bytes(token), lines));
        // A damaged number must leave room to count on.
        Ok(Log { last: number(row, 0)?.clamp(0, i64::MAX / 2), seen })
    });
    let Log { last, seen } = log.optional()?.unwrap_or_default();
    let seen = seen.filter(|(token, _)| *token == report.token).map_or(0, |(_, lines)| lines);
    let known = usize::try_from(seen.saturating_sub(report.lines_before)).unwrap_or(usize::MAX);
    let new = report.lines.get(known..).unwrap_or_default();
    let end = report.lines_before.saturating_add(report.lines.len() as u64);
    let count = i64::try_from(new.len()).unwrap_or(i64::MAX);
    session.conn.prepare_cached(UPSERT_LOG)?.execute(params![
        head.job,
        last.saturating_add(count),
        report.token.as_bytes(),
        i64::try_from(seen.max(end)).unwrap_or(i64::MAX),
        report.progress.as_ref().map(|progress| progress.percent),
        report.progress.as_ref().map(|progress| progress.text.as_str()),
    ])?;
    if new.is_empty() { Ok(()) } else { add_lines(session, head, last, new) }
}

/// Adds lines after number `last`, and drops the first ones that are too many then.
fn add_lines(session: &Session<'_>, head: &Head, last: i64, new: &[String]) -> Result<(), Fault> {
    let mut space = Space { lines: LOG_LINES_MAX, bytes: LOG_MAX_BYTES };
    let kept = new.iter().rev().take_while(|line| space.take(line.len())).count();
    // Of the lines that were there, those that still fit.
    let mut first = last.saturating_add(1);
    if kept == new.len() {
        let mut select = session.conn.prepare_cached(SELECT_LINE_SIZES)?;
        let mut rows = select.query((head.job, LINES_MAX))?;
        while let Some(row) = rows.next()? {
            if !space.take(usize::try_from(number(row, 1)?).unwrap_or(0)) {
                break;
            }
            first = number(row, 0)?;
        }
    }
    session.conn.prepare_cached(DELETE_LINES)?.execute((head.job, first))?;
    let mut insert = session.conn.prepare_cached(INSERT_LINE)?;
    let attempt = head.failures.saturating_add(1);
    for (number, text) in (last.saturating_add(1)..).zip(new).skip(new.len() - kept) {
        insert.execute(params![head.job, number, ms(session.now), attempt, text])?;
    }
    Ok(())
}

/// What a log still takes.
struct Space {
    lines: usize,
    bytes: usize,
}

impl Space {
    /// Says whether a line of this size fits, and takes its place.
    fn take(&mut self, bytes: usize) -> bool {
        let left = (self.lines.checked_sub(1), self.bytes.checked_sub(bytes));
        let (Some(lines), Some(bytes)) = left else { return false };
        (self.lines, self.bytes) = (lines, bytes);
        true
    }
}

/// Looks at jobs; `None` for an unknown id. Also answers the rowids of those that cannot be read,
/// which look quarantined, as they soon are.
pub(super) fn watch(
    conn: &Connection,
    requests: &[WatchRequest],
) -> Result<(Vec<Option<Watched>>, Vec<i64>), Fault> {
    let (mut answers, mut broken) = (Vec::with_capacity(requests.len()), Vec::new());
    let mut select = conn.prepare_cached(SELECT_WATCHED)?;
    for request in requests {
        let mut rows = select.query([request.id.as_bytes()])?;
        let Some(row) = rows.next()? else {
            answers.push(None);
            continue;
        };
        let head = match Head::read(row)? {
            Ok(head) => head,
            Err(found) => {
                broken.push(found.job);
                answers.push(Some(Watched::new(JobState::Quarantined, 0)));
                continue;
            }
        };
        let mut watched = Watched::new(head.state, head.failures);
        watched.finished_at = head.finished_at;
        watched.progress = progress(row, HEAD_COLUMNS)?;
        watched.lines = lines(conn, head.job, request.after_line)?;
        answers.push(Some(watched));
    }
    Ok((answers, broken))
}

/// The lines of a job's log after a number. Those that cannot be read are left out.
fn lines(conn: &Connection, job: i64, after: u64) -> Result<Vec<LogLine>, Fault> {
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let mut select = conn.prepare_cached(SELECT_LINES)?;
    let mut rows = select.query((job, after, LINES_MAX))?;
    let mut lines = Vec::new();
    while let Some(row) = rows.next()? {
        let number_of_line = u64::try_from(number(row, 0)?).ok();
        let attempt = u16::try_from(number(row, 2)?).ok();
        let line = (number_of_line, attempt, text(row, 3)?);
        if let (Some(number_of_line), Some(attempt), Some(text)) = line {
            let at = time(number(row, 1)?);
            lines.push(LogLine::new(number_of_line, at, attempt, text.to_owned()));
        }
    }
    Ok(lines)
}
