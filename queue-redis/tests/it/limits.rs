//! What limits cost, what they leave behind, and what damage to them does.

use std::collections::BTreeSet;
use std::time::Duration;

use queue_core::conformance::Harness;
use queue_core::{
    Adaptive, Backend, Breaker, DRIFT_LOOKS_MAX, ErrorKind, JobError, LimitKey, LimitKeys,
    LimitSettings, LimitTarget, NewJob, Outcome, Rate, Timestamp,
};
use queue_redis::RedisBackend;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{
    assert_sound, claim, completed, ends, enqueue, job, limited_populace, request, set_limit,
    settle, transient,
};

const START: Timestamp = Timestamp::from_ms(4_102_444_800_000);

fn concurrency(most: u32) -> LimitSettings {
    LimitSettings { concurrency: Some(most), ..LimitSettings::default() }
}

/// Tenants that each have one job running and more waiting for it.
async fn busy_tenants(backend: &RedisBackend, tenants: usize) {
    set_limit(backend, "tenant:*", &concurrency(1)).await;
    let all: Vec<NewJob> = (0..tenants)
        .flat_map(|n| [(); 2].map(|()| transient("a").limit(format!("tenant:{n}"))))
        .collect();
    for some in all.chunks(500) {
        enqueue(backend, some).await;
    }
    loop {
        let claimed = backend.claim(&request(&["a"], 500)).await.unwrap();
        if claimed.leases.is_empty() && !claimed.more {
            return;
        }
    }
}

#[tokio::test]
async fn blocked_lanes_cost_a_claim_nothing() {
    let mut costs = BTreeSet::new();
    for tenants in [10, 10_000] {
        let harness = RedisHarness::new();
        let backend = harness.fresh(START).await; // a clock that moves is written
        busy_tenants(&backend, tenants).await;
        assert!(claim(&backend, &["a"], 9).await.is_empty());
        let before = harness.commands();
        for _ in 0..20 {
            assert!(claim(&backend, &["a"], 9).await.is_empty());
        }
        let empty = harness.commands() - before;
        enqueue(&backend, &[job("a").limit("other:x"), job("a")]).await;
        let before = harness.commands();
        assert_eq!(claim(&backend, &["a"], 9).await.len(), 2);
        costs.insert((empty, harness.commands() - before));
    }
    assert_eq!(costs.len(), 1, "with 10 and with 10 000 blocked lanes: {costs:?}");
}

#[tokio::test]
async fn a_change_for_thousands_of_keys_is_made_in_small_steps() {
    const TENANTS: usize = 3000;
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    busy_tenants(&backend, TENANTS).await;
    let before = harness.commands();
    set_limit(&backend, "tenant:*", &concurrency(2)).await;
    let mut most = harness.commands() - before;
    let (mut taken, mut steps) = (0, 0);
    loop {
        let before = harness.commands();
        let more = backend.maintain(100).await.unwrap().more;
        most = most.max(harness.commands() - before);
        let before = harness.commands();
        let claimed = backend.claim(&request(&["a"], 100)).await.unwrap();
        most = most.max(harness.commands() - before);
        taken += claimed.leases.len();
        steps += 1;
        if !more && !claimed.more && claimed.leases.is_empty() {
            break;
        }
        assert!(steps < 200, "{taken} after {steps} steps");
    }
    assert_eq!(taken, TENANTS);
    assert!(most < 8000, "a call made {most} commands");
    assert_sound(&backend).await;
}

