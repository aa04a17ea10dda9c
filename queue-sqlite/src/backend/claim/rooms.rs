//! The room of limit keys while a claim fills it.

use std::collections::HashMap;

use queue_core::LimitKey;

use crate::errors::Fault;
use crate::session::Session;

/// How many more jobs may start that need a key; `None` is as many as you like.
#[derive(Debug, Default)]
pub(super) struct Rooms(HashMap<LimitKey, Option<u32>>);

impl Rooms {
    fn of_key(&mut self, session: &mut Session<'_>, key: &LimitKey) -> Result<Option<u32>, Fault> {
        if let Some(known) = self.0.get(key) {
            return Ok(*known);
        }
        let jobs = session.limits.room(key, session.now)?.jobs;
        self.0.insert(key.clone(), jobs);
        Ok(jobs)
    }

    /// How many more jobs may start that need all these keys.
    pub(super) fn of(
        &mut self,
        session: &mut Session<'_>,
        keys: &[LimitKey],
    ) -> Result<Option<u32>, Fault> {
        let mut least: Option<u32> = None;
        for key in keys {
            if let Some(jobs) = self.of_key(session, key)? {
                least = Some(least.map_or(jobs, |least| least.min(jobs)));
            }
        }
        Ok(least)
    }

    /// Of these keys, the one at which a lane should wait; `None` if all have room.
    pub(super) fn closed(
        &mut self,
        session: &mut Session<'_>,
        keys: &[LimitKey],
    ) -> Result<Option<LimitKey>, Fault> {
        for key in keys {
            let is_used_up = self.of_key(session, key)? == Some(0);
            if is_used_up && session.limits.room(key, session.now)?.is_open() {
                // By this claim itself: mostly until one of its jobs ends.
                return Ok(Some(key.clone()));
            }
        }
        session.limits.closed(keys, session.now)
    }

    pub(super) fn take(&mut self, keys: &[LimitKey], jobs: u32) {
        for key in keys {
            if let Some(Some(room)) = self.0.get_mut(key) {
                *room = room.saturating_sub(jobs);
            }
        }
    }
}
