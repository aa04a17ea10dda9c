//! Waking up: the chain of tokens, and tokens that change hands.

use std::sync::Arc;
use std::time::Duration;

use queue_core::{Backend, Interest, Wake};
use queue_redis::RedisBackend;
use tokio::task::JoinHandle;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{claim, enqueue, interest, job};

/// Longer than any of these tests takes, shorter than patience.
const LONG: Duration = Duration::from_secs(20);

fn wait(backend: &Arc<RedisBackend>, interest: Interest) -> JoinHandle<Wake> {
    let backend = backend.clone();
    tokio::spawn(async move { backend.wait(&interest, LONG).await.unwrap() })
}

/// Returns once `count` clients of the server are blocked.
async fn blocked(harness: &RedisHarness, count: usize) {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    loop {
        let info: String = harness.raw(&[b"INFO", b"clients"]);
        let line = format!("blocked_clients:{count}");
        if info.lines().any(|found| found == line) {
            return;
        }
        tick.tick().await;
    }
}

#[tokio::test]
async fn one_token_wakes_one_worker_who_wakes_the_next() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    let first = wait(&backend, interest("one", &["a"]));
    blocked(&harness, 1).await;
    let second = wait(&backend, interest("two", &["a"]));
    blocked(&harness, 2).await;
    enqueue(&backend, &[job("a"), job("a")]).await;
    // Redis serves who has waited longest; the other sleeps until the first has claimed.
    assert_eq!(first.await.unwrap(), Wake::Work);
    assert!(!second.is_finished());
    assert_eq!(claim(&backend, &["a"], 1).await.len(), 1);
    assert_eq!(second.await.unwrap(), Wake::Work);
}

#[tokio::test]
async fn a_token_taken_for_a_dropped_wait_reaches_another_worker() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    let dropped = wait(&backend, interest("one", &["a"]));
    blocked(&harness, 1).await;
    dropped.abort();
    assert!(dropped.await.is_err());
    // The blocking command of the dropped wait is still out and takes the token.
    let other = harness.open(backend.namespace()).await;
    let second = wait(&Arc::new(other), interest("two", &["a"]));
    blocked(&harness, 2).await;
    enqueue(&backend, &[job("a")]).await;
    assert_eq!(second.await.unwrap(), Wake::Work);
}

#[tokio::test]
async fn a_wait_that_comes_again_finds_what_came_in_between() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    let dropped = wait(&backend, interest("one", &["a"]));
    blocked(&harness, 1).await;
    dropped.abort();
    assert!(dropped.await.is_err());
    enqueue(&backend, &[job("a")]).await;
    assert_eq!(wait(&backend, interest("one", &["a"])).await.unwrap(), Wake::Work);
}

#[tokio::test]
async fn a_changed_interest_counts_at_once() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    let a = wait(&backend, interest("one", &["a"]));
    blocked(&harness, 1).await;
    a.abort();
    let b = wait(&backend, interest("one", &["b"]));
    enqueue(&backend, &[job("b")]).await;
    assert_eq!(b.await.unwrap(), Wake::Work);
}

#[tokio::test]
async fn a_token_outside_the_interest_is_passed_on() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    let both = wait(&backend, interest("one", &["a", "b"]));
    blocked(&harness, 1).await;
    both.abort();
    // Fits the command that is out, which listens for `a` too.
    let only_b = wait(&backend, interest("one", &["b"]));
    enqueue(&backend, &[job("a")]).await;
    let other = Arc::new(harness.open(backend.namespace()).await);
    assert_eq!(wait(&other, interest("two", &["a"])).await.unwrap(), Wake::Work);
    enqueue(&backend, &[job("b")]).await;
    assert_eq!(only_b.await.unwrap(), Wake::Work);
}

#[tokio::test]
async fn a_cancel_request_between_two_waits_is_not_lost() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    let ids = enqueue(&backend, &[job("a")]).await;
    assert_eq!(claim(&backend, &["a"], 1).await.len(), 1);
    backend.cancel(&ids).await.unwrap();
    assert_eq!(wait(&backend, interest("tester", &[])).await.unwrap(), Wake::Cancel);
}

#[tokio::test]
async fn a_waiter_whose_connection_breaks_waits_on() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    let waiting = wait(&backend, interest("one", &["a"]));
    blocked(&harness, 1).await;
    harness.raw::<i64>(&[b"CLIENT", b"KILL", b"TYPE", b"normal"]);
    blocked(&harness, 1).await;
    enqueue(&backend, &[job("a")]).await;
    assert_eq!(waiting.await.unwrap(), Wake::Work);
}

#[tokio::test]
async fn a_dropped_backend_stops_waiting_and_passes_its_token_on() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    let staying = Arc::new(harness.open(backend.namespace()).await);
    let waiting = wait(&backend, interest("one", &["a"]));
    blocked(&harness, 1).await;
    waiting.abort();
    assert!(waiting.await.is_err());
    drop(backend);
    blocked(&harness, 0).await;
    enqueue(&staying, &[job("a")]).await;
    assert_eq!(wait(&staying, interest("two", &["a"])).await.unwrap(), Wake::Work);
}

