//! Damage to what is known of limit keys heals without an operator, and nothing is exceeded until
//! then.

use std::time::Duration;

use queue_core::conformance::Harness;
use queue_core::{
    Backend, Breaker, ErrorKind, JobError, LimitSettings, LimitTarget, Outcome, Rate, Timestamp,
};
use queue_redis::RedisBackend;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{
    assert_sound, claim, claim_with, completed, enqueue, job, limited_populace, set_limit, settle,
};

const START: Timestamp = Timestamp::from_ms(4_102_444_800_000);
const MINUTE: Duration = Duration::from_secs(60);

fn concurrency(most: u32) -> LimitSettings {
    LimitSettings { concurrency: Some(most), ..LimitSettings::default() }
}

impl RedisHarness {
    fn spoil(&self, backend: &RedisBackend, words: &[&str]) {
        let name = self.key(backend, words[1]);
        let mut bytes: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        bytes[1] = name.as_bytes();
        self.raw::<()>(&bytes);
    }
}

/// What workers do when a claim says so, until nothing is left to do.
async fn maintain(backend: &RedisBackend) {
    for _ in 0..200 {
        if !backend.maintain(500).await.unwrap().more {
            return;
        }
    }
    panic!("maintenance does not end");
}

/// A job whose entry of `run` is damaged does not say which keys its worker had added: these are
/// free again soon after its end.
#[tokio::test]
async fn a_damaged_running_job_keeps_no_place() {
    let harness = RedisHarness::new();
    for ending in ["settled", "reaped", "set aside"] {
        let backend = harness.fresh(START).await;
        set_limit(&backend, "provider:p", &concurrency(1)).await;
        enqueue(&backend, &[job("a"), job("a")]).await;
        let leases = claim_with(&backend, "a", "provider:p", 1).await;
        assert!(claim_with(&backend, "a", "provider:p", 1).await.is_empty());
        maintain(&backend).await; // the look at all keys has just been made
        harness.spoil_run(&backend, &leases[0]);
        match ending {
            "settled" => drop(settle(&backend, &leases, &completed()).await),
            "reaped" => harness.set_clock(&backend, START.after(Duration::from_secs(31))).await,
            _ => {
                let jobs = harness.key(&backend, "jobs");
                let id = leases[0].spec.id;
                harness.raw::<()>(&[b"HSET", jobs.as_bytes(), id.as_bytes(), b"?"]);
                settle(&backend, &leases, &completed()).await;
            }
        }
        maintain(&backend).await;
        let next = claim_with(&backend, "a", "provider:p", 9).await;
        assert_eq!(next.len(), 1, "{ending}");
        settle(&backend, &next, &completed()).await;
    }
}

/// A breaker whose probe has ended unseen lets another one start.
#[tokio::test]
async fn a_damaged_probe_is_followed_by_another() {
    let harness = RedisHarness::new();
    let backend = harness.fresh(START).await;
    let breaker = Breaker { failures: 1, window: MINUTE, cooldown: Duration::from_secs(5) };
    let settings = LimitSettings { breaker: Some(breaker), ..LimitSettings::default() };
    set_limit(&backend, "provider:p", &settings).await;
    enqueue(&backend, &[job("a"), job("a"), job("a")]).await;
    let first = claim_with(&backend, "a", "provider:p", 1).await;
    let error = JobError::new(ErrorKind::Failed, "no");
    let delay = Duration::from_secs(3600);
    settle(&backend, &first, &Outcome::Retry { delay, error }).await;
    assert!(claim_with(&backend, "a", "provider:p", 1).await.is_empty());
    harness.set_clock(&backend, START.after(Duration::from_secs(6))).await;
    maintain(&backend).await;
    let probe = claim_with(&backend, "a", "provider:p", 9).await;
    assert_eq!(probe.len(), 1);
    harness.spoil_run(&backend, &probe[0]);
    settle(&backend, &probe, &completed()).await;
    maintain(&backend).await;
    assert_eq!(claim_with(&backend, "a", "provider:p", 9).await.len(), 1);
}

