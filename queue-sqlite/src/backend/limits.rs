//! Setting limits, and looking at them.

use std::collections::{BTreeSet, HashMap};

use queue_core::backend::{LIMITS_MAX, PASS_MAX};
use queue_core::{
    Clock, Error, HOLDERS_SHOWN_MAX, JobId, LimitKey, LimitSettings, LimitStatus, LimitTarget,
    QUEUE_CLASS, QueueName, SystemClock, Timestamp,
};
use rusqlite::{Connection, OptionalExtension};

use crate::errors::Fault;
use crate::rows::{bytes, number, text, time};
use crate::session::limits::{holders, parse, settings_of};
use crate::session::queues::live_in_lanes;
use crate::session::{Limits, SELECT_STORE, Session};

pub(super) const COUNT_SETTINGS: &str = "SELECT count(*) FROM limit_setting";
pub(super) const UPSERT_SETTING: &str = "INSERT INTO limit_setting (target, settings) \
     VALUES (?1, ?2) ON CONFLICT (target) DO UPDATE SET settings = excluded.settings";
pub(super) const DELETE_SETTING: &str = "DELETE FROM limit_setting WHERE target = ?1";
pub(super) const SELECT_SETTINGS: &str = "SELECT target, settings FROM limit_setting";
pub(super) const COUNT_QUEUE_SETTINGS: &str =
    "SELECT count(*) FROM limit_setting WHERE target > 'queue:' AND target < 'queue;'";
/// Nobody counts any more.
pub(super) const DELETE_QUEUES_LIVE: &str = "DELETE FROM queue_live";
pub(super) const UPSERT_RECHECK: &str = "INSERT INTO limit_recheck (class, after) \
     VALUES (?1, ?2) ON CONFLICT (class) DO UPDATE SET after = excluded.after";
/// By its bytes: damage may have made them no text.
pub(super) const DELETE_RECHECK: &str = "DELETE FROM limit_recheck WHERE class = CAST(?1 AS TEXT)";
pub(super) const SELECT_RECHECK: &str = "SELECT class, after FROM limit_recheck LIMIT 1";
pub(super) const HAS_RECHECK: &str = "SELECT 1 FROM limit_recheck LIMIT 1";
/// The keys of a class at which lanes wait, after one of them.
pub(super) const SELECT_WAITED_FOR: &str = "SELECT DISTINCT key FROM limit_wait \
     WHERE key > ?1 AND key < ?2 ORDER BY key LIMIT ?3";
/// Keys of which something is remembered.
pub(super) const SELECT_REMEMBERED: &str = "SELECT name FROM limit_key \
     WHERE name > ?1 AND name < ?2 AND state IS NOT NULL ORDER BY name LIMIT ?3";

/// Sets or removes the settings of a target; says whether that was a change.
pub(super) fn set_limit(
    session: &mut Session<'_>,
    target: &LimitTarget,
    settings: Option<&LimitSettings>,
) -> Result<bool, Fault> {
    let name = target.to_string();
    let changed = match settings {
        None => session.conn.prepare_cached(DELETE_SETTING)?.execute([&name])? > 0,
        Some(settings) => {
            let before = settings_of(session.conn, target)?;
            if before.is_none() {
                check_room(session.conn)?;
            }
            let changed = before.as_ref() != Some(settings);
            if changed {
                let stored = serde_json::to_string(settings).map_err(|error| {
                    Error::BadRequest(format!("these settings cannot be stored: {error}"))
                })?;
                session.conn.prepare_cached(UPSERT_SETTING)?.execute((&name, stored))?;
            }
            changed
        }
    };
    session.announce();
    if !changed {
        return Ok(false);
    }
    session.limits.forget_settings();
    if target.class() == QUEUE_CLASS {
        let mut count = session.conn.prepare_cached(COUNT_QUEUE_SETTINGS)?;
        session.store.queue_limits = count.query_row([], |row| row.get(0))?;
        if session.store.queue_limits == 0 {
            session.conn.prepare_cached(DELETE_QUEUES_LIVE)?.execute([])?;
        }
        return Ok(true);
    }
    match target {
        LimitTarget::Key(key) => session.limits.adopt(key, session.now)?,
        LimitTarget::Class(class) => {
            session.conn.prepare_cached(UPSERT_RECHECK)?.execute((class.as_ref(), ""))?;
            recheck(session)?;
        }
    }
    Ok(true)
}

/// Ends what has closed or narrowed a key for a time; says whether there was any of it.
pub(super) fn reset_limit(session: &mut Session<'_>, key: &LimitKey) -> Result<bool, Fault> {
    let was_closed = session.limits.reset(key, session.now)?;
    session.announce();
    Ok(was_closed)
}

fn check_room(conn: &Connection) -> Result<(), Fault> {
    let mut count = conn.prepare_cached(COUNT_SETTINGS)?;
    let settings: i64 = count.query_row([], |row| row.get(0))?;
    if usize::try_from(settings).unwrap_or(0) < LIMITS_MAX {
        return Ok(());
    }
    Err(Error::BadRequest(format!(
        "{LIMITS_MAX} limits are set; use class defaults such as tenant:*, or remove some"
    ))
    .into())
}

