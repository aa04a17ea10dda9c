//! T16: finished records stay for a while and then are gone without a trace.

use std::time::Duration;

use super::Harness;
use super::store::{Store, claim_request, enqueue_on, failure, ids, job};
use crate::backend::FINISHED_MAX;
use crate::{
    Backend, ClaimRequest, Enqueued, JobState, NewJob, OnConflict, Outcome, QueueName, Retention,
    SettleRequest, Settlement,
};

pub async fn records_are_dropped_after_their_time<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let minute = Duration::from_secs(60);
    let retention = Retention { completed: minute, dead: minute * 2 };
    let [completed, dead, cancelled] =
        [job("a"), job("a"), job("a")].map(|j| j.retention(retention));
    store.enqueue(&completed).await;
    store.complete(&store.claim_one().await).await;
    store.enqueue(&dead).await;
    store.settle(&store.claim_one().await, Outcome::Dead { error: failure() }).await;
    store.enqueue(&cancelled).await;
    store.cancel(cancelled.job_id()).await;

    store.advance(minute - Duration::from_millis(1)).await;
    assert_eq!(store.maintain().await.dropped, 0);
    store.advance(Duration::from_millis(1)).await;
    assert!(store.claim(1).await.maintain);
    assert_eq!(store.maintain().await.dropped, 2);
    assert!(store.get(completed.job_id()).await.is_none());
    assert!(store.get(cancelled.job_id()).await.is_none());
    assert_eq!(store.state(dead.job_id()).await, JobState::Dead);
    store.advance(minute).await;
    assert_eq!(store.maintain().await.dropped, 1);
    assert_eq!(store.backend.stats().await.unwrap(), []);
    store.audit().await;
}

pub async fn only_so_many_records_are_kept<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let cancelled = store.enqueue(&job("a")).await.id;
    store.cancel(cancelled).await;
    let dead = store.enqueue(&job("a")).await.id;
    store.settle(&store.claim_one().await, Outcome::Dead { error: failure() }).await;
    let jobs_to_run = FINISHED_MAX + 1200;
    let mut done = 0;
    let mut first = None;
    while done < jobs_to_run {
        let jobs: Vec<NewJob> = (0..400).map(|_| job("a")).collect();
        first.get_or_insert(jobs[0].job_id());
        enqueue_on(&store.backend, &jobs).await;
        let leases = store.backend.claim(&claim_request(400)).await.unwrap().leases;
        done += leases.len() as u64;
        let settlements = leases.iter().map(|lease| Settlement {
            id: lease.spec.id,
            token: lease.token,
            outcome: Outcome::Completed { result: None },
            elapsed: Duration::ZERO,
        });
        let request = SettleRequest { settlements: settlements.collect(), claim: None };
        store.backend.settle(&request).await.unwrap();
        // Later records expire later, so the first ones are the first to go.
        store.advance(Duration::from_millis(1)).await;
    }
    while store.maintain().await.more {}
    assert_eq!(store.count(JobState::Completed).await, FINISHED_MAX);
    assert!(store.get(first.unwrap()).await.is_none());
    // They have caps of their own.
    assert_eq!(store.state(cancelled).await, JobState::Cancelled);
    assert_eq!(store.state(dead).await, JobState::Dead);
    store.audit().await;
}

pub async fn cancelled_records_push_out_only_each_other<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let keyed = || job("a").idempotency_key("kept");
    let completed = store.enqueue(&keyed()).await.id;
    store.complete(&store.claim_one().await).await;
    let mut first = None;
    for batch in 0..=FINISHED_MAX / 500 + 2 {
        // Later records expire later, so the first ones are the first to go.
        store.advance(Duration::from_millis(1)).await;
        let jobs: Vec<NewJob> = (0..500).map(|_| job("a")).collect();
        first.get_or_insert(jobs[0].job_id());
        if batch % 2 == 0 {
            let ids: Vec<_> = jobs.iter().map(NewJob::job_id).collect();
            enqueue_on(&store.backend, &jobs).await;
            store.backend.cancel(&ids).await.unwrap();
        } else {
            let replacing =
                |job: NewJob| job.idempotency_key("again").on_conflict(OnConflict::Replace);
            let jobs: Vec<NewJob> = jobs.into_iter().map(replacing).collect();
            enqueue_on(&store.backend, &jobs).await;
        }
    }
    while store.maintain().await.more {}
    assert_eq!(store.count(JobState::Cancelled).await, FINISHED_MAX);
    assert!(store.get(first.unwrap()).await.is_none());
    let again = store.enqueue(&keyed()).await;
    assert_eq!(again, Enqueued::duplicate(completed, JobState::Completed));
    store.audit().await;
}

pub async fn an_expired_job_that_is_not_kept_leaves_nothing<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let nothing = Retention { completed: Duration::ZERO, dead: Duration::ZERO };
    let second = Duration::from_secs(1);
    let expires_at = store.now().after(second);
    let expiring = job("a").retention(nothing).idempotency_key("k").expires_at(expires_at);
    store.enqueue(&expiring).await;
    store.advance(second).await;
    assert_eq!(ids(&store.claim(10).await), []);
    assert!(store.get(expiring.job_id()).await.is_none());
    assert_eq!(store.backend.stats().await.unwrap(), []);
    store.audit().await;
    assert!(!store.enqueue(&job("a").idempotency_key("k")).await.duplicate);
}

pub async fn zero_retention_keeps_nothing<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let nothing = Retention { completed: Duration::ZERO, dead: Duration::ZERO };
    let transient = || job("a").retention(nothing).idempotency_key("k");
    store.enqueue(&transient()).await;
    store.complete(&store.claim_one().await).await;
    store.enqueue(&transient()).await;
    store.settle(&store.claim_one().await, Outcome::Dead { error: failure() }).await;
    let cancelled = store.enqueue(&transient()).await;
    assert!(!cancelled.duplicate);
    store.cancel(cancelled.id).await;
    assert_eq!(store.backend.stats().await.unwrap(), []);
    store.audit().await;
}

pub async fn dropping_stops_at_its_budget<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let minute = Duration::from_secs(60);
    let retention = Retention { completed: minute, dead: minute };
    for _ in 0..3 {
        store.enqueue(&job("a").retention(retention)).await;
        store.complete(&store.claim_one().await).await;
    }
    store.advance(minute).await;
    for more in [true, true, false] {
        let pass = store.backend.maintain(1).await.unwrap();
        assert_eq!((pass.dropped, pass.more), (1, more));
    }
    assert_eq!(store.backend.stats().await.unwrap(), []);
    store.audit().await;
}

pub async fn a_budget_is_one_for_all_queues<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let minute = Duration::from_secs(60);
    let retention = Retention { completed: minute, dead: minute };
    for queue in ["default", "q"] {
        for dies in [false, true] {
            let job = job("a").queue(queue).retention(retention);
            store.enqueue(&job).await;
            let queues = vec![QueueName::new(queue).unwrap()];
            let request = ClaimRequest { queues, ..claim_request(1) };
            let lease = store.backend.claim(&request).await.unwrap().leases.remove(0);
            let outcome = match dies {
                true => Outcome::Dead { error: failure() },
                false => Outcome::Completed { result: None },
            };
            store.settle(&lease, outcome).await;
        }
    }
    store.advance(minute).await;
    for (dropped, more) in [(3, true), (1, false)] {
        let pass = store.backend.maintain(3).await.unwrap();
        assert_eq!((pass.dropped, pass.more), (dropped, more));
    }
    assert_eq!(store.backend.stats().await.unwrap(), []);
    store.audit().await;
}
