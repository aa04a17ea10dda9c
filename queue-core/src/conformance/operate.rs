//! Operators: retry, delete and pause.

use std::time::Duration;

use super::Harness;
use super::store::{LEASE, Store, claim_request, enqueue_on, failure, ids, job};
use crate::{
    Backend, DeadReason, DeleteOutcome, Enqueued, Interest, JobId, JobState, Kind, KindLimits,
    NewJob, Outcome, Payload, QueueName, Retention, RetryOutcome, RetryRequest, Settled, Timestamp,
    Wake, WorkerId,
};

const MINUTE: Duration = Duration::from_secs(60);

async fn retry<H: Harness>(store: &Store<'_, H>, id: JobId, at: Timestamp) -> RetryOutcome {
    let request = RetryRequest { jobs: vec![(id, at)], keep_counts: false };
    store.backend.retry(&request).await.unwrap()[0]
}

async fn finished_at<H: Harness>(store: &Store<'_, H>, id: JobId) -> Timestamp {
    store.record(id).await.finished_at.expect("the job is finished")
}

async fn delete<H: Harness>(store: &Store<'_, H>, id: JobId, state: JobState) -> DeleteOutcome {
    store.backend.delete(&[(id, state)]).await.unwrap()[0]
}

async fn dead_job<H: Harness>(store: &Store<'_, H>, job: &NewJob) -> JobId {
    store.enqueue(job).await;
    store.settle(&store.claim_one().await, Outcome::Dead { error: failure() }).await;
    job.job_id()
}

pub async fn a_dead_job_can_be_run_again<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let id = dead_job(&store, &job("a").max_attempts(1)).await;
    store.advance(MINUTE).await;
    let died_at = finished_at(&store, id).await;
    assert_eq!(retry(&store, id, died_at).await, RetryOutcome::Ready);
    // Sent again after a lost reply.
    assert_eq!(retry(&store, id, died_at).await, RetryOutcome::Unchanged(JobState::Ready));
    store.audit().await;
    let record = store.record(id).await;
    assert_eq!((record.state, record.failures, record.dead_reason), (JobState::Ready, 0, None));
    assert_eq!((record.due_at, record.finished_at, record.elapsed), (store.now(), None, None));
    assert_eq!(record.last_error, Some(failure()));
    let lease = store.claim_one().await;
    assert_eq!((lease.spec.id, lease.attempt()), (id, 1));
    let died_again = Outcome::Retry { delay: Duration::ZERO, error: failure() };
    assert_eq!(store.settle(&lease, died_again).await, Settled::Applied(JobState::Dead));
    // A request that comes late must not run it a third time.
    assert_eq!(retry(&store, id, died_at).await, RetryOutcome::Unchanged(JobState::Dead));
    store.audit().await;
}

pub async fn counts_can_be_kept<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let id = dead_job(&store, &job("a").max_attempts(3)).await;
    let jobs = vec![(id, finished_at(&store, id).await)];
    let request = RetryRequest { jobs, keep_counts: true };
    assert_eq!(store.backend.retry(&request).await.unwrap(), [RetryOutcome::Ready]);
    assert_eq!(store.claim_one().await.attempt(), 2);
    store.audit().await;
}

pub async fn completed_and_cancelled_jobs_can_be_run_again<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let completed = store.enqueue(&job("a")).await.id;
    let result = Some(Payload::raw("done"));
    store.settle(&store.claim_one().await, Outcome::Completed { result }).await;
    let cancelled = store.enqueue(&job("a").delay(MINUTE)).await.id;
    store.cancel(cancelled).await;
    for id in [cancelled, completed] {
        let at = finished_at(&store, id).await;
        assert_eq!(retry(&store, id, at).await, RetryOutcome::Ready);
    }
    assert_eq!(store.record(completed).await.result, None);
    assert_eq!(ids(&store.claim(5).await), [cancelled, completed]);
    store.audit().await;
}

