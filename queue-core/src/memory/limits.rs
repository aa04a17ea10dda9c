//! Limits: who may start. The rules for one key are those of [`LimitState`].

use std::collections::HashMap;

use super::model::Model;
use crate::backend::LIMITS_MAX;
use crate::{
    Ending, EnqueueOutcome, Error, HOLDERS_SHOWN_MAX, JobId, JobRecord, JobState, KeyRoom,
    LimitKey, LimitKeys, LimitSettings, LimitState, LimitStatus, LimitTarget, NewJob, QUEUE_CLASS,
    QueueName, Room, Timestamp,
};

impl Model {
    /// The settings in force for a key, and what they were made for.
    fn settings_of(&self, key: &LimitKey) -> Option<(LimitTarget, LimitSettings)> {
        let targets = [LimitTarget::Key(key.clone()), LimitTarget::class_of(key)];
        targets.into_iter().find_map(|target| {
            let settings = self.limits.get(&target)?.clone();
            Some((target, settings))
        })
    }

    pub(super) fn settings(&self, key: &LimitKey) -> LimitSettings {
        self.settings_of(key).map_or_else(LimitSettings::default, |(_, settings)| settings)
    }

    /// The running jobs that hold a key, in the order of their ids.
    fn holders(&self, key: &LimitKey) -> Vec<JobId> {
        let running = self.claims.values().flat_map(|held| &held.jobs);
        let holds = |id: &&JobId| self.jobs.get(id).is_some_and(|entry| entry.held.contains(key));
        let mut holders: Vec<JobId> = running.filter(holds).copied().collect();
        holders.sort_unstable();
        holders
    }

    /// The room of a key that a claim meets.
    pub(super) fn key_room(&self, key: &LimitKey) -> KeyRoom {
        KeyRoom::new(&self.settings(key), &self.room(key))
    }

    pub(super) fn room(&self, key: &LimitKey) -> Room {
        let running = u32::try_from(self.holders(key).len()).unwrap_or(u32::MAX);
        let state = self.limit_states.get(key).cloned().unwrap_or_default();
        state.room(&self.settings(key), running, self.now)
    }

    /// When a job that needs all these keys may start by time alone; `None` if it may now, or if
    /// another has to end first.
    pub(super) fn reopens_at(&self, keys: &[LimitKey]) -> Option<Timestamp> {
        let closed = keys.iter().map(|key| self.room(key)).filter(|room| !room.is_open());
        let times: Option<Vec<_>> = closed.map(|room| room.reopens_at()).collect();
        times.and_then(|times| times.into_iter().max())
    }

    /// How much of its group's share a lane with these keys gets.
    pub(super) fn weight(&self, keys: &LimitKeys) -> u32 {
        keys.iter().map(|key| self.settings(key).weight()).max().unwrap_or(1)
    }

    /// Changes what is remembered of a key, and forgets it once nothing is left.
    fn change(&mut self, key: &LimitKey, change: impl FnOnce(&mut LimitState, &LimitSettings)) {
        let settings = self.settings(key);
        let mut state = self.limit_states.remove(key).unwrap_or_default();
        change(&mut state, &settings);
        state.tidy(self.now);
        if state != LimitState::default() {
            self.limit_states.insert(key.clone(), state);
        }
    }

    /// These jobs start, with the keys that each holds.
    pub(super) fn start(&mut self, jobs: &[JobId]) {
        let mut of_key: HashMap<LimitKey, Vec<JobId>> = HashMap::new();
        let mut of_queue: HashMap<QueueName, u64> = HashMap::new();
        for id in jobs {
            let Some(entry) = self.jobs.get(id) else { continue };
            *of_queue.entry(entry.record.spec.queue.clone()).or_default() += 1;
            for key in &entry.held {
                of_key.entry(key.clone()).or_default().push(*id);
            }
        }
        let now = self.now;
        for (queue, started) in of_queue {
            self.starts.entry(queue).or_default().add(started, now);
        }
        for (key, jobs) in of_key {
            self.change(&key, |state, settings| state.start(settings, &jobs, now));
        }
    }

    /// A job that was claimed at `claimed_at` lets go of its keys.
    pub(super) fn end(
        &mut self,
        id: JobId,
        held: &[LimitKey],
        ending: Ending,
        claimed_at: Timestamp,
    ) {
        let now = self.now;
        for key in held {
            self.change(key, |state, settings| state.end(settings, id, ending, claimed_at, now));
            self.news = true;
        }
    }

