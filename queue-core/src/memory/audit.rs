//! Promise P4 for the model: every index agrees with the records.

use std::collections::HashMap;

use super::model::{Model, Shelf, lane_key};
use crate::backend::Violation;
use crate::{JobId, JobState};

impl Model {
    pub(super) fn audit(&self) -> Vec<Violation> {
        let mut found = self.audit_places();
        found.extend(self.audit_keys());
        let empty_lanes = self.lanes.values().filter(|lane| lane.jobs.is_empty()).count();
        let empty_claims = self.claims.values().filter(|held| held.jobs.is_empty()).count();
        let empty_shelves = self.shelves.values().filter(|shelf| shelf.is_empty()).count();
        if empty_lanes + empty_claims + empty_shelves > 0 {
            found.push(Violation::of_store(format!(
                "{empty_lanes} lanes, {empty_claims} claims and {empty_shelves} shelves are empty"
            )));
        }
        found
    }

    /// A job is in exactly one index, the one of its state.
    fn audit_places(&self) -> Vec<Violation> {
        let mut places: HashMap<JobId, Vec<JobState>> = HashMap::new();
        let mut place = |id: &JobId, state| places.entry(*id).or_default().push(state);
        for (key, lane) in &self.lanes {
            for id in &lane.jobs {
                let fits = self.jobs.get(id).is_some_and(|entry| lane_key(&entry.record) == *key);
                place(id, if fits { JobState::Ready } else { JobState::Quarantined });
            }
        }
        for (due_at, id) in &self.due {
            let waiting = self.jobs.get(id).filter(|entry| entry.record.due_at == *due_at);
            let retried = waiting.map(|entry| entry.record.failures > 0);
            place(
                id,
                match retried {
                    Some(true) => JobState::Retrying,
                    Some(false) => JobState::Scheduled,
                    None => JobState::Quarantined,
                },
            );
        }
        for (token, held) in &self.claims {
            for id in &held.jobs {
                let fits = self.jobs.get(id).is_some_and(|entry| entry.holder == Some(*token));
                place(id, if fits { JobState::Running } else { JobState::Quarantined });
            }
        }
        for ((_, shelf), records) in &self.shelves {
            for (_, id) in records {
                let state = self.jobs.get(id).map(|entry| entry.record.state);
                let fits = match state {
                    Some(JobState::Dead) => *shelf == Shelf::Dead,
                    Some(JobState::Completed | JobState::Cancelled) => *shelf == Shelf::Done,
                    _ => false,
                };
                place(id, state.filter(|_| fits).unwrap_or(JobState::Quarantined));
            }
        }
        let mut found = Vec::new();
        for (id, entry) in &self.jobs {
            let listed = places.remove(id).unwrap_or_default();
            if listed != [entry.record.state] {
                let state = entry.record.state;
                found.push(Violation::of_job(*id, format!("is {state} but listed as {listed:?}")));
            }
        }
        let unknown = |(id, listed)| {
            Violation::of_job(id, format!("is listed as {listed:?} but has no record"))
        };
        found.extend(places.into_iter().map(unknown));
        found
    }

    /// A key leads to the live or completed job that names it, and each such job has its key.
    fn audit_keys(&self) -> Vec<Violation> {
        let holds_key = |state| !matches!(state, JobState::Dead | JobState::Cancelled);
        let mut found = Vec::new();
        for (key, id) in &self.keys {
            let owner = self.jobs.get(id).filter(|entry| holds_key(entry.record.state));
            if owner.and_then(|entry| entry.record.spec.idempotency_key.as_ref()) != Some(key) {
                found.push(Violation::of_job(*id, "an idempotency key leads to it wrongly"));
            }
        }
        for (id, entry) in self.jobs.iter().filter(|(_, entry)| holds_key(entry.record.state)) {
            let key = entry.record.spec.idempotency_key.as_ref();
            if key.is_some_and(|key| self.keys.get(key) != Some(id)) {
                found.push(Violation::of_job(*id, "its idempotency key does not lead to it"));
            }
        }
        found
    }
}