/// What cannot be read limits nobody, however long it is.
#[tokio::test]
async fn damaged_settings_are_none() {
    let harness = RedisHarness::new();
    for (bytes, at_once) in
        [(&b""[..], 1), (b"\x01", 4), (b"\x01\x01", 4), (b"xyz", 1), (&[1; 45], 4)]
    {
        let backend = harness.fresh(START).await;
        set_limit(&backend, "tenant:*", &concurrency(1)).await;
        let limits = harness.key(&backend, "limits");
        harness.raw::<()>(&[b"HSET", limits.as_bytes(), b"tenant:*", bytes]);
        let of = |n: usize| job("a").limit(format!("tenant:{}", n % 2));
        enqueue(&backend, &(0..8).map(of).collect::<Vec<_>>()).await;
        let mut claimed = 0;
        while claimed < 8 {
            let leases = claim(&backend, &["a"], at_once).await;
            assert!(!leases.is_empty(), "{bytes:?}");
            claimed += leases.len();
            settle(&backend, &leases, &completed()).await;
        }
    }
}

/// More holders than one call looks at.
#[tokio::test]
async fn strays_are_found_among_thousands_of_holders() {
    const RUNNING: usize = 2600;
    let harness = RedisHarness::new();
    let backend = harness.fresh(START).await;
    let most = u32::try_from(RUNNING).unwrap() + 2;
    set_limit(&backend, "tenant:a", &concurrency(most)).await;
    set_limit(&backend, "tenant:b", &concurrency(1)).await;
    for _ in 0..RUNNING / 100 {
        let some = [(); 100].map(|()| job("a").limit("tenant:a"));
        enqueue(&backend, &some).await;
        claim(&backend, &["a"], 100).await;
    }
    harness.add_holder(&backend, "tenant:a", b"x-id-of-nobody!!");
    harness.add_holder(&backend, "tenant:a", b"y-id-of-nobody!!");
    harness.add_holder(&backend, "tenant:b", b"z-id-of-nobody!!");
    enqueue(&backend, &[job("a").limit("tenant:a"), job("a").limit("tenant:b")]).await;
    assert!(claim(&backend, &["a"], 9).await.is_empty());
    harness.set_clock(&backend, START.after(MINUTE + MINUTE)).await;
    let meta = harness.key(&backend, "meta");
    let (mut calls, mut found, mut pauses) = (0, 0, 0);
    while found < 2 {
        assert!(calls < 30, "{found} of 2 found");
        backend.maintain(0).await.unwrap();
        // Where the round goes on: it stops among the holders of one key.
        let place: String = harness.raw(&[b"HGET", meta.as_bytes(), b"tidied"]);
        pauses += usize::from(place.ends_with(" tenant:a"));
        found += claim(&backend, &["a"], 9).await.len();
        calls += 1;
    }
    assert!(pauses > 0, "so many holders in one call");
}

/// Whatever is damaged: all jobs run in the end, without an audit.
#[tokio::test]
async fn whoever_waits_at_a_damaged_key_is_found_again() {
    let harness = RedisHarness::new();
    let damages: [&[&str]; 18] = [
        &["HDEL", "limited", "tenant:a"],
        &["HSET", "limited", "tenant:a", "?"],
        &["HSET", "limited", "tenant:a", "\u{2}of another version, and of as many bytes"],
        &["HSET", "limited", "provider:x", "?"],
        &["DEL", "limited"],
        &["DEL", "reopen"],
        &["HDEL", "meta", "limits"],
        &["HSET", "meta", "tidied", "t9999999999999999"],
        &["HSET", "meta", "tidied", "p99999999999999999999999! 7 ?"],
        &["HSET", "meta", "mending", "99999999999999999999999 tenant:a"],
        &["DEL", "waits:default/a:tenant:a"],
        &["SET", "waits:default/a:tenant:a", "text"],
        &["SET", "waits:default/b:provider:x", "text"],
        &["DEL", "parked:default/a"],
        &["SET", "parked:default/a", "text"],
        &["SET", "hold:tenant:a", "text"],
        &["ZREM", "lanes:default/a", "@tenant:a"],
        &["SET", "mend:tenant:a", "text"],
    ];
    for words in damages {
        for then in ["nothing", "more jobs", "settings", "reset"] {
            let backend = limited_populace(&harness, START).await;
            harness.spoil(&backend, words);
            match then {
                "more jobs" => {
                    let more = [job("a").limit("tenant:a"), job("b").limit("provider:x")];
                    enqueue(&backend, &more).await;
                    claim(&backend, &["a", "b"], 9).await;
                }
                "settings" => set_limit(&backend, "tenant:*", &concurrency(3)).await,
                "reset" => {
                    backend.reset_limit(&"tenant:a".parse().unwrap()).await.unwrap();
                }
                _ => {}
            }
            let mut now = START;
            for _ in 0..12 {
                now = now.after(Duration::from_secs(70));
                harness.set_clock(&backend, now).await;
                maintain(&backend).await;
                let leases = claim(&backend, &["a", "b"], 9).await;
                settle(&backend, &leases, &completed()).await;
            }
            let stats = backend.stats().await.unwrap();
            let jobs = stats.iter().flat_map(|row| &row.jobs);
            let left: u64 = jobs.filter(|(state, _)| !state.is_finished()).map(|all| all.1).sum();
            assert_eq!(left, 0, "{words:?}, {then}: {stats:?}");
        }
    }
}

