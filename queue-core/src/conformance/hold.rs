//! How long a job keeps its idempotency key, and who may take its place.

use std::time::Duration;

use super::Harness;
use super::store::{Store, claim_request, enqueue_on, failure, job};
use crate::{
    Backend, ConflictReason, EnqueueOutcome, Enqueued, Hold, Interest, JobState, Kind, KindLimits,
    NewJob, OnConflict, Outcome, Payload, QueueName, Retention, Wake, WorkerId,
};

const MINUTE: Duration = Duration::from_secs(60);

fn held(hold: Hold) -> NewJob {
    job("a").idempotency_key("once").hold(hold)
}

/// A job with the same key and another payload that wants to take the place of the first.
fn replacement(payload: &str) -> NewJob {
    let payload = Payload::raw(payload.to_owned());
    NewJob::new(Kind::new("a").unwrap(), payload)
        .idempotency_key("once")
        .on_conflict(OnConflict::Replace)
}

fn created(enqueued: Enqueued) -> Enqueued {
    assert!(!enqueued.duplicate, "{enqueued:?}");
    enqueued
}

pub async fn a_live_hold_ends_with_completion<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let first = store.enqueue(&held(Hold::Live)).await.id;
    let lease = store.claim_one().await;
    let again = store.enqueue(&held(Hold::Live)).await;
    assert_eq!(again, Enqueued::duplicate(first, JobState::Running));
    store.complete(&lease).await;
    created(store.enqueue(&held(Hold::Live)).await);
    assert_eq!(store.state(first).await, JobState::Completed);
    store.audit().await;
}

pub async fn a_hold_for_a_time_outlives_the_record_s_retention<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let nothing = Retention { completed: Duration::ZERO, dead: Duration::ZERO };
    let held = || held(Hold::AtLeast(MINUTE)).retention(nothing);
    let first = store.enqueue(&held()).await.id;
    store.complete(&store.claim_one().await).await;
    store.advance(MINUTE - Duration::from_millis(1)).await;
    assert_eq!(store.maintain().await.dropped, 0);
    assert_eq!(store.enqueue(&held()).await, Enqueued::duplicate(first, JobState::Completed));
    store.audit().await;
    store.advance(Duration::from_millis(1)).await;
    store.audit().await;
    assert!(store.claim(1).await.maintain);
    assert_eq!(store.maintain().await.dropped, 1);
    assert!(store.get(first).await.is_none());
    store.audit().await;
}

pub async fn a_hold_that_is_over_frees_the_key_before_maintenance<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let held = || held(Hold::AtLeast(MINUTE));
    let first = store.enqueue(&held()).await.id;
    store.complete(&store.claim_one().await).await;
    store.advance(MINUTE).await;
    let second = created(store.enqueue(&held()).await).id;
    store.audit().await;
    // Maintenance moves the first record to where its retention keeps it, and leaves the key.
    assert_eq!(store.maintain().await.dropped, 0);
    assert_eq!(store.state(first).await, JobState::Completed);
    assert_eq!(store.enqueue(&held()).await, Enqueued::duplicate(second, JobState::Ready));
    store.audit().await;
    store.advance(Duration::from_secs(24 * 3600)).await;
    assert_eq!(store.maintain().await.dropped, 1);
    assert!(store.get(first).await.is_none());
    assert_eq!(store.enqueue(&held()).await, Enqueued::duplicate(second, JobState::Ready));
    store.audit().await;
}

pub async fn a_hold_for_a_time_lasts_while_the_job_is_live<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let held = || held(Hold::AtLeast(MINUTE));
    let first = store.enqueue(&held()).await.id;
    store.advance(MINUTE * 2).await;
    assert_eq!(store.enqueue(&held()).await, Enqueued::duplicate(first, JobState::Ready));
    let lease = store.claim_one().await;
    assert_eq!(store.enqueue(&held()).await, Enqueued::duplicate(first, JobState::Running));
    store.complete(&lease).await;
    let second = created(store.enqueue(&held()).await).id;
    store.settle(&store.claim_one().await, Outcome::Dead { error: failure() }).await;
    created(store.enqueue(&held()).await);
    assert_eq!(store.state(second).await, JobState::Dead);
    store.audit().await;
}

