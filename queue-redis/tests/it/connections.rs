//! Connections: they break, they belong to a runtime, and runtimes end.

mod load;
mod outage;
mod verdicts;

use std::sync::{Arc, mpsc};
use std::time::Duration;

use queue_core::{Backend, Namespace, RenewRequest, Renewal};
use queue_redis::RedisBackend;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{assert_sound, claim, completed, enqueue, job, settle};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[tokio::test]
async fn calls_go_on_after_the_server_has_closed_every_connection() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    for _ in 0..3 {
        enqueue(&backend, &[job("a")]).await;
        harness.raw::<i64>(&[b"CLIENT", b"KILL", b"TYPE", b"normal"]);
        let leases = claim(&backend, &["a"], 1).await;
        harness.raw::<i64>(&[b"CLIENT", b"KILL", b"TYPE", b"normal"]);
        settle(&backend, &leases, &completed()).await;
    }
    assert_sound(&backend).await;
}

/// Renewals have a runtime of their own, so that handlers that block the main one keep their
/// leases.
#[test]
fn a_blocked_runtime_does_not_stop_calls_from_another() {
    let harness = RedisHarness::new();
    let main = runtime();
    let backend = Arc::new(main.block_on(harness.now()));
    let leases = main.block_on(async {
        enqueue(&backend, &[job("a")]).await;
        claim(&backend, &["a"], 1).await
    });
    let renewal = RenewRequest { tokens: vec![leases[0].token], lease: Duration::from_secs(9) };
    let (answers, answer) = mpsc::channel();
    main.block_on(async {
        let backend = backend.clone();
        std::thread::spawn(move || {
            answers.send(runtime().block_on(backend.renew(&renewal))).unwrap();
        });
        // Blocks the only thread of this runtime.
        let renewed = answer.recv_timeout(Duration::from_secs(5)).unwrap();
        assert_eq!(renewed.unwrap(), [Renewal::Held { cancel_requested: Vec::new() }]);
    });
}

#[test]
fn a_backend_outlives_the_runtimes_that_use_it() {
    let harness = RedisHarness::new();
    let backend = runtime().block_on(harness.now());
    for _ in 0..5 {
        runtime().block_on(async {
            enqueue(&backend, &[job("a")]).await;
        });
    }
    assert_eq!(runtime().block_on(claim(&backend, &["a"], 10)).len(), 5);
    let clients: String = harness.raw(&[b"CLIENT", b"LIST"]);
    assert!(clients.lines().count() <= 4, "connections of ended runtimes are closed:\n{clients}");
}

/// Its role is asked for on each new connection, and need not be known.
#[tokio::test]
async fn a_user_who_may_not_ask_for_the_role_any_more_works_on() {
    let harness = RedisHarness::new();
    harness.raw::<()>(&[b"ACL", b"SETUSER", b"w", b"on", b">secret", b"~*", b"&*", b"+@all"]);
    let url = format!("{}?user=w&pass=secret", harness.redis.url());
    let backend = RedisBackend::connect(&url, Namespace::default()).await.unwrap();
    enqueue(&backend, &[job("a")]).await;
    harness.raw::<()>(&[b"ACL", b"SETUSER", b"w", b"-info"]);
    harness.raw::<i64>(&[b"CLIENT", b"KILL", b"TYPE", b"normal"]);
    assert_eq!(claim(&backend, &["a"], 1).await.len(), 1);
}
