//! Promise P4 for limits: what keys count is what there is, and whoever waits is looked for.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use queue_core::backend::Violation;
use queue_core::{JobId, LimitKey, LimitState, LimitTarget, Timestamp};
use rusqlite::{Connection, Row};

use super::super::limits::clock;
use crate::errors::Fault;
use crate::rows::{bytes, limit_state, limits_of, ms, number, text, whole};
use crate::session::limits::{holders, parse};
use crate::session::{Limits, Session};

/// What limit keys should count.
#[derive(Default)]
struct Expected {
    keys: BTreeMap<LimitKey, (i64, i64)>,
    holders: HashSet<(JobId, LimitKey)>,
}

/// A row of `limit_key`, whatever it holds.
struct Stored {
    name: String,
    key: Option<LimitKey>,
    live: i64,
    running: i64,
    /// `None` if it cannot be read.
    state: Option<LimitState>,
    look_ms: Option<i64>,
}

impl Stored {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let name = text(row, 0)?.unwrap_or_default().to_owned();
        let has_state = row.get_ref(3)?.data_type() != rusqlite::types::Type::Null;
        let state = bytes(row, 3)?.and_then(limit_state::decode);
        Ok(Self {
            key: LimitKey::new(&name).ok(),
            name,
            live: number(row, 1)?,
            running: number(row, 2)?,
            state: if has_state { state } else { Some(LimitState::default()) },
            look_ms: whole(row, 4)?,
        })
    }

    fn probe(&self) -> Option<JobId> {
        self.state.as_ref()?.breaker.open?.probe
    }
}

fn expected(conn: &Connection) -> Result<Expected, Fault> {
    let mut expected = Expected::default();
    let mut select = conn.prepare(
        "SELECT limits, CAST(total(scheduled + retrying + ready + running) AS INTEGER) FROM lane \
         WHERE limits <> '' GROUP BY limits",
    )?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let Some(limits) = text(row, 0)?.and_then(limits_of) else { continue };
        let live = number(row, 1)?;
        for key in limits.iter().filter(|_| live != 0) {
            expected.keys.entry(key.clone()).or_default().0 += live;
        }
    }
    holders(conn, |id, key| {
        expected.keys.entry(key.clone()).or_default().1 += 1;
        expected.holders.insert((id, key));
    })?;
    Ok(expected)
}

fn stored(conn: &Connection) -> Result<Vec<Stored>, Fault> {
    let mut select = conn.prepare("SELECT name, live, running, state, look_ms FROM limit_key")?;
    let stored = select.query_map([], Stored::read)?;
    Ok(stored.collect::<Result<_, _>>()?)
}

/// Lists what disagrees.
pub(super) fn audit(conn: &Connection) -> Result<Vec<Violation>, Fault> {
    let mut found = Vec::new();
    let mut say = |what: String| found.push(Violation::of_store(what));
    let mut expected = expected(conn)?;
    for row in stored(conn)? {
        let Some(key) = &row.key else {
            say(format!("{:?} is no limit key", row.name));
            continue;
        };
        let counts = expected.keys.remove(key).unwrap_or_default();
        if (row.live, row.running) != counts {
            say(format!(
                "{key} counts {} live and {} running jobs instead of {} and {}",
                row.live, row.running, counts.0, counts.1
            ));
        }
        let Some(state) = &row.state else {
            say(format!("what is remembered of {key} cannot be read"));
            continue;
        };
        let is_default = *state == LimitState::default();
        if is_default && (row.live, row.running) == (0, 0) {
            say(format!("{key} is known although nobody needs it"));
        }
        let probe = row.probe();
        if probe.is_some_and(|probe| !expected.holders.contains(&(probe, key.clone()))) {
            say(format!("the probe of {key} does not run"));
        }
        if !is_default && probe.is_none() && row.look_ms.is_none() {
            say(format!("nobody will look whether {key} can be forgotten"));
        }
    }
    for (key, (live, running)) in expected.keys {
        say(format!("{key} is not known although {live} live and {running} running jobs need it"));
    }
    audit_settings(conn, &mut say)?;
    audit_waits(conn, &mut say)?;
    Ok(found)
}

