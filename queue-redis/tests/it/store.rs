//! The server's own moods: forgotten scripts, no memory, lost data, unfit settings.

use std::time::Duration;

use queue_core::backend::Verdict;
use queue_core::{Backend, Error, JobState, Namespace, Outcome, Settled};
use queue_redis::RedisBackend;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{
    assert_sound, brief, claim, completed, ends, enqueue, job, request, settle,
};
use crate::support::server::TestRedis;

#[tokio::test]
async fn a_drained_namespace_leaves_one_key() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let jobs: Vec<_> = (0..60_u8)
        .map(|n| brief(["a", "b", "c"][usize::from(n % 3)]).priority(n % 10))
        .map(|job| job.queue("default"))
        .collect();
    let ids = enqueue(&backend, &jobs).await;
    let later = brief("d").delay(Duration::from_secs(60)).idempotency_key("once");
    let scheduled = enqueue(&backend, &[later]).await;
    backend.cancel(&ids[..7]).await.unwrap();
    backend.cancel(&scheduled).await.unwrap();
    loop {
        let leases = claim(&backend, &["a", "b", "c", "d"], 9).await;
        if leases.is_empty() {
            break;
        }
        settle(&backend, &leases, &completed()).await;
    }
    let keys: Vec<String> = harness.raw(&[b"KEYS", b"*"]);
    assert_eq!(keys, [harness.key(&backend, "meta")]);
    assert_sound(&backend).await;
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again_and_in_order() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let forget = || harness.raw::<()>(&[b"SCRIPT", b"FLUSH"]);
    forget();
    let ids = enqueue(&backend, &[job("a")]).await;
    forget();
    let leases = claim(&backend, &["a"], 1).await;
    // The claim must see the job that the settlement before it has released.
    let mut both = ends(&leases, &Outcome::Released);
    both.claim = Some(request(&["a"], 1));
    forget();
    let reply = backend.settle(&both).await.unwrap();
    assert_eq!(reply.settled, [Settled::Applied(JobState::Ready)]);
    assert_eq!(reply.claim.unwrap().leases[0].spec.id, ids[0]);
    forget();
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_full_store_refuses_new_jobs_and_finishes_old_ones() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    enqueue(&backend, &[brief("a"), brief("a"), brief("a")]).await;
    let running = claim(&backend, &["a"], 1).await;
    harness.raw::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    assert!(matches!(backend.enqueue(&[job("a")]).await, Err(Error::StoreFull(_))));
    assert_eq!(
        settle(&backend, &running, &completed()).await,
        [Settled::Applied(JobState::Completed)]
    );
    let rest = claim(&backend, &["a"], 5).await;
    assert_eq!(settle(&backend, &rest, &completed()).await.len(), 2);
    harness.raw::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"0"]);
    enqueue(&backend, &[job("a")]).await;
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_store_that_lost_its_data_goes_on_with_a_new_epoch() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let meta = harness.key(&backend, "meta");
    let epoch = || harness.raw::<String>(&[b"HGET", meta.as_bytes(), b"epoch"]);
    let before = epoch();
    enqueue(&backend, &[job("a")]).await;
    harness.raw::<()>(&[b"FLUSHALL"]);
    assert!(claim(&backend, &["a"], 1).await.is_empty());
    assert_ne!(epoch(), before);
    enqueue(&backend, &[job("a")]).await;
    assert_eq!(claim(&backend, &["a"], 1).await.len(), 1);
    assert_sound(&backend).await;
}

