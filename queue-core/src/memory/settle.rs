//! T6–T10 and T14: how attempts end.

use std::time::Duration;

use super::model::{End, Model, note};
use crate::state::Cause;
use crate::{AttemptRecord, DeadReason, JobId, JobState, Outcome, Settled, Settlement, WorkerId};

impl Model {
    pub(super) fn settle(&mut self, settlement: &Settlement) -> Settled {
        let Settlement { id, token, outcome, elapsed } = settlement;
        let Some(entry) = self.jobs.get_mut(id) else { return Settled::Gone };
        if entry.holder != Some(*token) {
            let state = entry.record.state;
            let repeated = entry.settled_by == Some(*token);
            return if repeated { Settled::AlreadyDone(state) } else { Settled::Stale(state) };
        }
        entry.settled_by = Some(*token);
        // Kept with the record of a finished job only.
        let elapsed = Duration::from_millis(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        let Some(let_go) = self.let_go(*id, outcome.ending()) else { return Settled::Gone };
        if let Outcome::Throttled { delay, limits } = outcome {
            self.throttle(limits, self.now.after(*delay), let_go.claimed_at);
        }
        self.note_failure(*id, outcome, elapsed, let_go.worker);
        let state = self.conclude(*id, outcome, let_go.cancel_requested);
        if let Some(entry) = self.jobs.get_mut(id).filter(|_| state.is_finished()) {
            entry.record.elapsed = Some(elapsed);
        }
        Settled::Applied(state)
    }

    fn note_failure(
        &mut self,
        id: JobId,
        outcome: &Outcome,
        elapsed: Duration,
        worker: Option<WorkerId>,
    ) {
        let now = self.now;
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        if let Outcome::Retry { error, .. } | Outcome::Dead { error } = outcome {
            let record = &mut entry.record;
            record.failures = record.failures.saturating_add(1);
            record.last_error = Some(error.clone());
            note(record, AttemptRecord::failed(record.failures, worker, now, error, elapsed));
        }
    }

    /// Moves a job that no claim holds any more to where its outcome takes it.
    fn conclude(&mut self, id: JobId, outcome: &Outcome, cancel_requested: bool) -> JobState {
        let Some(entry) = self.jobs.get_mut(&id) else { return JobState::Cancelled };
        let record = &mut entry.record;
        let exhausted = record.failures >= record.spec.max_attempts;
        let (cause, state, reason) = match outcome {
            Outcome::Completed { result } => {
                record.result = result.clone();
                (Cause::Complete, JobState::Completed, None)
            }
            Outcome::Dead { .. } => (Cause::Fail, JobState::Dead, Some(DeadReason::Failed)),
            _ if cancel_requested => (Cause::ConfirmCancel, JobState::Cancelled, None),
            Outcome::Retry { .. } if exhausted => {
                (Cause::Fail, JobState::Dead, Some(DeadReason::AttemptsExhausted))
            }
            Outcome::Retry { delay, .. } => return self.again(id, Cause::Fail, *delay),
            Outcome::Snoozed { delay } | Outcome::Throttled { delay, .. } => {
                record.snoozes = record.snoozes.saturating_add(1);
                return self.again(id, Cause::Snooze, *delay);
            }
            // Nobody asked to cancel it (any more): it is simply not done.
            Outcome::Released | Outcome::Cancelled => {
                self.turn_to(id, Cause::Release, JobState::Ready);
                self.push(id, End::Head);
                return JobState::Ready;
            }
        };
        self.finish(id, cause, state, reason);
        state
    }

    /// Runs again after `delay`; at once means the tail of its lane.
    fn again(&mut self, id: JobId, cause: Cause, delay: Duration) -> JobState {
        let due_at = self.now.after(delay);
        let Some(entry) = self.jobs.get_mut(&id) else { return JobState::Ready };
        entry.record.due_at = due_at;
        let waiting =
            if entry.record.failures > 0 { JobState::Retrying } else { JobState::Scheduled };
        self.turn_to(id, cause, waiting);
        if due_at > self.now {
            self.schedule(id, due_at);
            return waiting;
        }
        self.turn_to(id, Cause::Promote, JobState::Ready);
        self.push(id, End::Tail);
        JobState::Ready
    }
}