fn audit_settings(conn: &Connection, say: &mut impl FnMut(String)) -> Result<(), Fault> {
    let mut select = conn.prepare("SELECT target, settings FROM limit_setting")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let name = text(row, 0)?.unwrap_or_default();
        let is_legal = LimitTarget::new(name).is_ok_and(|target| {
            text(row, 1).ok().flatten().is_some_and(|stored| parse(stored, &target).is_some())
        });
        if !is_legal {
            say(format!("the limits of {name:?} cannot be read; set or remove them"));
        }
    }
    Ok(())
}

/// Who waits at a key is looked at once that has room.
fn audit_waits(conn: &Connection, say: &mut impl FnMut(String)) -> Result<(), Fault> {
    let now = clock(conn)?;
    let mut limits = Limits::new(conn);
    let mut rechecked = conn.prepare("SELECT class FROM limit_recheck")?;
    let rechecked = rechecked.query_map([], |row| Ok(text(row, 0)?.unwrap_or("").to_owned()))?;
    let rechecked: BTreeSet<String> = rechecked.collect::<Result<_, _>>()?;
    let mut select = conn.prepare("SELECT DISTINCT key, opens_ms FROM limit_wait")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let name = text(row, 0)?.unwrap_or_default();
        let Ok(key) = LimitKey::new(name) else {
            say(format!("lanes wait at {name:?}, which is no limit key"));
            continue;
        };
        let Some(opens_ms) = limits.opens_ms(&key, now)? else { continue };
        let is_known = whole(row, 1)?.is_some_and(|known_ms| known_ms <= opens_ms.max(ms(now)));
        if !is_known && !rechecked.contains(key.class()) {
            say(format!("nobody will look for the lanes that wait at {key} when it has room"));
        }
    }
    Ok(())
}

/// Counts again what keys count, and lets go of what nobody can make sense of.
pub(in crate::backend) fn repair(session: &mut Session<'_>) -> Result<(), Fault> {
    let conn = session.conn;
    let (mut expected, stored) = (expected(conn)?, stored(conn)?);
    conn.execute("DELETE FROM limit_key", [])?;
    for row in stored {
        let Some(key) = row.key.clone() else { continue };
        let (live, running) = expected.keys.remove(&key).unwrap_or_default();
        let mut state = row.state.clone().unwrap_or_default();
        let is_held = |probe: &JobId| expected.holders.contains(&(*probe, key.clone()));
        if let Some(open) = &mut state.breaker.open {
            open.probe = open.probe.filter(is_held);
        }
        insert(conn, &key, live, running, &state, session.now)?;
    }
    for (key, (live, running)) in expected.keys {
        insert(conn, &key, live, running, &LimitState::default(), session.now)?;
    }
    remove_nameless(conn)
}

/// Nobody could remove settings of what is no target.
fn remove_nameless(conn: &Connection) -> Result<(), Fault> {
    let mut select = conn.prepare("SELECT target, hex(target) FROM limit_setting")?;
    let nameless = select.query_map([], |row| {
        let is_legal = text(row, 0)?.is_some_and(|target| LimitTarget::new(target).is_ok());
        Ok((!is_legal).then_some(row.get::<_, String>(1)?))
    })?;
    let nameless: Vec<Option<String>> = nameless.collect::<Result<_, _>>()?;
    for target in nameless.into_iter().flatten() {
        conn.execute("DELETE FROM limit_setting WHERE hex(target) = ?1", [target])?;
    }
    Ok(())
}

fn insert(
    conn: &Connection,
    key: &LimitKey,
    live: i64,
    running: i64,
    state: &LimitState,
    now: Timestamp,
) -> Result<(), Fault> {
    let state = limit_state::encode(state);
    if (live, running) == (0, 0) && state.is_none() {
        return Ok(());
    }
    let look_ms = state.is_some().then_some(ms(now));
    conn.execute(
        "INSERT INTO limit_key (name, live, running, state, look_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
        (key.as_str(), live, running, state, look_ms),
    )?;
    Ok(())
}
