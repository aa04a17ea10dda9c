//! What a long backlog costs those who claim from it.

use queue_core::{Backend, Durability};
use queue_redis::RedisBackend;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{claim, enqueue, job};
use crate::support::server::TestRedis;

/// With so many fields the table of a hash is full.
const FULL: usize = 65_536;

/// Whether the server is still moving the jobs to a table of twice the size.
fn is_doubling(harness: &RedisHarness, backend: &RedisBackend) -> bool {
    let key = harness.key(backend, "jobs");
    let tables: String = harness.raw(&[b"DEBUG", b"HTSTATS-KEY", key.as_bytes()]);
    assert!(tables.contains("main hash table"), "{tables}");
    tables.contains("rehashing target")
}

async fn fill(backend: &RedisBackend, jobs: usize) {
    let jobs: Vec<_> = (0..jobs).map(|_| job("a")).collect();
    for some in jobs.chunks(5000) {
        backend.enqueue(some, Durability::Memory).await.unwrap();
    }
}

/// The same, each job of a tenant of its own.
async fn fill_of_tenants(backend: &RedisBackend, jobs: usize) {
    let jobs: Vec<_> = (0..jobs).map(|n| job("a").limit(format!("tenant:{n}"))).collect();
    for some in jobs.chunks(500) {
        backend.enqueue(some, Durability::Memory).await.unwrap();
    }
}

#[tokio::test]
async fn enqueues_leave_no_half_moved_table_to_those_who_claim() {
    let server = TestRedis::start_with(&["--enable-debug-command", "yes"]);
    let harness = RedisHarness { redis: server };
    let backend = harness.now().await;
    fill(&backend, FULL).await;
    assert!(!is_doubling(&harness, &backend));
    enqueue(&backend, &[job("a")]).await;
    assert!(is_doubling(&harness, &backend), "the server moves a bucket now and then");
    fill(&backend, FULL / 8).await;
    assert!(!is_doubling(&harness, &backend), "the enqueues did");
    fill(&backend, FULL * 7 / 8).await;
    assert!(is_doubling(&harness, &backend), "it is full again");
    fill_of_tenants(&backend, FULL / 4).await;
    assert!(!is_doubling(&harness, &backend), "those with a group for each job did");
    assert_eq!(claim(&backend, &["a"], 1).await.len(), 1);
}
