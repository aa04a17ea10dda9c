//! What looks at many limit keys does so in small steps, and what a repair frees is found.

use std::time::Duration;

use queue_core::conformance::Harness;
use queue_core::{
    Backend, Breaker, ErrorKind, JobError, LimitSettings, Outcome, QueueName, Timestamp,
};

use crate::support::harness::RedisHarness;
use crate::support::jobs::{
    assert_sound, claim, claim_with, completed, enqueue, job, set_limit, settle,
};

const START: Timestamp = Timestamp::from_ms(4_102_444_800_000);

/// A worker finds the place that a repair has freed at its next claim.
#[tokio::test]
async fn a_place_that_a_repair_frees_is_taken_at_once() {
    let harness = RedisHarness::new();
    for others in [0, 600] {
        for damage in ["stray", "type"] {
            let backend = harness.fresh(START).await;
            for _ in 0..others / 300 {
                enqueue(&backend, &[(); 300].map(|()| job("other"))).await;
            }
            let two = LimitSettings { concurrency: Some(2), ..LimitSettings::default() };
            set_limit(&backend, "tenant:a", &two).await;
            enqueue(&backend, &[job("a").limit("tenant:a")]).await;
            assert_eq!(claim(&backend, &["a"], 9).await.len(), 1);
            let hold = harness.key(&backend, "hold:tenant:a");
            match damage {
                "stray" => harness.add_holder(&backend, "tenant:a", b"an-id-of-nobody!"),
                _ => harness.raw::<()>(&[b"SET", hold.as_bytes(), b"text"]),
            }
            enqueue(&backend, &[job("a").limit("tenant:a")]).await;
            assert!(claim(&backend, &["a"], 9).await.is_empty());
            let found = backend.audit(true).await.unwrap();
            assert!(found.iter().all(|one| one.repaired), "{found:#?}");
            assert_eq!(claim(&backend, &["a"], 9).await.len(), 1, "{others} {damage}");
            assert_sound(&backend).await;
        }
    }
}

/// So it is if that was the place of a breaker's probe.
#[tokio::test]
async fn a_probe_that_a_repair_forgets_is_followed_by_another() {
    let harness = RedisHarness::new();
    let backend = harness.fresh(START).await;
    let (minute, cooldown) = (Duration::from_secs(60), Duration::from_secs(5));
    let breaker = Some(Breaker { failures: 1, window: minute, cooldown });
    set_limit(&backend, "provider:p", &LimitSettings { breaker, ..LimitSettings::default() }).await;
    enqueue(&backend, &[job("a"), job("a")]).await;
    let failed = claim_with(&backend, "a", "provider:p", 1).await;
    let (delay, error) = (60 * minute, JobError::new(ErrorKind::Failed, "no"));
    settle(&backend, &failed, &Outcome::Retry { delay, error }).await;
    harness.set_clock(&backend, START.after(cooldown)).await;
    let probe = claim_with(&backend, "a", "provider:p", 1).await;
    enqueue(&backend, &[job("b").limit("provider:p")]).await;
    assert!(claim(&backend, &["b"], 9).await.is_empty());
    harness.spoil_run(&backend, &probe[0]);
    settle(&backend, &probe, &completed()).await;
    backend.audit(true).await.unwrap();
    assert_eq!(claim(&backend, &["b"], 9).await.len(), 1);
}

/// More limit keys than one answer may have.
#[tokio::test]
async fn an_audit_reads_the_counters_of_keys_in_pages() {
    const KEYS: usize = 3000;
    let harness = RedisHarness::new();
    let backend = harness.fresh(START).await;
    let live = harness.key(&backend, "live");
    let long = "x".repeat(90);
    for n in 0..KEYS {
        let key = format!("tenant:{n}-{long}");
        harness.raw::<()>(&[b"HSET", live.as_bytes(), key.as_bytes(), b"1"]);
    }
    // An answer with all of them has three times as much.
    harness.raw::<()>(&[b"CONFIG", b"SET", b"client-output-buffer-limit", b"normal 100000 0 0"]);
    let found = backend.audit(false).await.unwrap();
    assert_eq!(found.len(), KEYS);
}

#[tokio::test]
async fn keys_that_are_shown_cost_a_list_of_lanes_little() {
    let harness = RedisHarness::new();
    let backend = harness.fresh(START).await;
    enqueue(&backend, &[job("a").priority(9)]).await;
    let index = harness.key(&backend, "lanes:default/a");
    for some in (0..10_000).collect::<Vec<u32>>().chunks(500) {
        let names: Vec<String> = some.iter().map(|n| format!("@tenant:{n}")).collect();
        let mut words: Vec<&[u8]> = vec![b"ZADD", index.as_bytes()];
        words.extend(names.iter().flat_map(|name| [b"1".as_slice(), name.as_bytes()]));
        harness.raw::<()>(&words);
    }
    let before = harness.commands();
    let lanes = backend.lanes(&QueueName::default()).await.unwrap();
    assert!(lanes.more);
    let commands = harness.commands() - before;
    assert!(commands < 20, "{commands} commands");
}

/// Nothing is set or remembered any more, and a lane is still where it has waited.
#[tokio::test]
async fn a_lane_has_one_place_after_the_last_setting_has_gone() {
    let harness = RedisHarness::new();
    let backend = harness.fresh(START).await;
    let one = LimitSettings { concurrency: Some(1), ..LimitSettings::default() };
    set_limit(&backend, "tenant:a", &one).await;
    let of_a = || job("a").limit("tenant:a");
    enqueue(&backend, &[of_a(), of_a()]).await;
    let leases = claim(&backend, &["a"], 1).await;
    assert!(claim(&backend, &["a"], 1).await.is_empty());
    backend.set_limit(&"tenant:a".parse().unwrap(), None).await.unwrap();
    settle(&backend, &leases, &completed()).await;
    let later = START.after(Duration::from_secs(120));
    harness.set_clock(&backend, later).await;
    for _ in 0..20 {
        backend.maintain(500).await.unwrap();
    }
    let meta = harness.key(&backend, "meta");
    assert!(!harness.raw::<bool>(&[b"HEXISTS", meta.as_bytes(), b"limits"]));
    enqueue(&backend, &[of_a()]).await;
    assert_sound(&backend).await;
    assert_eq!(claim(&backend, &["a"], 9).await.len(), 2);
    assert_sound(&backend).await;
}
