//! What one job may take of the server's memory.

use std::time::Duration;

use queue_core::conformance::Harness;
use queue_core::{ErrorKind, HISTORY_ERROR_MAX_BYTES, HISTORY_MAX, JobError, Outcome, Timestamp};

use crate::support::harness::RedisHarness;
use crate::support::jobs::{assert_sound, claim, completed, enqueue, job, settle, transient};

/// The last error is kept whole, the ones before it shortened.
#[tokio::test]
async fn a_history_of_long_errors_takes_little_room() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let attempts = HISTORY_MAX as u16 + 2;
    let id = enqueue(&backend, &[job("a").max_attempts(attempts + 1)]).await[0];
    for number in 0..attempts {
        let error = JobError::new(ErrorKind::Failed, "x".repeat(16 * HISTORY_ERROR_MAX_BYTES));
        let outcome = match number + 1 < attempts {
            true => Outcome::Retry { delay: Duration::ZERO, error },
            false => Outcome::Dead { error },
        };
        settle(&backend, &claim(&backend, &["a"], 1).await, &outcome).await;
    }
    let history = harness.key(&backend, "history");
    let bytes: usize = harness.raw(&[b"HSTRLEN", history.as_bytes(), id.as_bytes()]);
    let least = HISTORY_MAX * HISTORY_ERROR_MAX_BYTES;
    assert!((least..least + HISTORY_MAX * 200).contains(&bytes), "{bytes} bytes");
    assert_sound(&backend).await;
}

/// Redis looks through a hash in its compact encoding for each field: lone claims that are many at a
/// time leave it, every now and then.
#[tokio::test]
async fn many_lone_claims_are_not_looked_through() {
    let harness = RedisHarness::new();
    let at = 4_102_444_800_000;
    assert_eq!(at % 64, 0, "claims look then");
    let backend = harness.fresh(Timestamp::from_ms(at + 1)).await;
    let encodings = || {
        ["run", "claims"].map(|name| -> String {
            let key = harness.key(&backend, name);
            harness.raw(&[b"OBJECT", b"ENCODING", key.as_bytes()])
        })
    };
    enqueue(&backend, &(0..40).map(|_| transient("a")).collect::<Vec<_>>()).await;
    let mut leases = Vec::new();
    for _ in 0..35 {
        leases.extend(claim(&backend, &["a"], 1).await);
    }
    assert_eq!(encodings(), ["listpack", "listpack"], "or this test shows nothing");
    harness.set_clock(&backend, Timestamp::from_ms(at + 64)).await;
    leases.extend(claim(&backend, &["a"], 1).await);
    assert_eq!(encodings(), ["hashtable", "hashtable"]);
    assert_eq!(leases.len(), 36);
    assert_sound(&backend).await;
    settle(&backend, &leases, &completed()).await;
    assert_sound(&backend).await;
}