/// A key whose holders are of a wrong type gives out nothing until they are known again, and from
/// then on exactly what is left.
#[tokio::test]
async fn holders_of_a_wrong_type_are_gathered_anew_and_never_exceeded() {
    const RUNNING: usize = 600; // more than one call looks at
    let harness = RedisHarness::new();
    let backend = harness.fresh(START).await;
    let (most, spare) = (u32::try_from(RUNNING).unwrap() + 1, 3);
    set_limit(&backend, "tenant:a", &concurrency(most)).await;
    let mut running = Vec::new();
    for _ in 0..RUNNING / 100 {
        enqueue(&backend, &[(); 100].map(|()| job("a").limit("tenant:a"))).await;
        running.extend(claim(&backend, &["a"], 100).await);
    }
    enqueue(&backend, &[(); 5].map(|()| job("a").limit("tenant:a"))).await;
    harness.spoil(&backend, &["SET", "hold:tenant:a", "text"]);
    assert!(claim(&backend, &["a"], 9).await.is_empty());
    backend.maintain(0).await.unwrap();
    // Some end while the others are gathered.
    settle(&backend, &running[..spare], &completed()).await;
    assert!(claim(&backend, &["a"], 9).await.is_empty());
    maintain(&backend).await;
    let next = claim(&backend, &["a"], 9).await;
    assert_eq!(next.len(), spare + 1);
    assert_sound(&backend).await;
    settle(&backend, &running[spare..], &completed()).await;
    assert_eq!(claim(&backend, &["a"], 9).await.len(), 1);
    assert_sound(&backend).await;
}

/// A rate goes on beside holders of a wrong type, and a concurrency that is set then counts them.
#[tokio::test]
async fn a_limit_that_is_set_later_counts_those_that_were_gathered() {
    let harness = RedisHarness::new();
    let backend = harness.fresh(START).await;
    let rate = Some(Rate::new(1000, Duration::from_secs(1)).with_burst(100));
    set_limit(&backend, "tenant:a", &LimitSettings { rate, ..LimitSettings::default() }).await;
    let some = [(); 4].map(|()| job("a").limit("tenant:a"));
    enqueue(&backend, &some).await;
    assert_eq!(claim(&backend, &["a"], 2).await.len(), 2);
    harness.spoil(&backend, &["SET", "hold:tenant:a", "text"]);
    assert_eq!(claim(&backend, &["a"], 1).await.len(), 1);
    set_limit(&backend, "tenant:a", &concurrency(3)).await;
    assert!(claim(&backend, &["a"], 1).await.is_empty());
    maintain(&backend).await;
    assert!(claim(&backend, &["a"], 1).await.is_empty());
    set_limit(&backend, "tenant:a", &concurrency(4)).await;
    assert_eq!(claim(&backend, &["a"], 1).await.len(), 1);
    maintain(&backend).await;
    assert_sound(&backend).await;
    let target = LimitTarget::new("tenant:a").unwrap();
    backend.set_limit(&target, None).await.unwrap();
}
