//! The limit keys that a transaction has read. What they allow is decided by [`LimitState`].

pub(crate) mod save;
pub(crate) mod settings;

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;
use queue_core::{
    BreakerPhase, Ending, FORGOTTEN_AFTER, JobId, KeyRoom, Kind, LimitKey, LimitState, QueueName,
    Room, Timestamp,
};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::errors::Fault;
use crate::rows::{bytes, limit_state, ms, number, whole};
pub(crate) use save::{DELETE_LIMIT_KEY, holders};
pub(crate) use settings::{InForce, parse, settings_of};

/// Where lanes wait: at a key, by their queue and kind. See the table `limit_wait`.
pub(crate) type Wait = (LimitKey, QueueName, Kind);

pub(crate) const SELECT_LIMIT_KEY: &str =
    "SELECT live, running, state, look_ms FROM limit_key WHERE name = ?1";

/// Limit keys and their settings as they are stored.
#[derive(Debug, Default)]
pub(crate) struct KnownLimits {
    /// Whether any limit is set; `None` until somebody wants to know.
    any_set: Option<bool>,
    in_force: HashMap<LimitKey, Arc<InForce>>,
    keys: HashMap<LimitKey, Known>,
}

impl KnownLimits {
    pub(super) fn len(&self) -> usize {
        self.in_force.len().max(self.keys.len())
    }
}

/// The keys and settings that a transaction has read, or that are known from the one before, and what
/// has happened to them.
#[derive(Debug)]
pub(crate) struct Limits<'c> {
    conn: &'c Connection,
    known: KnownLimits,
    /// The keys that have changed.
    changed: Vec<LimitKey>,
    /// Live jobs that came, less those that went, by the keys that they carry.
    live: HashMap<LimitKey, i64>,
    /// Lanes that have begun to wait, less those that have ceased to.
    waits: HashMap<Wait, i64>,
    /// Keys of which it has to be found out whether they have room now.
    unsure: BTreeSet<LimitKey>,
    /// A running job was put aside of which it is not known what it held.
    recount: bool,
}

/// See the table `limit_key`.
#[derive(Debug, Clone, Default)]
struct Known {
    live: i64,
    running: i64,
    state: LimitState,
    look_ms: Option<i64>,
    is_stored: bool,
    changed: bool,
}

impl Known {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let stored = bytes(row, 2)?;
        let state = stored.map(|stored| limit_state::decode(stored).ok_or(()));
        Ok(Self {
            // The table allows no less than 0.
            live: number(row, 0)?.max(0),
            running: number(row, 1)?.max(0),
            // What cannot be read, which an audit finds, limits nobody.
            state: state.and_then(Result::ok).unwrap_or_default(),
            look_ms: whole(row, 3)?,
            is_stored: true,
            changed: false,
        })
    }
}

impl<'c> Limits<'c> {
    pub(crate) fn new(conn: &'c Connection) -> Self {
        Self::knowing(conn, KnownLimits::default())
    }

    pub(super) fn knowing(conn: &'c Connection, known: KnownLimits) -> Self {
        Self {
            conn,
            known,
            changed: Vec::new(),
            live: HashMap::new(),
            waits: HashMap::new(),
            unsure: BTreeSet::new(),
            recount: false,
        }
    }

