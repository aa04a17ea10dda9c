//! Payloads and results that are too large to be read by the way.

use std::time::Duration;

use queue_core::conformance::Harness;
use queue_core::{
    Backend, ConflictReason, Durability, EnqueueOutcome, Error, ErrorKind, JobId, JobState, NewJob,
    Outcome, Payload, Retention, Timestamp,
};
use queue_redis::RedisBackend;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{
    assert_sound, claim, completed, enqueue, job, request, settle, transient,
};

const MIB: usize = 1024 * 1024;
const START: Timestamp = Timestamp::from_ms(4_102_444_800_000);

/// A job with a payload of its own of so many bytes.
fn large(kind: &str, fill: u8, bytes: usize) -> NewJob {
    with_payload(job(kind), fill, bytes)
}

fn with_payload(mut job: NewJob, fill: u8, bytes: usize) -> NewJob {
    job.spec.payload = Payload::raw(vec![fill; bytes]);
    job
}

fn ids(leases: &[queue_core::Lease]) -> Vec<JobId> {
    leases.iter().map(|lease| lease.spec.id).collect()
}

/// How many fields a hash of the namespace has.
fn fields(harness: &RedisHarness, backend: &RedisBackend, name: &str) -> usize {
    harness.raw(&[b"HLEN", harness.key(backend, name).as_bytes()])
}

/// The bytes that a pass over many records reads of this one.
fn record_bytes(harness: &RedisHarness, backend: &RedisBackend, name: &str, id: JobId) -> usize {
    harness.raw(&[b"HSTRLEN", harness.key(backend, name).as_bytes(), id.as_bytes()])
}

#[tokio::test]
async fn large_payloads_and_results_come_back_whole() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let jobs = [large("a", 1, 5), large("a", 2, 1025), large("a", 3, 256 * 1024)];
    let sent = enqueue(&backend, &jobs).await;
    assert_eq!(fields(&harness, &backend, "body"), 2);
    for id in &sent {
        assert!(record_bytes(&harness, &backend, "jobs", *id) < 100);
    }
    let request = request(&["a"], 5);
    let leases = backend.claim(&request).await.unwrap().leases;
    assert_eq!(backend.claim(&request).await.unwrap().leases, leases, "a repeat");
    for (lease, job) in leases.iter().zip(&jobs) {
        assert_eq!(lease.spec, job.spec);
    }
    let result = Payload::raw(vec![9; 64 * 1024]);
    let outcome = Outcome::Completed { result: Some(result.clone()) };
    settle(&backend, &leases, &outcome).await;
    assert_eq!(fields(&harness, &backend, "result"), 3);
    for (found, job) in backend.get(&sent).await.unwrap().into_iter().zip(&jobs) {
        let found = found.unwrap();
        assert_eq!((&found.spec, found.result.as_ref()), (&job.spec, Some(&result)));
        assert!(record_bytes(&harness, &backend, "fin", job.job_id()) < 100);
    }
    assert_sound(&backend).await;
}

/// However a job ends and goes, nothing of it stays.
#[tokio::test]
async fn a_large_part_goes_with_its_job() {
    let harness = RedisHarness::new();
    let backend = harness.fresh(START).await;
    let minute = Retention { completed: Duration::from_secs(60), dead: Duration::from_secs(60) };
    let kept = |kind| with_payload(job(kind).retention(minute), 1, 3000);
    let transient = |kind| with_payload(transient(kind), 2, 3000);
    let delay = Duration::from_secs(5);
    let expiring = |job: NewJob| job.expires_at(START.after(delay));
    let cancelled =
        [kept("a"), transient("a"), kept("a").delay(delay), transient("a").delay(delay)];
    let cancelled = enqueue(&backend, &cancelled).await;
    backend.cancel(&cancelled).await.unwrap();
    assert_sound(&backend).await;
    enqueue(&backend, &[expiring(kept("c")), expiring(transient("c"))]).await;
    enqueue(&backend, &[kept("a"), transient("a"), kept("b"), transient("b")]).await;
    let result = Outcome::Completed { result: Some(Payload::raw(vec![3; 3000])) };
    settle(&backend, &claim(&backend, &["a"], 5).await, &result).await;
    let error = queue_core::JobError::new(ErrorKind::Failed, "no");
    settle(&backend, &claim(&backend, &["b"], 5).await, &Outcome::Dead { error }).await;
    assert_sound(&backend).await;
    harness.set_clock(&backend, START.after(delay)).await;
    assert!(claim(&backend, &["c"], 5).await.is_empty());
    assert_sound(&backend).await;
    assert_eq!(fields(&harness, &backend, "body"), 5, "of the records that are kept");

    harness.set_clock(&backend, START.after(Duration::from_secs(3600))).await;
    while backend.maintain(2).await.unwrap().more {}
    assert_eq!(harness.lasting_names(&backend), [harness.key(&backend, "meta")]);
}