/// The answer to the last blocking command may be on its way when nobody can wait any more.
#[tokio::test]
async fn a_token_that_was_taken_as_its_backend_went_is_passed_on() {
    let harness = RedisHarness::new();
    let staying = harness.now().await;
    let list = harness.key(&staying, "wake:default/a");
    for _ in 0..12 {
        let backend = Arc::new(harness.open(staying.namespace()).await);
        let waiting = wait(&backend, interest("one", &["a"]));
        blocked(&harness, 1).await;
        waiting.abort();
        assert!(waiting.await.is_err());
        // Nothing else of this thread runs between these two.
        harness.raw::<()>(&[b"RPUSH", list.as_bytes(), b"1"]);
        drop(backend);
        let other = interest("two", &["a"]);
        assert_eq!(staying.wait(&other, LONG).await.unwrap(), Wake::Work);
    }
}

/// Promise P9 without busy loops: an idle worker's wait costs the server nothing.
#[tokio::test]
async fn an_idle_wait_sends_one_command() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    let sent_once = || {
        let info: String = harness.raw(&[b"INFO", b"commandstats"]);
        info.lines().any(|line| line.starts_with("cmdstat_blpop:calls=1,"))
    };
    let short = interest("one", &["a"]);
    for _ in 0..20 {
        let wake = backend.wait(&short, Duration::from_millis(5)).await.unwrap();
        assert_eq!(wake, Wake::Timeout);
    }
    let waiting = wait(&backend, short);
    blocked(&harness, 1).await;
    // The command of the first wait served all twenty-one.
    assert!(sent_once());
    waiting.abort();
}

/// A word that nobody has read must not hide one that matters.
#[tokio::test]
async fn a_cancel_request_is_heard_behind_left_over_words() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    let list = harness.key(&backend, "wake:w:tester");
    for left_over in [1, 100] {
        let ids = enqueue(&backend, &[job("a"), job("a")]).await;
        assert_eq!(claim(&backend, &["a"], 2).await.len(), 2);
        for _ in 0..left_over {
            harness.raw::<()>(&[b"RPUSH", list.as_bytes(), b"i"]);
        }
        backend.cancel(&ids[..1]).await.unwrap();
        backend.cancel(&ids[1..]).await.unwrap();
        let words: Vec<String> = harness.raw(&[b"LRANGE", list.as_bytes(), b"0", b"-1"]);
        assert_eq!(words.iter().filter(|word| *word == "c").count(), 1);
        assert!(words.len() <= 16, "{} words", words.len());
        assert_eq!(wait(&backend, interest("tester", &[])).await.unwrap(), Wake::Cancel);
    }
}

/// Each sleeps until the first job of all is due: an earlier one of its own it has to learn of.
#[tokio::test]
async fn each_pair_with_an_earlier_due_job_is_woken() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    let delayed = |kind, s| job(kind).delay(Duration::from_secs(s));
    enqueue(&backend, &[delayed("x", 100)]).await;
    let token = |kind: &str| {
        let list = harness.key(&backend, &format!("wake:default/{kind}"));
        harness.raw::<u8>(&[b"DEL", list.as_bytes()])
    };
    assert_eq!(token("x"), 1);
    let waiting = ["a", "b"].map(|kind| wait(&backend, interest(kind, &[kind])));
    blocked(&harness, 2).await;
    let batch = [delayed("a", 20), delayed("a", 10), delayed("b", 30), delayed("x", 200)];
    enqueue(&backend, &batch).await;
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap(), Wake::Work);
    }
    assert_eq!(token("x"), 0, "its first job is not earlier than what they know");
}

fn figure(harness: &RedisHarness, section: &str, name: &str) -> u64 {
    let info: String = harness.raw(&[b"INFO", section.as_bytes()]);
    let found = info.lines().find_map(|line| line.strip_prefix(name));
    found.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn a_wake_list_of_a_wrong_type_makes_no_hot_loop() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let list = harness.key(&backend, "wake:default/a");
    harness.raw::<()>(&[b"SET", list.as_bytes(), b"?"]);
    let wait = async |ms| {
        let interest = interest("one", &["a"]);
        backend.wait(&interest, Duration::from_millis(ms)).await.unwrap()
    };
    let first = wait(300).await;
    let count = || figure(&harness, "commandstats", "cmdstat_blpop:calls=");
    let before = (count(), figure(&harness, "stats", "total_connections_received:"));
    assert_eq!((first, wait(1500).await), (Wake::Timeout, Wake::Timeout));
    // The connections that count are those of the two questions before the second look.
    let connections = figure(&harness, "stats", "total_connections_received:") - before.1;
    assert!(before.0 == 1 && count() <= 2, "{} commands", count());
    assert!(connections <= 2, "{connections} connections");
}

/// A hint needs no room worth speaking of.
#[tokio::test]
async fn a_changed_interest_counts_in_a_full_store() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    let _first = wait(&backend, interest("one", &["a"]));
    blocked(&harness, 1).await;
    harness.raw::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    let _second = wait(&backend, interest("one", &["b"]));
    let patience = tokio::time::Instant::now() + LONG;
    while figure(&harness, "commandstats", "cmdstat_blpop:calls=") < 2 {
        assert!(tokio::time::Instant::now() < patience, "the interest was never looked at anew");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
