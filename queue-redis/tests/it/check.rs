//! The start-up check: each row is brought about and seen.

use queue_core::backend::{CheckFinding, Verdict};
use queue_core::{Backend, Error, Namespace};
use queue_redis::RedisBackend;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{adopt, enqueue, job};
use crate::support::proxy::{INFO, Proxy};
use crate::support::server::TestRedis;

async fn finding(backend: &RedisBackend, name: &str) -> CheckFinding {
    let findings = backend.check().await.unwrap();
    let names: Vec<_> = findings.iter().map(|finding| finding.name).collect();
    let found = findings.iter().find(|finding| finding.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {names:?}")).clone()
}

/// The verdict, and a piece of what was found; what is not good has a remedy.
async fn assert_found(backend: &RedisBackend, name: &str, verdict: Verdict, piece: &str) {
    let found = finding(backend, name).await;
    assert_eq!(found.verdict, verdict, "{found:?}");
    assert!(found.found.contains(piece), "{found:?}");
    assert_eq!(found.remedy.is_empty(), verdict == Verdict::Good, "{found:?}");
}

impl RedisHarness {
    fn set(&self, name: &str, value: &str) {
        self.raw::<()>(&[b"CONFIG", b"SET", name.as_bytes(), value.as_bytes()]);
    }

    /// A backend of a user with these permissions.
    async fn of_user(&self, permissions: &str) -> RedisBackend {
        let words = format!("ACL SETUSER w reset on >secret ~* &* {permissions}");
        self.raw::<()>(&words.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        let url = format!("{}?user=w&pass=secret", self.redis.url());
        RedisBackend::connect(&url, Namespace::default()).await.unwrap()
    }
}

use Verdict::{Bad, Good, Warning};

#[tokio::test]
async fn settings_that_are_wrong_are_found_and_their_change_is_seen() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let rows = [
        ("maxmemory-policy", "allkeys-lru", "noeviction", "eviction policy", Bad, "allkeys-lru"),
        ("timeout", "300", "0", "timeout", Warning, "300 s"),
        ("proto-max-bulk-len", "1mb", "512mb", "proto-max-bulk-len", Warning, "1048576"),
        ("maxmemory", "1mb", "1gb", "memory", Warning, "of 1048576 bytes"),
    ];
    for (setting, wrong, right, name, verdict, piece) in rows {
        harness.set(setting, wrong);
        assert_found(&backend, name, verdict, piece).await;
        harness.set(setting, right);
        assert_eq!(finding(&backend, name).await.verdict, Good, "{name}");
    }
}

#[tokio::test]
async fn head_room_for_clients_is_looked_at() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    assert_found(&backend, "clients", Good, "connected").await;
    let mut kept: Vec<_> = (0..8).map(|_| harness.redis.client()).collect();
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg("maxclients").arg("10").query::<()>(&mut kept[0]).unwrap();
    assert_found(&backend, "clients", Warning, "of 10 connected").await;
}

#[tokio::test]
async fn persistence_is_named_with_what_can_be_lost() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    assert_found(&backend, "persistence", Warning, "loses every job").await;
    harness.set("save", "900 1");
    assert_found(&backend, "persistence", Warning, "snapshots only").await;
    harness.set("appendonly", "yes");
    assert_found(&backend, "persistence", Good, "last 2 s").await;
    harness.set("appendfsync", "no");
    assert_found(&backend, "persistence", Warning, "when the system likes to").await;
    harness.set("appendfsync", "always");
    assert_found(&backend, "persistence", Good, "every write").await;
}

#[tokio::test]
async fn durability_is_what_the_server_can_give() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let found = finding(&backend, "durability").await;
    assert_eq!((found.verdict, found.found.as_str()), (Good, "an enqueue can ask for memory"));
    let always = TestRedis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let backend = RedisBackend::connect(&always.url(), Namespace::default()).await.unwrap();
    assert_found(&backend, "durability", Good, "memory, fsync").await;
}

#[tokio::test]
async fn replicas_without_a_rule_for_their_loss_are_a_risk() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let _replica = harness.redis.replica(harness.redis.listen());
    assert_found(&backend, "durability", Good, "replicas:1").await;
    assert_found(&backend, "replicas", Warning, "writes go on without them").await;
    harness.set("min-replicas-to-write", "1");
    assert_found(&backend, "replicas", Good, "1").await;
    harness.set("min-replicas-max-lag", "60");
    assert_found(&backend, "replicas", Warning, "max-lag is 60 s").await;
}

