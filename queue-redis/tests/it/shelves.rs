//! What entries of shelves say of their jobs, and when that is not relied on.

use std::time::Duration;

use queue_core::conformance::Harness;
use queue_core::{
    Backend, ErrorKind, JobError, JobId, JobState, Outcome, RetryOutcome, RetryRequest, Timestamp,
};
use queue_redis::RedisBackend;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{assert_sound, claim, completed, enqueue, job, settle};

const START: Timestamp = Timestamp::from_ms(4_102_444_800_000);
const DONE: &str = "done:default";

struct Store {
    harness: RedisHarness,
    backend: RedisBackend,
    now: Timestamp,
}

impl Store {
    async fn new() -> Self {
        let harness = RedisHarness::new();
        let backend = harness.fresh(START).await;
        Self { harness, backend, now: START }
    }

    /// A command whose second word is a key, without what is before its name.
    fn raw<T: redis::FromRedisValue>(&self, words: &[&[u8]]) -> T {
        let key = self.harness.key(&self.backend, std::str::from_utf8(words[1]).unwrap());
        self.harness.raw(&[&words[..1], &[key.as_bytes()], &words[2..]].concat())
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        self.raw(&[b"ZRANGE", DONE.as_bytes(), b"0", b"-1"])
    }

    /// Jobs that complete together, a second after those before.
    async fn complete(&mut self, kind: &str, count: usize) -> Vec<JobId> {
        self.now = self.now.after(Duration::from_secs(1));
        self.harness.set_clock(&self.backend, self.now).await;
        let jobs: Vec<_> = (0..count).map(|_| job(kind)).collect();
        let ids = enqueue(&self.backend, &jobs).await;
        let leases = claim(&self.backend, &[kind], u32::try_from(count).unwrap()).await;
        settle(&self.backend, &leases, &completed()).await;
        ids
    }

    /// One more job completes, which pushes out all that have completed before: as if there were too
    /// many of them.
    async fn push_out(&mut self, kind: &str) -> JobId {
        let kept = self.raw::<i64>(&[b"HGET", b"meta", DONE.as_bytes()]);
        self.raw::<()>(&[b"HSET", b"meta", DONE.as_bytes(), b"10300"]);
        let id = self.complete(kind, 1).await[0];
        let by = self.raw::<i64>(&[b"HGET", b"meta", DONE.as_bytes()]) - 10_300;
        match (kept + by).to_string().as_bytes() {
            b"0" => self.raw::<()>(&[b"HDEL", b"meta", DONE.as_bytes()]),
            count => self.raw::<()>(&[b"HSET", b"meta", DONE.as_bytes(), count]),
        }
        id
    }

    async fn state(&self, id: JobId) -> Option<JobState> {
        self.backend.get(&[id]).await.unwrap().remove(0).map(|record| record.state)
    }
}

/// What the tag of a kind looks like.
fn tag_of(kind: &str) -> Vec<u8> {
    let mut tag = kind.as_bytes().to_vec();
    if kind.len() % 16 == 15 {
        tag.push(0);
    }
    tag.push(u8::try_from(tag.len() + 1).unwrap());
    tag
}

fn joined(ids: &[JobId], kind: &str) -> Vec<u8> {
    let mut entry: Vec<u8> = ids.iter().flat_map(|id| *id.as_bytes()).collect();
    entry.extend(tag_of(kind));
    entry
}

#[tokio::test]
async fn an_entry_names_the_kind_of_its_jobs_until_the_last_leaves() {
    for length in [1, 14, 15, 16, 31, 63, 64] {
        let mut store = Store::new().await;
        let kind = "k".repeat(length);
        let ids = store.complete(&kind, 3).await;
        assert_eq!(store.entries(), [joined(&ids, &kind)]);
        assert_ne!(store.entries()[0].len() % 16, 0);
        assert_sound(&store.backend).await;

        store.backend.delete(&[(ids[1], JobState::Completed)]).await.unwrap();
        assert_eq!(store.entries(), [joined(&[ids[0], ids[2]], &kind)]);
        let retry = RetryRequest { jobs: vec![(ids[0], store.now)], keep_counts: false };
        assert_eq!(store.backend.retry(&retry).await.unwrap(), [RetryOutcome::Ready]);
        assert_eq!(store.entries(), [joined(&ids[2..], &kind)]);
        store.backend.delete(&[(ids[2], JobState::Completed)]).await.unwrap();
        assert!(store.entries().is_empty());
        assert_sound(&store.backend).await;
    }
}

#[tokio::test]
async fn a_record_with_more_to_it_is_in_an_entry_without_a_tag() {
    let mut store = Store::new().await;
    let large = queue_core::Payload::raw(vec![7; 2000]);
    let mut apart = job("a");
    apart.spec.payload = large.clone();
    let jobs = [job("a").idempotency_key("k"), apart, job("a"), job("a")];
    let ids = enqueue(&store.backend, &jobs).await;
    let leases = claim(&store.backend, &["a"], 4).await;
    let mut ends = crate::support::jobs::ends(&leases, &completed());
    ends.settlements[2].outcome = Outcome::Completed { result: Some(large) };
    store.backend.settle(&ends).await.unwrap();
    let mut entries = store.entries();
    entries.sort_by_key(Vec::len);
    assert_eq!(entries[0], joined(&ids[3..], "a"));
    assert_eq!(entries[1..].concat().len(), 3 * 16);
    assert_sound(&store.backend).await;
    store.push_out("a").await;
    for id in ids {
        assert_eq!(store.state(id).await, None);
    }
    for key in [&b"idem"[..], b"body", b"result"] {
        assert_eq!(store.raw::<usize>(&[b"HLEN", key]), 0, "{}", key.escape_ascii());
    }
    assert_sound(&store.backend).await;
}

