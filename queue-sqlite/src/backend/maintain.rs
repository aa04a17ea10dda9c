//! What time asks for: T3, T11 and T16.

use std::cmp::Reverse;

use queue_core::backend::PASS_MAX;
use queue_core::{
    AttemptRecord, DeadReason, Ending, JobState, LimitKey, Maintained, QueueName, WorkerId,
};

use rusqlite::OptionalExtension;

use super::attempts::{note_attempt, worker_of};
use super::limits::{HAS_RECHECK, recheck};
use super::promote::promote;
use super::workers::forget_past;
use crate::errors::Fault;
use crate::open::Room;
use crate::rows::{ms, number, text};
use crate::session::limits::DELETE_LIMIT_KEY;
use crate::session::shelves::{DELETE_SHELF, RECORDS_MAX};
use crate::session::{End, Finish, Head, Part, Session};

/// Claims whose lease is over, longest ago first.
pub(super) const SELECT_LAPSED: &str =
    "SELECT claim FROM claim WHERE until_ms <= ?1 ORDER BY until_ms, token LIMIT 1";
/// Claims whose lease ends at no time that there is.
pub(super) const SELECT_ENDLESS: &str =
    "SELECT claim FROM claim WHERE until_ms > 281474976710655 ORDER BY until_ms, token LIMIT 1";
pub(super) const SELECT_DROPPABLE_SHELVES: &str = "SELECT shelf, queue FROM shelf \
     WHERE shelf IN (SELECT shelf FROM shelf WHERE next_expiry_ms <= ?1 \
     UNION ALL SELECT shelf FROM shelf WHERE records > 10000 AND part > 0) \
     ORDER BY +queue LIMIT ?2";
pub(super) const COUNT_EXPIRED: &str = "SELECT count(*) FROM (SELECT 1 FROM job \
     WHERE shelf = ?1 AND expiry_ms <= ?2 LIMIT ?3)";

/// Limit keys of which something may be forgotten.
pub(super) const SELECT_LOOKED_AT: &str =
    "SELECT name FROM limit_key WHERE look_ms <= ?1 ORDER BY look_ms LIMIT ?2";

/// Pages that a pass gives back to the file system.
const VACUUM_PAGES: u32 = 200;
/// Free pages that are worth keeping for new jobs (16 MiB).
const FREE_PAGES_KEPT: i64 = 4096;

/// Does at most `budget` items of each.
pub(super) fn maintain(
    session: &mut Session<'_>,
    budget: u32,
    room: &Room,
) -> Result<Maintained, Fault> {
    let mut done = Maintained::default();
    (done.promoted, done.more) = promote(session, budget)?;
    reap(session, budget, &mut done)?;
    drop_finished(session, budget, &mut done)?;
    done.more |= tidy(session)?;
    shrink(session, room)?;
    Ok(done)
}

/// Takes jobs back from lapsed claims, whole claims at a time.
fn reap(session: &mut Session<'_>, budget: u32, done: &mut Maintained) -> Result<(), Fault> {
    while let Some(claim) = lapsed(session)? {
        if done.reaped >= u64::from(budget) {
            done.more = true;
            return Ok(());
        }
        reap_claim(session, claim, done)?;
    }
    Ok(())
}

fn lapsed(session: &Session<'_>) -> Result<Option<i64>, Fault> {
    let mut lapsed = session.conn.prepare_cached(SELECT_LAPSED)?;
    let claim = lapsed.query_row([ms(session.now)], |row| number(row, 0)).optional()?;
    if claim.is_some() {
        return Ok(claim);
    }
    let mut endless = session.conn.prepare_cached(SELECT_ENDLESS)?;
    Ok(endless.query_row([], |row| number(row, 0)).optional()?)
}

fn reap_claim(session: &mut Session<'_>, claim: i64, done: &mut Maintained) -> Result<(), Fault> {
    let holding = session.holding(claim)?;
    let jobs = holding.as_ref().map_or(0, |holding| holding.jobs);
    let found = session.heads_held(claim, jobs)?;
    done.reaped += found.len() as u64;
    let mut heads = Vec::with_capacity(found.len());
    for head in found {
        heads.extend(session.sound(head)?);
    }
    let worker = match heads.first() {
        Some(head) => worker_of(session, head)?,
        None => None,
    };
    // From the last to the first, each to the head: the lane ends up in order.
    heads.sort_by_key(|head| Reverse(head.id));
    for head in heads {
        let queue = session.lanes.load(head.lane)?.name.queue.clone();
        *done.reaped_of.entry(queue).or_default() += 1;
        if let Some(holding) = &holding {
            session.let_go_of_keys(head.lane, &[(head.id, Ending::Neutral)], holding)?;
        }
        done.crash_loops += u64::from(reap_job(session, head, worker.clone())?);
    }
    // Also one that had no jobs, which would be found again and again.
    session.count_held(claim)
}

/// T11; says whether the job is dead now.
fn reap_job(
    session: &mut Session<'_>,
    mut head: Head,
    worker: Option<WorkerId>,
) -> Result<bool, Fault> {
    let attempt =
        AttemptRecord::lease_expired(head.failures.saturating_add(1), worker, session.now);
    note_attempt(session, head.job, &attempt, None)?;
    head.stalls = head.stalls.saturating_add(1);
    let crash_loop = head.stalls >= head.max_stalls && !head.cancel_requested;
    let (state, reason) = if crash_loop {
        (JobState::Dead, Some(DeadReason::CrashLoop))
    } else if head.cancel_requested {
        (JobState::Cancelled, None)
    } else {
        session.make_ready(&head, End::Head)?;
        return Ok(false);
    };
    session.finish(&head, Finish { state, reason, elapsed_ms: None })?;
    Ok(crash_loop)
}