    /// Forgets everything that was read.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.conn);
    }

    /// What is known of keys once all that has happened to them is written.
    pub(super) fn into_known(self) -> KnownLimits {
        self.known
    }

    fn known(&mut self, key: &LimitKey) -> Result<&mut Known, Fault> {
        Ok(match self.known.keys.entry_ref(key) {
            EntryRef::Occupied(known) => known.into_mut(),
            EntryRef::Vacant(place) => {
                let mut select = self.conn.prepare_cached(SELECT_LIMIT_KEY)?;
                let found = select.query_row([key.as_str()], Known::read).optional()?;
                place.insert_with_key(key.clone(), found.unwrap_or_default())
            }
        })
    }

    /// Changes what is known of a key, which is written then.
    fn edit(&mut self, key: &LimitKey, edit: impl FnOnce(&mut Known)) -> Result<(), Fault> {
        let known = self.known(key)?;
        edit(known);
        if !std::mem::replace(&mut known.changed, true) {
            self.changed.push(key.clone());
        }
        Ok(())
    }

    /// How many more jobs that need this key may start.
    pub(crate) fn room(&mut self, key: &LimitKey, now: Timestamp) -> Result<Room, Fault> {
        let in_force = self.in_force(key)?;
        let known = self.known(key)?;
        let running = u32::try_from(known.running).unwrap_or(u32::MAX);
        Ok(known.state.room(&in_force.settings, running, now))
    }

    /// The room of a key that a claim meets.
    pub(crate) fn key_room(&mut self, key: &LimitKey, now: Timestamp) -> Result<KeyRoom, Fault> {
        let room = self.room(key, now)?;
        Ok(KeyRoom::new(&self.in_force(key)?.settings, &room))
    }

    /// How many running jobs are counted as holding a key.
    pub(crate) fn running(&mut self, key: &LimitKey) -> Result<i64, Fault> {
        Ok(self.known(key)?.running)
    }

    /// Whether a job that needs all these keys may start.
    pub(crate) fn is_open(&mut self, keys: &[LimitKey], now: Timestamp) -> Result<bool, Fault> {
        for key in keys {
            if !self.room(key, now)?.is_open() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How many jobs may run at once.
    pub(crate) fn allowed(&mut self, key: &LimitKey, now: Timestamp) -> Result<Option<u32>, Fault> {
        let in_force = self.in_force(key)?;
        Ok(self.known(key)?.state.allowed(&in_force.settings, now))
    }

    /// Where the schedule of a key's rate stands, if that is ahead.
    pub(crate) fn scheduled_us(&mut self, key: &LimitKey, now: Timestamp) -> Result<u64, Fault> {
        Ok(self.known(key)?.state.ahead_us(now))
    }

    /// Whether the breaker of a key lets jobs start.
    pub(crate) fn breaker_phase(
        &mut self,
        key: &LimitKey,
        now: Timestamp,
    ) -> Result<BreakerPhase, Fault> {
        let in_force = self.in_force(key)?;
        Ok(self.known(key)?.state.breaker_phase(&in_force.settings, now))
    }

    /// Of these keys, one without room: if there is a choice, the one that may be last to have
    /// some.
    pub(crate) fn closed(
        &mut self,
        keys: &[LimitKey],
        now: Timestamp,
    ) -> Result<Option<LimitKey>, Fault> {
        let mut last: Option<(Option<Timestamp>, &LimitKey)> = None;
        for key in keys {
            let room = self.room(key, now)?;
            if room.is_open() {
                continue;
            }
            let reopens = room.reopens_at();
            let is_later = match (last, reopens) {
                (None, _) => true,
                (Some((None, _)), _) => false,
                (Some(_), None) => true,
                (Some((Some(last), _)), Some(reopens)) => reopens > last,
            };
            if is_later {
                last = Some((reopens, key));
            }
        }
        Ok(last.map(|(_, key)| key.clone()))
    }

    /// When all these keys have room by time alone; `None` if they have some, or if a job has to
    /// end first.
    pub(crate) fn reopens_at(
        &mut self,
        keys: &[LimitKey],
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Fault> {
        let mut last = None;
        for key in keys {
            let room = self.room(key, now)?;
            if room.is_open() {
                continue;
            }
            let Some(reopens) = room.reopens_at() else { return Ok(None) };
            last = last.max(Some(reopens));
        }
        Ok(last)
    }

    /// From when on a key has room: 0 if it has, `None` if a job has to end first.
    pub(crate) fn opens_ms(
        &mut self,
        key: &LimitKey,
        now: Timestamp,
    ) -> Result<Option<i64>, Fault> {
        let room = self.room(key, now)?;
        if room.is_open() {
            return Ok(Some(0));
        }
        // A reduced concurrency is not reduced for ever, either.
        let is_adaptive = self.in_force(key)?.settings.adaptive.is_some();
        let reduced = self.known(key)?.state.adaptive.filter(|_| is_adaptive);
        let grown = reduced.map(|adaptive| adaptive.reduced_at.after(FORGOTTEN_AFTER));
        let opens = [room.reopens_at(), grown.filter(|at| *at > now)].into_iter().flatten().min();
        Ok(opens.map(ms))
    }

    /// Changes what is remembered of a key.
    fn change(
        &mut self,
        key: &LimitKey,
        now: Timestamp,
        change: impl FnOnce(&mut Known, &InForce),
    ) -> Result<(), Fault> {
        let in_force = self.in_force(key)?;
        self.edit(key, |known| {
            change(known, &in_force);
            known.state.tidy(now);
        })?;
        self.look_again(key);
        Ok(())
    }

    /// Forgets what does not count any more.
    pub(crate) fn tidy(&mut self, key: &LimitKey, now: Timestamp) -> Result<(), Fault> {
        self.change(key, now, |_, _| {})
    }

    /// Jobs start that hold this key.
    pub(crate) fn start(
        &mut self,
        key: &LimitKey,
        jobs: &[JobId],
        now: Timestamp,
    ) -> Result<(), Fault> {
        self.change(key, now, |known, in_force| {
            known.state.start(&in_force.settings, jobs, now);
            let started = i64::try_from(jobs.len()).unwrap_or(i64::MAX);
            known.running = known.running.saturating_add(started);
        })
    }

    /// Jobs that were claimed at `claimed_at` let go of this key, in this order.
    pub(crate) fn end(
        &mut self,
        key: &LimitKey,
        jobs: &[(JobId, Ending)],
        claimed_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), Fault> {
        self.change(key, now, |known, in_force| {
            for (job, ending) in jobs {
                known.state.end(&in_force.settings, *job, *ending, claimed_at, now);
            }
            let ended = i64::try_from(jobs.len()).unwrap_or(i64::MAX);
            known.running = known.running.saturating_sub(ended).max(0);
        })
    }

    /// A job that was claimed at `claimed_at` was turned away: the key is closed until then.
    pub(crate) fn throttle(
        &mut self,
        key: &LimitKey,
        until: Timestamp,
        claimed_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), Fault> {
        self.change(key, now, |known, in_force| {
            known.state.throttle(&in_force.settings, until, claimed_at, now);
        })
    }

    /// Other settings are in force for a key than before: those who wait at it may have room now.
    pub(crate) fn adopt(&mut self, key: &LimitKey, now: Timestamp) -> Result<(), Fault> {
        self.change(key, now, |known, in_force| known.state.adopt(&in_force.settings, now))?;
        self.look_again(key);
        Ok(())
    }

    /// Ends by hand what would end by itself some time; answers whether there was any of it.
    pub(crate) fn reset(&mut self, key: &LimitKey, now: Timestamp) -> Result<bool, Fault> {
        let mut was_closed = false;
        self.change(key, now, |known, _| was_closed = known.state.reset(now))?;
        Ok(was_closed)
    }

    /// Counts live jobs that carry these keys.
    pub(crate) fn count_live(&mut self, keys: &[LimitKey], by: i64) {
        for key in keys {
            match self.live.entry_ref(key) {
                EntryRef::Occupied(live) => *live.into_mut() += by,
                EntryRef::Vacant(place) => {
                    place.insert_with_key(key.clone(), by);
                }
            }
        }
    }

    /// How many live jobs carry a key.
    pub(crate) fn live(&mut self, key: &LimitKey) -> Result<i64, Fault> {
        let coming = self.live.get(key).copied().unwrap_or(0);
        Ok(self.known(key)?.live.saturating_add(coming))
    }

    /// Counts lanes that begin to wait somewhere, or cease to.
    pub(crate) fn count_waiting(&mut self, wait: Wait, by: i64) {
        *self.waits.entry(wait).or_default() += by;
    }

    /// Has it found out whether a key has room now, for those who wait at it.
    pub(crate) fn look_again(&mut self, key: &LimitKey) {
        if !self.unsure.contains(key) {
            self.unsure.insert(key.clone());
        }
    }

    /// Has the running jobs of all keys counted again.
    pub(crate) fn recount(&mut self) {
        self.recount = true;
    }
}
