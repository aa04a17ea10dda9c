//! Listing jobs by state, in pages.
//!
//! Every page is one short read of an index, from where the one before ended: nothing is skipped
//! by counting, and a filter that fits few jobs makes pages short, not long to make.

mod cursor;

use std::time::SystemTime;

use queue_core::{
    Error, JobId, JobState, JobSummary, Kind, ListRequest, Page, QueueName, Timestamp,
};
use rusqlite::{Connection, Params, Row};

use crate::errors::Fault;
use crate::rows::{
    LaneName, NAME_COLUMNS, bytes, error_of, limits_text, name_columns, names, number, sixteen,
    text, time,
};
use crate::session::{HEAD_COLUMNS, Head, Part, Runs, head_columns};
use cursor::Place;

/// The most jobs that are looked at for one page.
const LOOKED_AT_MAX: u32 = 500;

macro_rules! listed_columns {
    () => {
        concat!(
            "SELECT ",
            head_columns!(),
            ", ",
            name_columns!(),
            ", note.error, job.expiry_ms FROM job \
             LEFT JOIN lane ON lane.lane = job.lane LEFT JOIN note ON note.job = job.job "
        )
    };
}
/// Scheduled and retrying jobs, first due first.
pub(super) const SELECT_LISTED_DUE: &str = concat!(
    listed_columns!(),
    "WHERE job.state <= 2 AND (job.due_ms, job.id) > (?1, ?2) ORDER BY job.due_ms, job.id LIMIT ?3"
);
pub(super) const SELECT_LISTED_READY: &str = concat!(
    listed_columns!(),
    "WHERE job.lane = ?1 AND job.state = 3 AND job.position >= ?2 ORDER BY job.position LIMIT ?3"
);
/// Of the jobs of a run, those that a claim holds.
pub(super) const SELECT_LISTED_RUNNING: &str = concat!(
    listed_columns!(),
    "WHERE job.job BETWEEN ?1 AND ?2 AND job.claim = ?3 AND job.state = 4 \
     ORDER BY job.job LIMIT ?4"
);
pub(super) const SELECT_NEXT_CLAIMS: &str =
    "SELECT claim, runs FROM claim WHERE claim >= ?1 ORDER BY claim LIMIT ?2";
/// Finished jobs of a shelf: those that are kept longest, which mostly are the newest, first.
pub(super) const SELECT_LISTED_FINISHED: &str = concat!(
    listed_columns!(),
    "WHERE job.shelf = ?1 AND (job.expiry_ms, job.id) < (?2, ?3) \
     ORDER BY job.expiry_ms DESC, job.id DESC LIMIT ?4"
);
pub(super) const SELECT_LISTED_ASIDE: &str = concat!(
    listed_columns!(),
    "WHERE job.job IN (SELECT job FROM quarantine WHERE job >= ?1 ORDER BY job LIMIT ?2) \
     AND job.state = 8 ORDER BY job.job LIMIT ?2"
);
/// Lanes in the order of their names.
pub(super) const SELECT_NEXT_LANES: &str = "SELECT lane, queue, kind, priority, limits, ready FROM lane \
     WHERE (queue, kind, limits, priority) >= (?1, ?2, ?3, ?4) \
     ORDER BY queue, kind, limits, priority LIMIT ?5";
/// Shelves in the order of their names.
pub(super) const SELECT_NEXT_SHELVES: &str = "SELECT shelf, queue, part FROM shelf \
     WHERE (queue, part) >= (?1, ?2) ORDER BY queue, part LIMIT ?3";

/// A page, and the rowids of jobs met that cannot be read.
pub(super) type Listed = (Page, Vec<i64>);

/// One page.
pub(super) fn list(conn: &Connection, request: &ListRequest) -> Result<Listed, Fault> {
    let start =
        match &request.cursor {
            None => None,
            Some(cursor) => Some(Place::of(request, cursor).ok_or_else(|| {
                Error::BadRequest(format!("cursor {cursor} is not of this listing"))
            })?),
        };
    let mut listing = Listing {
        conn,
        request,
        left: LOOKED_AT_MAX,
        jobs: Vec::new(),
        aside: Vec::new(),
        broken: Vec::new(),
        next: None,
    };
    match request.state {
        JobState::Scheduled | JobState::Retrying => listing.due(start.as_ref())?,
        JobState::Ready => listing.ready(start.as_ref())?,
        JobState::Running => listing.running(start.as_ref())?,
        JobState::Completed | JobState::Dead | JobState::Cancelled => {
            listing.finished(start.as_ref())?
        }
        JobState::Quarantined => listing.quarantined(start.as_ref())?,
    }
    let next = listing.next.as_ref().and_then(|place| place.cursor(request));
    let clock_ms =
        conn.query_row("SELECT clock_ms FROM store WHERE one = 1", [], |row| row.get(0))?;
    let now = Timestamp::from(SystemTime::now()).max(time(clock_ms));
    Ok((Page::new(now, listing.jobs, listing.aside, next), listing.broken))
}