/// An answer that takes longer than the time for it would be repeated in vain for ever.
#[tokio::test]
async fn a_claim_stops_before_its_answer_is_too_large() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let jobs: Vec<_> = (1..=5).map(|fill| large("a", fill, 3 * MIB)).collect();
    let sent = enqueue(&backend, &jobs).await;
    let first = request(&["a"], 10);
    for _ in 0..2 {
        let claimed = backend.claim(&first).await.unwrap();
        assert_eq!(ids(&claimed.leases), sent[..2], "also when repeated");
    }
    let second = backend.claim(&request(&["a"], 10)).await.unwrap();
    assert_eq!((ids(&second.leases), second.more), (sent[2..4].to_vec(), true));
    let third = backend.claim(&request(&["a"], 10)).await.unwrap();
    assert_eq!((ids(&third.leases), third.more), (sent[4..].to_vec(), false));

    // A single job may be as large as it likes, and small ones are not held up by it.
    let sent = enqueue(&backend, &[job("b"), large("b", 1, 8 * MIB), job("b")]).await;
    let claimed = backend.claim(&request(&["b"], 10)).await.unwrap();
    assert_eq!((ids(&claimed.leases), claimed.more), (sent.clone(), false));
    let sent = enqueue(&backend, &[large("c", 1, 8 * MIB), large("c", 2, 2000)]).await;
    let claimed = backend.claim(&request(&["c"], 10)).await.unwrap();
    assert_eq!((ids(&claimed.leases), claimed.more), (sent[..1].to_vec(), true));
    assert_sound(&backend).await;
}

#[tokio::test]
async fn many_large_jobs_are_read_in_parts() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let jobs: Vec<_> = (1..=5).map(|fill| large("a", fill, 3 * MIB)).collect();
    let mut asked = enqueue(&backend, &jobs).await;
    asked.insert(1, JobId::new());
    let calls = script_calls(&harness);
    let found = backend.get(&asked).await.unwrap();
    assert_eq!(script_calls(&harness) - calls, 3);
    assert!(found[1].is_none());
    let specs: Vec<_> = found.into_iter().flatten().map(|record| record.spec).collect();
    assert_eq!(specs, jobs.into_iter().map(|job| job.spec).collect::<Vec<_>>());
}

fn script_calls(harness: &RedisHarness) -> u64 {
    let info: String = harness.raw(&[b"INFO", b"commandstats"]);
    let calls = info.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    calls.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn a_batch_that_is_too_large_for_one_call_goes_in_several() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let jobs: Vec<_> = (1..=6).map(|fill| large("a", fill, 4 * MIB)).collect();
    let calls = script_calls(&harness);
    let sent = enqueue(&backend, &jobs).await;
    assert_eq!(script_calls(&harness) - calls, 2);
    assert_eq!(sent, jobs.iter().map(NewJob::job_id).collect::<Vec<_>>());
    assert_sound(&backend).await;
}

/// "The store is full" says that no job was taken in, which is not so here.
#[tokio::test]
async fn a_batch_of_which_a_part_was_taken_in_can_be_sent_again() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let info: String = harness.raw(&[b"INFO", b"memory"]);
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let limit = used.parse::<usize>().unwrap() + 50 * MIB;
    harness.raw::<()>(&[b"CONFIG", b"SET", b"maxmemory", limit.to_string().as_bytes()]);
    let jobs: Vec<_> = (1..=12).map(|fill| large("a", fill, 8 * MIB)).collect();
    let refused = backend.enqueue(&jobs, Durability::Memory).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    harness.raw::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    let full = backend.enqueue(&jobs, Durability::Memory).await;
    assert!(matches!(full, Err(Error::StoreFull(_))), "{full:?}");
    harness.raw::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"0"]);
    let sent = enqueue(&backend, &jobs).await;
    let first = &claim(&backend, &["a"], 1).await[0];
    assert_eq!((first.spec.id, &first.spec), (sent[0], &jobs[0].spec));
    assert_sound(&backend).await;
}

