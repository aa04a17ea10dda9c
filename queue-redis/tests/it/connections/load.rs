//! Harm done while calls are under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use queue_core::{JobState, Settled};

use crate::support::harness::RedisHarness;
use crate::support::jobs::{assert_sound, claim, completed, enqueue, settle, transient};

const TASKS: usize = 4;
const ROUNDS: usize = 40;

/// Does harm after every few calls while jobs go through; all of them end.
async fn under_load(harm: impl Fn(&RedisHarness)) {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    let rounds = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (backend, rounds) = (backend.clone(), rounds.clone());
            tokio::spawn(async move {
                let kind = format!("kind-{task}");
                for _ in 0..ROUNDS {
                    enqueue(&backend, &[transient(&kind), transient(&kind)]).await;
                    let leases = claim(&backend, &[&kind], 2).await;
                    assert_eq!(leases.len(), 2);
                    for settled in settle(&backend, &leases, &completed()).await {
                        // Its record is gone with it: a repeat finds nothing.
                        let done = Settled::Applied(JobState::Completed);
                        assert!(settled == done || settled == Settled::Gone, "{settled:?}");
                    }
                    rounds.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let mut next = 1;
    while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
        if rounds.load(Ordering::SeqCst) >= next {
            harm(&harness);
            next = rounds.load(Ordering::SeqCst) + 8;
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(next > TASKS * ROUNDS / 2, "hardly any harm was done");
    assert_sound(&backend).await;
}

#[tokio::test]
async fn scripts_are_flushed_while_jobs_go_through() {
    under_load(|harness| harness.raw(&[b"SCRIPT", b"FLUSH"])).await;
}

#[tokio::test]
async fn connections_are_killed_while_jobs_go_through() {
    under_load(|harness| {
        harness.raw::<i64>(&[b"CLIENT", b"KILL", b"TYPE", b"normal"]);
    })
    .await;
}
