//! Listings: every job once, in pages of bounded work.

use std::collections::BTreeSet;

use super::Harness;
use super::store::{Store, claim_request, enqueue_on, failure, job};
use crate::backend::PASS_MAX;
use crate::{
    Backend, Cursor, Error, JobId, JobState, JobSummary, Kind, Lease, ListRequest, NewJob, Outcome,
    QueueName, RetryRequest, SettleRequest, Settlement,
};

/// All jobs of a listing, page by page.
pub(super) async fn listed(backend: &impl Backend, request: &ListRequest) -> Vec<JobSummary> {
    let mut request = request.clone();
    let mut jobs = Vec::new();
    for _ in 0..10_000 {
        let page = backend.list(&request).await.unwrap();
        assert!(page.jobs.len() <= request.limit as usize, "{} jobs", page.jobs.len());
        assert_eq!(page.quarantined, []);
        jobs.extend(page.jobs);
        match page.next {
            Some(next) => request.cursor = Some(next),
            None => return jobs,
        }
    }
    panic!("the listing does not end");
}

fn ids(jobs: &[JobSummary]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

async fn ids_in<H: Harness>(store: &Store<'_, H>, state: JobState) -> Vec<JobId> {
    ids(&listed(&store.backend, &ListRequest::new(state)).await)
}

pub async fn each_state_lists_its_jobs<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let minute = std::time::Duration::from_secs(60);
    let [completed, dead, cancelled, retrying, running, ready] = [(); 6].map(|()| job("a"));
    let scheduled = job("a").delay(minute);
    store.enqueue(&completed).await;
    store.complete(&store.claim_one().await).await;
    store.enqueue(&dead).await;
    store.settle(&store.claim_one().await, Outcome::Dead { error: failure() }).await;
    store.enqueue(&cancelled).await;
    store.cancel(cancelled.job_id()).await;
    store.enqueue(&retrying).await;
    let retry = Outcome::Retry { delay: minute, error: failure() };
    store.settle(&store.claim_one().await, retry).await;
    store.enqueue(&running).await;
    let lease = store.claim_one().await;
    store.enqueue(&ready).await;
    store.enqueue(&scheduled).await;
    let jobs = [
        (JobState::Completed, completed),
        (JobState::Dead, dead),
        (JobState::Cancelled, cancelled),
        (JobState::Retrying, retrying),
        (JobState::Running, running),
        (JobState::Ready, ready),
        (JobState::Scheduled, scheduled),
    ];
    for (state, job) in &jobs {
        let found = listed(&store.backend, &ListRequest::new(*state)).await;
        let record = store.record(job.job_id()).await;
        assert_eq!(found, [JobSummary::of(&record)], "{state}");
    }
    assert_eq!(ids_in(&store, JobState::Quarantined).await, []);
    let page = store.backend.list(&ListRequest::new(JobState::Ready)).await.unwrap();
    assert_eq!(page.now, store.now());
    store.complete(&lease).await;
    assert_eq!(ids_in(&store, JobState::Running).await, []);
}

pub async fn pages_give_every_job_once<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let minute = std::time::Duration::from_secs(60);
    let make = |n: usize| match n % 2 {
        0 => job(["a", "b", "c"][n % 3]).priority((n % 10) as u8),
        _ => job(["a", "b", "c"][n % 3]).delay(minute * (n as u32 % 4 + 1)),
    };
    let jobs: Vec<NewJob> = (0..700).map(|n| make(n).queue(["default", "q"][n % 5 / 4])).collect();
    for chunk in jobs.chunks(500) {
        enqueue_on(&store.backend, chunk).await;
    }
    let cancelled: Vec<JobId> = jobs.iter().step_by(7).map(NewJob::job_id).collect();
    store.backend.cancel(&cancelled).await.unwrap();
    for state in [JobState::Ready, JobState::Scheduled, JobState::Cancelled] {
        let mut sizes = BTreeSet::new();
        for limit in [1, 7, 100, 500] {
            let all =
                listed(&store.backend, &ListRequest { limit, ..ListRequest::new(state) }).await;
            let distinct: BTreeSet<JobId> = ids(&all).into_iter().collect();
            assert_eq!(distinct.len(), all.len(), "{state} by {limit}: a job is listed twice");
            sizes.insert(all.len() as u64);
        }
        assert_eq!(sizes, BTreeSet::from([store.count(state).await]), "{state}");
    }
}