#[tokio::test]
async fn large_duplicates_are_told_by_their_payload_alone() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let outcome_of = async |job: &NewJob| {
        let outcomes =
            backend.enqueue(std::slice::from_ref(job), Durability::Memory).await.unwrap();
        outcomes.into_iter().next().unwrap()
    };
    let is_duplicate = |outcome: &EnqueueOutcome| match outcome {
        EnqueueOutcome::Done(done) => done.duplicate,
        EnqueueOutcome::Conflict { .. } => false,
        other => panic!("{other:?}"),
    };
    for bytes in [1000, 5000] {
        let first = large("a", 1, bytes);
        assert!(!is_duplicate(&outcome_of(&first).await));
        assert!(is_duplicate(&outcome_of(&first).await));
        // With 1000 bytes of payload these options are what makes the body large.
        let header = first.clone().header("trace", "0".repeat(100));
        assert!(is_duplicate(&outcome_of(&header).await));
        let mut other = first.clone();
        other.spec.payload = Payload::raw(vec![2; bytes]);
        let expected =
            EnqueueOutcome::Conflict { existing: first.job_id(), reason: ConflictReason::Id };
        assert_eq!(outcome_of(&other).await, expected);
    }
    // Within one call, by key.
    let keyed = |fill| large("a", fill, 5000).idempotency_key("k");
    let batch = [keyed(1), keyed(1), keyed(2)];
    let outcomes = backend.enqueue(&batch, Durability::Memory).await.unwrap();
    assert_eq!(outcomes.iter().map(is_duplicate).collect::<Vec<_>>(), [false, true, false]);
    let existing = batch[0].job_id();
    let reason = ConflictReason::IdempotencyKey;
    assert_eq!(outcomes[2], EnqueueOutcome::Conflict { existing, reason });
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_lost_payload_is_the_end_of_its_job_only() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let sent = enqueue(&backend, &[large("a", 1, 5000), large("a", 2, 5000)]).await;
    let body = harness.key(&backend, "body");
    harness.raw::<()>(&[b"HDEL", body.as_bytes(), sent[0].as_bytes()]);
    let violations = backend.audit(false).await.unwrap();
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert!(violations[0].what.contains("has lost its payload"), "{violations:?}");
    assert_eq!(ids(&claim(&backend, &["a"], 5).await), sent[1..]);
    let stats = backend.stats().await.unwrap();
    assert_eq!(stats[0].jobs.get(&JobState::Quarantined), Some(&1));
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_record_that_cannot_be_decoded_keeps_its_payload() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let sent = enqueue(&backend, &[large("a", 1, 5000), large("a", 2, 5000)]).await;
    let jobs = harness.key(&backend, "jobs");
    harness.raw::<()>(&[b"HSET", jobs.as_bytes(), sent[0].as_bytes(), b"\xffgarbage"]);
    assert_eq!(ids(&claim(&backend, &["a"], 5).await), sent[1..]);
    assert_eq!(fields(&harness, &backend, "body"), 2);
    assert_sound(&backend).await;
}

#[tokio::test]
async fn the_audit_names_large_parts_that_belong_to_nothing() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let sent = enqueue(&backend, &[job("a"), job("a")]).await;
    settle(&backend, &claim(&backend, &["a"], 1).await, &completed()).await;
    for name in ["body", "result"] {
        let key = harness.key(&backend, name);
        let stranger = JobId::new();
        for id in sent.iter().chain([&stranger]) {
            harness.raw::<()>(&[b"HSET", key.as_bytes(), id.as_bytes(), b"?"]);
        }
        let violations = backend.audit(false).await.unwrap();
        assert_eq!(violations.len(), 3, "{violations:?}");
        harness.raw::<()>(&[b"DEL", key.as_bytes()]);
    }
    assert_sound(&backend).await;
}

/// Freeing takes time too: what is dropped in one call is bounded in bytes.
#[tokio::test]
async fn large_records_are_dropped_a_few_at_a_time() {
    let harness = RedisHarness::new();
    let backend = harness.fresh(START).await;
    let second = Retention { completed: Duration::from_secs(1), dead: Duration::ZERO };
    let mut jobs: Vec<_> =
        (0..12).map(|fill| large("a", fill, 8 * MIB).retention(second)).collect();
    jobs.push(job("a").retention(second));
    // Finished by one call, and by one call each.
    for together in [13, 1_usize] {
        harness.set_clock(&backend, START).await;
        let sent = enqueue(&backend, &jobs).await;
        for (n, ids) in (0..).zip(sent.chunks(together)) {
            let later = START.after(Duration::from_millis(11_000 + n));
            harness.set_clock(&backend, later).await;
            backend.cancel(ids).await.unwrap();
        }
        harness.set_clock(&backend, START.after(Duration::from_secs(20))).await;
        let first = backend.maintain(500).await.unwrap();
        assert_eq!((first.dropped, first.more), (9, true));
        assert_sound(&backend).await;
        let second = backend.maintain(500).await.unwrap();
        assert_eq!((second.dropped, second.more), (4, false));
        let keys: Vec<String> = harness.raw(&[b"KEYS", b"*"]);
        assert_eq!(keys, [harness.key(&backend, "meta")]);
    }
}
