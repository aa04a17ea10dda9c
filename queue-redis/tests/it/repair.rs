//! `audit(true)`: what is safe to put right is put right.

use queue_core::backend::Violation;
use std::time::Duration;

use queue_core::conformance::Harness;
use queue_core::{Backend, Hold, JobState, Timestamp};
use queue_redis::RedisBackend;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{assert_sound, claim, completed, enqueue, job, settle};

/// How many jobs beside them, with their tickets, make a store that the audit reads in pages.
const MANY: u64 = 600;

/// A job in each state but quarantined, and others of another kind.
async fn populated(harness: &RedisHarness, others: u64) -> RedisBackend {
    let backend = harness.now().await;
    for n in (0..others).step_by(300) {
        let jobs: Vec<_> = (n..n + 300).map(|_| job("other").priority(3)).collect();
        enqueue(&backend, &jobs).await;
    }
    let minute = std::time::Duration::from_secs(60);
    let jobs: Vec<_> = (0..6).map(|n| job("a").idempotency_key(format!("k{n}"))).collect();
    enqueue(&backend, &jobs).await;
    enqueue(&backend, &[job("a").delay(minute)]).await;
    let leases = claim(&backend, &["a"], 4).await;
    settle(&backend, &leases[..2], &completed()).await;
    let cancelled = enqueue(&backend, &[job("b")]).await;
    backend.cancel(&cancelled).await.unwrap();
    assert_sound(&backend).await;
    backend
}

async fn repaired(backend: &RedisBackend) -> Vec<Violation> {
    let found = backend.audit(true).await.unwrap();
    assert_eq!(backend.audit(false).await.unwrap(), [], "after {found:#?}");
    assert!(found.iter().all(|violation| violation.repaired), "{found:#?}");
    found
}

#[tokio::test]
async fn each_index_and_counter_is_made_again_from_the_records() {
    let lost: &[(&[&str], usize)] = &[
        (&["HDEL", "meta", "default/a/ready", "default/a/running", "live:default"], 3),
        (&["HSET", "meta", "default/a/ready", "77"], 1),
        (&["HSET", "meta", "default/a/ready", "?"], 1),
        (&["HSET", "meta", "nobody/x/ready", "1"], 1),
        (&["DEL", "lane:default/a/5"], 2),
        (&["SET", "lane:default/a/5", "?"], 2),
        (&["RPUSH", "lane:default/a/5", "no id"], 1),
        (&["RPUSH", "lane:default/a/5", "an-id-of-nobody!"], 1),
        (&["DEL", "lanes:default/a"], 1),
        (&["ZADD", "lanes:default/a", "0", "x"], 1),
        (&["HSET", "gone:default/a/5", "n", "3"], 1),
        (&["HSET", "gone:other/a/5", "an-id-of-nobody!", "1"], 1),
        (&["HSET", "meta", "stale", "12"], 1),
        (&["DEL", "due"], 1),
        (&["ZADD", "due", "1", "an-id-of-nobody!"], 1),
        (&["DEL", "run"], 2),
        (&["DEL", "claims"], 2),
        (&["DEL", "leases"], 1),
        (&["ZADD", "leases", "1", "nobody's"], 1),
        (&["SADD", "cancel", "an-id-of-nobody!"], 1),
        (&["DEL", "done:default"], 2),
        (&["ZADD", "done:default", "1", "an-id-of-nobody!"], 1),
        (&["DEL", "void:default"], 3),
        (&["ZADD", "done:default", "1", "?"], 1),
        (&["DEL", "ages"], 1),
        (&["DEL", "idem"], 6),
        (&["HSET", "idem", "key", "an-id-of-nobody!"], 1),
        (&["HSET", "idem", "key", "?"], 1),
        (&["HSET", "att", "an-id-of-nobody!", "?"], 1),
        (&["HSET", "history", "an-id-of-nobody!", "?"], 1),
        (&["HSET", "log", "an-id-of-nobody!", "?"], 1),
        (&["HSET", "body", "an-id-of-nobody!", "?"], 1),
        (&["HSET", "result", "an-id-of-nobody!", "?"], 1),
        (&["ZADD", "bad", "1", "an-id-of-nobody!"], 1),
        (&["HSET", "whence", "an-id-of-nobody!", "default/a"], 1),
        (&["HDEL", "meta", "clock_ms"], 0),
    ];
    let harness = RedisHarness::new();
    let both = lost.iter().flat_map(|(words, least)| [(words, least, 0), (words, least, MANY)]);
    for (words, least, others) in both {
        let backend = populated(&harness, others).await;
        let key = harness.key(&backend, words[1]);
        let mut command: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        command[1] = key.as_bytes();
        if words[0] == "SET" {
            harness.raw::<()>(&[b"DEL", key.as_bytes()]);
        }
        harness.raw::<redis::Value>(&command);
        let found = backend.audit(false).await.unwrap();
        assert!(found.len() >= *least, "{words:?} {others}: {found:#?}");
        let found = repaired(&backend).await;
        assert!(found.len() >= *least, "{words:?}: {found:?}");
        // Every job is there and can be run.
        let stats = backend.stats().await.unwrap();
        let jobs: u64 = stats.iter().flat_map(|row| row.jobs.values()).sum();
        assert_eq!(jobs, 8 + others, "{words:?}: {stats:?}");
        let ready = stats[0].jobs.get(&JobState::Ready).copied().unwrap_or(0);
        let left = claim(&backend, &["a"], 10).await;
        assert_eq!(left.len() as u64, ready, "{words:?}");
        settle(&backend, &left, &completed()).await;
        assert_sound(&backend).await;
    }
}

