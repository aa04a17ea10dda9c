//! What is before a job, and who could run it.

use std::time::Duration;

use super::model::{Lane, LaneKey, Model, lane_key};
use crate::backend::{PASS_MAX, WORKERS_MAX};
use crate::{
    JobId, JobState, LaneSummary, Lanes, LiveWorker, Place, Placement, QueueName, WorkerInfo,
};

impl Model {
    /// Zero time makes the worker be forgotten.
    pub(super) fn announce(&mut self, worker: &WorkerInfo, believed_for: Duration) {
        let now = self.now;
        self.workers.retain(|_, (_, until)| *until > now);
        let who = (worker.id.clone(), worker.instance);
        self.workers.remove(&who);
        if believed_for.is_zero() {
            return;
        }
        if self.workers.len() >= WORKERS_MAX {
            let first = self.workers.iter().min_by_key(|(_, (_, until))| *until);
            if let Some(first) = first.map(|(who, _)| who.clone()) {
                self.workers.remove(&first);
            }
        }
        self.workers.insert(who, (worker.clone(), now.after(believed_for)));
    }

    pub(super) fn live_workers(&self) -> Vec<LiveWorker> {
        let live = self.workers.values().filter(|(_, until)| *until > self.now);
        live.map(|(info, until)| LiveWorker::new(info.clone(), until.since(self.now))).collect()
    }

    pub(super) fn placement(&self, id: JobId) -> Placement {
        Placement::new(self.now, self.place(id))
    }

    fn place(&self, id: JobId) -> Option<Place> {
        let record = &self.jobs.get(&id).filter(|e| e.record.state == JobState::Ready)?.record;
        let own = self.lanes.get(&lane_key(record))?;
        let jobs_ahead = own.jobs.iter().take_while(|other| **other != id).count();
        Some(Place::new(jobs_ahead as u64, false, own.turn))
    }

    pub(super) fn lanes_of(&self, queue: &QueueName) -> Lanes {
        let of_queue = self.lanes.iter().filter(|(key, _)| key.0 == *queue);
        let due_at = |id: &JobId| self.jobs.get(id).map(|entry| entry.record.due_at);
        let summary = |(key, lane): (&LaneKey, &Lane)| LaneSummary {
            waiting: self.now.since(lane.jobs.front().and_then(due_at).unwrap_or(self.now)),
            kind: key.1.clone(),
            priority: key.2,
            limits: key.3.clone(),
            jobs: lane.jobs.len() as u64,
            turn: lane.turn,
        };
        let mut lanes: Vec<LaneSummary> = of_queue.map(summary).collect();
        let more = lanes.len() > PASS_MAX as usize;
        lanes.truncate(PASS_MAX as usize);
        let starts = self.starts.get(queue).copied().unwrap_or_default().at(self.now);
        Lanes::new(lanes, more, starts)
    }
}
