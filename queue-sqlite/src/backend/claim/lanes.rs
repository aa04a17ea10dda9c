//! The lanes of a queue that a claim may serve, in the order of their priorities and turns.
//!
//! Lanes without limit keys are few and read at once. Those with keys may be many: they are read
//! in order as far as they are needed. One that turns out to have no room waits at the key that
//! has none, and is read again only when that key has room.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ops::Bound;

use queue_core::backend::PASS_MAX;
use queue_core::{Kind, LimitKey, LimitKeys, Priority, QueueName};
use rusqlite::params;

use super::super::taken::Pick;
use super::Wanted;
use crate::errors::Fault;
use crate::rows::{limits_of, ms, number, text};
use crate::session::Session;

/// The most lanes of a queue that one round looks at.
const LANES_PER_ROUND_MAX: usize = 32;
/// Of the keys that have room and lanes that wait for it, so many are read beside the lanes that
/// do not wait, for each kind. Are there more, then lanes cease to wait before.
const OPEN_KEYS_MAX: usize = 16;
/// As many lanes as wait at a key at most for that.
const LANES_AT_KEY_MAX: i64 = 32;
/// Lanes that are read at once; fewer for a claim that needs one only.
const READ_AHEAD: u32 = 32;
const READ_AHEAD_FOR_ONE: u32 = 4;

/// Whether there are lanes with limit keys that do not wait, whether there are some that do, and
/// whether the settings of some have changed.
pub(crate) const HAS_LIMITED: &str = "SELECT EXISTS (SELECT 1 FROM lane \
     WHERE limits <> '' AND ready > 0 AND blocked_by IS NULL), \
     EXISTS (SELECT 1 FROM limit_wait), EXISTS (SELECT 1 FROM limit_recheck)";
/// Lanes with limit keys that do not wait.
pub(crate) const SELECT_RUNNABLE: &str = "SELECT lane, priority, turn, limits FROM lane \
     WHERE queue = ?1 AND kind = ?2 AND limits <> '' AND ready > 0 AND blocked_by IS NULL \
     AND (priority, turn) > (?3, ?4) ORDER BY priority, turn LIMIT ?5";
/// Lanes that wait at a key.
pub(crate) const SELECT_BLOCKED: &str = "SELECT lane, priority, turn, limits FROM lane \
     WHERE blocked_by = ?6 AND queue = ?1 AND kind = ?2 \
     AND (priority, turn) > (?3, ?4) ORDER BY priority, turn LIMIT ?5";
/// Keys that have room, at which lanes wait.
pub(crate) const SELECT_OPEN: &str = "SELECT key, lanes FROM limit_wait \
     WHERE queue = ?1 AND kind = ?2 AND opens_ms <= ?3 ORDER BY opens_ms LIMIT ?4";

/// What decides who is first.
type Place = (i64, i64);

/// A lane with limit keys, as it is found.
#[derive(Debug)]
struct Found {
    place: Place,
    lane: i64,
    limits: LimitKeys,
}

/// A lane that can be served.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) lane: i64,
    /// The number of its kind in the request.
    pub(super) kind: usize,
    pub(super) limits: LimitKeys,
    pub(super) pick: Pick,
}

/// Lanes of one kind in order, those at a key or those that do not wait.
#[derive(Debug)]
struct Source {
    kind: usize,
    at: Option<LimitKey>,
    read: VecDeque<Found>,
    after: Place,
    is_done: bool,
}

/// The lanes of a queue while a claim serves them.
#[derive(Debug)]
pub(super) struct Lanes<'r> {
    queue: &'r QueueName,
    kinds: Vec<&'r Kind>,
    sources: Vec<Source>,
    /// Those that were found and may be served (again).
    found: BTreeMap<(Place, i64), Served>,
    seen: HashSet<i64>,
}

impl<'r> Lanes<'r> {
    /// Begins with the lanes of a queue.
    pub(super) fn of(
        session: &mut Session<'_>,
        queue: &'r QueueName,
        wanted: &mut Wanted<'r>,
    ) -> Result<Self, Fault> {
        let kinds = wanted.kinds.iter().map(|asked| &asked.slots.kind).collect();
        let (sources, found) = (Vec::new(), BTreeMap::new());
        let mut lanes = Self { queue, kinds, sources, found, seen: HashSet::new() };
        for kind in 0..wanted.kinds.len() {
            if !wanted.is_kind_open(session, kind)? {
                continue;
            }
            for lane in session.lanes.ready_lanes(queue, lanes.kinds[kind])? {
                let place = (i64::from(lane.name.priority.level()), lane.turn);
                let (limits, pick) = (LimitKeys::NONE, Pick::default());
                let served = Served { lane: lane.lane, kind, limits, pick };
                lanes.found.insert((place, lane.lane), served);
            }
            if wanted.waiting {
                lanes.add_open_keys(session, kind, wanted)?;
            }
            if wanted.keyed {
                lanes.sources.push(Source::new(kind, None));
            }
        }
        Ok(lanes)
    }