/// A page while it is being made.
struct Listing<'l> {
    conn: &'l Connection,
    request: &'l ListRequest,
    /// How many more jobs, lanes and shelves may be looked at.
    left: u32,
    jobs: Vec<JobSummary>,
    aside: Vec<JobId>,
    broken: Vec<i64>,
    /// The place of the last job that was looked at, once the page is at its end and there are
    /// more.
    next: Option<Place>,
}

impl Listing<'_> {
    fn due(&mut self, start: Option<&Place>) -> Result<(), Fault> {
        let (due_ms, id) = match start {
            Some(Place::Due(due_ms, id)) => (*due_ms, *id),
            _ => (i64::MIN, [0; 16]),
        };
        let limit = self.left + 1;
        self.read(SELECT_LISTED_DUE, (due_ms, id, limit), Place::Due(due_ms, id), |row| {
            Ok(Place::Due(number(row, 5)?, sixteen(row, 1)?.unwrap_or_default()))
        })?;
        Ok(())
    }

    /// Claim by claim, each in the order in which it took its jobs.
    fn running(&mut self, start: Option<&Place>) -> Result<(), Fault> {
        let (mut claim, mut from) = match start {
            Some(Place::Running(claim, number)) => (*claim, *number),
            _ => (i64::MIN, 0),
        };
        let mut select = self.conn.prepare_cached(SELECT_NEXT_CLAIMS)?;
        let claims = select.query_map((claim, self.left + 1), |row| {
            // The jobs of one whose list cannot be read, which an audit finds, are left out.
            Ok((number(row, 0)?, text(row, 1)?.and_then(Runs::parse).unwrap_or_default()))
        })?;
        let claims: Vec<_> = claims.collect::<Result<_, _>>()?;
        for (rowid, runs) in claims {
            if rowid != claim {
                (claim, from) = (rowid, 0);
            }
            if self.left == 0 {
                self.next = Some(Place::Running(claim, from));
                return Ok(());
            }
            self.left -= 1;
            for (before, (first, last)) in runs.numbered() {
                let skipped = from.saturating_sub(before).max(0);
                let start = first.saturating_add(skipped);
                if start > last {
                    continue;
                }
                if self.left == 0 {
                    self.next = Some(Place::Running(claim, from.max(before)));
                    return Ok(());
                }
                self.left -= 1;
                let number_of = |job: i64| before.saturating_add(job.saturating_sub(first));
                let at = |row: &Row<'_>| Ok(Place::Running(claim, number_of(number(row, 0)?) + 1));
                let values = (start, last, claim, self.left + 1);
                let place = Place::Running(claim, number_of(start));
                if self.read(SELECT_LISTED_RUNNING, values, place, at)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn quarantined(&mut self, start: Option<&Place>) -> Result<(), Fault> {
        let job = match start {
            Some(Place::Aside(job)) => *job,
            _ => i64::MIN,
        };
        let limit = self.left + 1;
        let at = |row: &Row<'_>| Ok(Place::Aside(number(row, 0)?.saturating_add(1)));
        self.read(SELECT_LISTED_ASIDE, (job, limit), Place::Aside(job), at)?;
        Ok(())
    }

    /// Lane by lane.
    fn ready(&mut self, start: Option<&Place>) -> Result<(), Fault> {
        let (mut lane, mut from) = match start {
            Some(Place::Ready { queue, kind, limits, priority, position }) => {
                let priority = i64::from(priority.level());
                ((queue.clone(), kind.clone(), limits.clone(), priority), *position)
            }
            _ => {
                let queue = self.request.queue.as_ref().map_or("", |queue| queue.as_str());
                ((queue.to_owned(), String::new(), String::new(), 0), i64::MIN)
            }
        };
        let limit = self.left + 1;
        let mut select = self.conn.prepare_cached(SELECT_NEXT_LANES)?;
        let lanes = select.query_map((&lane.0, &lane.1, &lane.2, lane.3, limit), |row| {
            Ok((number(row, 0)?, names(row, 1)?, number(row, 1 + NAME_COLUMNS)?))
        })?;
        let lanes: Vec<_> = lanes.collect::<Result<_, _>>()?;
        for (rowid, names, ready) in lanes {
            // Jobs of a lane without legal names can be listed only once they are quarantined.
            let Some(LaneName { queue, kind, priority, limits }) = names else { continue };
            let limits = limits_text(&limits);
            if self.request.queue.as_ref().is_some_and(|wanted| queue > *wanted) {
                break;
            }
            let level = i64::from(priority.level());
            let name = (queue.to_string(), kind.to_string(), limits.clone(), level);
            if name != lane {
                (lane, from) = (name, i64::MIN);
            }
            let place = |position| Place::Ready {
                queue: queue.to_string(),
                kind: kind.to_string(),
                limits: limits.clone(),
                priority,
                position,
            };
            if self.left == 0 {
                self.next = Some(place(from));
                return Ok(());
            }
            self.left -= 1;
            if ready == 0 || !self.is_wanted(&queue, &kind) {
                continue;
            }
            let limit = self.left + 1;
            let at = |row: &Row<'_>| Ok(place(number(row, 4)?.saturating_add(1)));
            if self.read(SELECT_LISTED_READY, (rowid, from, limit), place(from), at)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Shelf by shelf.
    fn finished(&mut self, start: Option<&Place>) -> Result<(), Fault> {
        const NEWEST: (i64, [u8; 16]) = (i64::MAX, [0xff; 16]);
        let (mut shelf, mut before) = match start {
            Some(Place::Finished { queue, part, expiry_ms, id }) => {
                ((queue.clone(), *part), (*expiry_ms, *id))
            }
            _ => {
                let queue = self.request.queue.as_ref().map_or("", |queue| queue.as_str());
                ((queue.to_owned(), 0), NEWEST)
            }
        };
        let limit = self.left + 1;
        let mut select = self.conn.prepare_cached(SELECT_NEXT_SHELVES)?;
        let shelves = select.query_map((&shelf.0, shelf.1, limit), |row| {
            let queue = text(row, 1)?.and_then(|queue| QueueName::new(queue).ok());
            Ok((number(row, 0)?, queue, number(row, 2)?))
        })?;
        let shelves: Vec<_> = shelves.collect::<Result<_, _>>()?;
        for (rowid, queue, part) in shelves {
            let Some(queue) = queue else { continue };
            if self.request.queue.as_ref().is_some_and(|wanted| queue > *wanted) {
                break;
            }
            let name = (queue.to_string(), part);
            if name != shelf {
                (shelf, before) = (name, NEWEST);
            }
            let place =
                |expiry_ms, id| Place::Finished { queue: queue.to_string(), part, expiry_ms, id };
            if self.left == 0 {
                self.next = Some(place(before.0, before.1));
                return Ok(());
            }
            self.left -= 1;
            let has_state = match self.request.state {
                JobState::Dead => part == Part::Dead.number(),
                JobState::Cancelled => part == Part::Cancelled.number(),
                _ => part == Part::Held.number() || part == Part::Done.number(),
            };
            if !has_state {
                continue;
            }
            let limit = self.left + 1;
            let at =
                |row: &Row<'_>| Ok(place(number(row, 23)?, sixteen(row, 1)?.unwrap_or_default()));
            let values = (rowid, before.0, before.1, limit);
            let start = place(before.0, before.1);
            if self.read(SELECT_LISTED_FINISHED, values, start, at)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes the jobs that a query finds after `start`, until the page is full or enough were looked
    /// at; says whether that happened with jobs left.
    fn read(
        &mut self,
        sql: &str,
        values: impl Params,
        start: Place,
        place: impl Fn(&Row<'_>) -> rusqlite::Result<Place>,
    ) -> Result<bool, Fault> {
        let mut select = self.conn.prepare_cached(sql)?;
        let mut rows = select.query(values)?;
        let mut last = start;
        while let Some(row) = rows.next()? {
            let full = self.jobs.len() + self.aside.len() >= self.request.limit as usize;
            if full || self.left == 0 {
                self.next = Some(last);
                return Ok(true);
            }
            self.left -= 1;
            last = place(row)?;
            self.take(row)?;
        }
        Ok(false)
    }

    fn take(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        let head = match Head::read(row)? {
            Ok(head) => head,
            Err(found) => {
                self.broken.push(found.job);
                return Ok(());
            }
        };
        let lane = names(row, HEAD_COLUMNS)?;
        if head.state == JobState::Quarantined {
            if lane.is_none_or(|lane| self.is_wanted(&lane.queue, &lane.kind)) {
                self.aside.push(head.id);
            }
            return Ok(());
        }
        let Some(lane) = lane else {
            self.broken.push(head.job);
            return Ok(());
        };
        if head.state == self.request.state && self.is_wanted(&lane.queue, &lane.kind) {
            self.jobs.push(summary(&head, lane, bytes(row, HEAD_COLUMNS + NAME_COLUMNS)?));
        }
        Ok(())
    }

    fn is_wanted(&self, queue: &QueueName, kind: &Kind) -> bool {
        self.request.queue.as_ref().is_none_or(|wanted| wanted == queue)
            && self.request.kind.as_ref().is_none_or(|wanted| wanted == kind)
    }
}

fn summary(head: &Head, lane: LaneName, error: Option<&[u8]>) -> JobSummary {
    let LaneName { queue, kind, priority, .. } = lane;
    let mut summary = JobSummary::new(head.id, queue, kind, head.state, head.enqueued_at);
    summary.priority = priority;
    summary.dead_reason = head.dead_reason;
    summary.failures = head.failures;
    summary.stalls = head.stalls;
    summary.due_at = head.due_at;
    summary.finished_at = head.finished_at;
    summary.last_error =
        error.map(|error| error_of(error).shortened(queue_core::SUMMARY_ERROR_MAX_BYTES));
    summary
}
