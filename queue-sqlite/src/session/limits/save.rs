//! Writing what has happened to limit keys, and counting what they should count.

use std::collections::HashMap;

use queue_core::{JobId, LimitKey, LimitState, Timestamp};
use rusqlite::{Connection, params};

use super::{Known, Limits, Wait};
use crate::errors::Fault;
use crate::rows::{limit_state, ms, name_columns, names, number, sixteen, text};
use crate::session::holding::Added;
use crate::session::runs_of;

pub(crate) const UPSERT_LIMIT_KEY: &str = "INSERT INTO limit_key (name, live, running, state, look_ms) \
     VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (name) DO UPDATE SET live = excluded.live, \
     running = excluded.running, state = excluded.state, look_ms = excluded.look_ms";
pub(crate) const DELETE_LIMIT_KEY: &str = "DELETE FROM limit_key WHERE name = ?1";
pub(crate) const UPSERT_WAIT: &str = "INSERT INTO limit_wait (key, queue, kind, lanes, opens_ms) \
     VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (key, queue, kind) \
     DO UPDATE SET lanes = max(min(lanes, 4294967295), 0) + excluded.lanes, opens_ms = excluded.opens_ms";
pub(crate) const UPDATE_WAIT_LEFT: &str = "UPDATE limit_wait SET lanes = lanes - ?4 \
     WHERE key = ?1 AND queue = ?2 AND kind = ?3 AND lanes > ?4";
pub(crate) const COUNT_BLOCKED: &str =
    "SELECT count(*) FROM lane WHERE blocked_by = ?1 AND queue = ?2 AND kind = ?3";
pub(crate) const DELETE_WAIT: &str =
    "DELETE FROM limit_wait WHERE key = ?1 AND queue = ?2 AND kind = ?3";
pub(crate) const HAS_WAITS: &str = "SELECT 1 FROM limit_wait LIMIT 1";
pub(crate) const UPDATE_OPENS: &str =
    "UPDATE limit_wait SET opens_ms = ?2 WHERE key = ?1 AND opens_ms IS NOT ?2";
pub(crate) const SELECT_LIMIT_KEYS: &str = "SELECT name FROM limit_key WHERE running > 0";
pub(crate) const SELECT_ALL_RUNS: &str = "SELECT claim, runs, added FROM claim";
/// Of the jobs of a run, those that a claim holds and that may hold limit keys; `?4` says whether
/// all may.
pub(crate) const SELECT_HOLDERS: &str = concat!(
    "SELECT job.id, ",
    name_columns!(),
    " FROM job LEFT JOIN lane ON lane.lane = job.lane \
     WHERE job.job BETWEEN ?1 AND ?2 AND job.claim = ?3 AND job.state = 4 \
     AND (?4 OR lane.limits <> '')"
);