pub async fn more_jobs_than_a_page_holds_are_all_listed<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let delay = std::time::Duration::from_secs(60);
    // All in one lane, in few claims and with one end.
    let jobs: Vec<NewJob> = (0..PASS_MAX + 100).map(|_| job("a").delay(delay)).collect();
    for chunk in jobs.chunks(PASS_MAX as usize) {
        enqueue_on(&store.backend, chunk).await;
    }
    let assert_lists_all = async |state: JobState| {
        let found: BTreeSet<JobId> = ids_in(&store, state).await.into_iter().collect();
        assert_eq!(found.len(), jobs.len(), "{state}");
    };
    assert_lists_all(JobState::Scheduled).await;
    store.advance(delay).await;
    while store.backend.maintain(PASS_MAX).await.unwrap().more {}
    assert_lists_all(JobState::Ready).await;
    let claims = [store.claim(PASS_MAX).await, store.claim(PASS_MAX).await];
    assert_lists_all(JobState::Running).await;
    for claim in claims {
        let end = |lease: Lease| Settlement {
            id: lease.spec.id,
            token: lease.token,
            outcome: Outcome::Dead { error: failure() },
            elapsed: delay,
        };
        let settlements = claim.leases.into_iter().map(end).collect();
        store.backend.settle(&SettleRequest { settlements, claim: None }).await.unwrap();
    }
    assert_lists_all(JobState::Dead).await;
}

pub async fn filters_choose_queue_and_kind<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let make = |n: usize| job(["a", "b"][n % 2]).queue(["default", "q"][n / 2 % 2]);
    let jobs: Vec<NewJob> = (0..40).map(make).collect();
    enqueue_on(&store.backend, &jobs).await;
    let mut request = ListRequest { limit: 3, ..ListRequest::new(JobState::Ready) };
    request.queue = Some(QueueName::new("q").unwrap());
    assert_eq!(listed(&store.backend, &request).await.len(), 20);
    request.kind = Some(Kind::new("b").unwrap());
    let found = listed(&store.backend, &request).await;
    assert!(found.iter().all(|job| job.queue.as_str() == "q" && job.kind.as_str() == "b"));
    assert_eq!(found.len(), 10);
    request.queue = None;
    assert_eq!(listed(&store.backend, &request).await.len(), 20);
    for state in [JobState::Scheduled, JobState::Running, JobState::Dead, JobState::Completed] {
        request.state = state;
        assert_eq!(listed(&store.backend, &request).await, []);
    }
    request.queue = Some(QueueName::new("no-such-queue").unwrap());
    request.state = JobState::Ready;
    assert_eq!(listed(&store.backend, &request).await, []);
}

pub async fn ready_jobs_are_listed_as_they_will_run<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let jobs: Vec<NewJob> = (0..30).map(|_| job("a")).collect();
    enqueue_on(&store.backend, &jobs).await;
    // A job that is given back goes to the head, and a cancelled one leaves a gap.
    let lease = store.claim_one().await;
    store.claim(1).await;
    store.settle(&lease, Outcome::Released).await;
    store.cancel(jobs[4].job_id()).await;
    let request = ListRequest { limit: 4, ..ListRequest::new(JobState::Ready) };
    let found = ids(&listed(&store.backend, &request).await);
    let claimed = store.backend.claim(&claim_request(100)).await.unwrap();
    assert_eq!(found, super::store::ids(&claimed));
}

pub async fn a_foreign_cursor_is_refused<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    for _ in 0..3 {
        store.enqueue(&job("a")).await;
    }
    let cursor = ["x", "~", "((((", "-1", "AAAA:BBBB:CCCC"].map(|text| Cursor::new(text).unwrap());
    for cursor in cursor {
        let request = ListRequest { cursor: Some(cursor), ..ListRequest::new(JobState::Ready) };
        let answer = store.backend.list(&request).await;
        assert!(matches!(answer, Err(Error::BadRequest(_))), "{answer:?}");
    }
}

pub async fn a_job_that_came_back_is_listed_once<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let jobs: Vec<NewJob> = (0..10).map(|_| job("a")).collect();
    enqueue_on(&store.backend, &jobs).await;
    let back: Vec<JobId> = jobs[..3].iter().map(NewJob::job_id).collect();
    for _ in 0..2 {
        store.backend.cancel(&back).await.unwrap();
        let now = store.now();
        let jobs = back.iter().map(|id| (*id, now)).collect();
        store.backend.retry(&RetryRequest { jobs, keep_counts: false }).await.unwrap();
    }
    let request = ListRequest { limit: 4, ..ListRequest::new(JobState::Ready) };
    let found = ids(&listed(&store.backend, &request).await);
    let last: Vec<JobId> = jobs[3..].iter().map(NewJob::job_id).chain(back).collect();
    assert_eq!(found, last);
    // Another one comes back to another lane.
    let elsewhere = jobs[5].clone().priority(0);
    store.backend.delete(&[(elsewhere.job_id(), JobState::Ready)]).await.unwrap();
    store.enqueue(&elsewhere).await;
    let found = ids(&listed(&store.backend, &request).await);
    let rest = last.iter().copied().filter(|id| *id != elsewhere.job_id());
    assert_eq!(found, std::iter::once(elsewhere.job_id()).chain(rest).collect::<Vec<_>>());
    store.audit().await;
}