#[tokio::test]
async fn a_server_that_has_become_a_replica_is_bad() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    assert_found(&backend, "role", Good, "master").await;
    harness.raw::<()>(&[b"REPLICAOF", b"127.0.0.1", b"1"]);
    assert_found(&backend, "role", Bad, "slave").await;
}

#[tokio::test]
async fn permissions_are_tried_one_by_one() {
    let harness = RedisHarness::new();
    let all = harness.of_user("+@all").await;
    assert_found(&all, "permissions", Good, "every command").await;
    assert_found(&all, "scripts", Good, "loaded").await;
    let some = harness.of_user("+@all -zadd -hincrby").await;
    assert_found(&some, "permissions", Bad, "HINCRBY, ZADD").await;
    let untold = harness.of_user("+@all -acl -config").await;
    assert_found(&untold, "permissions", Warning, "may not ask").await;
    assert_found(&untold, "settings", Warning, "CONFIG GET").await;
    assert_found(&untold, "persistence", Warning, "snapshots are unknown").await;
    let unloaded = harness.of_user("+@all -script|load").await;
    assert_found(&unloaded, "scripts", Warning, "NOPERM").await;
    // Somebody else has loaded them.
    enqueue(&unloaded, &[job("a")]).await;
    let keys = "+@all resetkeys ~other:* ~{default/0}:meta";
    assert_found(&harness.of_user(keys).await, "permissions", Good, "every").await;
}

#[tokio::test]
async fn an_emptied_store_is_noticed_until_work_goes_on_with_it() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    assert_found(&backend, "epoch", Good, "as when opened").await;
    harness.raw::<()>(&[b"FLUSHALL"]);
    assert_found(&backend, "epoch", Bad, "none").await;
    harness.open(backend.namespace()).await;
    assert_found(&backend, "epoch", Bad, "another").await;
    adopt(&backend).await;
    assert_found(&backend, "epoch", Good, "as when opened").await;
}

/// A backend behind a proxy that can say of the server what it is not.
async fn behind_proxy(harness: &RedisHarness) -> (Proxy, RedisBackend) {
    let proxy = Proxy::start(harness.redis.socket()).await;
    let backend = RedisBackend::connect(&proxy.url(), Namespace::default()).await.unwrap();
    (proxy, backend)
}

/// Fields of `INFO` and other values for them.
type Changes = &'static [(&'static str, &'static str)];

#[tokio::test]
async fn what_this_server_is_not_is_found_where_it_is_said() {
    let harness = RedisHarness::new();
    let (proxy, backend) = behind_proxy(&harness).await;
    let rows: [(Changes, &str, Verdict, &str); 7] = [
        (&[("redis_version", "6.2.14")], "version", Bad, "6.2.14"),
        (&[("redis_version", "7.0.15")], "security", Warning, "CVE-2025-49844"),
        (&[("redis_version", "8.6.3")], "security", Good, "no dangerous bug"),
        (&[("redis_version", "7.4.1")], "durability", Warning, "too early"),
        (&[("cluster_enabled", "1")], "cluster", Warning, "a node of a cluster"),
        (&[("loading", "1")], "loading", Bad, "loading its data"),
        (&[("loading", "0")], "loading", Good, "done"),
    ];
    for (changes, name, verdict, piece) in rows {
        proxy.answer(INFO, harness.redis.told_otherwise(changes));
        assert_found(&backend, name, verdict, piece).await;
    }
    proxy.answer("*1\r\n$4\r\nTIME\r\n", "*2\r\n$10\r\n1000000000\r\n$1\r\n0\r\n");
    assert_found(&backend, "clock", Warning, "apart").await;
    assert_found(&backend, "clock", Good, "within 5 s").await;
}

#[tokio::test]
async fn a_server_that_is_too_old_is_refused() {
    let harness = RedisHarness::new();
    let proxy = Proxy::start(harness.redis.socket()).await;
    // The connection asks for the role first.
    proxy.answer(INFO, harness.redis.told_otherwise(&[]));
    proxy.answer(INFO, harness.redis.told_otherwise(&[("redis_version", "6.2.14")]));
    let refused = RedisBackend::connect(&proxy.url(), Namespace::default()).await;
    assert!(matches!(&refused, Err(Error::Refused(why)) if why.contains("7.0")), "{refused:?}");
}
