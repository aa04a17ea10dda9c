//! What one job may take of the server's memory.

use std::time::Duration;

use queue_core::conformance::Harness;
use queue_core::{
    Backend, ErrorKind, HISTORY_ERROR_MAX_BYTES, HISTORY_MAX, JobError, JobState, LimitKeys,
    ListRequest, NewJob, Outcome, Payload, QueueName, Timestamp,
};

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

/// The same for hashes that get a few fields at a time, and for jobs with short records.
#[tokio::test]
async fn small_hashes_are_not_looked_through() {
    let harness = RedisHarness::new();
    let at = 4_102_444_800_000;
    let backend = harness.fresh(Timestamp::from_ms(at + 1)).await;
    let encoding = |name: &str| -> String {
        let key = harness.key(&backend, name);
        harness.raw(&[b"OBJECT", b"ENCODING", key.as_bytes()])
    };
    let tiny = NewJob::new("a".parse().unwrap(), Payload::raw(""));
    // Lone ones look now and then, many at once always.
    for _ in 0..40 {
        enqueue(&backend, &[NewJob::new("a".parse().unwrap(), Payload::raw(""))]).await;
    }
    assert_eq!(encoding("jobs"), "listpack", "or this test shows nothing");
    harness.set_clock(&backend, Timestamp::from_ms(at + 64)).await;
    enqueue(&backend, &[tiny]).await;
    assert_eq!(encoding("jobs"), "hashtable");
    harness.set_clock(&backend, Timestamp::from_ms(at + 65)).await;
    settle(&backend, &claim(&backend, &["a"], 41).await, &completed()).await;

    let jobs: Vec<NewJob> = (0..40)
        .map(|n| {
            let job = NewJob::new("b".parse().unwrap(), Payload::raw(""));
            job.idempotency_key(format!("{n}")).limit(format!("tenant:{n}"))
        })
        .collect();
    enqueue(&backend, &jobs).await;
    for n in 0..40 {
        let leases = claim(&backend, &["b"], 1).await;
        let limits = LimitKeys::new([leases[0].spec.limits[0].clone()]).unwrap();
        let delay = Duration::from_secs(60);
        settle(&backend, &leases, &Outcome::Throttled { delay, limits }).await;
        if n == 10 {
            let few = ["att", "limited"].map(encoding);
            assert_eq!(few, ["listpack", "listpack"], "or this test shows nothing");
        }
    }
    for name in ["jobs", "att", "limited", "idem", "live"] {
        assert_eq!(encoding(name), "hashtable", "{name}");
    }
    assert_sound(&backend).await;
}

/// Thousands of queues in a namespace: who asks for one of them does not have the names of all read to
/// Lua.
#[tokio::test]
async fn one_queue_is_found_among_the_names_of_many() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let meta = harness.key(&backend, "meta");
    let mut words: Vec<Vec<u8>> = vec![b"HSET".to_vec(), meta.into_bytes()];
    for n in 0..3000 {
        words.extend([format!("default-{n}/a/ready").into_bytes(), b"1".to_vec()]);
    }
    harness.raw::<()>(&words.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let kinds: Vec<String> = (0..40).map(|n| format!("k{n:02}")).collect();
    enqueue(&backend, &kinds.iter().map(|kind| job(kind)).collect::<Vec<_>>()).await;

    let before = harness.redis.info("cmdstat_hgetall");
    let queue = QueueName::default();
    let lanes = backend.lanes(&queue).await.unwrap();
    let mut found: Vec<_> = lanes.lanes.iter().map(|lane| lane.kind.to_string()).collect();
    found.sort();
    assert_eq!(found, kinds);
    let mut of_queue = ListRequest::new(JobState::Ready);
    of_queue.queue = Some(queue.clone());
    let page = backend.list(&of_queue).await.unwrap();
    let found: Vec<_> = page.jobs.iter().map(|job| job.kind.to_string()).collect();
    assert_eq!(found, kinds);
    let wakes = || {
        let names = harness.names(&backend);
        names.iter().filter(|name| name.contains(":wake:default/")).count()
    };
    assert_eq!(wakes(), 40);
    backend.set_paused(&queue, true).await.unwrap();
    assert_eq!(wakes(), 0);
    backend.set_paused(&queue, false).await.unwrap();
    assert_eq!(wakes(), 40);
    assert_eq!(harness.redis.info("cmdstat_hgetall"), before);
}
