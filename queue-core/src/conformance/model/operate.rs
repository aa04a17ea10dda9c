//! The steps of operators and watchers, and what they see.

use std::collections::BTreeMap;

use super::super::Harness;
use super::super::list::listed;
use super::steps::{ReportPlan, World};
use super::{Pair, answered, equal};
use crate::{
    Backend, JobId, JobState, JobSummary, ListRequest, QueueName, Report, RetryRequest, Timestamp,
    WatchRequest,
};

impl<H: Harness> Pair<'_, H> {
    /// The finish time that an operator would have seen, or one that is wrong.
    async fn seen(&self, id: JobId, is_late: bool) -> Result<Timestamp, String> {
        let records = answered("the model", self.model.get(&[id]).await)?;
        let finished_at = records[0].as_ref().and_then(|record| record.finished_at);
        let seen = finished_at.unwrap_or(Timestamp::from_ms(5));
        Ok(if is_late { Timestamp::from_ms(seen.as_ms() - 1) } else { seen })
    }

    pub(super) async fn retry(
        &self,
        ids: &[JobId],
        keep_counts: bool,
        is_late: bool,
        times: u8,
    ) -> Result<(), String> {
        let mut jobs = Vec::new();
        for id in ids {
            jobs.push((*id, self.seen(*id, is_late).await?));
        }
        let request = RetryRequest { jobs, keep_counts };
        for _ in 0..times {
            let (model, real) = on_both!(self.retry(&request));
            equal("retry", &model, &real)?;
        }
        Ok(())
    }

    /// Deletes jobs in the state that they are in, or in one that is wrong.
    pub(super) async fn delete(
        &self,
        ids: &[JobId],
        state: Option<JobState>,
        times: u8,
    ) -> Result<(), String> {
        let mut jobs = Vec::new();
        for id in ids {
            let records = answered("the model", self.model.get(&[*id]).await)?;
            let seen = records[0].as_ref().map_or(JobState::Ready, |record| record.state);
            jobs.push((*id, state.unwrap_or(seen)));
        }
        for _ in 0..times {
            let (model, real) = on_both!(self.delete(&jobs));
            equal("delete", &model, &real)?;
        }
        Ok(())
    }

    pub(super) async fn pause(
        &self,
        queue: &QueueName,
        paused: bool,
        times: u8,
    ) -> Result<(), String> {
        for _ in 0..times {
            let (model, real) = on_both!(self.set_paused(queue, paused));
            equal("set_paused", &model, &real)?;
        }
        Ok(())
    }

    pub(super) async fn report(
        &self,
        plans: &[ReportPlan],
        times: u8,
        world: &World,
    ) -> Result<(), String> {
        let reports: Vec<Report> = world.reports(plans);
        for _ in 0..times {
            let (model, real) = on_both!(self.report(&reports));
            equal("report", &model, &real)?;
        }
        Ok(())
    }

    /// What operators and watchers see of both stores.
    pub(super) async fn compare_views(&self, ids: &[JobId]) -> Result<(), String> {
        let (model, real) = on_both!(self.paused());
        equal("paused", &model, &real)?;
        let requests: Vec<_> =
            ids.iter().map(|id| WatchRequest { id: *id, after_line: 1 }).collect();
        let (model, real) = on_both!(self.watch(&requests));
        equal("watch", &model, &real)?;
        for state in JobState::ALL {
            let request = ListRequest { limit: 3, ..ListRequest::new(state) };
            let model = by_id(listed(&self.model, &request).await);
            let real = by_id(listed(&self.real, &request).await);
            equal("a listing", &model, &real)?;
        }
        Ok(())
    }
}

/// The order of a listing is the store's own.
fn by_id(jobs: Vec<JobSummary>) -> Vec<JobSummary> {
    let sorted: BTreeMap<(JobId, usize), JobSummary> =
        jobs.into_iter().enumerate().map(|(place, job)| ((job.id, place), job)).collect();
    sorted.into_values().collect()
}
