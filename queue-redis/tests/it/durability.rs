//! What an acknowledged enqueue survives, with real replicas and files.

use std::sync::Arc;
use std::time::Duration;

use queue_core::{
    Backend, Durability, EnqueueOutcome, Enqueued, Error, JobState, NewJob, OnConflict,
};
use queue_redis::{RedisBackend, RedisOptions};
use tokio::task::JoinHandle;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{assert_sound, claim, enqueue, job};
use crate::support::proxy::{Cut, INFO, Proxy};
use crate::support::server::{TestRedis, until};

/// A time that no confirmation needs, and one that is soon over.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(100);

async fn connect(redis: &TestRedis, confirm_within: Duration) -> Arc<RedisBackend> {
    let options = RedisOptions::default().confirm_within(confirm_within);
    Arc::new(RedisBackend::connect_with(&redis.url(), options).await.unwrap())
}

async fn durable(
    backend: &RedisBackend,
    job: &NewJob,
    durability: Durability,
) -> Result<Enqueued, Error> {
    let outcomes = backend.enqueue(std::slice::from_ref(job), durability).await?;
    match outcomes.as_slice() {
        [EnqueueOutcome::Done(done)] => Ok(*done),
        other => panic!("not enqueued: {other:?}"),
    }
}

/// The same in a task of its own.
fn pending(
    backend: &Arc<RedisBackend>,
    job: NewJob,
    durability: Durability,
) -> JoinHandle<Result<Enqueued, Error>> {
    let backend = backend.clone();
    tokio::spawn(async move { durable(&backend, &job, durability).await })
}

/// A primary with one replica that has caught up.
fn pair() -> (RedisHarness, TestRedis) {
    let primary = RedisHarness::new();
    let replica = primary.redis.replica(primary.redis.listen());
    (primary, replica)
}

async fn blocked(redis: &TestRedis, count: usize) {
    let count = count.to_string();
    while redis.info("blocked_clients") != count {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whether the server flushes on request; those before 7.2 do not.
fn has_waitaof(redis: &TestRedis) -> bool {
    let version = redis.info("redis_version");
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap());
    (numbers.next(), numbers.next()) >= (Some(7), Some(2))
}

fn is_unsupported<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Unsupported(_)))
}

const ONE: Durability = Durability::Replicas(1);

#[tokio::test]
async fn fsync_survives_a_killed_server_that_flushes_each_write() {
    let settings = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut redis = TestRedis::start_with(&settings);
    let backend = connect(&redis, LONG).await;
    backend.require(Durability::Fsync).await.unwrap();
    let new = job("a");
    let done = durable(&backend, &new, Durability::Fsync).await.unwrap();
    assert_eq!((done.state, done.duplicate), (JobState::Ready, false));
    assert_eq!(done.durability, Durability::Fsync);
    let again = durable(&backend, &new, Durability::Fsync).await.unwrap();
    assert_eq!((again.duplicate, again.durability), (true, Durability::Fsync));
    redis.crash_and_restart();
    let leases = claim(&backend, &["a"], 5).await;
    assert_eq!(leases.iter().map(|lease| lease.spec.id).collect::<Vec<_>>(), [new.job_id()]);
    // The connection of the enqueue is one to the server of before.
    durable(&backend, &job("a"), Durability::Fsync).await.unwrap();
    assert_sound(&backend).await;
}

#[tokio::test]
async fn fsync_is_refused_before_anything_is_written_until_the_server_can() {
    let harness = RedisHarness::new();
    let backend = connect(&harness.redis, LONG).await;
    let set = |name: &str, value: &str| {
        harness.raw::<()>(&[b"CONFIG", b"SET", name.as_bytes(), value.as_bytes()]);
    };
    let refused = durable(&backend, &job("a"), Durability::Fsync).await;
    assert!(matches!(&refused, Err(Error::Unsupported(why)) if why.contains("appendonly yes")));
    assert!(matches!(backend.require(Durability::Fsync).await, Err(Error::Refused(_))));
    set("appendfsync", "no");
    set("appendonly", "yes");
    until(|| harness.redis.info("aof_rewrite_in_progress") == "0");
    assert!(is_unsupported(&durable(&backend, &job("a"), Durability::Fsync).await));
    if !has_waitaof(&harness.redis) {
        set("appendfsync", "everysec");
        assert!(is_unsupported(&durable(&backend, &job("a"), Durability::Fsync).await));
        set("appendfsync", "always");
        set("no-appendfsync-on-rewrite", "yes");
        assert!(is_unsupported(&durable(&backend, &job("a"), Durability::Fsync).await));
        set("no-appendfsync-on-rewrite", "no");
    }
    let refused = backend.require(Durability::Fsync).await;
    assert_eq!(refused.is_ok(), !has_waitaof(&harness.redis), "{refused:?}");
    assert_eq!(backend.stats().await.unwrap(), [], "nothing was written");
    set("appendfsync", "always");
    let done = durable(&backend, &job("a"), Durability::Fsync).await.unwrap();
    assert_eq!(done.durability, Durability::Fsync);
}

