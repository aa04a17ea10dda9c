//! T1 and T2: jobs come in once and as they were sent.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use super::Harness;
use super::store::{Store, claim_request, enqueue_on, job};
use crate::{
    Backend, Backoff, ConflictReason, EnqueueOutcome, Enqueued, JobId, JobState, Kind, NewJob,
    OnConflict, Payload, Retention,
};

pub async fn stores_what_was_submitted<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let payloads = [
        Payload::raw(Vec::new()),
        Payload::raw("0"),
        Payload::raw("\0"),
        Payload::raw(vec![0xff, 0xfe, 0]),
        Payload::raw(every_byte),
        Payload::json("ä").unwrap(),
        Payload::msgpack(&["x"]).unwrap(),
        Payload::raw(vec![7; 256 * 1024]),
    ];
    for payload in payloads {
        let sent = NewJob::new(Kind::new("a").unwrap(), payload);
        let id = store.enqueue(&sent).await.id;
        assert_eq!(store.record(id).await.spec, sent.spec);
        assert_eq!(store.claim_one().await.spec, sent.spec);
    }
    store.audit().await;
}

pub async fn keeps_every_field<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let sent = job("a")
        .queue("q.1-x_y")
        .priority(9)
        .max_attempts(u16::MAX)
        .max_stalls(u8::MAX)
        .timeout(Duration::from_millis(1))
        .backoff(Backoff::List(vec![Duration::from_millis(1), Duration::from_secs(9)]))
        .retention(Retention { completed: Duration::from_secs(1), dead: crate::RETENTION_MAX })
        .idempotency_key("key: ä \0 {}")
        .header("traceparent", "00-1-2-01")
        .schema_version(u32::MAX)
        .expires_at(SystemTime::UNIX_EPOCH + Duration::from_secs(5_000_000_000));
    let id = store.enqueue(&sent).await.id;
    let record = store.record(id).await;
    assert_eq!(record.spec, sent.spec);
    assert_eq!((record.enqueued_at, record.due_at), (store.now(), store.now()));
    assert_eq!((record.failures, record.stalls, record.snoozes), (0, 0, 0));
}

pub async fn same_id_is_one_job<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let sent = job("a");
    let id = sent.job_id();
    assert_eq!(store.enqueue(&sent).await, Enqueued::created(id, JobState::Ready));
    assert_eq!(store.enqueue(&sent).await, Enqueued::duplicate(id, JobState::Ready));
    let lease = store.claim_one().await;
    assert_eq!(store.enqueue(&sent).await, Enqueued::duplicate(id, JobState::Running));
    store.complete(&lease).await;
    assert_eq!(store.enqueue(&sent).await, Enqueued::duplicate(id, JobState::Completed));
    let rejected = store.try_enqueue(&sent.clone().on_conflict(OnConflict::Reject)).await;
    let reason = ConflictReason::Rejected;
    assert_eq!(rejected, EnqueueOutcome::Conflict { existing: id, reason });
    assert!(store.claim(9).await.leases.is_empty());
    store.audit().await;
}

pub async fn same_id_other_payload_conflicts<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let first = job("a");
    let id = store.enqueue(&first).await.id;
    for second in [
        NewJob::new(Kind::new("a").unwrap(), Payload::raw("other")).id(id),
        NewJob::new(Kind::new("b").unwrap(), first.spec.payload.clone()).id(id),
        NewJob::new(Kind::new("a").unwrap(), Payload::from_parts(crate::Codec::Json, "a")).id(id),
    ] {
        let outcome = store.try_enqueue(&second).await;
        let reason = ConflictReason::Id;
        assert_eq!(outcome, EnqueueOutcome::Conflict { existing: id, reason });
    }
    assert_eq!(store.record(id).await.spec, first.spec);
    store.audit().await;
}

pub async fn racing_producers_make_one_job<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let Some(other) = store.other().await else { return };
    for _ in 0..100 {
        let jobs = [job("a")];
        let (left, right) =
            tokio::join!(enqueue_on(&store.backend, &jobs), enqueue_on(&other, &jobs));
        let new =
            [left, right].map(|mut outcomes| outcomes.remove(0)).map(|outcome| match outcome {
                EnqueueOutcome::Done(enqueued) => !enqueued.duplicate,
                conflict => panic!("{conflict:?}"),
            });
        assert_ne!(new[0], new[1]);
    }
    assert_eq!(store.count(JobState::Ready).await, 100);
    store.audit().await;
}

pub async fn duplicates_inside_a_batch_meet<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let (first, second) = (job("a"), job("b"));
    let clash = NewJob::new(Kind::new("b").unwrap(), Payload::raw("clash")).id(first.job_id());
    let batch = [first.clone(), second.clone(), first.clone(), clash];
    let outcomes = enqueue_on(&store.backend, &batch).await;
    let (a, b) = (first.job_id(), second.job_id());
    assert_eq!(
        outcomes,
        [
            EnqueueOutcome::Done(Enqueued::created(a, JobState::Ready)),
            EnqueueOutcome::Done(Enqueued::created(b, JobState::Ready)),
            EnqueueOutcome::Done(Enqueued::duplicate(a, JobState::Ready)),
            EnqueueOutcome::Conflict { existing: a, reason: ConflictReason::Id },
        ]
    );
    assert_eq!(store.count(JobState::Ready).await, 2);
    store.audit().await;
}

pub async fn a_large_batch_keeps_its_order<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let batch: Vec<NewJob> = (0..500).map(|_| job("a")).collect();
    let sent: Vec<JobId> = batch.iter().map(NewJob::job_id).collect();
    enqueue_on(&store.backend, &batch).await;
    let claim = store.backend.claim(&claim_request(500)).await.unwrap();
    assert_eq!(super::store::ids(&claim), sent);
    assert_eq!(sent.iter().collect::<HashSet<_>>().len(), 500);
    store.audit().await;
}
