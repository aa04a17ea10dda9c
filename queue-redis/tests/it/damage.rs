//! Data that is not what the program wrote: one bad item stops nobody (promise P6).

use std::time::Duration;

use queue_core::conformance::Harness;
use queue_core::{
    Backend, CancelOutcome, Durability, EnqueueOutcome, Error, ErrorKind, Hold, JobError, JobState,
    Outcome, Settled, Timestamp, Wake,
};

use crate::support::harness::RedisHarness;
use crate::support::jobs::{claim, completed, enqueue, interest, job, settle};

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
    // What cannot go into its lane waits a minute and tries again; it is neither refused nor lost.
    let outcomes =
        backend.enqueue(&[job("broken"), job("whole")], Durability::Memory).await.unwrap();
    let state = |outcome: &EnqueueOutcome| match outcome {
        EnqueueOutcome::Done(done) => done.state,
        other => panic!("not enqueued: {other:?}"),
    };
    let states: Vec<_> = outcomes.iter().map(state).collect();
    assert_eq!(states, [JobState::Scheduled, JobState::Ready]);
    let settled = settle(&backend, &running, &Outcome::Released).await;
    assert_eq!(settled, [Settled::Applied(JobState::Scheduled)]);
    assert_eq!(claim(&backend, &["broken", "whole"], 5).await.len(), 1);

    harness.raw::<()>(&[b"DEL", lane.as_bytes()]);
    enqueue(&backend, &[job("broken")]).await;
    assert_eq!(claim(&backend, &["broken"], 5).await.len(), 1);
}

/// Enqueues find lanes that have jobs and no turn. One with jobs of many tenants looks for some of
/// them, by chance.
#[tokio::test]
async fn lanes_that_lost_their_turns_get_new_ones() {
    let harness = RedisHarness::new();
    for tenants in [16_usize, 40] {
        let backend = harness.now().await;
        let jobs =
            || (0..tenants).map(|n| job("a").limit(format!("tenant:{n}"))).collect::<Vec<_>>();
        enqueue(&backend, &jobs()).await;
        let lanes = harness.key(&backend, "lanes:default/a");
        let placed = || harness.raw::<usize>(&[b"ZCARD", lanes.as_bytes()]);
        harness.raw::<()>(&[b"ZREMRANGEBYRANK", lanes.as_bytes(), b"1", b"-1"]);
        assert_eq!(placed(), 1);
        let mut enqueued = tenants;
        while placed() < tenants {
            let before = placed();
            enqueue(&backend, &jobs()).await;
            enqueued += tenants;
            assert!(placed() == tenants || tenants > 16 && placed() <= before + tenants / 8);
            assert!(enqueued < 1000 * tenants, "{} of {tenants} have turns", placed());
        }
        let mut claimed = 0;
        while claimed < enqueued {
            let some = claim(&backend, &["a"], 500).await.len();
            assert!(some > 0, "{claimed} of {enqueued}");
            claimed += some;
        }
        assert_eq!(backend.audit(false).await.unwrap(), []);
    }
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
    assert_eq!(backend.audit(false).await.unwrap(), []);
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
    assert_eq!(backend.audit(false).await.unwrap(), []);
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
    assert_eq!(backend.audit(false).await.unwrap(), []);
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
    assert_eq!(backend.audit(false).await.unwrap(), []);
}

/// Reaping works from a copy of the record's head; the record itself is there if that is damaged.
#[tokio::test]
async fn a_running_job_whose_entry_is_garbage_comes_back() {
    let harness = RedisHarness::new();
    let start = Timestamp::from_ms(4_102_444_800_000);
    let backend = harness.fresh(start).await;
    let ids = enqueue(&backend, &[job("a"), job("a")]).await;
    let leases = claim(&backend, &["a"], 2).await;
    let run = harness.key(&backend, "run");
    let garbage = [leases[0].token.as_bytes().as_slice(), b"?"].concat();
    harness.raw::<()>(&[b"HSET", run.as_bytes(), ids[0].as_bytes(), &garbage]);
    harness.set_clock(&backend, start.after(Duration::from_secs(60))).await;
    assert_eq!(backend.maintain(10).await.unwrap().reaped, 2);
    assert_eq!(backend.audit(false).await.unwrap(), []);
    let again = claim(&backend, &["a"], 5).await;
    assert_eq!(again.iter().map(|lease| lease.spec.id).collect::<Vec<_>>(), ids);
}