#[tokio::test]
async fn nothing_is_left_of_thousands_of_tenants() {
    const TENANTS: usize = 3000;
    let harness = RedisHarness::new();
    let backend = harness.fresh(START).await;
    let second = Duration::from_secs(1);
    let settings = LimitSettings {
        rate: Some(Rate::new(1, second).with_burst(3)),
        breaker: Some(Breaker { failures: 9, window: second, cooldown: second }),
        adaptive: Some(Adaptive { floor: 1 }),
        ..concurrency(2)
    };
    set_limit(&backend, "tenant:*", &settings).await;
    let all: Vec<NewJob> =
        (0..TENANTS).map(|n| transient("a").limit(format!("tenant:{n}")).max_attempts(1)).collect();
    for some in all.chunks(500) {
        enqueue(&backend, some).await;
    }
    let timed_out = || JobError::new(ErrorKind::TimedOut, "no");
    let outcomes = [
        completed(),
        Outcome::Retry { delay: second, error: timed_out() },
        Outcome::Throttled {
            delay: second,
            limits: LimitKeys::parse(["provider:x", "tenant:1"]).unwrap(),
        },
    ];
    let mut n = 0;
    loop {
        let leases = claim(&backend, &["a"], 400).await;
        if leases.is_empty() {
            break;
        }
        let mut request = ends(&leases, &completed());
        for settlement in &mut request.settlements {
            settlement.outcome = outcomes[n % 3].clone();
            n += 1;
        }
        backend.settle(&request).await.unwrap();
    }
    assert_sound(&backend).await;
    let mut now = START;
    for _ in 0..3 {
        now = now.after(Duration::from_secs(2));
        harness.set_clock(&backend, now).await;
        while backend.maintain(500).await.unwrap().more {}
        let leases = claim(&backend, &["a"], 500).await;
        settle(&backend, &leases, &completed()).await;
        while !claim_and_complete(&backend).await {}
    }
    harness.set_clock(&backend, now.after(Duration::from_secs(3700))).await;
    while backend.maintain(500).await.unwrap().more {}
    let left = harness.lasting_names(&backend);
    assert_eq!(left, ["limits", "meta"].map(|name| harness.key(&backend, name)));
    backend.set_limit(&LimitTarget::new("tenant:*").unwrap(), None).await.unwrap();
    backend.maintain(500).await.unwrap();
    assert_eq!(harness.lasting_names(&backend), [harness.key(&backend, "meta")]);
    assert_sound(&backend).await;
}

/// Answers whether nothing was there.
async fn claim_and_complete(backend: &RedisBackend) -> bool {
    let leases = claim(backend, &["a"], 500).await;
    settle(backend, &leases, &completed()).await;
    leases.is_empty()
}

/// Whatever is left of the jobs is run to its end.
async fn drained(harness: &RedisHarness, backend: &RedisBackend, what: &str) {
    let mut now = START;
    for _ in 0..12 {
        now = now.after(Duration::from_secs(70));
        harness.set_clock(backend, now).await;
        while backend.maintain(500).await.unwrap().more {}
        let leases = claim(backend, &["a", "b"], 9).await;
        settle(backend, &leases, &completed()).await;
    }
    let stats = backend.stats().await.unwrap();
    let left: u64 =
        stats.iter().flat_map(|row| &row.jobs).filter(|(s, _)| !s.is_finished()).map(|s| s.1).sum();
    assert_eq!(left, 0, "{what}: {stats:?}");
}

#[tokio::test]
async fn each_index_of_limits_is_made_again() {
    let harness = RedisHarness::new();
    let damages: [&[&str]; 24] = [
        &["DEL", "hold:tenant:a"],
        &["SET", "hold:tenant:a", "text"],
        &["SADD", "hold:tenant:a", "an-id-of-nobody!"],
        &["SADD", "hold:tenant:b", "?"],
        &["SADD", "hold:nobody:x", "an-id-of-nobody!"],
        &["DEL", "waits:default/a:tenant:a"],
        &["SET", "waits:default/a:tenant:a", "text"],
        &["ZADD", "waits:default/a:tenant:a", "7", "5/tenant:z"],
        &["ZADD", "waits:default/a:tenant:a", "7", "?"],
        &["DEL", "parked:default/a"],
        &["SET", "parked:default/a", "text"],
        &["ZADD", "parked:default/a", "7", "5/tenant:a"],
        &["DEL", "limited"],
        &["HSET", "limited", "tenant:a", "?"],
        &["HSET", "limited", "?", "?"],
        &["DEL", "reopen"],
        &["ZADD", "reopen", "1", "?"],
        &["DEL", "live"],
        &["HSET", "live", "tenant:a", "many"],
        &["HDEL", "meta", "limits"],
        &["ZADD", "lanes:default/a", "1", "@tenant:z"],
        &["DEL", "lanes:default/a"],
        &["SADD", "mend:tenant:a", "an-id-of-nobody!"],
        &["SET", "mend:tenant:z", "text"],
    ];
    for words in damages {
        let backend = limited_populace(&harness, START).await;
        let name = harness.key(&backend, words[1]);
        let mut bytes: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        bytes[1] = name.as_bytes();
        harness.raw::<()>(&bytes);
        let found = backend.audit(true).await.unwrap();
        assert!(!found.is_empty(), "{words:?} is not found");
        assert!(found.iter().all(|one| one.repaired), "{words:?}: {found:#?}");
        assert_sound(&backend).await;
        drained(&harness, &backend, &format!("{words:?}")).await;
        assert_sound(&backend).await;
    }
}

