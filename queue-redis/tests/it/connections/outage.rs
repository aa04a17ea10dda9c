//! Servers that go away, go silent, come back with or without their data, or change their role.

use std::sync::Arc;
use std::time::Duration;

use queue_core::{
    Backend, CancelOutcome, CancelReason, Context, Durability, EnqueueOutcome, Executor, Fail,
    JobState, Kind, Namespace, OnConflict, Payload, Queue, RenewRequest, Renewal, Settled, Worker,
};
use queue_redis::{RedisBackend, RedisOptions};
use tokio::sync::mpsc;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{
    assert_sound, claim, completed, enqueue, interest, job, settle, transient,
};
use crate::support::proxy::Proxy;
use crate::support::server::{TestRedis, until};

async fn behind_proxy(harness: &RedisHarness, options: RedisOptions) -> (Proxy, Arc<RedisBackend>) {
    let proxy = Proxy::start(harness.redis.socket()).await;
    let backend = RedisBackend::connect_with(&proxy.url(), options).await.unwrap();
    (proxy, Arc::new(backend))
}

#[tokio::test]
async fn a_server_that_comes_back_with_its_data_finds_its_workers() {
    let mut redis = TestRedis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let backend = RedisBackend::connect(&redis.url(), Namespace::default()).await.unwrap();
    enqueue(&backend, &[job("a"), job("a")]).await;
    let running = claim(&backend, &["a"], 1).await;
    redis.crash_and_restart();
    let settled = settle(&backend, &running, &completed()).await;
    assert_eq!(settled, [Settled::Applied(JobState::Completed)]);
    assert_eq!(claim(&backend, &["a"], 5).await.len(), 1);
    assert_eq!(backend.other_epoch().await.unwrap(), None);
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_full_store_lets_everything_through_that_ends_jobs() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let ids =
        enqueue(&backend, &[transient("a"), transient("a"), transient("a"), transient("a")]).await;
    enqueue(&backend, &[transient("b").delay(Duration::from_secs(60))]).await;
    let running = claim(&backend, &["a"], 1).await;
    harness.raw::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    let renewal = RenewRequest { tokens: vec![running[0].token], lease: Duration::from_secs(9) };
    let held = Renewal::Held { cancel_requested: Vec::new() };
    assert_eq!(backend.renew(&renewal).await.unwrap(), [held]);
    let outcomes = backend.cancel(&ids[..2]).await.unwrap();
    assert_eq!(outcomes, [CancelOutcome::Requested, CancelOutcome::Cancelled]);
    backend.maintain(10).await.unwrap();
    let rest = claim(&backend, &["a"], 5).await;
    assert_eq!(rest.len(), 2);
    for leases in [&running, &rest] {
        let settled = settle(&backend, leases, &completed()).await;
        assert!(settled.iter().all(|one| *one == Settled::Applied(JobState::Completed)));
    }
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_script_of_somebody_else_that_blocks_the_server_is_waited_for() {
    let harness = RedisHarness::new();
    let (proxy, backend) = behind_proxy(&harness, RedisOptions::default()).await;
    harness.raw::<()>(&[b"CONFIG", b"SET", b"busy-reply-threshold", b"1"]);
    let mut blocker = harness.redis.client();
    let mut killer = harness.redis.client();
    let blocking = std::thread::spawn(move || {
        redis::cmd("EVAL").arg("while true do end").arg(0).query::<()>(&mut blocker).unwrap_err()
    });
    until(|| redis::cmd("PING").query::<()>(&mut killer).is_err());
    let opened = proxy.counts().opened;
    let calling = tokio::spawn(async move { claim(&backend, &["a"], 1).await.len() });
    proxy.until(|counts| counts.errors > 0).await;
    redis::cmd("SCRIPT").arg("KILL").query::<()>(&mut killer).unwrap();
    assert_eq!(calling.await.unwrap(), 0);
    assert_eq!(proxy.counts().opened, opened, "the connection is good");
    blocking.join().unwrap();
}

/// A call that only reads would be answered by a replica, with what was.
#[tokio::test]
async fn a_master_that_becomes_a_replica_is_left_until_it_is_a_master_again() {
    let harness = RedisHarness::new();
    let (proxy, backend) = behind_proxy(&harness, RedisOptions::default()).await;
    let ids = enqueue(&backend, &[job("a")]).await;
    let opened = proxy.counts().opened;
    harness.raw::<()>(&[b"REPLICAOF", b"127.0.0.1", b"1"]);
    let writing = {
        let backend = backend.clone();
        tokio::spawn(async move { claim(&backend, &["a"], 1).await.len() })
    };
    // One answer says that it is a replica; each new connection looks before it calls.
    proxy.until(|counts| counts.opened >= opened + 2).await;
    let reading = {
        let (backend, ids) = (backend.clone(), ids.clone());
        tokio::spawn(async move { backend.get(&ids).await })
    };
    proxy.until(|counts| counts.opened >= opened + 3).await;
    assert!(!reading.is_finished() && !writing.is_finished());
    assert_eq!(proxy.counts().errors, 1);
    harness.raw::<()>(&[b"REPLICAOF", b"NO", b"ONE"]);
    assert_eq!(writing.await.unwrap(), 1);
    assert_eq!(reading.await.unwrap().unwrap().len(), 1);
}

#[tokio::test]
async fn a_connection_that_has_gone_silent_is_left_after_the_time_for_an_answer() {
    let harness = RedisHarness::new();
    let limit = Duration::from_millis(300);
    let options = RedisOptions::default().answer_within(limit);
    let (proxy, backend) = behind_proxy(&harness, options).await;
    enqueue(&backend, &[job("a")]).await;
    proxy.silence();
    let started = std::time::Instant::now();
    let before = proxy.counts();
    assert_eq!(claim(&backend, &["a"], 1).await.len(), 1);
    assert!(started.elapsed() >= limit);
    proxy.until(|counts| counts.closed > before.closed).await;
    assert_eq!(proxy.counts().opened, before.opened + 1);
}

/// It was not sent, so there is nothing that only its caller could judge.
#[tokio::test]
async fn a_job_that_may_be_refused_waits_for_the_server_too() {
    let harness = RedisHarness::new();
    let (proxy, backend) = behind_proxy(&harness, RedisOptions::default()).await;
    let refused_again = async || {
        let before = proxy.counts().opened;
        proxy.until(|counts| counts.opened > before).await;
    };
    proxy.shut(true);
    // Finds that the connection has broken.
    let reading = tokio::spawn({
        let backend = backend.clone();
        async move { backend.paused().await }
    });
    refused_again().await;
    let enqueueing = tokio::spawn(async move {
        let once = [job("a").on_conflict(OnConflict::Reject)];
        backend.enqueue(&once, Durability::Memory).await
    });
    refused_again().await;
    proxy.shut(false);
    reading.await.unwrap().unwrap();
    let outcome = enqueueing.await.unwrap().unwrap().remove(0);
    assert!(matches!(outcome, EnqueueOutcome::Done(done) if !done.duplicate));
}

#[tokio::test]
async fn a_server_that_is_away_is_not_flooded_with_connections() {
    let harness = RedisHarness::new();
    let (proxy, backend) = behind_proxy(&harness, RedisOptions::default()).await;
    enqueue(&backend, &[job("a")]).await;
    proxy.shut(true);
    let before = proxy.counts().opened;
    let calls: Vec<_> = (0..100)
        .map(|n| {
            let backend = backend.clone();
            tokio::spawn(async move {
                let worker = interest(&format!("w{}", n % 5), &["a"]);
                backend.wait(&worker, Duration::from_secs(20)).await.unwrap();
            })
        })
        .chain((0..100).map(|_| {
            let backend = backend.clone();
            tokio::spawn(async move {
                let request = crate::support::jobs::request(&["a"], 1);
                while backend.claim(&request).await.is_err() {}
            })
        }))
        .collect();
    // However many callers, each failure makes the next attempt rarer.
    let window = Duration::from_millis(800);
    let flooded = proxy.until(|counts| counts.opened > before + 40);
    let flooded = tokio::time::timeout(window, flooded).await;
    assert!(flooded.is_err(), "40 connections in less than {window:?}");
    assert!(proxy.counts().opened > before, "nobody has tried");
    proxy.shut(false);
    while backend.stats().await.is_err() {}
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}

/// The server says so and hangs up; the client must not take it for a wrong password.
#[tokio::test]
async fn a_server_without_room_for_one_more_client_is_tried_again() {
    for password in [false, true] {
        let redis = TestRedis::start();
        let mut client = redis.client();
        let mut set = |name: &str, value: &str| {
            redis::cmd("CONFIG").arg("SET").arg(name).arg(value).query::<()>(&mut client).unwrap();
        };
        if password {
            set("requirepass", "hunter2");
        }
        set("maxclients", "1");
        let url = if password { format!("{}?pass=hunter2", redis.url()) } else { redis.url() };
        let connecting =
            tokio::spawn(async move { RedisBackend::connect(&url, Namespace::default()).await });
        let mut info = String::new();
        let rejected = |line: &str| {
            line.strip_prefix("rejected_connections:").is_some_and(|count| count != "0")
        };
        while !info.lines().any(rejected) {
            info = redis::cmd("INFO").arg("stats").query(&mut client).unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let mut set = |name: &str, value: &str| {
            redis::cmd("CONFIG").arg("SET").arg(name).arg(value).query::<()>(&mut client).unwrap();
        };
        set("maxclients", "100");
        connecting.await.unwrap().unwrap();
    }
}

/// So that a worker can ask at once what is left of its leases.
#[tokio::test]
async fn who_wants_to_know_hears_that_another_connection_was_made() {
    let harness = RedisHarness::new();
    let (proxy, backend) = behind_proxy(&harness, RedisOptions::default()).await;
    let hearing = |seen| {
        let backend = backend.clone();
        tokio::spawn(async move { backend.wait_reconnected(seen).await.unwrap() })
    };
    let mut heard = 0;
    for _ in 0..2 {
        let next = hearing(heard);
        backend.stats().await.unwrap();
        assert!(!next.is_finished());
        proxy.lead_to(harness.redis.socket());
        // Whoever calls finds out that the connection is gone.
        backend.stats().await.unwrap();
        let now = next.await.unwrap();
        assert_eq!(now, heard + 1);
        assert_eq!(hearing(heard).await.unwrap(), now, "who comes late hears of it, too");
        heard = now;
    }
}

/// Runs until it is told that its lease is lost.
#[derive(Clone)]
struct TillLost(mpsc::UnboundedSender<Option<CancelReason>>);

impl Executor for TillLost {
    async fn run(&self, context: Context) -> Result<Option<Payload>, Fail> {
        self.0.send(None).unwrap();
        self.0.send(Some(context.cancelled().await)).unwrap();
        Ok(None)
    }
}

/// Not only when a third of its lease is over: until then the job can run elsewhere as well.
#[tokio::test]
async fn a_worker_that_is_led_to_older_data_learns_at_once_what_it_has_lost() {
    let harness = RedisHarness::new();
    let (proxy, backend) = behind_proxy(&harness, RedisOptions::default()).await;
    let leases = harness.key(&backend, "leases");
    let queue = Queue::new(Arc::into_inner(backend).unwrap());
    let (told, mut tells) = mpsc::unbounded_channel();
    let worker = Worker::new(&queue).concurrency(2).lease(Duration::from_secs(3600));
    let worker = worker.executor(Kind::new("a").unwrap(), None, TillLost(told)).start().unwrap();
    queue.enqueue(job("a")).await.unwrap();
    assert_eq!(tells.recv().await, Some(None));
    // The claim was never copied.
    harness.raw::<()>(&[b"DEL", leases.as_bytes()]);
    proxy.lead_to(harness.redis.socket());
    let reason = tokio::time::timeout(Duration::from_secs(20), tells.recv()).await.unwrap();
    assert_eq!(reason, Some(Some(CancelReason::LeaseLost)));
    worker.stop_now().await;
}
