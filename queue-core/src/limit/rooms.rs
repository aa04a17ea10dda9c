//! The room of limit keys while a claim fills it.

use std::collections::HashMap;

use super::{LimitKey, LimitSettings, Room};

/// How many more jobs may start that need certain keys, while a claim gives jobs: for stores.
#[derive(Debug, Default)]
pub struct Rooms(HashMap<LimitKey, KeyRoom>);

/// The room of a key, when a claim meets it and later.
#[derive(Debug, Clone, Copy)]
pub struct KeyRoom {
    left: Option<u32>,
    given: u32,
    /// Whether nothing else is limited than how many jobs there are at once.
    counts: bool,
}

impl KeyRoom {
    /// That of a key before the claim has given anything.
    #[must_use]
    pub fn new(settings: &LimitSettings, room: &Room) -> Self {
        let LimitSettings { concurrency: _, rate, breaker, adaptive, weight: _, max_live: _ } =
            settings;
        let counts = rate.is_none() && breaker.is_none() && adaptive.is_none();
        Self { left: room.jobs, given: 0, counts }
    }

    fn is_spare(&self) -> bool {
        self.given == 0 || self.counts && self.left.is_none_or(|left| left >= self.given)
    }
}

impl Rooms {
    /// How many more jobs may start that need all these keys; `None` is as many as you like. Asks for
    /// those of keys that are new to it.
    ///
    /// # Errors
    ///
    /// Those of `look`.
    pub fn of<E>(
        &mut self,
        keys: &[LimitKey],
        mut look: impl FnMut(&LimitKey) -> Result<KeyRoom, E>,
    ) -> Result<Option<u32>, E> {
        let mut least: Option<u32> = None;
        for key in keys {
            let known = match self.0.get(key) {
                Some(known) => *known,
                None => {
                    let new = look(key)?;
                    self.0.insert(key.clone(), new);
                    new
                }
            };
            least = [least, known.left].into_iter().flatten().min();
        }
        Ok(least)
    }

    /// Gives so many jobs that hold these keys.
    pub fn take(&mut self, keys: &[LimitKey], jobs: u32) {
        for key in keys {
            if let Some(room) = self.0.get_mut(key) {
                room.given += jobs;
                room.left = room.left.map(|left| left.saturating_sub(jobs));
            }
        }
    }

    /// Whether there is room to spare for everything that was given: [`Claim::spare`](crate::Claim::spare).
    #[must_use]
    pub fn are_spare(&self) -> bool {
        self.0.values().all(KeyRoom::is_spare)
    }
}

/// The most jobs that a lane gives in one round of a claim if its keys have this room: one place is left,
/// if there are more, so that the lane need not wait for it.
#[must_use]
pub fn given_at_most(room: Option<u32>) -> u32 {
    match room {
        Some(jobs @ (0 | 1)) => jobs,
        Some(jobs) => jobs - 1,
        None => u32::MAX,
    }
}