#[tokio::test]
async fn what_a_job_has_suffered_goes_with_it() {
    let mut store = Store::new().await;
    let ids = enqueue(&store.backend, &[job("a"), job("a")]).await;
    let leases = claim(&store.backend, &["a"], 2).await;
    let error = JobError::new(ErrorKind::Failed, "no");
    let again = Outcome::Retry { delay: Duration::ZERO, error };
    settle(&store.backend, &leases[..1], &again).await;
    let second = claim(&store.backend, &["a"], 1).await;
    settle(&store.backend, &[second[0].clone(), leases[1].clone()], &completed()).await;
    assert_eq!(store.entries()[0].len(), joined(&ids, "a").len());
    let last = store.push_out("b").await;
    assert_eq!(store.entries(), [joined(&[last], "b")]);
    for (key, left) in [(&b"jobs"[..], 1), (b"fin", 1), (b"att", 0), (b"history", 0)] {
        assert_eq!(store.raw::<usize>(&[b"HLEN", key]), left, "{}", key.escape_ascii());
    }
    assert_sound(&store.backend).await;
}

#[tokio::test]
async fn what_is_in_quarantine_is_not_pushed_out() {
    let mut store = Store::new().await;
    let ids = store.complete("a", 3).await;
    store.raw::<()>(&[b"HSET", b"jobs", ids[1].as_bytes(), b"\xffgarbage"]);
    assert!(store.backend.get(&ids).await.unwrap()[1].is_none());
    store.push_out("a").await;
    assert_eq!(store.raw::<Vec<u8>>(&[b"HGET", b"jobs", ids[1].as_bytes()]), b"\xffgarbage");
    assert_eq!(store.state(ids[0]).await, None);
}

/// An entry with another expiry is not found: the job runs again, and the shelf goes on naming it.
#[tokio::test]
async fn a_job_that_is_not_found_on_its_shelf_is_not_pushed_out_with_it() {
    let mut store = Store::new().await;
    let ids = store.complete("a", 3).await;
    let entry = joined(&ids, "a");
    store.raw::<()>(&[b"ZINCRBY", DONE.as_bytes(), b"-1", &entry]);
    let retry = RetryRequest { jobs: vec![(ids[1], store.now)], keep_counts: false };
    assert_eq!(store.backend.retry(&retry).await.unwrap(), [RetryOutcome::Ready]);
    assert_eq!(store.entries(), [entry]);
    store.push_out("b").await;
    assert_eq!(store.state(ids[1]).await, Some(JobState::Ready));

    store.backend.audit(true).await.unwrap();
    assert_sound(&store.backend).await;
    assert_eq!(claim(&store.backend, &["a"], 5).await.len(), 1);
}

/// Of a quarantined job that had finished the shelf knows nothing more.
#[tokio::test]
async fn who_comes_back_from_quarantine_is_not_pushed_out_with_the_others() {
    for deletes in [true, false] {
        let mut store = Store::new().await;
        let ids = store.complete("a", 3).await;
        let sound: Vec<u8> = store.raw(&[b"HGET", b"jobs", ids[1].as_bytes()]);
        store.raw::<()>(&[b"HSET", b"jobs", ids[1].as_bytes(), b"\xffgarbage"]);
        assert!(store.backend.get(&ids).await.unwrap()[1].is_none());
        if deletes {
            let deleted = [(ids[1], JobState::Quarantined)];
            store.backend.delete(&deleted).await.unwrap();
            enqueue(&store.backend, &[job("a").id(ids[1])]).await;
        } else {
            store.raw::<()>(&[b"HSET", b"jobs", ids[1].as_bytes(), &sound]);
            store.raw::<()>(&[b"HSET", b"fin", ids[1].as_bytes(), b"?"]);
            store.backend.recover(&ids[1..2]).await.unwrap();
        }
        assert_eq!(store.state(ids[1]).await, Some(JobState::Ready));
        store.push_out("b").await;
        assert_eq!(store.state(ids[1]).await, Some(JobState::Ready), "deletes: {deletes}");
    }
}

#[tokio::test]
async fn an_entry_that_says_what_its_jobs_are_not_is_named_and_repaired() {
    for others in [0, 1100] {
        let mut store = Store::new().await;
        let ids = store.complete("a", 3).await;
        for _ in 0..others / 100 {
            let jobs: Vec<_> = (0..100).map(|_| job("other")).collect();
            enqueue(&store.backend, &jobs).await;
        }
        let (entry, wrong) = (joined(&ids, "a"), joined(&ids, "b"));
        let expiry: u64 = store.raw(&[b"ZSCORE", DONE.as_bytes(), &entry]);
        store.raw::<()>(&[b"ZREM", DONE.as_bytes(), &entry]);
        store.raw::<()>(&[b"ZADD", DONE.as_bytes(), expiry.to_string().as_bytes(), &wrong]);
        let found = store.backend.audit(true).await.unwrap();
        let what = "is not what its entry of done:default says";
        assert!(found.iter().any(|one| one.what == what && one.repaired), "{found:#?}");
        assert_eq!(store.entries(), [entry[..48].to_vec()]);
        assert_sound(&store.backend).await;
        store.push_out("b").await;
        assert_eq!(store.state(ids[0]).await, None);
        assert_sound(&store.backend).await;
    }
}