#[tokio::test]
async fn memory_is_given_everywhere_and_by_the_shared_connection() {
    let harness = RedisHarness::new();
    let backend = connect(&harness.redis, LONG).await;
    for asked in [Durability::Memory, Durability::Replicas(0)] {
        assert_eq!(durable(&backend, &job("a"), asked).await.unwrap().durability, asked);
    }
    assert_eq!(harness.redis.info("cmdstat_wait"), "");
}

#[tokio::test]
async fn replicas_have_the_job_when_it_is_acknowledged() {
    let (primary, replica) = pair();
    let backend = connect(&primary.redis, LONG).await;
    for count in 1..=20_usize {
        let done = durable(&backend, &job("a"), ONE).await.unwrap();
        assert_eq!((done.duplicate, done.durability), (false, ONE));
        let jobs = primary.key(&backend, "jobs");
        let copied: usize = redis::cmd("HLEN").arg(jobs).query(&mut replica.client()).unwrap();
        assert_eq!(copied, count);
    }
    // More than there are: they may come back, so that is not refused for good.
    let more = durable(&backend, &job("a"), Durability::Replicas(2)).await;
    assert!(matches!(&more, Err(Error::Unavailable(why)) if why.contains("1 of 2")), "{more:?}");
    let jobs: Vec<_> = (0..50).map(|_| job("a").delay(Duration::from_secs(9))).collect();
    let outcomes = backend.enqueue(&jobs, ONE).await.unwrap();
    let all_have_it = |outcome: &EnqueueOutcome| matches!(outcome, EnqueueOutcome::Done(done) if done.durability == ONE);
    assert!(outcomes.len() == 50 && outcomes.iter().all(all_have_it));
}

#[tokio::test]
async fn a_server_without_replicas_refuses_before_it_writes() {
    let harness = RedisHarness::new();
    let backend = connect(&harness.redis, LONG).await;
    let refused = durable(&backend, &job("a"), ONE).await;
    assert!(matches!(&refused, Err(Error::Unsupported(why)) if why.contains("no replica")));
    assert_eq!(backend.stats().await.unwrap(), []);
    // It is seen at once when there is one.
    let _replica = harness.redis.replica(harness.redis.listen());
    assert_eq!(durable(&backend, &job("a"), ONE).await.unwrap().durability, ONE);
}

/// A repeat is a duplicate, and its acknowledgement covers the first enqueue: it must write.
#[tokio::test]
async fn a_frozen_replica_confirms_neither_the_job_nor_its_repeat() {
    let (primary, replica) = pair();
    let backend = connect(&primary.redis, SHORT).await;
    let new = job("a");
    let frozen = replica.freeze();
    // Written by another connection, not by the one that waits.
    enqueue(&backend, std::slice::from_ref(&new)).await;
    for _ in 0..2 {
        let late = durable(&backend, &new, ONE).await;
        let Err(Error::Unavailable(why)) = &late else { panic!("{late:?}") };
        assert!(why.contains("0 of 1 replicas"), "{why}");
    }
    let meta = primary.key(&backend, "meta");
    assert_eq!(primary.raw::<u32>(&[b"HGET", meta.as_bytes(), b"dup"]), 2);
    drop(frozen);
    let done = loop {
        // The replica has SHORT to wake up in.
        if let Ok(done) = durable(&backend, &new, ONE).await {
            break done;
        }
    };
    assert_eq!((done.duplicate, done.durability), (true, ONE));
    assert_eq!(claim(&backend, &["a"], 5).await.len(), 1);
}

#[tokio::test]
async fn waiting_for_replicas_keeps_nobody_else_waiting() {
    let (primary, replica) = pair();
    let backend = connect(&primary.redis, LONG).await;
    let frozen = replica.freeze();
    let waiting = pending(&backend, job("a"), ONE);
    blocked(&primary.redis, 1).await;
    enqueue(&backend, &[job("b")]).await;
    assert_eq!(claim(&backend, &["a", "b"], 5).await.len(), 2);
    assert!(!waiting.is_finished());
    drop(frozen);
    assert_eq!(waiting.await.unwrap().unwrap().durability, ONE);
}