    /// Adds the lanes that wait at keys that have room now.
    fn add_open_keys(
        &mut self,
        session: &mut Session<'_>,
        kind: usize,
        wanted: &mut Wanted<'_>,
    ) -> Result<(), Fault> {
        let mut select = session.conn.prepare_cached(SELECT_OPEN)?;
        let names = (self.queue.as_str(), self.kinds[kind].as_str());
        let values = (names.0, names.1, ms(session.now), PASS_MAX);
        let keys = select.query_map(values, |row| {
            let key = text(row, 0)?.and_then(|key| LimitKey::new(key).ok());
            Ok(key.map(|key| (key, row.get(1).unwrap_or(0))))
        })?;
        let keys: Vec<_> = keys.collect::<Result<_, _>>()?;
        let mut keys: Vec<(LimitKey, i64)> = keys.into_iter().flatten().collect();
        if keys.len() > OPEN_KEYS_MAX {
            self.release(session, kind, &mut keys, wanted)?;
        }
        if keys.len() > OPEN_KEYS_MAX {
            wanted.left_out = true;
            keys.truncate(OPEN_KEYS_MAX);
        }
        for (key, _) in keys {
            self.sources.push(Source::new(kind, Some(key)));
        }
        Ok(())
    }

    /// Lets lanes cease to wait where few of them do.
    fn release(
        &self,
        session: &mut Session<'_>,
        kind: usize,
        keys: &mut Vec<(LimitKey, i64)>,
        wanted: &mut Wanted<'_>,
    ) -> Result<(), Fault> {
        let mut left = Vec::new();
        for (key, lanes) in keys.drain(..) {
            let count = u32::try_from(lanes).unwrap_or(u32::MAX);
            if lanes > LANES_AT_KEY_MAX || count > wanted.looks_left {
                left.push((key, lanes));
                continue;
            }
            wanted.looks_left -= count;
            let mut source = Source::new(kind, Some(key.clone()));
            source.read_on(session, self, READ_AHEAD)?;
            for found in source.read {
                session.block(found.lane, None)?;
            }
            session.limits.look_again(&key);
        }
        *keys = left;
        wanted.keyed = true;
        session.flush()
    }

    /// The lanes that take turns now: the best priority among those looked at.
    pub(super) fn group(
        &mut self,
        session: &mut Session<'_>,
        wanted: &mut Wanted<'_>,
    ) -> Result<Vec<Served>, Fault> {
        // The first gets the last one that is missing, however many others there are.
        let most = if wanted.missing == 1 { 1 } else { LANES_PER_ROUND_MAX };
        let mut group: Vec<(Place, i64)> = Vec::new();
        let mut after = Bound::Unbounded;
        while group.len() < most && !wanted.is_bounded() {
            let known = self.found.range((after, Bound::Unbounded)).next().map(|(key, _)| *key);
            let source = self.first_source(session, wanted)?;
            let is_known = match (known, source) {
                (None, None) => break,
                (Some((place, _)), Some((other, _))) => place < other,
                (known, _) => known.is_some(),
            };
            let next = if is_known { known.map(|(place, _)| place) } else { source.map(|s| s.0) };
            let best = group.first().map(|((priority, _), _)| *priority);
            if best.is_some_and(|best| next.is_some_and(|(priority, _)| priority > best)) {
                break;
            }
            let key = if is_known { known } else { self.take_found(source.map(|s| s.1)) };
            let Some(key) = key else { continue };
            after = Bound::Excluded(key);
            if self.is_eligible(session, key, wanted)? {
                group.push(key);
            } else {
                self.found.remove(&key);
            }
        }
        Ok(group.iter().filter_map(|key| self.found.remove(key)).collect())
    }

    /// Puts a lane back that still holds jobs.
    pub(super) fn put_back(
        &mut self,
        session: &mut Session<'_>,
        served: Served,
    ) -> Result<(), Fault> {
        let lane = session.lanes.load(served.lane)?;
        if lane.ready() > 0 {
            let place = (i64::from(lane.name.priority.level()), lane.turn);
            self.found.insert((place, served.lane), served);
        }
        Ok(())
    }

