//! Who is woken for jobs that need limit keys: those that can run them, and nobody else.

use std::sync::Arc;
use std::time::Duration;

use queue_core::{Backend, Interest, LimitKeys, LimitSettings, NewJob, Rate, Wake, WorkerId};
use queue_redis::RedisBackend;
use tokio::task::JoinHandle;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{
    assert_sound, claim, claim_with, completed, enqueue, interest, job, request, set_limit, settle,
};

const KEY: &str = "provider:p";
/// Longer than any of these tests takes, shorter than patience.
const LONG: Duration = Duration::from_secs(20);
/// What is no work is not heard of, how long it may be.
const SHORT: Duration = Duration::from_millis(50);

/// A worker that adds the key to the kind.
fn with_key(worker: &str, kind: &str) -> Interest {
    let mut interest = interest(worker, &[kind]);
    interest.kinds[0].limits = LimitKeys::parse([KEY]).unwrap();
    interest
}

/// What a worker with the key claims.
async fn claim_as(backend: &RedisBackend, worker: &str, kind: &str) -> Vec<queue_core::Lease> {
    let mut request = request(&[kind], 1);
    request.worker = WorkerId::new(worker).unwrap();
    request.kinds[0].limits = LimitKeys::parse([KEY]).unwrap();
    backend.claim(&request).await.unwrap().leases
}

fn wait(backend: &Arc<RedisBackend>, interest: Interest) -> JoinHandle<Wake> {
    let backend = backend.clone();
    tokio::spawn(async move { backend.wait(&interest, LONG).await.unwrap() })
}

async fn limited(harness: &RedisHarness, most: u32) -> Arc<RedisBackend> {
    let backend = harness.now().await;
    let settings = LimitSettings { concurrency: Some(most), ..LimitSettings::default() };
    set_limit(&backend, KEY, &settings).await;
    Arc::new(backend)
}