impl Limits<'_> {
    /// Writes the keys that changed, those that nobody needs go, and tells those who wait from
    /// when on their keys have room. The lanes have been written.
    pub(crate) fn save(&mut self, now: Timestamp) -> Result<(), Fault> {
        for (key, by) in std::mem::take(&mut self.live) {
            if by != 0 {
                self.edit(&key, |known| known.live = known.live.saturating_add(by).max(0))?;
            }
        }
        if std::mem::take(&mut self.recount) {
            self.count_running()?;
        }
        let conn = self.conn;
        for key in std::mem::take(&mut self.changed) {
            let known = self.known(&key)?;
            known.changed = false;
            known.look_ms = if known.state == LimitState::default() {
                None
            } else {
                let forgotten_ms = known.state.forgotten_at().map(ms);
                // Looking too early is cheaper than writing the time again and again.
                let known_ms = known.look_ms.filter(|look_ms| *look_ms > ms(now));
                forgotten_ms.map(|later| known_ms.map_or(later, |known| known.min(later)))
            };
            save_key(conn, &key, known)?;
        }
        for (wait, by) in std::mem::take(&mut self.waits) {
            self.save_wait(&wait, by, now)?;
        }
        let unsure = std::mem::take(&mut self.unsure);
        if unsure.is_empty() || !conn.prepare_cached(HAS_WAITS)?.exists([])? {
            return Ok(());
        }
        for key in unsure {
            let opens_ms = self.opens_ms(&key, now)?;
            conn.prepare_cached(UPDATE_OPENS)?.execute((key.as_str(), opens_ms))?;
        }
        Ok(())
    }

    fn save_wait(&mut self, wait: &Wait, by: i64, now: Timestamp) -> Result<(), Fault> {
        let (key, queue, kind) = wait;
        let conn = self.conn;
        let name = (key.as_str(), queue.as_str(), kind.as_str());
        if by > 0 {
            let opens_ms = self.opens_ms(key, now)?;
            let mut upsert = conn.prepare_cached(UPSERT_WAIT)?;
            upsert.execute(params![name.0, name.1, name.2, by, opens_ms])?;
        }
        if by >= 0 {
            return Ok(());
        }
        let mut left = conn.prepare_cached(UPDATE_WAIT_LEFT)?;
        if left.execute((name.0, name.1, name.2, -by))? > 0 {
            return Ok(());
        }
        // Counted again rather than trusted: lanes that wait where nobody looks would never run.
        conn.prepare_cached(DELETE_WAIT)?.execute(name)?;
        let mut count = conn.prepare_cached(COUNT_BLOCKED)?;
        let lanes: i64 = count.query_row(name, |row| row.get(0))?;
        if lanes > 0 { self.save_wait(wait, lanes, now) } else { Ok(()) }
    }

    /// Counts the running jobs of all keys.
    fn count_running(&mut self) -> Result<(), Fault> {
        let mut running = running(self.conn)?;
        let mut select = self.conn.prepare_cached(SELECT_LIMIT_KEYS)?;
        let names = select
            .query_map([], |row| Ok(text(row, 0)?.and_then(|name| LimitKey::new(name).ok())))?;
        for name in names {
            if let Some(name) = name? {
                running.entry(name).or_default();
            }
        }
        for (key, count) in running {
            if self.known(&key)?.running != count {
                self.edit(&key, |known| known.running = count)?;
                self.look_again(&key);
            }
        }
        Ok(())
    }
}

fn save_key(conn: &Connection, key: &LimitKey, known: &mut Known) -> Result<(), Fault> {
    let state = limit_state::encode(&known.state);
    if known.live == 0 && known.running == 0 && state.is_none() {
        if std::mem::take(&mut known.is_stored) {
            conn.prepare_cached(DELETE_LIMIT_KEY)?.execute([key.as_str()])?;
        }
        return Ok(());
    }
    known.is_stored = true;
    let mut upsert = conn.prepare_cached(UPSERT_LIMIT_KEY)?;
    upsert.execute(params![key.as_str(), known.live, known.running, state, known.look_ms])?;
    Ok(())
}

/// How many running jobs hold each key.
pub(crate) fn running(conn: &Connection) -> Result<HashMap<LimitKey, i64>, Fault> {
    let mut running = HashMap::new();
    holders(conn, |_, key| *running.entry(key).or_default() += 1)?;
    Ok(running)
}

/// Tells of every running job, in any order, which keys it holds.
pub(crate) fn holders(
    conn: &Connection,
    mut tell: impl FnMut(JobId, LimitKey),
) -> Result<(), Fault> {
    let mut claims = conn.prepare_cached(SELECT_ALL_RUNS)?;
    let mut select = conn.prepare_cached(SELECT_HOLDERS)?;
    let mut claims = claims.query([])?;
    while let Some(claim) = claims.next()? {
        let added = text(claim, 2)?.map(Added::parse);
        for (first, last) in runs_of(claim, 1)?.iter() {
            let values = (first, last, number(claim, 0)?, added.is_some());
            let mut rows = select.query(values)?;
            while let Some(row) = rows.next()? {
                let Some(id) = sixteen(row, 0)? else { continue };
                let Some(lane) = names(row, 1)? else { continue };
                for key in added.as_ref().map_or(lane.limits.to_vec(), |added| added.union(&lane)) {
                    tell(JobId::from_bytes(id), key);
                }
            }
        }
    }
    Ok(())
}