/// Looks at keys whose class has new settings, some at a time: what is remembered of them may have to
/// be adopted, and lanes that wait at them may have room now.
pub(super) fn recheck(session: &mut Session<'_>) -> Result<(), Fault> {
    let mut select = session.conn.prepare_cached(SELECT_RECHECK)?;
    let found = select.query_row([], |row| {
        let class = bytes(row, 0)?.unwrap_or_default().to_owned();
        Ok((class, text(row, 1)?.unwrap_or("").to_owned()))
    });
    let Some((stored, after)) = found.optional()? else { return Ok(()) };
    // What cannot be read is the class of no key.
    let class = std::str::from_utf8(&stored).unwrap_or_default();
    // What lies between: all keys of the class, since a semicolon follows the colon.
    let (first, end) = (format!("{class}:"), format!("{class};"));
    let after = if after.starts_with(&first) { after } else { first };
    let mut keys = BTreeSet::new();
    for names in [SELECT_WAITED_FOR, SELECT_REMEMBERED] {
        let mut select = session.conn.prepare_cached(names)?;
        let values = (&after, &end, PASS_MAX);
        let names = select.query_map(values, |row| Ok(text(row, 0)?.unwrap_or("").to_owned()))?;
        for name in names {
            keys.insert(name?);
        }
    }
    let keys: Vec<String> = keys.into_iter().take(PASS_MAX as usize).collect();
    for key in keys.iter().filter_map(|key| LimitKey::new(key).ok()) {
        session.limits.adopt(&key, session.now)?;
    }
    match keys.last() {
        Some(last) if keys.len() >= PASS_MAX as usize => {
            session.conn.prepare_cached(UPSERT_RECHECK)?.execute((class, last))?;
        }
        _ => {
            session.conn.prepare_cached(DELETE_RECHECK)?.execute([&stored])?;
        }
    }
    session.announce();
    Ok(())
}

/// All settings, keys before classes.
pub(super) fn limits(conn: &Connection) -> Result<Vec<(LimitTarget, LimitSettings)>, Fault> {
    let mut select = conn.prepare_cached(SELECT_SETTINGS)?;
    let found = select.query_map([], |row| {
        let target = text(row, 0)?.and_then(|target| LimitTarget::new(target).ok());
        let Some(target) = target else { return Ok(None) };
        let settings = text(row, 1)?.and_then(|stored| parse(stored, &target));
        Ok(settings.map(|settings| (target, settings)))
    })?;
    let found: Vec<_> = found.collect::<Result<_, _>>()?;
    let mut found: Vec<_> = found.into_iter().flatten().collect();
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(found)
}

/// The time of a look at the store.
pub(crate) fn clock(conn: &Connection) -> Result<Timestamp, Fault> {
    let mut select = conn.prepare_cached(SELECT_STORE)?;
    let stored = select.query_row([], |row| Ok(time(number(row, 0)?).min(Timestamp::MAX)));
    Ok(SystemClock.now().min(Timestamp::MAX).max(stored.optional()?.unwrap_or_default()))
}

/// Looks at limit keys, in order.
pub(super) fn status(conn: &Connection, keys: &[LimitKey]) -> Result<Vec<LimitStatus>, Fault> {
    let now = clock(conn)?;
    let mut limits = Limits::new(conn);
    let asked: BTreeSet<&LimitKey> = keys.iter().collect();
    let mut held: HashMap<LimitKey, Vec<JobId>> = HashMap::new();
    holders(conn, |id, key| {
        if asked.contains(&key) {
            held.entry(key).or_default().push(id);
        }
    })?;
    let mut statuses = Vec::with_capacity(keys.len());
    for key in keys {
        let mut holders = held.get(key).cloned().unwrap_or_default();
        holders.sort_unstable();
        let in_force = limits.in_force(key)?;
        let mut status = LimitStatus::new(key.clone());
        status.settings = in_force.target.clone().map(|target| (target, in_force.settings.clone()));
        status.running = holders.len() as u64;
        let counted = limits.running(key)?.max(0).unsigned_abs();
        status.drift = counted.abs_diff(status.running);
        holders.truncate(HOLDERS_SHOWN_MAX);
        status.holders = holders;
        status.allowed = limits.allowed(key, now)?;
        status.live = live(conn, &mut limits, key)?.max(0).unsigned_abs();
        status.breaker = limits.breaker_phase(key, now)?;
        status.blocked = limits.room(key, now)?.blocked;
        status.scheduled_us = limits.scheduled_us(key, now)?;
        statuses.push(status);
    }
    Ok(statuses)
}

fn live(conn: &Connection, limits: &mut Limits<'_>, key: &LimitKey) -> Result<i64, Fault> {
    match QueueName::new(key.name()) {
        Ok(queue) if key.class() == QUEUE_CLASS => live_in_lanes(conn, &queue),
        _ => limits.live(key),
    }
}
