//! The steps of operators and watchers, and what they see.

use std::collections::BTreeMap;

use super::super::Harness;
use super::super::list::listed;
use super::steps::{LIMITS, ReportPlan, World};
use super::{Pair, answered, equal};
use crate::{
    Backend, Claim, ClaimRequest, JobId, JobState, JobSummary, Kind, LimitKey, LimitSettings,
    LimitTarget, ListRequest, QueueName, Report, RetryRequest, Timestamp, WatchRequest,
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

    pub(super) async fn set_limit(
        &self,
        target: &LimitTarget,
        settings: Option<&LimitSettings>,
        times: u8,
    ) -> Result<(), String> {
        for _ in 0..times {
            let (model, real) = on_both!(self.set_limit(target, settings));
            equal("set_limit", &model, &real)?;
        }
        Ok(())
    }

    pub(super) async fn reset_limit(&self, key: usize, times: u8) -> Result<(), String> {
        let key = LimitKey::new(LIMITS[key]).map_err(|invalid| invalid.to_string())?;
        for _ in 0..times {
            let (model, real) = on_both!(self.reset_limit(&key));
            equal("reset_limit", &model, &real)?;
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

    /// Promise P7, by the answers of the store alone: right after a first claim, no key that its
    /// jobs hold has more of them running than it allows, and no job that the claim had slots for
    /// waits unless one of its keys is closed.
    pub(super) async fn check_limits(
        &self,
        request: &ClaimRequest,
        claim: &Claim,
        ids: &[JobId],
    ) -> Result<(), String> {
        let keys = limit_keys();
        let statuses = answered("limit_status", self.real.limit_status(&keys).await)?;
        let paused = answered("paused", self.real.paused().await)?;
        let status = |key: &LimitKey| statuses.iter().find(|status| status.key == *key);
        let asked = |kind: &Kind| request.kinds.iter().find(|asked| asked.kind == *kind);
        for lease in &claim.leases {
            let added = asked(&lease.spec.kind).map(|asked| asked.limits.clone());
            for key in lease.spec.limits.union(&added.unwrap_or_default()) {
                let status = status(&key).ok_or_else(|| format!("no status of {key}"))?;
                let allowed = status.allowed.map_or(u64::MAX, u64::from);
                if status.running > allowed {
                    return Err(format!("{key}: {} run, {allowed} may", status.running));
                }
            }
        }
        if claim.more {
            return Ok(());
        }
        let records = answered("get", self.real.get(ids).await)?;
        for spec in records.iter().flatten().filter(|r| r.state == JobState::Ready).map(|r| &r.spec)
        {
            let Some(asked) = asked(&spec.kind) else { continue };
            let taken = claim.leases.iter().filter(|lease| lease.spec.kind == spec.kind).count();
            let is_served = request.queues.contains(&spec.queue) && !paused.contains(&spec.queue);
            let keys = spec.limits.union(&asked.limits);
            let is_blocked = |key| status(key).is_some_and(|status| !status.blocked.is_empty());
            if is_served && taken < asked.slots as usize && !keys.iter().any(is_blocked) {
                return Err(format!("job {} waits while there is room for it", spec.id));
            }
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
        let (model, real) = on_both!(self.limits());
        equal("limits", &model, &real)?;
        let (model, real) = on_both!(self.limit_status(&limit_keys()));
        equal("limit_status", &model, &real)?;
        for state in JobState::ALL {
            let request = ListRequest { limit: 3, ..ListRequest::new(state) };
            let model = by_id(listed(&self.model, &request).await);
            let real = by_id(listed(&self.real, &request).await);
            equal("a listing", &model, &real)?;
        }
        Ok(())
    }
}

/// Every limit key that occurs, the queues' own, and one that does not occur.
fn limit_keys() -> Vec<LimitKey> {
    let others = ["queue:default", "queue:other", "tenant:nobody"];
    LIMITS.iter().chain(&others).filter_map(|key| LimitKey::new(key).ok()).collect()
}

/// The order of a listing is the store's own.
fn by_id(jobs: Vec<JobSummary>) -> Vec<JobSummary> {
    let sorted: BTreeMap<(JobId, usize), JobSummary> =
        jobs.into_iter().enumerate().map(|(place, job)| ((job.id, place), job)).collect();
    sorted.into_values().collect()
}
