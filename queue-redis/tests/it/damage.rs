//! Data that is not what the program wrote: one bad item stops nobody (promise P6).

use std::time::Duration;

use queue_core::conformance::Harness;
use queue_core::{
    Backend, CancelOutcome, DeadReason, Error, ErrorKind, JobState, Outcome, Settled, Timestamp,
};

use crate::support::harness::RedisHarness;
use crate::support::jobs::{claim, completed, enqueue, job, settle};

#[tokio::test]
async fn a_lane_of_a_wrong_type_stops_only_itself() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    enqueue(&backend, &[job("broken"), job("broken"), job("whole")]).await;
    let running = claim(&backend, &["broken"], 1).await;
    let lane = harness.key(&backend, "lane:default/broken/5");
    harness.raw::<()>(&[b"SET", lane.as_bytes(), b"not a list"]);

    assert_eq!(claim(&backend, &["broken", "whole"], 5).await.len(), 1);
    // Its workers do not wake each other for jobs that none of them can reach.
    let token = harness.key(&backend, "wake:default/broken");
    assert_eq!(harness.raw::<u8>(&[b"EXISTS", token.as_bytes()]), 0);
    let refused = backend.enqueue(&[job("broken")]).await;
    assert!(matches!(&refused, Err(Error::Corrupt(why)) if why.contains("default/broken/5")));
    enqueue(&backend, &[job("whole")]).await;
    // The job cannot go back to its lane, so it waits a minute; it is not lost.
    let settled = settle(&backend, &running, &Outcome::Released).await;
    assert_eq!(settled, [Settled::Applied(JobState::Scheduled)]);
    assert_eq!(claim(&backend, &["broken", "whole"], 5).await.len(), 1);

    harness.raw::<()>(&[b"DEL", lane.as_bytes()]);
    enqueue(&backend, &[job("broken")]).await;
    assert_eq!(claim(&backend, &["broken"], 5).await.len(), 1);
}

#[tokio::test]
async fn a_record_of_garbage_leaves_its_lane_and_keeps_its_bytes() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let ids = enqueue(&backend, &[job("a"), job("a"), job("a")]).await;
    let jobs = harness.key(&backend, "jobs");
    let id = ids[0].as_bytes();
    harness.raw::<()>(&[b"HSET", jobs.as_bytes(), id, b"\xffgarbage"]);

    let leases = claim(&backend, &["a"], 5).await;
    assert_eq!(leases.iter().map(|lease| lease.spec.id).collect::<Vec<_>>(), ids[1..]);
    let stats = backend.stats().await.unwrap();
    assert_eq!(stats[0].jobs.get(&JobState::Quarantined), Some(&1));
    assert_eq!(stats[0].jobs.get(&JobState::Ready), None);
    assert!(matches!(backend.get(&ids[..1]).await, Err(Error::Corrupt(why))
        if why.contains(&ids[0].to_string())));
    let all = backend.get(&ids).await.unwrap();
    assert!(all[0].is_none() && all[1].is_some());
    let cancelled = backend.cancel(&ids[..1]).await.unwrap();
    assert_eq!(cancelled, [CancelOutcome::AlreadyFinished(JobState::Quarantined)]);
    let kept: Vec<u8> = harness.raw(&[b"HGET", jobs.as_bytes(), id]);
    assert_eq!(kept, b"\xffgarbage");
    assert_eq!(backend.audit().await.unwrap(), []);
}

#[tokio::test]
async fn a_scheduled_record_of_garbage_does_not_stop_the_others() {
    let harness = RedisHarness::new();
    let start = Timestamp::from_ms(4_102_444_800_000);
    let backend = harness.fresh(start).await;
    let delayed = |ms| job("a").delay(Duration::from_millis(ms));
    let ids = enqueue(&backend, &[delayed(1), delayed(2)]).await;
    let jobs = harness.key(&backend, "jobs");
    harness.raw::<()>(&[b"HSET", jobs.as_bytes(), ids[0].as_bytes(), b"\x01short"]);
    harness.set_clock(&backend, start.after(Duration::from_secs(1))).await;
    assert_eq!(claim(&backend, &["a"], 5).await[0].spec.id, ids[1]);
    assert_eq!(backend.maintain(5).await.unwrap().promoted, 0);
}

/// A codec that a newer producer knows: the scripts can handle the job, this program cannot run
/// it.
#[tokio::test]
async fn a_job_that_only_rust_cannot_decode_is_dead_with_that_reason() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let ids = enqueue(&backend, &[job("a"), job("a")]).await;
    let jobs = harness.key(&backend, "jobs");
    let jobs = jobs.as_bytes();
    let mut record: Vec<u8> = harness.raw(&[b"HGET", jobs, ids[0].as_bytes()]);
    let codec = record[19];
    record[19] = 99;
    harness.raw::<()>(&[b"HSET", jobs, ids[0].as_bytes(), &record]);
    let leases = claim(&backend, &["a"], 5).await;
    assert_eq!(leases.iter().map(|lease| lease.spec.id).collect::<Vec<_>>(), ids[1..]);
    assert_eq!(backend.audit().await.unwrap(), []);
    record[19] = codec;
    harness.raw::<()>(&[b"HSET", jobs, ids[0].as_bytes(), &record]);
    let dead = backend.get(&ids[..1]).await.unwrap().remove(0).unwrap();
    assert_eq!((dead.state, dead.dead_reason), (JobState::Dead, Some(DeadReason::Failed)));
    assert_eq!(dead.last_error.map(|error| error.kind), Some(ErrorKind::Undecodable));
}

