//! T3: scheduled jobs and their time.

use std::time::Duration;

use super::Harness;
use super::store::{Store, enqueue_on, ids, job};
use crate::{Backend, Enqueued, JobId, JobState, NewJob, Timestamp};

pub async fn nothing_runs_before_its_time<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let delay = Duration::from_millis(1500);
    let delayed = store.enqueue(&job("a").delay(delay)).await;
    assert_eq!(delayed, Enqueued::created(delayed.id, JobState::Scheduled));
    store.advance(delay - Duration::from_millis(1)).await;
    assert!(store.claim(9).await.leases.is_empty());
    assert_eq!(store.maintain().await.promoted, 0);
    store.advance(Duration::from_millis(1)).await;
    let lease = store.claim_one().await;
    assert_eq!((lease.spec.id, lease.due_at), (delayed.id, store.now()));
    // A time that has passed is now.
    let past = job("a").run_at(Timestamp::from_ms(5));
    assert_eq!(store.enqueue(&past).await.state, JobState::Ready);
    store.audit().await;
}

pub async fn due_jobs_run_in_the_order_of_their_times<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let mut sent = Vec::new();
    for seconds in [3, 1, 2, 1] {
        sent.push(store.enqueue(&job("a").delay(Duration::from_secs(seconds))).await.id);
    }
    store.advance(Duration::from_secs(10)).await;
    assert_eq!(ids(&store.claim(9).await), [1, 3, 2, 0].map(|index| sent[index]));
    store.audit().await;
}

pub async fn the_next_due_time_is_told<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    assert_eq!(store.claim(1).await.next_due, None);
    store.enqueue(&job("a").delay(Duration::from_secs(30))).await;
    store.enqueue(&job("c").delay(Duration::from_secs(20))).await;
    assert_eq!(store.claim(1).await.next_due, Some(Duration::from_secs(20)));
}

pub async fn many_due_at_once_are_all_run<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let delay = Duration::from_secs(1);
    let mut sent: Vec<JobId> = Vec::new();
    for _ in 0..3 {
        let jobs: Vec<NewJob> = (0..500).map(|_| job("a").delay(delay)).collect();
        sent.extend(jobs.iter().map(NewJob::job_id));
        enqueue_on(&store.backend, &jobs).await;
    }
    store.advance(delay).await;
    let mut taken = Vec::new();
    loop {
        let claim = store.claim(100).await;
        taken.extend(ids(&claim));
        if !claim.more {
            break;
        }
    }
    assert_eq!(taken, sent);
    store.audit().await;
}

pub async fn no_time_is_too_far<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let never = [
        job("a").delay(Duration::MAX),
        job("a").run_at(Timestamp::from_ms(u64::MAX)),
        job("a").run_at(Timestamp::MAX),
    ];
    for job in never {
        let id = store.enqueue(&job).await.id;
        let record = store.record(id).await;
        assert_eq!((record.state, record.due_at), (JobState::Scheduled, Timestamp::MAX));
    }
    store.advance(Duration::from_secs(1_000_000)).await;
    assert!(store.claim(9).await.leases.is_empty());
    store.audit().await;
}

pub async fn maintenance_says_when_there_is_more<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let delay = Duration::from_secs(1);
    enqueue_on(&store.backend, &[job("a").delay(delay), job("a").delay(delay)]).await;
    store.advance(delay).await;
    let first = store.backend.maintain(1).await.unwrap();
    assert_eq!((first.promoted, first.more), (1, true));
    let second = store.backend.maintain(1).await.unwrap();
    assert_eq!((second.promoted, second.more), (1, false));
    store.audit().await;
}
