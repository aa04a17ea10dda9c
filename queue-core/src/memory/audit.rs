//! Promise P4 for the model: every index agrees with the records.

use std::collections::HashMap;

use super::model::{Model, Shelf, holds_key, lane_key};
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
                    Some(JobState::Completed) => matches!(shelf, Shelf::Held | Shelf::Done),
                    Some(JobState::Cancelled) => *shelf == Shelf::Cancelled,
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

    /// A key leads to a job that holds it or whose hold is not yet cleared away, and each job that
    /// holds one is led to by it.
    fn audit_keys(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        for (key, id) in &self.keys {
            let owner = self.jobs.get(id).filter(|entry| {
                let on_hold = matches!(entry.shelved, Some((Shelf::Held, _)));
                on_hold || holds_key(&entry.record, self.now)
            });
            if owner.and_then(|entry| entry.record.spec.idempotency_key.as_ref()) != Some(key) {
                found.push(Violation::of_job(*id, "an idempotency key leads to it wrongly"));
            }
        }
        for (id, entry) in &self.jobs {
            let key = entry.record.spec.idempotency_key.as_ref();
            let key = key.filter(|_| holds_key(&entry.record, self.now));
            if key.is_some_and(|key| self.keys.get(key) != Some(id)) {
                found.push(Violation::of_job(*id, "its idempotency key does not lead to it"));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{ClaimRequest, ClaimToken, Kind, KindSlots, NewJob, Payload, QueueName, WorkerId};

    fn job(kind: &str) -> NewJob {
        NewJob::new(Kind::new(kind).unwrap(), Payload::raw("x")).idempotency_key(kind)
    }

    fn claim(model: &mut Model, kind: &str) -> ClaimToken {
        let token = ClaimToken::random();
        let kinds = vec![KindSlots::new(Kind::new(kind).unwrap(), 1)];
        let request = ClaimRequest {
            token,
            worker: WorkerId::new("w").unwrap(),
            queues: vec![QueueName::default()],
            kinds,
            max: 1,
            round_jobs: 0,
            lease: Duration::from_secs(1),
        };
        assert_eq!(model.claim(&request).leases.len(), 1);
        token
    }

    /// A store with a job of each of these kinds: waiting, ready, running and cancelled.
    fn model() -> (Model, [JobId; 4]) {
        let mut model = Model::default();
        let jobs = ["waiting", "ready", "running", "cancelled"].map(job);
        let ids = jobs.each_ref().map(NewJob::job_id);
        for job in jobs {
            let delay = if job.spec.kind.as_str() == "waiting" { 60 } else { 0 };
            let outcome = model.enqueue(&job.delay(Duration::from_secs(delay)));
            assert!(matches!(outcome, crate::EnqueueOutcome::Done(_)));
        }
        claim(&mut model, "running");
        model.cancel(ids[3]);
        assert_eq!(model.audit(), []);
        (model, ids)
    }

    /// What the audit finds after something was broken.
    fn found<T>(breaks: impl FnOnce(&mut Model, [JobId; 4]) -> T) -> Vec<String> {
        let (mut model, ids) = model();
        breaks(&mut model, ids);
        model.audit().into_iter().map(|violation| violation.what).collect()
    }

    #[test]
    fn a_job_in_no_index_or_in_two_is_found() {
        let lost = found(|model, _| model.lanes.values_mut().for_each(|lane| lane.jobs.clear()));
        assert!(lost.iter().any(|what| what == "is ready but listed as []"), "{lost:?}");
        assert!(lost.iter().any(|what| what.starts_with("1 lanes, 0 claims")), "{lost:?}");
        let twice = found(|model, [_, ready, ..]| model.due.insert((model.now, ready)));
        assert_eq!(twice, ["is ready but listed as [Ready, Scheduled]"]);
        let wrong_time = found(|model, [waiting, ..]| {
            model.due.clear();
            model.due.insert((model.now, waiting));
        });
        assert_eq!(wrong_time, ["is scheduled but listed as [Quarantined]"]);
        let stranger = found(|model, _| model.due.insert((model.now, JobId::new())));
        assert_eq!(stranger, ["is listed as [Quarantined] but has no record"]);
    }

    #[test]
    fn a_lane_claim_or_shelf_that_does_not_fit_is_found() {
        let lane = found(|model, [_, ready, ..]| {
            let kind = Kind::new("other").unwrap();
            let record = model.jobs.get_mut(&ready).map(|entry| &mut entry.record);
            record.into_iter().for_each(|record| record.spec.kind = kind.clone());
        });
        assert_eq!(lane, ["is ready but listed as [Quarantined]"]);
        let holder = found(|model, [_, _, running, _]| {
            let entry = model.jobs.get_mut(&running);
            entry.into_iter().for_each(|entry| entry.holder = Some(ClaimToken::random()));
        });
        assert_eq!(holder, ["is running but listed as [Quarantined]"]);
        let empty = found(|model, _| model.claims.values_mut().for_each(|held| held.jobs.clear()));
        assert_eq!(empty.len(), 2, "{empty:?}");
        for shelf in [Shelf::Held, Shelf::Done, Shelf::Dead] {
            let shelf = found(|model, [.., cancelled]| {
                model.unshelve(cancelled);
                model.shelve(cancelled, shelf, model.now.after(Duration::from_secs(1)));
            });
            assert_eq!(shelf, ["is cancelled but listed as [Quarantined]"]);
        }
        let bare = found(|model, _| model.shelves.values_mut().for_each(|set| set.clear()));
        assert_eq!(bare.len(), 2, "{bare:?}");
    }

    #[test]
    fn keys_that_lead_astray_are_found() {
        let unkept = found(|model, _| model.keys.remove(&key("ready")));
        assert_eq!(unkept, ["its idempotency key does not lead to it"]);
        let astray = found(|model, [waiting, ..]| model.keys.insert(key("new"), waiting));
        assert_eq!(astray, ["an idempotency key leads to it wrongly"]);
        let of_cancelled =
            found(|model, [.., cancelled]| model.keys.insert(key("cancelled"), cancelled));
        assert_eq!(of_cancelled, ["an idempotency key leads to it wrongly"]);
    }

    fn key(text: &str) -> crate::IdempotencyKey {
        crate::IdempotencyKey::new(text).unwrap()
    }
}