pub async fn what_is_not_finished_is_not_retried<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let running = store.enqueue(&job("a")).await.id;
    store.claim_one().await;
    let ready = store.enqueue(&job("a")).await.id;
    let waiting = store.enqueue(&job("a").delay(MINUTE)).await.id;
    let at = store.now();
    assert_eq!(retry(&store, running, at).await, RetryOutcome::Unchanged(JobState::Running));
    assert_eq!(retry(&store, ready, at).await, RetryOutcome::Unchanged(JobState::Ready));
    assert_eq!(retry(&store, waiting, at).await, RetryOutcome::Unchanged(JobState::Scheduled));
    assert_eq!(retry(&store, JobId::new(), at).await, RetryOutcome::NotFound);
    store.audit().await;
}

pub async fn a_retry_takes_its_key_back_or_is_refused<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let keyed = || job("a").idempotency_key("k");
    let first = dead_job(&store, &keyed()).await;
    let second = store.enqueue(&keyed()).await.id;
    let at = finished_at(&store, first).await;
    assert_eq!(retry(&store, first, at).await, RetryOutcome::KeyTaken { by: second });
    assert_eq!(store.state(first).await, JobState::Dead);
    store.cancel(second).await;
    assert_eq!(retry(&store, first, at).await, RetryOutcome::Ready);
    assert_eq!(store.enqueue(&keyed()).await, Enqueued::duplicate(first, JobState::Ready));
    store.audit().await;
}

pub async fn an_expired_job_is_not_retried<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let expires_at = store.now().after(MINUTE);
    let id = store.enqueue(&job("a").expires_at(expires_at)).await.id;
    store.advance(MINUTE).await;
    store.claim(1).await;
    assert_eq!(store.record(id).await.dead_reason, Some(DeadReason::Expired));
    let at = finished_at(&store, id).await;
    assert_eq!(retry(&store, id, at).await, RetryOutcome::Expired);
    assert_eq!(store.state(id).await, JobState::Dead);
    store.audit().await;
}

pub async fn a_deleted_job_leaves_nothing<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let keyed = |key: &str| job("a").idempotency_key(key);
    let ready: Vec<NewJob> = (0..20).map(|n| keyed(&format!("ready-{n}"))).collect();
    enqueue_on(&store.backend, &ready).await;
    let scheduled = store.enqueue(&keyed("scheduled").delay(MINUTE)).await.id;
    let dead = {
        store.settle(&store.claim_one().await, Outcome::Dead { error: failure() }).await;
        ready[0].job_id()
    };
    let wrong = delete(&store, scheduled, JobState::Ready).await;
    assert_eq!(wrong, DeleteOutcome::Unchanged(JobState::Scheduled));
    for (id, state) in [(scheduled, JobState::Scheduled), (dead, JobState::Dead)] {
        assert_eq!(delete(&store, id, state).await, DeleteOutcome::Deleted);
        assert_eq!(delete(&store, id, state).await, DeleteOutcome::NotFound);
        assert!(store.get(id).await.is_none());
    }
    store.audit().await;
    // Every second ready job; the others keep their order.
    let (gone, kept): (Vec<_>, Vec<_>) =
        ready[1..].iter().map(NewJob::job_id).enumerate().partition(|(n, _)| n % 2 == 0);
    let gone: Vec<_> = gone.into_iter().map(|(_, id)| (id, JobState::Ready)).collect();
    let outcomes = store.backend.delete(&gone).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == DeleteOutcome::Deleted), "{outcomes:?}");
    store.audit().await;
    let kept: Vec<JobId> = kept.into_iter().map(|(_, id)| id).collect();
    assert_eq!(ids(&store.claim(100).await), kept);
    assert!(!store.enqueue(&keyed("ready-1")).await.duplicate);
    store.audit().await;
}

pub async fn a_running_job_is_not_deleted<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let id = store.enqueue(&job("a")).await.id;
    let lease = store.claim_one().await;
    let refused = delete(&store, id, JobState::Running).await;
    assert_eq!(refused, DeleteOutcome::Unchanged(JobState::Running));
    assert_eq!(store.complete(&lease).await, Settled::Applied(JobState::Completed));
    assert_eq!(delete(&store, id, JobState::Completed).await, DeleteOutcome::Deleted);
    assert_eq!(store.settle(&lease, Outcome::Released).await, Settled::Gone);
    assert_eq!(store.backend.stats().await.unwrap(), []);
    store.audit().await;
}