    /// A job that was claimed at `claimed_at` was turned away: the keys are closed until then.
    pub(super) fn throttle(&mut self, keys: &LimitKeys, until: Timestamp, claimed_at: Timestamp) {
        let now = self.now;
        for key in keys.iter() {
            self.change(key, |state, settings| state.throttle(settings, until, claimed_at, now));
        }
    }

    /// Forgets the keys whose time is over.
    pub(super) fn tidy_limits(&mut self) {
        for key in self.limit_states.keys().cloned().collect::<Vec<_>>() {
            self.change(&key, |_, _| {});
        }
        let now = self.now;
        self.starts.retain(|_, rate| rate.count(now) > 0);
    }

    /// Refuses a new job if its queue or one of its keys is full; `replaced` leaves in the same
    /// step.
    pub(super) fn admit(&self, job: &NewJob, replaced: Option<JobId>) -> Option<EnqueueOutcome> {
        let of_queue = queue_key(&job.spec.queue);
        let keys = of_queue.iter().chain(job.spec.limits.iter());
        let mut full = keys.filter(|key| {
            let most = self.settings(key).max_live;
            most.is_some_and(|most| self.live(key, replaced) >= most)
        });
        let rate = self.starts.get(&job.spec.queue).copied().unwrap_or_default();
        let retry_after = rate.retry_after(self.now);
        full.next().cloned().map(|limit| EnqueueOutcome::Full { limit, retry_after })
    }

    /// How many live jobs carry a key, or are in its queue.
    fn live(&self, key: &LimitKey, except: Option<JobId>) -> u64 {
        let is_live = |record: &&JobRecord| {
            let state = record.state;
            (state.is_waiting() || state == JobState::Running) && Some(record.spec.id) != except
        };
        let counts = |record: &&JobRecord| match key.class() {
            QUEUE_CLASS => record.spec.queue.as_str() == key.name(),
            _ => record.spec.limits.contains(key),
        };
        let records = self.jobs.values().map(|entry| &entry.record);
        records.filter(is_live).filter(counts).count() as u64
    }

    pub(super) fn set_limit(
        &mut self,
        target: &LimitTarget,
        settings: Option<&LimitSettings>,
    ) -> Result<bool, Error> {
        self.news = true;
        if settings.is_some()
            && self.limits.len() >= LIMITS_MAX
            && !self.limits.contains_key(target)
        {
            return Err(Error::BadRequest(format!(
                "{LIMITS_MAX} limits are set; use class defaults such as tenant:*, or remove some"
            )));
        }
        let before = match settings {
            Some(settings) => self.limits.insert(target.clone(), settings.clone()),
            None => self.limits.remove(target),
        };
        if before.as_ref() == settings {
            return Ok(false);
        }
        let now = self.now;
        let keys: Vec<LimitKey> = self.limit_states.keys().cloned().collect();
        for key in keys {
            self.change(&key, |state, settings| state.adopt(settings, now));
        }
        Ok(true)
    }

    pub(super) fn reset_limit(&mut self, key: &LimitKey) -> bool {
        self.news = true;
        let (now, mut changed) = (self.now, false);
        self.change(key, |state, _| changed = state.reset(now));
        changed
    }

    pub(super) fn limit_status(&self, key: &LimitKey) -> LimitStatus {
        let settings = self.settings(key);
        let state = self.limit_states.get(key).cloned().unwrap_or_default();
        let mut holders = self.holders(key);
        let running = holders.len() as u64;
        holders.truncate(HOLDERS_SHOWN_MAX);
        let mut status = LimitStatus::new(key.clone());
        status.settings = self.settings_of(key);
        status.running = running;
        status.holders = holders;
        status.allowed = state.allowed(&settings, self.now);
        status.live = self.live(key, None);
        status.breaker = state.breaker_phase(&settings, self.now);
        status.blocked = self.room(key).blocked;
        status.scheduled_us = state.ahead_us(self.now);
        status
    }
}

/// The key that holds a queue's admission limit.
fn queue_key(queue: &QueueName) -> Option<LimitKey> {
    LimitKey::new(format!("{QUEUE_CLASS}:{queue}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_queue_name_makes_a_key() {
        let queue = QueueName::new("a".repeat(crate::NAME_MAX_BYTES)).unwrap();
        assert!(queue_key(&queue).is_some());
    }
}