/// Without its claim's list of jobs a lease does not say what it holds.
#[tokio::test]
async fn jobs_of_a_lost_claim_come_back() {
    let harness = RedisHarness::new();
    let start = Timestamp::from_ms(4_102_444_800_000);
    let backend = harness.fresh(start).await;
    let mut leases = Vec::new();
    for _ in 0..12 {
        let jobs: Vec<_> = (0..100).map(|_| job("a")).collect();
        enqueue(&backend, &jobs).await;
        leases.push(claim(&backend, &["a"], 100).await);
    }
    let claims = harness.key(&backend, "claims");
    for leases in &leases[..8] {
        let token = leases[0].token;
        harness.raw::<()>(&[b"HDEL", claims.as_bytes(), token.as_bytes().as_slice()]);
    }
    // One of them ends before anybody notices; the others must still be found.
    settle(&backend, &leases[0][..1], &completed()).await;

    harness.set_clock(&backend, start.after(Duration::from_secs(60))).await;
    let (mut reaped, mut calls) = (0, 0);
    loop {
        let done = backend.maintain(100).await.unwrap();
        assert!(done.reaped < 300, "a call took {} jobs", done.reaped);
        reaped += done.reaped;
        calls += 1;
        if !done.more {
            break;
        }
        assert!(calls < 100);
    }
    assert_eq!(reaped, 12 * 100 - 1);
    assert!(calls > 8, "{calls} calls");
    assert_eq!(backend.audit(false).await.unwrap(), []);
    assert_eq!(claim(&backend, &["a"], 500).await.len(), 500);
}

/// A cancelled job's ticket must not come back to life with its lane.
#[tokio::test]
async fn a_job_that_was_cancelled_in_a_damaged_lane_stays_cancelled() {
    let harness = RedisHarness::new();
    for (name, stale_before) in
        [("lanes:default/a", 0), ("gone:default/a/5", 0), ("gone:default/a/5", 1)]
    {
        let backend = harness.now().await;
        let ids = enqueue(&backend, &[job("a"), job("a"), job("a"), job("a")]).await;
        backend.cancel(&ids[..stale_before]).await.unwrap();
        let key = harness.key(&backend, name);
        let noted: Vec<u8> = harness.raw(&[b"DUMP", key.as_bytes()]);
        harness.raw::<()>(&[b"SET", key.as_bytes(), b"?"]);
        assert_eq!(backend.cancel(&ids[2..3]).await.unwrap(), [CancelOutcome::Cancelled]);
        let kind: String = harness.raw(&[b"TYPE", key.as_bytes()]);
        if kind == "string" {
            harness.raw::<()>(&[b"RESTORE", key.as_bytes(), b"0", &noted, b"REPLACE"]);
        }
        let left = claim(&backend, &["a"], 5).await;
        let left: Vec<_> = left.iter().map(|lease| lease.spec.id).collect();
        let expected = [&ids[stale_before..2], &ids[3..]].concat();
        assert_eq!(left, expected, "{name} after {stale_before}");
        assert_eq!(backend.audit(false).await.unwrap(), [], "{name} after {stale_before}");
    }
}

/// What is written last is looked at first.
#[tokio::test]
async fn shelves_of_a_wrong_type_are_an_error_before_the_first_write() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    enqueue(&backend, &[job("a")]).await;
    let leases = claim(&backend, &["a"], 1).await;
    let ages = harness.key(&backend, "ages");
    harness.raw::<()>(&[b"SET", ages.as_bytes(), b"?"]);
    let request = crate::support::jobs::ends(&leases, &completed());
    assert!(matches!(backend.settle(&request).await, Err(Error::Corrupt(_))));
    harness.raw::<()>(&[b"DEL", ages.as_bytes()]);
    assert_eq!(backend.audit(false).await.unwrap(), []);
    assert_eq!(
        settle(&backend, &leases, &completed()).await,
        [Settled::Applied(JobState::Completed)]
    );
}