pub async fn a_replacement_takes_the_place_of_a_waiting_job<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let first = store.enqueue(&held(Hold::Kept).delay(MINUTE)).await.id;
    let second = replacement("second").delay(MINUTE);
    let outcome = store.enqueue(&second).await;
    let expected = Enqueued::created(second.job_id(), JobState::Scheduled);
    assert_eq!(outcome, expected.replacing(Some(first)));
    assert_eq!(store.state(first).await, JobState::Cancelled);
    store.audit().await;
    // Sent again after a lost reply: nothing more is replaced.
    let repeat = store.enqueue(&second).await;
    assert_eq!(repeat, Enqueued::duplicate(second.job_id(), JobState::Scheduled));
    // Ready and retrying jobs are replaced, too.
    let third = replacement("third");
    assert_eq!(store.enqueue(&third).await.replaced, Some(second.job_id()));
    let fourth = replacement("fourth");
    assert_eq!(store.enqueue(&fourth).await.replaced, Some(third.job_id()));
    let lease = store.claim_one().await;
    assert_eq!(lease.spec.id, fourth.job_id());
    store.settle(&lease, Outcome::Retry { delay: MINUTE, error: failure() }).await;
    let fifth = replacement("fifth");
    assert_eq!(store.enqueue(&fifth).await.replaced, Some(fourth.job_id()));
    assert_eq!(store.count(JobState::Cancelled).await, 4);
    assert_eq!(store.claim_one().await.spec.id, fifth.job_id());
    store.audit().await;
}

pub async fn a_running_job_is_not_replaced<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let first = store.enqueue(&replacement("x")).await.id;
    let lease = store.claim_one().await;
    let reason = ConflictReason::NotReplaceable;
    let conflict = EnqueueOutcome::Conflict { existing: first, reason };
    assert_eq!(store.try_enqueue(&replacement("y")).await, conflict);
    let same = store.enqueue(&replacement("x")).await;
    assert_eq!(same, Enqueued::duplicate(first, JobState::Running));
    store.complete(&lease).await;
    assert_eq!(store.try_enqueue(&replacement("y")).await, conflict);
    store.audit().await;
}

pub async fn replacements_meet_inside_a_batch<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let jobs = ["one", "two", "three"].map(replacement);
    let outcomes = enqueue_on(&store.backend, &jobs).await;
    let ids = jobs.each_ref().map(NewJob::job_id);
    let replaced = [None, Some(ids[0]), Some(ids[1])];
    for ((outcome, id), replaced) in outcomes.into_iter().zip(ids).zip(replaced) {
        let created = Enqueued::created(id, JobState::Ready).replacing(replaced);
        assert_eq!(outcome, EnqueueOutcome::Done(created));
    }
    let claim = store.backend.claim(&claim_request(10)).await.unwrap();
    assert_eq!(super::store::ids(&claim), [ids[2]]);
    store.audit().await;
}

pub async fn a_replacement_that_is_due_earlier_wakes_a_sleeper<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    store.enqueue(&replacement("late").delay(MINUTE)).await;
    assert_eq!(store.claim(1).await.next_due, Some(MINUTE));
    let waiter = Interest {
        worker: WorkerId::new("waiter").unwrap(),
        queues: vec![QueueName::default()],
        kinds: vec![KindLimits::new(Kind::new("a").unwrap())],
    };
    // What the first one left behind is heard at once or not at all.
    store.backend.wait(&waiter, Duration::from_millis(20)).await.unwrap();
    let early = [replacement("early").delay(Duration::from_secs(5))];
    let wait = store.backend.wait(&waiter, MINUTE);
    let (woken, _) = tokio::join!(wait, enqueue_on(&store.backend, &early));
    assert_eq!(woken.unwrap(), Wake::Work);
    assert_eq!(store.claim(1).await.next_due, Some(Duration::from_secs(5)));
}