pub async fn a_deleted_id_can_be_used_again<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let job = job("a").retention(Retention::default());
    for _ in 0..3 {
        assert!(!store.enqueue(&job).await.duplicate);
        let deleted = delete(&store, job.job_id(), JobState::Ready).await;
        assert_eq!(deleted, DeleteOutcome::Deleted);
    }
    store.enqueue(&job).await;
    assert_eq!(ids(&store.claim(5).await), [job.job_id()]);
    store.audit().await;
}

fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

pub async fn a_paused_queue_waits<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let backend = &store.backend;
    assert!(backend.set_paused(&queue("default"), true).await.unwrap());
    assert!(!backend.set_paused(&queue("default"), true).await.unwrap());
    let waits = store.enqueue(&job("a")).await.id;
    let later = store.enqueue(&job("a").delay(MINUTE)).await.id;
    let other = store.enqueue(&job("a").queue("other")).await.id;
    assert_eq!(ids(&store.claim(5).await), []);
    let mut both = claim_request(5);
    both.queues = vec![queue("default"), queue("other")];
    assert_eq!(ids(&backend.claim(&both).await.unwrap()), [other]);
    // Time goes on: due jobs become ready, and wait.
    store.advance(MINUTE).await;
    store.maintain().await;
    assert_eq!(store.state(later).await, JobState::Ready);
    assert_eq!(ids(&store.claim(5).await), []);
    if let Some(reconnected) = store.other().await {
        assert_eq!(reconnected.paused().await.unwrap(), [queue("default")]);
    }
    assert!(backend.set_paused(&queue("default"), false).await.unwrap());
    assert!(!backend.set_paused(&queue("default"), false).await.unwrap());
    assert_eq!(backend.paused().await.unwrap(), []);
    assert_eq!(ids(&store.claim(5).await), [waits, later]);
    store.audit().await;
}

pub async fn a_pause_leaves_running_jobs_alone<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let id = store.enqueue(&job("a")).await.id;
    let lease = store.claim_one().await;
    store.backend.set_paused(&queue("default"), true).await.unwrap();
    store.renew(&lease, LEASE * 2).await;
    let again = Outcome::Retry { delay: Duration::ZERO, error: failure() };
    assert_eq!(store.settle(&lease, again).await, Settled::Applied(JobState::Ready));
    assert_eq!(ids(&store.claim(5).await), []);
    store.backend.set_paused(&queue("default"), false).await.unwrap();
    assert_eq!(ids(&store.claim(5).await), [id]);
    store.audit().await;
}

pub async fn paused_queues_are_listed_in_order<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    for name in ["b", "a.x", "c", "a"] {
        store.backend.set_paused(&queue(name), true).await.unwrap();
    }
    let paused = store.backend.paused().await.unwrap();
    assert_eq!(paused, ["a", "a.x", "b", "c"].map(queue));
    store.audit().await;
}

pub async fn resuming_wakes_a_waiter_and_a_pause_does_not<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.backend.set_paused(&queue("default"), true).await.unwrap();
    store.enqueue(&job("a")).await;
    assert_eq!(ids(&store.claim(1).await), []);
    let waiter = Interest {
        worker: WorkerId::new("waiter").unwrap(),
        queues: vec![queue("default")],
        kinds: vec![KindLimits::new(Kind::new("a").unwrap())],
    };
    // Whatever woke it before: after a few looks there is nothing left to hear.
    let mut heard = Wake::Work;
    for _ in 0..5 {
        heard = store.backend.wait(&waiter, Duration::from_millis(30)).await.unwrap();
        store.claim(1).await;
    }
    assert_eq!(heard, Wake::Timeout, "a paused queue keeps its workers awake");
    let name = queue("default");
    let wait = store.backend.wait(&waiter, MINUTE);
    let (woken, resumed) = tokio::join!(wait, store.backend.set_paused(&name, false));
    assert!(resumed.unwrap());
    assert_eq!(woken.unwrap(), Wake::Work);
    assert_eq!(store.claim(1).await.leases.len(), 1);
}