    /// Whether a lane can be served; one whose keys have no room begins to wait.
    fn is_eligible(
        &mut self,
        session: &mut Session<'_>,
        key: (Place, i64),
        wanted: &mut Wanted<'_>,
    ) -> Result<bool, Fault> {
        let Some(served) = self.found.get(&key) else { return Ok(false) };
        if !wanted.is_kind_open(session, served.kind)? {
            return Ok(false);
        }
        if wanted.room(session, &served.limits)? != Some(0) {
            return Ok(true);
        }
        wanted.looks_left = wanted.looks_left.saturating_sub(1);
        let closed = wanted.closed(session, &served.limits)?;
        if let Some(closed) = &closed {
            session.limits.look_again(closed);
        }
        session.block(served.lane, closed)?;
        Ok(false)
    }

    /// The place of the first lane that was not looked at yet, and which source has it.
    fn first_source(
        &mut self,
        session: &mut Session<'_>,
        wanted: &mut Wanted<'_>,
    ) -> Result<Option<(Place, usize)>, Fault> {
        let mut first: Option<(Place, usize)> = None;
        let read_ahead = if wanted.missing == 1 { READ_AHEAD_FOR_ONE } else { READ_AHEAD };
        let mut sources = std::mem::take(&mut self.sources);
        for (index, source) in sources.iter_mut().enumerate() {
            if !is_open(session, source, wanted)? {
                source.is_done = true;
                source.read.clear();
            }
            if source.read.is_empty() && !source.is_done {
                source.read_on(session, self, read_ahead)?;
            }
            let Some(found) = source.read.front() else { continue };
            if first.is_none_or(|(place, _)| found.place < place) {
                first = Some((found.place, index));
            }
        }
        self.sources = sources;
        Ok(first)
    }

    /// Moves the next lane of a source to those that were found; `None` if it was there already.
    fn take_found(&mut self, source: Option<usize>) -> Option<(Place, i64)> {
        let source = self.sources.get_mut(source?)?;
        let Found { place, lane, limits } = source.read.pop_front()?;
        if !self.seen.insert(lane) {
            return None;
        }
        let served = Served { lane, kind: source.kind, limits, pick: Pick::default() };
        self.found.insert((place, lane), served);
        Some((place, lane))
    }
}

/// Whether the lanes of a source may have room.
fn is_open(
    session: &mut Session<'_>,
    source: &Source,
    wanted: &mut Wanted<'_>,
) -> Result<bool, Fault> {
    if source.is_done && source.read.is_empty() {
        return Ok(false);
    }
    if !wanted.is_kind_open(session, source.kind)? {
        return Ok(false);
    }
    let Some(key) = &source.at else { return Ok(true) };
    let is_open = wanted.room(session, std::slice::from_ref(key))? != Some(0);
    if !is_open {
        session.limits.look_again(key);
    }
    Ok(is_open)
}

impl Source {
    fn new(kind: usize, at: Option<LimitKey>) -> Self {
        let after = (i64::MIN, i64::MIN);
        Self { kind, at, read: VecDeque::new(), after, is_done: false }
    }

    fn read_on(
        &mut self,
        session: &Session<'_>,
        lanes: &Lanes<'_>,
        most: u32,
    ) -> Result<(), Fault> {
        let (queue, kind) = (lanes.queue.as_str(), lanes.kinds[self.kind].as_str());
        let (priority, turn) = self.after;
        let sql = if self.at.is_some() { SELECT_BLOCKED } else { SELECT_RUNNABLE };
        let mut select = session.conn.prepare_cached(sql)?;
        let mut rows = match &self.at {
            None => select.query(params![queue, kind, priority, turn, most])?,
            Some(key) => select.query(params![queue, kind, priority, turn, most, key.as_str()])?,
        };
        let mut count = 0;
        while let Some(row) = rows.next()? {
            count += 1;
            self.after = (number(row, 1)?, number(row, 2)?);
            // Lanes that cannot be read are left alone, which an audit finds.
            let is_legal = u8::try_from(self.after.0).is_ok_and(|p| Priority::new(p).is_some());
            let lane = number(row, 0)?;
            let limits = match session.lanes.known_limits(lane) {
                Some(known) => Some(known.clone()),
                None => text(row, 3)?.and_then(limits_of),
            };
            if let Some(limits) = limits.filter(|_| is_legal) {
                self.read.push_back(Found { place: self.after, lane, limits });
            }
        }
        self.is_done = count < most;
        Ok(())
    }
}
