//! What operators do: list, retry, delete, pause.

use super::model::{End, Model};
use crate::state::{Cause, transition};
use crate::{
    Cursor, DeleteOutcome, Error, JobId, JobState, JobSummary, ListRequest, Page, QueueName,
    RecoverOutcome, RetryOutcome, Timestamp,
};

impl Model {
    /// Jobs in the order of their ids; ready ones lane by lane. The cursor counts.
    pub(super) fn list(&self, request: &ListRequest) -> Result<Page, Error> {
        let start = match &request.cursor {
            None => 0,
            Some(cursor) => place(cursor)?,
        };
        let fits = |id: &JobId| {
            let record = &self.jobs.get(id)?.record;
            let is_wanted = record.state == request.state
                && request.queue.as_ref().is_none_or(|queue| record.spec.queue == *queue)
                && request.kind.as_ref().is_none_or(|kind| record.spec.kind == *kind);
            is_wanted.then(|| JobSummary::of(record))
        };
        let mut ids: Vec<JobId> = match request.state {
            JobState::Ready => self.lanes.values().flat_map(|lane| &lane.jobs).copied().collect(),
            _ => self.jobs.keys().copied().collect(),
        };
        if request.state != JobState::Ready {
            ids.sort_unstable();
        }
        let mut jobs: Vec<_> = ids.iter().filter_map(fits).skip(start).collect();
        let limit = request.limit as usize;
        let next = (jobs.len() > limit).then(|| Cursor::new((start + limit).to_string())).flatten();
        jobs.truncate(limit);
        Ok(Page::new(self.now, jobs, Vec::new(), next))
    }

    /// T15.
    pub(super) fn retry(
        &mut self,
        id: JobId,
        finished_at: Timestamp,
        keep_counts: bool,
    ) -> RetryOutcome {
        let Some(entry) = self.jobs.get(&id) else { return RetryOutcome::NotFound };
        let record = &entry.record;
        if !record.state.is_finished() || record.finished_at != Some(finished_at) {
            return RetryOutcome::Unchanged(record.state);
        }
        if record.spec.expires_at.is_some_and(|expires_at| expires_at <= self.now) {
            return RetryOutcome::Expired;
        }
        let key = record.spec.idempotency_key.clone();
        let holder = key.as_ref().and_then(|key| self.key_holder(key));
        if let Some(by) = holder.map(|holder| holder.record.spec.id).filter(|by| *by != id) {
            return RetryOutcome::KeyTaken { by };
        }
        self.unshelve(id);
        self.turn_to(id, Cause::Retry, JobState::Ready);
        if let Some(key) = key {
            self.keys.insert(key, id);
        }
        let now = self.now;
        if let Some(entry) = self.jobs.get_mut(&id) {
            let record = &mut entry.record;
            record.due_at = now;
            record.finished_at = None;
            record.dead_reason = None;
            record.result = None;
            record.elapsed = None;
            if !keep_counts {
                record.failures = 0;
                record.stalls = 0;
                record.snoozes = 0;
            }
        }
        self.push(id, End::Tail);
        RetryOutcome::Ready
    }

    /// T16, by hand.
    pub(super) fn delete(&mut self, id: JobId, in_state: JobState) -> DeleteOutcome {
        let Some(entry) = self.jobs.get(&id) else { return DeleteOutcome::NotFound };
        let state = entry.record.state;
        if state != in_state || state == JobState::Running {
            return DeleteOutcome::Unchanged(state);
        }
        debug_assert!(transition(Cause::Delete, Some(state), None).is_some());
        if state.is_waiting() {
            self.unlist(id);
        }
        self.forget(id);
        DeleteOutcome::Deleted
    }

    /// Nothing is ever quarantined here: records are not encoded.
    pub(super) fn recover(&self, id: JobId) -> RecoverOutcome {
        let record = self.jobs.get(&id).map(|entry| &entry.record);
        record.map_or(RecoverOutcome::NotFound, |record| RecoverOutcome::Unchanged(record.state))
    }

    pub(super) fn set_paused(&mut self, queue: &QueueName, paused: bool) -> bool {
        if paused {
            return self.paused.insert(queue.clone());
        }
        let was_paused = self.paused.remove(queue);
        self.news |= was_paused;
        was_paused
    }
}

fn place(cursor: &Cursor) -> Result<usize, Error> {
    let refused = |_| Error::BadRequest(format!("cursor {cursor} is not of this listing"));
    cursor.as_str().parse().map_err(refused)
}
