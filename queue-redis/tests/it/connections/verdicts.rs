//! Every error of the server: what the backend does about it, and what its caller is told.

use queue_core::{Backend, Durability, Error};
use queue_redis::RedisBackend;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{assert_sound, job};
use crate::support::log::Log;
use crate::support::proxy::Proxy;

async fn behind_proxy(harness: &RedisHarness) -> (Proxy, RedisBackend) {
    let proxy = Proxy::start(harness.redis.socket()).await;
    let namespace = harness.now().await.namespace().clone();
    let backend = RedisBackend::connect(&proxy.url(), namespace).await.unwrap();
    (proxy, backend)
}

#[derive(Debug, PartialEq)]
enum Seen {
    /// It worked after another attempt on the same connection.
    Again,
    /// It worked on a new connection.
    Reconnected,
    StoreFull,
    Refused,
    Corrupt,
}
use Seen::{Again, Corrupt, Reconnected, Refused, StoreFull};

const ROWS: &[(&str, Seen)] = &[
    ("OOM command not allowed when used memory > 'maxmemory'.", StoreFull),
    ("READONLY You can't write against a read only replica.", Reconnected),
    ("MASTERDOWN Link with MASTER is down.", Reconnected),
    ("LOADING Redis is loading the dataset in memory", Reconnected),
    ("UNBLOCKED force unblock from blocking operation, instance state changed", Reconnected),
    ("ERR WAIT cannot be used with replica instances.", Reconnected),
    ("ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.", Reconnected),
    ("BUSY Redis is busy running a script.", Again),
    ("NOSCRIPT No matching script.", Again),
    ("UNKILLABLE Sorry the script already executed write commands.", Again),
    ("NOTBUSY No scripts in execution right now.", Again),
    ("TRYAGAIN Multiple keys request during rehashing of slot", Again),
    ("CLUSTERDOWN The cluster is down", Again),
    ("MISCONF Redis is configured to save RDB snapshots, but unable to persist.", Again),
    ("NOREPLICAS Not enough good replicas to write.", Again),
    ("ERR max number of clients reached", Again),
    ("ERR Script attempted to access a non local key in a cluster node script", Again),
    ("FUTURE an error that nobody knows", Again),
    ("MOVED 3999 127.0.0.1:6381", Reconnected),
    ("ASK 3999 127.0.0.1:6381", Again),
    ("CROSSSLOT Keys in request don't hash to the same slot", Refused),
    ("NOAUTH Authentication required.", Refused),
    ("WRONGPASS invalid username-password pair or user is disabled.", Refused),
    ("NOPERM this user has no permissions to run the 'zadd' command", Refused),
    ("NOPROTO unsupported protocol version", Refused),
    ("DENIED Redis is running in protected mode", Refused),
    ("SCHEMA the store has schema 9, this program knows 3", Refused),
    ("EXECABORT Transaction discarded because of previous errors.", Refused),
    ("ERR AUTH <password> called without any password configured", Refused),
    ("ERR DB index is out of range", Refused),
    ("ERR SELECT is not allowed in cluster mode", Refused),
    ("WRONGTYPE Operation against a key holding the wrong kind of value", Corrupt),
    ("ERR user_script:12: attempt to index a nil value", Corrupt),
];

#[tokio::test]
async fn each_error_is_met_with_what_helps_against_it() {
    let harness = RedisHarness::new();
    let (proxy, backend) = behind_proxy(&harness).await;
    for (line, expected) in ROWS {
        let before = proxy.counts();
        proxy.refuse(line);
        if line.starts_with("NOSCRIPT") {
            // Once more after the script was loaded: somebody keeps flushing.
            proxy.refuse(line);
        }
        let answer = backend.enqueue(&[job("a")], Durability::Memory).await;
        let opened = proxy.counts().opened - before.opened;
        let seen = match (&answer, opened) {
            (Ok(_), 0) => Again,
            (Ok(_), 1) => Reconnected,
            (Err(Error::StoreFull(_)), 0) => StoreFull,
            (Err(Error::Refused(_)), 0) => Refused,
            (Err(Error::Corrupt(_)), 0) => Corrupt,
            _ => panic!("{line}: {answer:?} after {opened} new connections"),
        };
        assert_eq!(seen, *expected, "{line}");
        let word = line.split(' ').next().unwrap();
        assert!(answer.map_or_else(|error| error.to_string().contains(word), |_| true), "{line}");
    }
    assert_sound(&backend).await;
}

/// The same on the connection of enqueues that wait for a confirmation.
#[tokio::test]
async fn each_error_is_met_the_same_way_where_a_confirmation_is_awaited() {
    let harness = RedisHarness::new();
    let _replica = harness.redis.replica(harness.redis.listen());
    let (proxy, backend) = behind_proxy(&harness).await;
    backend.enqueue(&[job("a")], Durability::Replicas(1)).await.unwrap();
    for (line, expected) in ROWS {
        let before = proxy.counts();
        proxy.refuse(line);
        if line.starts_with("NOSCRIPT") {
            proxy.refuse(line);
        }
        let answer = backend.enqueue(&[job("a")], Durability::Replicas(1)).await;
        let opened = proxy.counts().opened - before.opened;
        let seen = match (&answer, opened) {
            (Ok(_), 0) => Again,
            (Ok(_), 1) => Reconnected,
            (Err(Error::StoreFull(_)), 0) => StoreFull,
            (Err(Error::Refused(_)), 0) => Refused,
            (Err(Error::Corrupt(_)), 0) => Corrupt,
            _ => panic!("{line}: {answer:?} after {opened} new connections"),
        };
        assert_eq!(seen, *expected, "{line}");
    }
    assert_sound(&backend).await;
}

/// "The store is full" says that no job was taken in, which nobody knows after such an error.
#[tokio::test]
async fn a_store_that_is_full_at_the_second_attempt_may_have_the_job() {
    let harness = RedisHarness::new();
    let _replica = harness.redis.replica(harness.redis.listen());
    let (proxy, backend) = behind_proxy(&harness).await;
    for durability in [Durability::Memory, Durability::Replicas(1)] {
        backend.enqueue(&[job("a")], durability).await.unwrap();
        for unclear in ["FUTURE an error that nobody knows", "BUSY Redis is busy"] {
            proxy.refuse(unclear);
            proxy.refuse("OOM command not allowed when used memory > 'maxmemory'.");
            let answer = backend.enqueue(&[job("a")], durability).await;
            match unclear.starts_with("BUSY") {
                true => assert!(matches!(answer, Err(Error::StoreFull(_))), "{answer:?}"),
                false => assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}"),
            }
        }
    }
}

#[tokio::test]
async fn an_error_that_nobody_knows_is_logged_once() {
    let log = Log::keep();
    let harness = RedisHarness::new();
    let (proxy, backend) = behind_proxy(&harness).await;
    for _ in 0..3 {
        proxy.refuse("NEWFANGLED something new");
        backend.enqueue(&[job("a")], Durability::Memory).await.unwrap();
    }
    assert_eq!(proxy.counts().canned, 3);
    assert_eq!(log.with("NEWFANGLED").len(), 1);
}