#[tokio::test]
async fn unfit_servers_are_refused_with_a_remedy() {
    let refused = |redis: &TestRedis| {
        let url = redis.url();
        async move {
            match RedisBackend::connect(&url, Namespace::default()).await {
                Err(Error::Refused(why)) => why,
                other => panic!("not refused: {other:?}"),
            }
        }
    };
    let evicting = TestRedis::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    assert!(refused(&evicting).await.contains("noeviction"));
    let replica = TestRedis::start_with(&["--replicaof", "127.0.0.1 1"]);
    assert!(refused(&replica).await.contains("master"));
    let guarded = TestRedis::start_with(&["--requirepass", "hunter2"]);
    assert!(!refused(&guarded).await.contains("hunter2"));
    let url = format!("{}?pass=hunter2", guarded.url());
    RedisBackend::connect(&url, Namespace::default()).await.unwrap();
    let url = format!("{}?pass=hunter3", guarded.url());
    let error = RedisBackend::connect(&url, Namespace::default()).await.unwrap_err();
    assert!(matches!(&error, Error::Refused(why) if !why.contains("hunter3")), "{error}");
}

#[tokio::test]
async fn data_of_a_newer_program_is_refused_by_connect_and_by_every_call() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let meta = harness.key(&backend, "meta");
    harness.raw::<()>(&[b"HSET", meta.as_bytes(), b"schema", b"2"]);
    let again = RedisBackend::connect(&harness.redis.url(), backend.namespace().clone()).await;
    assert!(matches!(again, Err(Error::Refused(_))));
    assert!(matches!(backend.enqueue(&[job("a")]).await, Err(Error::Refused(_))));
    let findings = backend.check().await.unwrap();
    let bad: Vec<_> = findings.iter().filter(|f| f.verdict == Verdict::Bad).collect();
    assert_eq!(bad.iter().map(|f| f.name).collect::<Vec<_>>(), ["schema"]);
}

#[tokio::test]
async fn the_check_says_what_a_server_without_a_file_can_lose() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let findings = backend.check().await.unwrap();
    let warned: Vec<_> = findings.iter().filter(|f| f.verdict != Verdict::Good).collect();
    assert_eq!(warned.iter().map(|f| f.name).collect::<Vec<_>>(), ["persistence"]);
    assert!(warned[0].found.contains("loses every job"));
    harness.raw::<()>(&[b"CONFIG", b"SET", b"appendonly", b"yes"]);
    let findings = backend.check().await.unwrap();
    assert!(findings.iter().all(|f| f.verdict == Verdict::Good), "{findings:?}");
}

/// Every command that the scripts use is one of the few in this list, so that an ACL role can be
/// written for them.
#[tokio::test]
async fn a_user_with_the_documented_permissions_can_do_everything() {
    let harness = RedisHarness::new();
    let readme = include_str!("../../README.md");
    let line = readme.lines().find(|line| line.starts_with("ACL SETUSER worker")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    harness.raw::<()>(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
    let url = format!("{}?user=worker&pass=secret", harness.redis.url());
    let namespace = Namespace::new("shop").unwrap();
    let backend = RedisBackend::connect(&url, namespace).await.unwrap();
    let ids = enqueue(&backend, &[job("a").idempotency_key("k"), job("a"), brief("a")]).await;
    enqueue(&backend, &[job("b").delay(Duration::from_secs(1))]).await;
    backend.cancel(&ids[1..2]).await.unwrap();
    let leases = claim(&backend, &["a"], 2).await;
    backend.cancel(&ids[..1]).await.unwrap();
    let retry = Outcome::Snoozed { delay: Duration::from_secs(5) };
    settle(&backend, &leases[..1], &retry).await;
    settle(&backend, &leases[1..], &completed()).await;
    backend.maintain(10).await.unwrap();
    backend.get(&ids).await.unwrap();
    backend.stats().await.unwrap();
    backend.check().await.unwrap();
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_worker_can_join_a_full_store() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    enqueue(&backend, &[brief("a")]).await;
    harness.raw::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    let joined = harness.open(backend.namespace()).await;
    let leases = claim(&joined, &["a"], 1).await;
    assert_eq!(
        settle(&joined, &leases, &completed()).await,
        [Settled::Applied(JobState::Completed)]
    );
}
