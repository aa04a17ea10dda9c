//! What time asks for: T3, T11 and T16.

use std::cmp::Reverse;

use queue_core::backend::FINISHED_MAX;
use queue_core::{DeadReason, JobState, Maintained, QueueName};

use super::held::Claims;
use super::promote::promote;
use crate::errors::Fault;
use crate::open::Room;
use crate::rows::ms;
use crate::session::{End, Finish, Head, SELECT_HEADS_OF_CLAIM, Session};

/// [`FINISHED_MAX`] as SQLite takes it. Queries have it as a literal, so that the planner can prove
/// that the partial index of fuller shelves fits.
const RECORDS_MAX: i64 = {
    assert!(FINISHED_MAX == 10_000);
    FINISHED_MAX as i64
};

/// Claims whose lease is over, longest ago first.
pub(super) const SELECT_LAPSED: &str =
    "SELECT claim FROM claim WHERE until_ms <= ?1 ORDER BY until_ms, token LIMIT 1";
pub(super) const SELECT_DROPPABLE_SHELVES: &str = "SELECT shelf, queue, dead, records FROM shelf \
     WHERE shelf IN (SELECT shelf FROM shelf WHERE next_expiry_ms <= ?1 \
     UNION ALL SELECT shelf FROM shelf WHERE records > 10000) ORDER BY +queue, dead LIMIT ?2";
pub(super) const COUNT_EXPIRED: &str = "SELECT count(*) FROM (SELECT 1 FROM job \
     WHERE shelf = ?1 AND expiry_ms <= ?2 LIMIT ?3)";

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
    shrink(session, room)?;
    Ok(done)
}

/// Takes jobs back from lapsed claims, whole claims at a time.
fn reap(session: &mut Session<'_>, budget: u32, done: &mut Maintained) -> Result<(), Fault> {
    loop {
        let mut select = session.conn.prepare_cached(SELECT_LAPSED)?;
        let mut rows = select.query([ms(session.now)])?;
        let Some(claim) = rows.next()?.map(|row| row.get::<_, i64>(0)).transpose()? else {
            return Ok(());
        };
        drop(rows);
        if done.reaped >= u64::from(budget) {
            done.more = true;
            return Ok(());
        }
        reap_claim(session, claim, done)?;
    }
}

fn reap_claim(session: &mut Session<'_>, claim: i64, done: &mut Maintained) -> Result<(), Fault> {
    let mut select = session.conn.prepare_cached(SELECT_HEADS_OF_CLAIM)?;
    let heads = select.query_map([claim], Head::read)?;
    let mut heads: Vec<Head> = heads.collect::<Result<_, _>>()?;
    // From the last to the first, each to the head: the lane ends up in order.
    heads.sort_by_key(|head| Reverse(head.id));
    let mut claims = Claims::default();
    // A claim without jobs would be found again and again: it goes in any case.
    claims.let_go(claim);
    for head in heads {
        claims.let_go(claim);
        done.reaped += 1;
        if !session.is_movable(&head)? {
            continue;
        }
        done.crash_loops += u64::from(reap_job(session, head)?);
    }
    claims.save(session)
}

/// T11; says whether the job is dead now.
fn reap_job(session: &mut Session<'_>, mut head: Head) -> Result<bool, Fault> {
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
    let now = ms(session.now);
    // What this pass has put onto shelves counts too.
    session.shelves.save()?;
    let mut select = session.conn.prepare_cached(SELECT_DROPPABLE_SHELVES)?;
    // Each has at least one record that may go, so one more than may go tells whether more is left.
    let shelves = select.query_map((now, i64::from(budget) + 1), |row| {
        // A name that cannot be read is none, and skipped below.
        let queue = row.get_ref(1)?.as_str().unwrap_or_default().to_owned();
        Ok((row.get::<_, i64>(0)?, queue, row.get::<_, bool>(2)?, row.get::<_, i64>(3)?))
    })?;
    let shelves: Vec<_> = shelves.collect::<Result<_, _>>()?;
    let mut left = i64::from(budget);
    for (shelf, queue, dead, records) in shelves {
        let Ok(queue) = QueueName::new(&queue) else { continue };
        let mut count = session.conn.prepare_cached(COUNT_EXPIRED)?;
        // One more than may be dropped tells whether something is left.
        let expired: i64 = count.query_row((shelf, now, left + 1), |row| row.get(0))?;
        let droppable = expired.max(records - RECORDS_MAX);
        let dropping = droppable.min(left);
        if dropping > 0 {
            left -= session.drop_oldest(shelf, &queue, dead, dropping)?;
        }
        done.more |= droppable > dropping;
    }
    done.dropped = (i64::from(budget) - left).unsigned_abs();
    Ok(())
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