/// T16: drops records whose retention is over and those beyond the number that is kept.
fn drop_finished(
    session: &mut Session<'_>,
    budget: u32,
    done: &mut Maintained,
) -> Result<(), Fault> {
    // What this pass has put onto shelves counts too.
    session.shelves.save()?;
    let mut left = i64::from(budget);
    for queue in droppable_queues(session, left + 1)? {
        for part in Part::ALL {
            done.more |= drop_part(session, &queue, part, &mut left, &mut done.dropped)?;
        }
    }
    Ok(())
}

/// The queues that have a shelf from which something may be dropped, in order; at most `limit`
/// shelves are looked at. Each has at least one such record, so one more than may be dropped tells
/// whether more is left.
fn droppable_queues(session: &Session<'_>, limit: i64) -> Result<Vec<QueueName>, Fault> {
    let mut select = session.conn.prepare_cached(SELECT_DROPPABLE_SHELVES)?;
    let mut rows = select.query((ms(session.now), limit))?;
    let (mut queues, mut nameless) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        match text(row, 1)?.map(QueueName::new) {
            Some(Ok(queue)) => queues.push(queue),
            _ => nameless.push(number(row, 0)?),
        }
    }
    drop(rows);
    for shelf in nameless {
        // Its records stay, and an audit finds them; it would be found again and again.
        tracing::error!(
            event = "shelf_dropped",
            shelf,
            "a shelf has no legal name and is dropped; run an audit to repair"
        );
        session.conn.prepare_cached(DELETE_SHELF)?.execute([shelf])?;
    }
    queues.dedup();
    Ok(queues)
}

/// Handles the records of one shelf whose time is over, at most `left`; says whether there are
/// more of them.
fn drop_part(
    session: &mut Session<'_>,
    queue: &QueueName,
    part: Part,
    left: &mut i64,
    dropped: &mut u64,
) -> Result<bool, Fault> {
    let Some(shelf) = session.shelves.find(queue, part)? else { return Ok(false) };
    let (shelf, mut records) = (shelf.shelf, shelf.records);
    let mut count = session.conn.prepare_cached(COUNT_EXPIRED)?;
    // One more than may be dropped tells whether something is left.
    let expired: i64 = count.query_row((shelf, ms(session.now), *left + 1), |row| row.get(0))?;
    if expired == 0 {
        // Its next expiry may have been wrong: it would be found again and again.
        session.shelves.look_again(shelf);
    }
    if part != Part::Held && records > RECORDS_MAX {
        records = session.shelves.count(shelf)?;
    }
    let droppable = match part {
        Part::Held => expired,
        Part::Done | Part::Cancelled | Part::Dead => {
            expired.max(records.saturating_sub(RECORDS_MAX))
        }
    };
    let handled = droppable.min(*left);
    *left -= handled;
    let heads = session.oldest(shelf, handled)?;
    let mut gone = Vec::with_capacity(heads.len());
    for head in heads {
        if !joins_others(session, &head, part)? {
            gone.push(head);
        }
    }
    *dropped += gone.len() as u64;
    session.remove_all(&gone)?;
    Ok(droppable > handled)
}

/// A record's time on its shelf is over. If it was only kept for its key so far, it joins the others
/// of its queue; says whether it does.
fn joins_others(session: &mut Session<'_>, head: &Head, part: Part) -> Result<bool, Fault> {
    let finished_at = head.finished_at.unwrap_or(session.now);
    let kept_until = finished_at.after(head.retention.completed);
    if part == Part::Held && kept_until > session.now {
        session.reshelve(head, Part::Done, kept_until)?;
        return Ok(true);
    }
    Ok(false)
}

/// Forgets what does not count any more of limit keys and of queues where no jobs start; looks at
/// those who wait under settings that are new. Each costs little, so the budget, which is for jobs,
/// does not count. Says whether there is more to do.
fn tidy(session: &mut Session<'_>) -> Result<bool, Fault> {
    recheck(session)?;
    let now_ms = ms(session.now);
    let mut select = session.conn.prepare_cached(SELECT_LOOKED_AT)?;
    let names =
        select.query_map((now_ms, PASS_MAX), |row| Ok(text(row, 0)?.unwrap_or("").to_owned()))?;
    let names: Vec<String> = names.collect::<Result<_, _>>()?;
    let mut more = names.len() >= PASS_MAX as usize;
    for name in names {
        match LimitKey::new(&name) {
            Ok(key) => session.limits.tidy(&key, session.now)?,
            Err(_) => {
                // It would be found again and again.
                session.conn.prepare_cached(DELETE_LIMIT_KEY)?.execute([name])?;
            }
        }
    }
    session.store.starts.tidy(session.now);
    more |= forget_past(session)?;
    Ok(more || session.conn.prepare_cached(HAS_RECHECK)?.exists([])?)
}

/// Gives pages back to the file system, some at a time, once many more are free than are in use,
/// or when the disk is short of space.
fn shrink(session: &Session<'_>, room: &Room) -> Result<(), Fault> {
    let pragma = |name: &str| session.conn.pragma_query_value(None, name, |row| row.get(0));
    let free: i64 = pragma("freelist_count")?;
    let pages: i64 = pragma("page_count")?;
    let many = free > FREE_PAGES_KEPT && free > pages / 2;
    if free == 0 || !(many || room.is_short()) {
        return Ok(());
    }
    let mut vacuum = session.conn.prepare(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
    let mut rows = vacuum.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}