/// A counter that is no number must not look like work that is never found.
#[tokio::test]
async fn a_counter_of_garbage_keeps_nobody_awake() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let meta = harness.key(&backend, "meta");
    harness.raw::<()>(&[b"HSET", meta.as_bytes(), b"default/a/ready", b"x"]);
    let waiter = interest("w", &["a"]);
    let mut heard = Wake::Work;
    for _ in 0..5 {
        assert_eq!(claim(&backend, &["a"], 1).await, []);
        heard = backend.wait(&waiter, Duration::from_millis(30)).await.unwrap();
    }
    assert_eq!(heard, Wake::Timeout);
    enqueue(&backend, &[job("a")]).await;
    assert_eq!(backend.wait(&waiter, Duration::from_secs(20)).await.unwrap(), Wake::Work);
    assert_eq!(claim(&backend, &["a"], 1).await.len(), 1);
}

#[tokio::test]
async fn a_quarantined_job_takes_its_cancel_request_with_it() {
    let harness = RedisHarness::new();
    let start = Timestamp::from_ms(4_102_444_800_000);
    let backend = harness.fresh(start).await;
    let ids = enqueue(&backend, &[job("a")]).await;
    claim(&backend, &["a"], 1).await;
    backend.cancel(&ids).await.unwrap();
    for key in ["jobs", "run"] {
        let key = harness.key(&backend, key);
        harness.raw::<()>(&[b"HSET", key.as_bytes(), ids[0].as_bytes(), b"?"]);
    }
    harness.set_clock(&backend, start.after(Duration::from_secs(3600))).await;
    backend.maintain(500).await.unwrap();
    let asked: u64 = harness.raw(&[b"SCARD", harness.key(&backend, "cancel").as_bytes()]);
    assert_eq!(asked, 0);
}

/// What runs is noted without the times of its record: whoever needs them does without if that is lost.
#[tokio::test]
async fn an_attempt_ends_whose_record_is_lost() {
    let harness = RedisHarness::new();
    let start = Timestamp::from_ms(4_102_444_800_000);
    let error = JobError::new(ErrorKind::Failed, "e");
    let ends = [
        Some((Outcome::Retry { delay: Duration::ZERO, error: error.clone() }, JobState::Ready)),
        Some((Outcome::Dead { error }, JobState::Dead)),
        Some((Outcome::Released, JobState::Ready)),
        Some((completed(), JobState::Completed)),
        None, // its lease is lost
    ];
    for end in ends {
        for left in [None, Some(0), Some(9), Some(25)] {
            let backend = harness.fresh(start).await;
            let job = job("a").limit("tenant:x");
            let keyed = job.idempotency_key("k").hold(Hold::AtLeast(Duration::from_secs(60)));
            let ids = enqueue(&backend, &[keyed]).await;
            let leases = claim(&backend, &["a"], 1).await;
            let (jobs, id) = (harness.key(&backend, "jobs"), ids[0].as_bytes());
            let record: Vec<u8> = harness.raw(&[b"HGET", jobs.as_bytes(), id]);
            match left {
                None => harness.raw::<()>(&[b"HDEL", jobs.as_bytes(), id]),
                Some(bytes) => {
                    harness.raw::<()>(&[b"HSET", jobs.as_bytes(), id, &record[..bytes]]);
                }
            }
            if let Some((outcome, state)) = &end {
                let settled = settle(&backend, &leases, outcome).await;
                assert_eq!(settled, [Settled::Applied(*state)], "{left:?}");
            } else {
                harness.set_clock(&backend, start.after(Duration::from_secs(3600))).await;
                assert_eq!(backend.maintain(10).await.unwrap().reaped, 1, "{left:?}");
            }
            let holders = harness.key(&backend, "hold:tenant:x");
            assert_eq!(harness.raw::<u64>(&[b"SCARD", holders.as_bytes()]), 0, "{end:?} {left:?}");
            enqueue(&backend, &[crate::support::jobs::job("a")]).await;
            let next = claim(&backend, &["a"], 5).await;
            assert_eq!(next.len(), 1, "{end:?} {left:?}: the others go on");
            assert_ne!(next[0].spec.id, ids[0]);
        }
    }
}