#[tokio::test]
async fn a_job_in_two_places_stays_in_one() {
    let harness = RedisHarness::new();
    stays_in_one_place(&harness, 0).await;
    stays_in_one_place(&harness, MANY).await;
}

async fn stays_in_one_place(harness: &RedisHarness, others: u64) {
    let backend = populated(harness, others).await;
    let name = |key: &str| harness.key(&backend, key);
    let finished: Vec<Vec<u8>> = harness.raw(&[b"HKEYS", name("fin").as_bytes()]);
    let running: Vec<Vec<u8>> = harness.raw(&[b"HKEYS", name("run").as_bytes()]);
    for id in [&finished[0], &running[0]] {
        harness.raw::<()>(&[b"RPUSH", name("lane:default/a/5").as_bytes(), id]);
        harness.raw::<()>(&[b"ZADD", name("due").as_bytes(), b"5", id]);
    }
    harness.raw::<()>(&[b"ZADD", name("done:default").as_bytes(), b"5", &running[1]]);
    harness.raw::<()>(&[b"ZADD", name("bad").as_bytes(), b"5", &running[1]]);
    repaired(&backend).await;
    let left = claim(&backend, &["a"], 10).await;
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|lease| !running.contains(&lease.spec.id.as_bytes().to_vec())));
}

#[tokio::test]
async fn a_cancelled_record_among_completed_ones_goes_back_to_its_shelf() {
    let harness = RedisHarness::new();
    let backend = populated(&harness, 0).await;
    let [void, done] = ["void:default", "done:default"].map(|name| harness.key(&backend, name));
    let entry: (Vec<u8>, u64) = harness.raw(&[b"ZPOPMIN", void.as_bytes()]);
    let expiry = entry.1.to_string();
    harness.raw::<()>(&[b"ZADD", done.as_bytes(), expiry.as_bytes(), &entry.0]);
    repaired(&backend).await;
    let score: Option<u64> = harness.raw(&[b"ZSCORE", void.as_bytes(), &entry.0]);
    assert_eq!(score, Some(entry.1));
    assert_eq!(harness.raw::<u64>(&[b"ZCARD", done.as_bytes()]), 1);
}

