//! What one job may take of the server's memory.

use std::time::Duration;

use queue_core::{ErrorKind, HISTORY_ERROR_MAX_BYTES, HISTORY_MAX, JobError, Outcome};

use crate::support::harness::RedisHarness;
use crate::support::jobs::{assert_sound, claim, enqueue, job, settle};

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