#[tokio::test]
async fn a_lease_without_its_claim_does_not_stop_the_reaper() {
    let harness = RedisHarness::new();
    let start = Timestamp::from_ms(4_102_444_800_000);
    let backend = harness.fresh(start).await;
    enqueue(&backend, &[job("a")]).await;
    let leases = claim(&backend, &["a"], 1).await;
    let index = harness.key(&backend, "leases");
    harness.raw::<()>(&[b"ZADD", index.as_bytes(), b"1", b"nobody's"]);
    harness.set_clock(&backend, start.after(Duration::from_secs(60))).await;
    let done = backend.maintain(10).await.unwrap();
    assert_eq!(done.reaped, 1);
    assert_eq!(
        settle(&backend, &leases, &Outcome::Released).await,
        [Settled::Stale(JobState::Ready)]
    );
    assert!(!backend.claim(&crate::support::jobs::request(&["b"], 1)).await.unwrap().maintain);
}

/// A wrong type where the whole namespace lives: nothing can work, nothing is half done.
#[tokio::test]
async fn a_fixed_key_of_a_wrong_type_is_an_error_before_the_first_write() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    enqueue(&backend, &[job("a")]).await;
    let run = harness.key(&backend, "run");
    harness.raw::<()>(&[b"SET", run.as_bytes(), b"?"]);
    let claimed = backend.claim(&crate::support::jobs::request(&["a"], 1)).await;
    assert!(matches!(claimed, Err(Error::Corrupt(_))));
    harness.raw::<()>(&[b"DEL", run.as_bytes()]);
    assert_eq!(backend.audit().await.unwrap(), []);
    assert_eq!(claim(&backend, &["a"], 1).await.len(), 1);
}

/// An error of the two says that nothing was leased.
#[tokio::test]
async fn a_claim_behind_refused_settlements_leases_nothing() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let ids = enqueue(&backend, &[job("a"), job("a"), job("a")]).await;
    let leases = claim(&backend, &["a"], 1).await;
    let fin = harness.key(&backend, "fin");
    harness.raw::<()>(&[b"SET", fin.as_bytes(), b"?"]);
    let mut both = crate::support::jobs::ends(&leases, &crate::support::jobs::completed());
    both.claim = Some(crate::support::jobs::request(&["a"], 5));
    assert!(matches!(backend.settle(&both).await, Err(Error::Corrupt(_))));
    harness.raw::<()>(&[b"DEL", fin.as_bytes()]);
    let free = claim(&backend, &["a"], 5).await;
    assert_eq!(free.iter().map(|lease| lease.spec.id).collect::<Vec<_>>(), ids[1..]);
    assert_eq!(backend.audit().await.unwrap(), []);
}

#[tokio::test]
async fn a_finished_record_of_garbage_stops_no_other() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    for garbage in [&b""[..], b"\xc8short", &[0xc8; 40]] {
        let ids = enqueue(&backend, &[job("a"), job("a")]).await;
        let leases = claim(&backend, &["a"], 2).await;
        assert_eq!(settle(&backend, &leases[..1], &completed()).await.len(), 1);
        let fin = harness.key(&backend, "fin");
        harness.raw::<()>(&[b"HSET", fin.as_bytes(), ids[0].as_bytes(), garbage]);

        // A late report about the bad one beside a first report about the good one.
        let settled = settle(&backend, &leases, &completed()).await;
        assert_eq!(settled[1], Settled::Applied(JobState::Completed), "{garbage:?}");
        assert!(!matches!(settled[0], Settled::Applied(_)), "{garbage:?}");
    }
    harness.set_clock(&backend, Timestamp::from_ms(4_200_000_000_000)).await;
    while backend.maintain(500).await.unwrap().more {}
    let done = harness.key(&backend, "done:default");
    assert_eq!(harness.raw::<u8>(&[b"EXISTS", done.as_bytes()]), 0, "every record was dropped");
}

#[tokio::test]
async fn no_budget_is_too_large_for_a_pass() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    for _ in 0..1200 / 100 {
        let jobs: Vec<_> = (0..100).map(|_| job("a")).collect();
        enqueue(&backend, &jobs).await;
    }
    for _ in 0..1200 {
        assert_eq!(claim(&backend, &["a"], 1).await.len(), 1);
    }
    harness.set_clock(&backend, Timestamp::from_ms(4_200_000_000_000)).await;
    let mut reaped = 0;
    loop {
        let done = backend.maintain(u32::MAX).await.unwrap();
        assert!(done.reaped <= 500);
        reaped += done.reaped;
        if !done.more {
            break;
        }
    }
    assert_eq!(reaped, 1200);
    assert_eq!(backend.audit().await.unwrap(), []);
}