#[tokio::test]
async fn places_of_jobs_that_do_not_run_are_counted() {
    let harness = RedisHarness::new();
    let backend = limited_populace(&harness, START).await;
    let key = LimitKey::new("tenant:a").unwrap();
    let status = async || backend.limit_status(std::slice::from_ref(&key)).await.unwrap().remove(0);
    let sound = status().await;
    assert_eq!((sound.running, sound.drift), (2, 0));
    let name = harness.key(&backend, "hold:tenant:a");
    for stray in ["an-id-of-nobody!", "?"] {
        harness.add_holder(&backend, "tenant:a", stray.as_bytes());
    }
    let damaged = status().await;
    assert_eq!((damaged.running, damaged.drift), (4, 2));
    // So many are looked at, and no more.
    for n in 0..=DRIFT_LOOKS_MAX {
        harness.add_holder(&backend, "tenant:a", format!("~{n}").as_bytes());
    }
    // Those that run may be among them or not.
    let looked_at = u64::try_from(DRIFT_LOOKS_MAX).unwrap();
    let drift = status().await.drift;
    assert!((looked_at - sound.running..=looked_at).contains(&drift), "{drift}");
    while backend.audit(true).await.unwrap().iter().any(|found| !found.repaired) {}
    assert_eq!(status().await, sound);
    harness.raw::<()>(&[b"SET", name.as_bytes(), b"text"]);
    assert_eq!(status().await.drift, 0);
}

#[tokio::test]
async fn settings_that_cannot_be_read_limit_nothing() {
    let harness = RedisHarness::new();
    for garbage in ["", "?", &"\u{1}\u{3}".repeat(23), &"\u{7f}".repeat(46)] {
        let backend = limited_populace(&harness, START).await;
        let name = harness.key(&backend, "limits");
        harness.raw::<()>(&[b"HSET", name.as_bytes(), b"tenant:*", garbage.as_bytes()]);
        let set = backend.limits().await.unwrap();
        assert_eq!(set.len(), 1, "{garbage:?}: {set:?}");
        let found = backend.audit(true).await.unwrap();
        assert!(found.iter().any(|one| one.what.contains("cannot be read")), "{found:#?}");
        assert_sound(&backend).await;
        drained(&harness, &backend, garbage).await;
    }
}

/// Others that have room hide when a key has some as long as they are there.
#[tokio::test]
async fn a_claim_that_leaves_no_other_work_names_when_a_key_has_room() {
    let harness = RedisHarness::new();
    let backend = harness.fresh(START).await;
    let second = Duration::from_secs(1);
    let rate = Some(Rate::new(1, second).with_burst(1));
    set_limit(&backend, "provider:x", &LimitSettings { rate, ..LimitSettings::default() }).await;
    let of_x = |priority: u8| job("a").limit("provider:x").priority(priority);
    enqueue(&backend, &[of_x(0), job("a").priority(5), of_x(9)]).await;
    let claimed = backend.claim(&request(&["a"], 1)).await.unwrap();
    assert_eq!((claimed.leases.len(), claimed.more), (1, true));
    let claimed = backend.claim(&request(&["a"], 1)).await.unwrap();
    assert_eq!((claimed.leases.len(), claimed.next_due), (1, Some(second)));
}

/// What is remembered of a key ends with who waits for it. The byte in front of that may be a letter: here
/// it is the last one of the time at which the key's concurrency was reduced.
#[tokio::test]
async fn a_claim_names_when_a_key_has_room_whatever_the_time() {
    let harness = RedisHarness::new();
    let delay = Duration::from_millis(1);
    for letter in [0, u64::from(b'a'), u64::from(b'-'), u64::from(b'/')] {
        let backend = harness.fresh(Timestamp::from_ms((START.as_ms() & !0xff) + letter)).await;
        let adaptive = Some(Adaptive { floor: 1 });
        let settings = LimitSettings { adaptive, ..concurrency(2) };
        set_limit(&backend, "provider:y", &settings).await;
        backend.maintain(500).await.unwrap();
        enqueue(&backend, &[job("b"), job("a").limit("provider:y")]).await;
        let leases = claim(&backend, &["b"], 1).await;
        let limits = LimitKeys::parse(["provider:y"]).unwrap();
        settle(&backend, &leases, &Outcome::Throttled { delay, limits }).await;
        for _ in 0..2 {
            let claimed = backend.claim(&request(&["a"], 1)).await.unwrap();
            assert_eq!((claimed.leases.len(), claimed.next_due), (0, Some(delay)), "{letter}");
        }
        // The job that was throttled is due at the same time, too: without it the key alone counts.
        let throttled = [leases[0].spec.id];
        backend.cancel(&throttled).await.unwrap();
        let claimed = backend.claim(&request(&["a"], 1)).await.unwrap();
        assert_eq!((claimed.leases.len(), claimed.next_due), (0, Some(delay)), "{letter}");
    }
}