#[tokio::test]
async fn enqueues_that_come_together_are_confirmed_together() {
    let (primary, replica) = pair();
    let backend = connect(&primary.redis, LONG).await;
    let frozen = replica.freeze();
    let first = pending(&backend, job("a"), ONE);
    blocked(&primary.redis, 1).await;
    let others: Vec<_> = (0..99).map(|_| pending(&backend, job("a"), ONE)).collect();
    // Each of them has asked once it has been polled.
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    drop(frozen);
    for waiting in others.into_iter().chain([first]) {
        let done = waiting.await.unwrap().unwrap();
        assert_eq!((done.duplicate, done.durability), (false, ONE));
    }
    // One asks whether this user may wait; one for the first; one for all the others.
    let stats = primary.redis.info("cmdstat_wait");
    assert!(stats.starts_with("calls=3,"), "{stats}");
}

#[tokio::test]
async fn a_dead_replica_is_missed() {
    let (primary, mut replica) = pair();
    let backend = connect(&primary.redis, LONG).await;
    durable(&backend, &job("a"), ONE).await.unwrap();
    replica.crash();
    let backend = connect(&primary.redis, SHORT).await;
    let late = durable(&backend, &job("a"), ONE).await;
    assert!(matches!(&late, Err(Error::Unavailable(why)) if why.contains("0 of 1")), "{late:?}");
    until(|| primary.redis.info("connected_slaves") == "0");
    // The server remembers that there was one: it may come back.
    let backend = connect(&primary.redis, SHORT).await;
    let before = backend.stats().await.unwrap();
    let late = durable(&backend, &job("a"), ONE).await;
    assert!(matches!(&late, Err(Error::Unavailable(why)) if why.contains("0 of 1")), "{late:?}");
    assert_eq!(backend.stats().await.unwrap(), before, "nothing was written");
}