#[tokio::test]
async fn a_worker_whose_key_is_shut_hears_of_no_job_until_it_has_room() {
    let harness = RedisHarness::new();
    let backend = limited(&harness, 1).await;
    enqueue(&backend, &[job("x"), job("a")]).await;
    let holders = claim_with(&backend, "x", KEY, 1).await;
    let worker = with_key("one", "a");
    assert_eq!(backend.wait(&worker, LONG).await.unwrap(), Wake::Work);
    assert!(claim_as(&backend, "one", "a").await.is_empty());
    for _ in 0..3 {
        enqueue(&backend, &[job("a")]).await;
        assert_eq!(backend.wait(&worker, SHORT).await.unwrap(), Wake::Timeout);
    }
    let waits = wait(&backend, worker.clone());
    settle(&backend, &holders, &completed()).await;
    assert_eq!(waits.await.unwrap(), Wake::Work);
    let leases = claim_as(&backend, "one", "a").await;
    assert_eq!(leases.len(), 1);
    // There are more, and the key is shut again.
    assert_eq!(backend.wait(&worker, SHORT).await.unwrap(), Wake::Timeout);
    settle(&backend, &leases, &completed()).await;
    assert_eq!(backend.wait(&worker, LONG).await.unwrap(), Wake::Work);
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_worker_whose_key_is_shut_takes_no_wake_up_from_others() {
    let harness = RedisHarness::new();
    let backend = limited(&harness, 1).await;
    enqueue(&backend, &[job("x"), job("a")]).await;
    claim_with(&backend, "x", KEY, 1).await;
    let shut = with_key("one", "a");
    assert_eq!(backend.wait(&shut, LONG).await.unwrap(), Wake::Work);
    assert!(claim_as(&backend, "one", "a").await.is_empty());
    // The wake-up was for a job that another worker can run.
    let other = interest("two", &["a"]);
    assert_eq!(backend.wait(&other, LONG).await.unwrap(), Wake::Work);
    assert_eq!(claim(&backend, &["a"], 1).await.len(), 1);
    for _ in 0..3 {
        let first = wait(&backend, shut.clone());
        let second = wait(&backend, other.clone());
        enqueue(&backend, &[job("a")]).await;
        assert_eq!(second.await.unwrap(), Wake::Work);
        assert!(!first.is_finished());
        // It asks now and then, and leaves what others can run to them.
        assert!(claim_as(&backend, "one", "a").await.is_empty());
        assert_eq!(backend.wait(&other, LONG).await.unwrap(), Wake::Work);
        assert_eq!(claim(&backend, &["a"], 1).await.len(), 1);
        first.abort();
    }
}

/// All that wait for a key's room are heard of it, one after the other.
#[tokio::test]
async fn room_wakes_as_many_workers_as_it_has_jobs_for() {
    let harness = RedisHarness::new();
    let backend = limited(&harness, 3).await;
    let three = || [job("x"), job("x"), job("x")];
    enqueue(&backend, &three()).await;
    let holders = claim_with(&backend, "x", KEY, 3).await;
    enqueue(&backend, &[job("a"), job("a"), job("a")]).await;
    let names = ["one", "two", "three"];
    for name in names {
        assert!(claim_as(&backend, name, "a").await.is_empty());
    }
    let work = names.map(|name| {
        let backend = backend.clone();
        tokio::spawn(async move {
            assert_eq!(backend.wait(&with_key(name, "a"), LONG).await.unwrap(), Wake::Work);
            claim_as(&backend, name, "a").await.len()
        })
    });
    settle(&backend, &holders, &completed()).await;
    for worker in work {
        assert_eq!(worker.await.unwrap(), 1);
    }
    assert_sound(&backend).await;
}

/// Who waits for a key's room hears of it while the queue is paused, and then of the queue.
#[tokio::test]
async fn room_in_a_paused_queue_is_not_lost() {
    let harness = RedisHarness::new();
    let backend = limited(&harness, 1).await;
    enqueue(&backend, &[job("x"), job("a")]).await;
    let holders = claim_with(&backend, "x", KEY, 1).await;
    assert!(claim_as(&backend, "one", "a").await.is_empty());
    let queue = queue_core::QueueName::default();
    backend.set_paused(&queue, true).await.unwrap();
    settle(&backend, &holders, &completed()).await;
    let worker = with_key("one", "a");
    assert_eq!(backend.wait(&worker, LONG).await.unwrap(), Wake::Work);
    assert!(claim_as(&backend, "one", "a").await.is_empty());
    backend.set_paused(&queue, false).await.unwrap();
    assert_eq!(backend.wait(&worker, LONG).await.unwrap(), Wake::Work);
    assert_eq!(claim_as(&backend, "one", "a").await.len(), 1);
}

/// A lane that comes to those that wait for a key waits with them, and wakes nobody.
#[tokio::test]
async fn a_new_lane_without_room_wakes_nobody() {
    let harness = RedisHarness::new();
    let backend = limited(&harness, 1).await;
    let of = |n: u32| job("a").limit(KEY).limit(format!("tenant:{n}"));
    enqueue(&backend, &[of(0), of(1)]).await;
    let mut leases = claim(&backend, &["a"], 9).await;
    assert_eq!(leases.len(), 1);
    let worker = interest("one", &["a"]);
    for n in 2..5 {
        enqueue(&backend, &[of(n)]).await;
        assert_eq!(backend.wait(&worker, SHORT).await.unwrap(), Wake::Timeout);
        assert_sound(&backend).await;
    }
    // One with a better priority is served first, and so is one that needs less.
    enqueue(&backend, &[of(9).priority(0), job("a").priority(1)]).await;
    assert_eq!(backend.wait(&worker, LONG).await.unwrap(), Wake::Work);
    assert_eq!(claim(&backend, &["a"], 9).await.len(), 1);
    let mut order = Vec::new();
    while !leases.is_empty() {
        settle(&backend, &leases, &completed()).await;
        assert_sound(&backend).await;
        leases = claim(&backend, &["a"], 9).await;
        order.extend(leases.iter().map(|lease| lease.spec.limits.clone()));
    }
    let of = |n: u32| LimitKeys::parse([KEY.to_owned(), format!("tenant:{n}")]).unwrap();
    assert_eq!(order, [9, 1, 2, 3, 4].map(of));
}

/// It is found when its key has room for some other reason than an end, too.
#[tokio::test]
async fn a_new_lane_that_was_parked_at_once_is_found() {
    let harness = RedisHarness::new();
    let backend = limited(&harness, 1).await;
    let of = |n: u32| job("a").limit(KEY).limit(format!("tenant:{n}"));
    enqueue(&backend, &[of(0), of(1)]).await;
    assert_eq!(claim(&backend, &["a"], 9).await.len(), 1);
    let jobs: Vec<NewJob> = (2..40).map(of).collect();
    enqueue(&backend, &jobs).await;
    let settings = LimitSettings { concurrency: Some(30), ..LimitSettings::default() };
    set_limit(&backend, KEY, &settings).await;
    assert_eq!(claim(&backend, &["a"], 99).await.len(), 29);
    enqueue(&backend, &[of(50)]).await;
    assert_sound(&backend).await;
    backend.set_limit(&queue_core::LimitTarget::new(KEY).unwrap(), None).await.unwrap();
    assert_eq!(claim(&backend, &["a"], 99).await.len(), 11);
    assert_sound(&backend).await;
}

/// The key of its provider shuts one worker out, and another one adds none: what they wait for differs.
#[tokio::test]
async fn who_adds_no_key_hears_of_room_in_a_lane_behind_a_shut_provider() {
    let harness = RedisHarness::new();
    for round_jobs in [0, 100] {
        let backend = Arc::new(harness.now().await);
        let one = LimitSettings { concurrency: Some(1), ..LimitSettings::default() };
        set_limit(&backend, "tenant:*", &one).await;
        let rate = Some(Rate::new(1, Duration::from_secs(3600)).with_burst(1));
        set_limit(&backend, KEY, &LimitSettings { rate, ..LimitSettings::default() }).await;
        enqueue(&backend, &[(); 2].map(|()| job("a").limit("tenant:a"))).await;
        let mut with_key = request(&["a"], 2);
        with_key.kinds[0].limits = LimitKeys::parse([KEY]).unwrap();
        with_key.round_jobs = round_jobs;
        let held = backend.claim(&with_key).await.unwrap().leases;
        assert_eq!(held.len(), 1);
        let other = interest("two", &["a"]);
        while backend.wait(&other, SHORT).await.unwrap() == Wake::Work {}
        let waits = wait(&backend, other);
        settle(&backend, &held, &completed()).await;
        assert_eq!(waits.await.unwrap(), Wake::Work, "{round_jobs}");
        assert_eq!(claim(&backend, &["a"], 2).await.len(), 1);
        assert_sound(&backend).await;
    }
}