/// Claims and ends go on beside keys of a wrong type.
#[tokio::test]
async fn a_wrong_type_stops_nobody_else() {
    let harness = RedisHarness::new();
    for name in [
        "hold:tenant:a",
        "waits:default/a:tenant:a",
        "parked:default/a",
        "waits:default/b:provider:x",
    ] {
        let backend = limited_populace(&harness, START).await;
        harness.raw::<()>(&[b"SET", harness.key(&backend, name).as_bytes(), b"text"]);
        let leases = claim(&backend, &["a", "b"], 9).await;
        assert!(leases.len() >= 2, "{name}");
        settle(&backend, &leases, &completed()).await;
        harness.set_clock(&backend, START.after(Duration::from_secs(70))).await;
        while backend.maintain(500).await.unwrap().more {}
        claim(&backend, &["a", "b"], 9).await;
        backend.audit(true).await.unwrap();
        assert_sound(&backend).await;
        drained(&harness, &backend, name).await;
    }
}

/// More lanes with keys than one look takes.
#[tokio::test]
async fn an_audit_of_many_lanes_finds_what_is_wrong_and_only_that() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    busy_tenants(&backend, 300).await;
    let of = |n: usize| job("a").limit(format!("tenant:{n}")).limit("provider:x");
    let open: Vec<NewJob> = (300..400).map(of).collect();
    enqueue(&backend, &open).await;
    enqueue(&backend, &[job("b").limit("tenant:0")]).await;
    assert!(claim(&backend, &["b"], 1).await.is_empty());
    assert_sound(&backend).await;
    // Those of one group have nothing to do with each other.
    let first: &[(&[&str], &str)] = &[
        (&["DEL", "hold:tenant:7"], "not among the holders of tenant:7"),
        (&["DEL", "waits:default/a:tenant:8"], "default/a/5/tenant:8 is parked wrongly"),
        (&["ZREM", "lanes:default/a", "5/provider:x,tenant:350"], "tenant:350 is in no index"),
        (&["HDEL", "limited", "tenant:10"], "when default/a has room at tenant:10"),
        (&["HSET", "live", "tenant:11", "5"], "live jobs have the key tenant:11, not 5"),
        (&["SET", "hold:tenant:12", "text"], "hold:tenant:12 is not"),
        (&["SET", "waits:default/a:tenant:13", "text"], "waits:default/a:tenant:13 is not"),
        (&["SET", "parked:default/b", "text"], "parked:default/b is not"),
    ];
    let second: &[(&[&str], &str)] = &[
        (&["SADD", "hold:tenant:7", "an-id-of-nobody!"], "the holders of tenant:7 and does"),
        (&["ZREM", "parked:default/a", "5/tenant:9"], "5/tenant:9\", which is not parked"),
        (&["HSET", "meta", "live:default", "5"], "the counter live:default"),
        (&["HSET", "limits", "tenant:11", "?"], "the settings of \"tenant:11\" cannot"),
        (&["SADD", "mend:tenant:14", "an-id-of-nobody!"], "tenant:14 are being gathered"),
    ];
    for group in [first, second] {
        for (words, _) in group {
            let name = harness.key(&backend, words[1]);
            let mut bytes: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
            bytes[1] = name.as_bytes();
            harness.raw::<()>(&bytes);
        }
        let found = backend.audit(true).await.unwrap();
        for (words, what) in group {
            let is_found = found.iter().any(|one| one.what.contains(what));
            assert!(is_found, "{words:?} is not found: {found:#?}");
        }
        assert!(found.iter().all(|one| one.repaired), "{found:#?}");
        assert_sound(&backend).await;
    }
}