/// The connection breaks between the write and its confirmation.
#[tokio::test]
async fn a_lost_confirmation_is_asked_for_again_where_that_changes_nothing() {
    let (primary, replica) = pair();
    let backend = connect(&primary.redis, LONG).await;
    let kill = || primary.raw::<i64>(&[b"CLIENT", b"KILL", b"TYPE", b"normal"]);
    let frozen = replica.freeze();
    let new = job("a");
    let waiting = pending(&backend, new.clone(), ONE);
    blocked(&primary.redis, 1).await;
    let meta = primary.key(&backend, "meta");
    kill();
    // It has written once more, on the connection that waits now.
    while primary.raw::<Option<u32>>(&[b"HGET", meta.as_bytes(), b"dup"]) != Some(1) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    blocked(&primary.redis, 1).await;
    drop(frozen);
    let done = waiting.await.unwrap().unwrap();
    assert_eq!((done.id, done.duplicate, done.durability), (new.job_id(), false, ONE));

    // Whoever wants to be refused if the job is there would be refused because of itself.
    let frozen = replica.freeze();
    let waiting = pending(&backend, job("a").on_conflict(OnConflict::Reject), ONE);
    blocked(&primary.redis, 1).await;
    kill();
    assert!(matches!(waiting.await.unwrap(), Err(Error::Unavailable(_))));
    drop(frozen);
    assert_eq!(claim(&backend, &["a"], 9).await.len(), 2);
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_user_who_may_not_wait_learns_it_before_anything_is_written() {
    let (primary, _replica) = pair();
    let user: Vec<&[u8]> =
        "ACL SETUSER w on >secret ~* &* +@all -wait".split(' ').map(str::as_bytes).collect();
    primary.raw::<()>(&user);
    let url = format!("{}?user=w&pass=secret", primary.redis.url());
    let backend = RedisBackend::connect_with(&url, RedisOptions::default()).await.unwrap();
    let refused = durable(&backend, &job("a"), ONE).await;
    assert!(matches!(&refused, Err(Error::Refused(why)) if why.contains("ACL")), "{refused:?}");
    assert_eq!(backend.stats().await.unwrap(), []);
}

#[tokio::test]
async fn a_full_store_refuses_durable_enqueues_too() {
    let (primary, _replica) = pair();
    let backend = connect(&primary.redis, LONG).await;
    primary.raw::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    let full = durable(&backend, &job("a"), ONE).await;
    assert!(matches!(&full, Err(Error::StoreFull(_))), "{full:?}");
}

/// "The store is full" would mean that the job is not there.
#[tokio::test]
async fn a_store_that_gets_full_before_the_repeat_does_not_deny_the_first_attempt() {
    let harness = RedisHarness::new();
    let _replica = harness.redis.replica(harness.redis.listen());
    let proxy = Proxy::start(harness.redis.socket()).await;
    let backend = RedisBackend::connect_with(&proxy.url(), RedisOptions::default()).await.unwrap();
    for durability in [Durability::Memory, ONE] {
        durable(&backend, &job("a"), durability).await.unwrap();
        let new = job("b");
        proxy.arm(Cut { after_bytes: 0 });
        let sending = durable(&backend, &new, durability);
        let full = async {
            while proxy.is_armed() {
                tokio::task::yield_now().await;
            }
            proxy.refuse("OOM command not allowed when used memory > 'maxmemory'.");
        };
        let (sent, ()) = tokio::join!(sending, full);
        assert!(matches!(&sent, Err(Error::Unavailable(_))), "{durability}: {sent:?}");
        assert!(durable(&backend, &new, durability).await.unwrap().duplicate);
    }
}

#[test]
fn durable_enqueues_go_on_when_the_runtime_that_began_them_has_ended() {
    let (primary, _replica) = pair();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let backend = runtime().block_on(connect(&primary.redis, LONG));
    for _ in 0..3 {
        let done = runtime().block_on(durable(&backend, &job("a"), ONE)).unwrap();
        assert_eq!(done.durability, ONE);
    }
}

/// The servers that have `WAITAOF` are newer than the one of these tests may be: a proxy says what
/// they say.
#[tokio::test]
async fn a_newer_server_is_asked_to_flush() {
    let harness = RedisHarness::new();
    let proxy = Proxy::start(harness.redis.socket()).await;
    let options = RedisOptions::default().confirm_within(LONG);
    let backend = RedisBackend::connect_with(&proxy.url(), options).await.unwrap();
    let server = |version| {
        let aof_too = [("redis_version", version), ("aof_enabled", "1")];
        harness.redis.told_otherwise(&aof_too)
    };
    let counts = |local: u8| format!("*2\r\n:{local}\r\n:0\r\n");
    // A new connection looks for the role; then come the version, and whether this user may ask.
    proxy.answer(INFO, harness.redis.told_otherwise(&[]));
    proxy.answer(INFO, server("7.4.2"));
    assert!(is_unsupported(&durable(&backend, &job("a"), Durability::Fsync).await));
    assert_eq!(backend.stats().await.unwrap(), []);
    proxy.answer(INFO, server("7.4.3"));
    proxy.answer("WAITAOF\r\n$1\r\n0", counts(0));
    proxy.answer("WAITAOF\r\n$1\r\n1\r\n$1\r\n0\r\n$5\r\n20000", counts(1));
    let done = durable(&backend, &job("a"), Durability::Fsync).await.unwrap();
    assert_eq!(done.durability, Durability::Fsync);
    proxy.answer("WAITAOF", counts(0));
    let late = durable(&backend, &job("a"), Durability::Fsync).await;
    assert!(matches!(&late, Err(Error::Unavailable(why)) if why.contains("flushed")), "{late:?}");
    assert_eq!(claim(&backend, &["a"], 9).await.len(), 2);
}

#[tokio::test]
async fn a_lost_answer_or_a_silent_connection_makes_one_job_that_is_confirmed() {
    let (primary, _replica) = pair();
    let proxy = Proxy::start(primary.redis.socket()).await;
    let options = RedisOptions::default().answer_within(Duration::from_millis(300));
    let backend = RedisBackend::connect_with(&proxy.url(), options).await.unwrap();
    durable(&backend, &job("a"), ONE).await.unwrap();
    proxy.arm(Cut { after_bytes: 0 });
    let new = job("a");
    let done = durable(&backend, &new, ONE).await.unwrap();
    assert!(!proxy.is_armed());
    assert_eq!((done.id, done.durability), (new.job_id(), ONE));
    proxy.arm(Cut { after_bytes: 0 });
    // It would be refused because of itself.
    let unknown = durable(&backend, &job("b").on_conflict(OnConflict::Reject), ONE).await;
    assert!(matches!(unknown, Err(Error::Unavailable(_))));
    proxy.silence();
    assert_eq!(durable(&backend, &job("a"), ONE).await.unwrap().durability, ONE);
    assert_eq!(claim(&backend, &["a"], 9).await.len(), 3);
    assert_sound(&backend).await;
}