/// A claim that counts no jobs and has none is one too many, although the two agree.
#[tokio::test]
async fn a_claim_without_jobs_is_named() {
    let harness = RedisHarness::new();
    let backend = populated(&harness, 0).await;
    let [claims, run] = ["claims", "run"].map(|name| harness.key(&backend, name));
    let (token, mut packed): (Vec<u8>, Vec<u8>) = {
        let all: Vec<(Vec<u8>, Vec<u8>)> = harness.raw(&[b"HGETALL", claims.as_bytes()]);
        all[0].clone()
    };
    packed[15..17].fill(0);
    harness.raw::<()>(&[b"HSET", claims.as_bytes(), &token, &packed]);
    harness.raw::<()>(&[b"DEL", run.as_bytes()]);
    let found = repaired(&backend).await;
    let what = "a claim holds 0 jobs, counts 0";
    assert!(found.iter().any(|one| one.what.starts_with(what)), "{found:#?}");
}

/// What nobody can make again is named and left alone.
#[tokio::test]
async fn what_cannot_be_put_right_is_not_marked_so() {
    let harness = RedisHarness::new();
    for others in [0, MANY] {
        let backend = populated(&harness, others).await;
        for (key, field) in [("jobs", "no id"), ("strange", "?")] {
            let key = harness.key(&backend, key);
            harness.raw::<()>(&[b"HSET", key.as_bytes(), field.as_bytes(), b"?"]);
        }
        let found = backend.audit(true).await.unwrap();
        assert_eq!(found.iter().filter(|violation| !violation.repaired).count(), 2, "{found:?}");
        let again = backend.audit(true).await.unwrap();
        assert_eq!(again.len(), 2);
    }
}

/// What one audit has put back another must not put back again: a worker may have run it by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_audits_at_once_give_no_job_twice() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let other = harness.reconnect(&backend).await.unwrap();
    for round in 0..10 {
        let jobs: Vec<_> = (0..150).map(|_| job("a")).collect();
        let ids = enqueue(&backend, &jobs).await;
        harness.raw::<()>(&[b"DEL", harness.key(&backend, "lane:default/a/5").as_bytes()]);
        let work = async {
            let mut given = Vec::new();
            while given.len() < ids.len() {
                let leases = claim(&backend, &["a"], 40).await;
                if leases.is_empty() {
                    // One of the two may have given way to the other.
                    backend.audit(true).await.ok();
                }
                settle(&backend, &leases, &completed()).await;
                given.extend(leases.iter().map(|lease| lease.spec.id));
            }
            given
        };
        let (mut given, _, _) = tokio::join!(work, backend.audit(true), other.audit(true));
        given.sort();
        let mut expected = ids.clone();
        expected.sort();
        assert_eq!(given, expected, "round {round}");
        assert_eq!(claim(&backend, &["a"], 40).await, []);
    }
    while backend.audit(true).await.is_err() {}
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_held_record_survives_a_shelf_of_a_wrong_type() {
    let harness = RedisHarness::new();
    let start = Timestamp::from_ms(4_102_444_800_000);
    let backend = harness.fresh(start).await;
    let hold = Duration::from_secs(1);
    let held = |n: u8| job("a").idempotency_key(format!("k{n}")).hold(Hold::AtLeast(hold));
    enqueue(&backend, &[held(0), held(1), held(2)]).await;
    let leases = claim(&backend, &["a"], 3).await;
    settle(&backend, &leases, &completed()).await;
    let shelf = harness.key(&backend, "done:default");
    harness.raw::<()>(&[b"SET", shelf.as_bytes(), b"x"]);
    harness.set_clock(&backend, start.after(hold)).await;
    assert_eq!(backend.maintain(500).await.unwrap().dropped, 0);
    harness.raw::<()>(&[b"DEL", shelf.as_bytes()]);
    repaired(&backend).await;
    harness.set_clock(&backend, start.after(Duration::from_secs(24 * 3600))).await;
    assert_eq!(backend.maintain(500).await.unwrap().dropped, 3);
    assert_sound(&backend).await;
}
