//! Random damage everywhere: no call fails, nothing is stuck, and what was not hit is finished.
//!
//! `DAMAGE_CASES=5000` makes as many damages; the seed of a failing round is in its message.

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use queue_core::conformance::Harness;
use queue_core::{
    Backend, Durability, ErrorKind, JobError, JobId, JobState, Lease, LimitKey, LimitSettings,
    LimitTarget, ListRequest, NewJob, Outcome, Payload, Progress, Rate, RenewRequest, Report,
    RetryRequest, SettleRequest, Settlement, Timestamp, WatchRequest,
};
use queue_redis::RedisBackend;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{job, request};

const START: Timestamp = Timestamp::from_ms(4_102_444_800_000);
const DAMAGES_PER_ROUND: usize = 5;

#[tokio::test]
async fn random_damage_stops_nothing() {
    let cases = std::env::var("DAMAGE_CASES").ok().and_then(|cases| cases.parse().ok());
    let seed: Option<u64> = std::env::var("DAMAGE_SEED").ok().and_then(|seed| seed.parse().ok());
    let harness = RedisHarness::new();
    for round in 0..cases.unwrap_or(300_usize).div_ceil(DAMAGES_PER_ROUND) {
        let seed = seed.unwrap_or(round as u64);
        let rng = Rng::with_seed(seed);
        Round { harness: &harness, backend: harness.fresh(START).await, rng, seed, now: START }
            .run()
            .await;
        harness.raw::<()>(&[b"FLUSHALL"]);
    }
}

/// What a call must answer, whatever is damaged.
trait Worked<T> {
    fn worked(self, what: &str, seed: u64) -> T;
}

impl<T> Worked<T> for Result<T, queue_core::Error> {
    fn worked(self, what: &str, seed: u64) -> T {
        self.unwrap_or_else(|error| panic!("seed {seed}: {what}: {error}"))
    }
}

struct Round<'a> {
    harness: &'a RedisHarness,
    backend: RedisBackend,
    rng: Rng,
    seed: u64,
    now: Timestamp,
}

impl Round<'_> {
    async fn run(mut self) {
        let ids = self.populate().await;
        let mut hit = BTreeSet::new();
        let mut log = Vec::new();
        for _ in 0..DAMAGES_PER_ROUND {
            let (what, id) = self.damage();
            log.push(what);
            hit.extend(id);
        }
        for _ in 0..6 {
            self.use_everything(&ids).await;
        }
        // A key that damage has closed for years is closed: an operator opens it.
        let limited = self.harness.key(&self.backend, "limited");
        for what in log.iter().filter_map(|what| what.strip_prefix(&limited)) {
            let words: [&[u8]; 3] = [b"HDEL", limited.as_bytes(), what.trim().as_bytes()];
            self.harness.raw::<()>(&words);
        }
        // So are settings that have become others, or unreadable.
        let settings = self.harness.key(&self.backend, "limits ");
        for target in log.iter().filter_map(|what| what.strip_prefix(&settings)) {
            let Ok(target) = LimitTarget::new(target.trim()) else { continue };
            let some = LimitSettings { concurrency: Some(3), ..LimitSettings::default() };
            self.backend.set_limit(&target, Some(&some)).await.expect("a limit");
        }
        self.backend.audit(true).await.expect("an audit");
        let fresh: Vec<NewJob> = (0..5).map(|_| job("fresh")).collect();
        self.backend.enqueue(&fresh, Durability::Memory).await.expect("an enqueue");
        let fresh: Vec<JobId> = fresh.iter().map(NewJob::job_id).collect();
        self.drain().await;
        let unhit = ids.iter().chain(&fresh).filter(|id| !hit.contains(*id));
        for id in unhit {
            let state = self.backend.get(&[*id]).await.expect("a look").remove(0).map(|r| r.state);
            let is_over = state.is_none_or(|state| state.is_finished());
            assert!(is_over, "seed {}: {id} is {state:?} after {log:#?}", self.seed);
        }
        self.backend.audit(true).await.expect("a repair");
        let left = self.backend.audit(false).await.expect("an audit");
        let left: Vec<_> = left.iter().filter(|found| !is_for_people(&found.what)).collect();
        assert!(left.is_empty(), "seed {}: {left:#?} after {log:#?}", self.seed);
    }

    fn make(&mut self, n: usize) -> NewJob {
        let size = if self.rng.u8(..8) == 0 { 1500 } else { 5 };
        let kind = queue_core::Kind::new(["a", "b"][n % 2]).expect("a kind");
        let mut job = NewJob::new(kind, Payload::raw(vec![7; size]));
        if self.rng.bool() {
            job = job.max_attempts(3); // or it is a usual one, with a brief record
        }
        let job = match self.rng.u8(..4) {
            0 => job.limit("tenant:a"),
            1 => job.limit("tenant:b").limit("provider:x"),
            _ => job,
        };
        match self.rng.u8(..6) {
            0 => job.delay(Duration::from_secs(self.rng.u64(1..300))),
            1 => job.idempotency_key(format!("key-{n}")),
            2 => job
                .idempotency_key(format!("key-{n}"))
                .hold(queue_core::Hold::AtLeast(Duration::from_secs(100))),
            3 => job.priority(2),
            _ => job,
        }
    }

    /// Jobs in every state.
    async fn populate(&mut self) -> Vec<JobId> {
        let some = LimitSettings { concurrency: Some(3), ..LimitSettings::default() };
        let rate = Some(Rate::new(1, Duration::from_secs(10)));
        for (target, settings) in
            [("tenant:*", some), ("provider:x", LimitSettings { rate, ..LimitSettings::default() })]
        {
            let target = LimitTarget::new(target).expect("a target");
            self.backend.set_limit(&target, Some(&settings)).await.expect("a limit");
        }
        let jobs: Vec<NewJob> = (0..24).map(|n| self.make(n)).collect();
        self.backend.enqueue(&jobs, Durability::Memory).await.expect("an enqueue");
        let ids: Vec<JobId> = jobs.iter().map(NewJob::job_id).collect();
        let leases = self.claim(10).await;
        self.report(&leases).await;
        self.settle(&leases[..leases.len() / 2]).await;
        self.backend.cancel(&ids[20..]).await.expect("a cancel");
        ids
    }

    async fn claim(&self, most: u32) -> Vec<Lease> {
        let asked = request(&["a", "b", "fresh"], most);
        let leases = self.backend.claim(&asked).await;
        leases.worked("claim", self.seed).leases
    }

    async fn report(&mut self, leases: &[Lease]) {
        let reports: Vec<Report> = leases
            .iter()
            .map(|lease| Report {
                id: lease.spec.id,
                token: lease.token,
                progress: Some(Progress::new(self.rng.u8(..100), "under way")),
                lines_before: 0,
                lines: vec!["a line".to_owned(); self.rng.usize(..3)],
            })
            .collect();
        let reported = self.backend.report(&reports).await;
        reported.worked("report", self.seed);
    }

    async fn settle(&mut self, leases: &[Lease]) {
        let error = || JobError::new(ErrorKind::Failed, "no");
        let settlements = leases
            .iter()
            .map(|lease| Settlement {
                id: lease.spec.id,
                token: lease.token,
                outcome: match self.rng.u8(..7) {
                    0 => Outcome::Retry { delay: Duration::from_secs(30), error: error() },
                    1 => Outcome::Dead { error: error() },
                    2 => Outcome::Released,
                    3 => Outcome::Snoozed { delay: Duration::from_secs(3) },
                    4 => Outcome::Completed { result: None },
                    _ => Outcome::Completed { result: Some(Payload::raw("done")) },
                },
                elapsed: Duration::from_millis(5),
            })
            .collect();
        let settled = self.backend.settle(&SettleRequest { settlements, claim: None }).await;
        settled.worked("settle", self.seed);
    }

    async fn advance(&mut self, by: Duration) {
        self.now = self.now.after(by);
        self.harness.set_clock(&self.backend, self.now).await;
    }

    async fn maintain(&self) {
        for _ in 0..50 {
            let done = self.backend.maintain(500).await;
            if !done.worked("maintain", self.seed).more {
                return;
            }
        }
        panic!("seed {}: maintenance does not end", self.seed);
    }

    async fn use_everything(&mut self, ids: &[JobId]) {
        let backend = &self.backend;
        let seed = self.seed;
        backend.stats().await.worked("stats", seed);
        backend.limits().await.worked("limits", seed);
        let keys = ["tenant:a", "provider:x", "queue:default"]
            .map(|key| LimitKey::new(key).expect("a key"));
        backend.limit_status(&keys).await.worked("limit_status", seed);
        backend.lanes(&queue_core::QueueName::default()).await.worked("lanes", seed);
        backend.place(ids[0]).await.worked("place", seed);
        backend.workers().await.worked("workers", seed);
        let records = backend.get(ids).await.worked("get", seed);
        for state in JobState::ALL {
            let mut request = ListRequest { limit: 5, ..ListRequest::new(state) };
            for _ in 0..100 {
                let page = backend.list(&request).await.worked("list", seed);
                request.cursor = page.next;
                if request.cursor.is_none() {
                    break;
                }
            }
            assert!(request.cursor.is_none(), "seed {seed}: a listing of {state} does not end");
        }
        let looks: Vec<_> = ids.iter().map(|id| WatchRequest { id: *id, after_line: 0 }).collect();
        backend.watch(&looks).await.worked("watch", seed);
        let ended = records.iter().flatten().filter_map(|r| Some((r.spec.id, r.finished_at?)));
        let retry = RetryRequest { jobs: ended.take(2).collect(), keep_counts: false };
        backend.retry(&retry).await.worked("retry", seed);
        let some: Vec<JobId> = (0..2).map(|_| ids[self.rng.usize(..ids.len())]).collect();
        backend.cancel(&some[..1]).await.worked("cancel", seed);
        let state = JobState::ALL[self.rng.usize(..JobState::ALL.len())];
        backend.delete(&[(some[1], state)]).await.worked("delete", seed);
        backend.quarantined(ids).await.worked("quarantined", seed);
        if self.rng.bool() {
            backend.recover(ids).await.worked("recover", seed);
        }
        backend.audit(false).await.worked("audit", seed);
        let again: Vec<NewJob> = (0..6).map(|n| self.make(n)).collect();
        let again = self.backend.enqueue(&again, Durability::Memory).await;
        again.worked("enqueue", seed);
        let leases = self.claim(5).await;
        let tokens = leases.first().map(|lease| lease.token).into_iter().collect();
        let renewal = RenewRequest { tokens, lease: Duration::from_secs(30) };
        self.backend.renew(&renewal).await.worked("renew", seed);
        self.report(&leases).await;
        self.settle(&leases).await;
        self.maintain().await;
        self.advance(Duration::from_secs(20)).await;
    }

    /// Runs what there is until nothing is left.
    async fn drain(&mut self) {
        for _ in 0..60 {
            self.advance(Duration::from_secs(100)).await;
            self.maintain().await;
            let leases = self.claim(500).await;
            let done = Outcome::Completed { result: None };
            let ends = crate::support::jobs::ends(&leases, &done);
            self.backend.settle(&ends).await.expect("a settle");
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = [0, 1, 5, 16, 16, 32, 33, 60][self.rng.usize(..8)];
        (0..length).map(|_| self.rng.u8(..)).collect()
    }

    fn spoil(&mut self, sound: &[u8]) -> Vec<u8> {
        let mut bytes = sound.to_vec();
        match self.rng.u8(..3) {
            0 => return self.bytes(),
            1 => bytes.truncate(self.rng.usize(..bytes.len().max(1))),
            _ => {
                for _ in 0..self.rng.usize(1..4) {
                    let at = self.rng.usize(..bytes.len().max(1));
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = self.rng.u8(..);
                    }
                }
            }
        }
        bytes
    }

    /// Spoils one item of one key; says what, and which job's record it was.
    fn damage(&mut self) -> (String, Option<JobId>) {
        let names = self.harness.names(&self.backend);
        let key = names[self.rng.usize(..names.len())].clone();
        let name = key.as_bytes();
        let harness = self.harness;
        match harness.raw::<String>(&[b"TYPE", name]).as_str() {
            "hash" => return self.damage_hash(&key),
            "list" => {
                let index = self.rng.usize(..harness.raw::<usize>(&[b"LLEN", name]));
                let bytes = self.bytes();
                harness.raw::<()>(&[b"LSET", name, index.to_string().as_bytes(), &bytes]);
            }
            "zset" => {
                let member: Vec<u8> = harness.raw(&[b"ZRANDMEMBER", name]);
                let score: Vec<u8> = harness.raw(&[b"ZSCORE", name, &member]);
                match self.rng.u8(..3) {
                    0 => {
                        let other = self.rng.u64(..START.as_ms() + 500_000).to_string();
                        harness.raw::<()>(&[b"ZADD", name, other.as_bytes(), &member]);
                    }
                    1 => harness.raw::<()>(&[b"ZREM", name, &member]),
                    _ => {
                        harness.raw::<()>(&[b"ZREM", name, &member]);
                        let bytes = self.spoil(&member);
                        harness.raw::<()>(&[b"ZADD", name, &score, &bytes]);
                    }
                }
            }
            _ => {}
        }
        (key, None)
    }

    fn damage_hash(&mut self, key: &str) -> (String, Option<JobId>) {
        let (harness, name) = (self.harness, key.as_bytes());
        let fields: Vec<Vec<u8>> = harness.raw(&[b"HRANDFIELD", name, b"1"]);
        let field = fields[0].clone();
        let untouched: [&[u8]; 4] = [b"schema", b"epoch", b"clock_ms", b"paused"];
        let what = format!("{key} {}", String::from_utf8_lossy(&field));
        if untouched.contains(&field.as_slice()) {
            return (what, None);
        }
        let sound: Vec<u8> = harness.raw(&[b"HGET", name, &field]);
        let bytes = self.spoil(&sound);
        match self.rng.u8(..8) {
            0 => harness.raw::<()>(&[b"HDEL", name, &field]),
            1 => {
                let field = self.bytes();
                harness.raw::<()>(&[b"HSET", name, &field, &bytes]);
            }
            _ => harness.raw::<()>(&[b"HSET", name, &field, &bytes]),
        }
        let indexes = ["idem", "claims", "meta", "limits", "limited", "live"];
        let is_index = indexes.iter().any(|part| key.ends_with(part)) || key.contains(":starts:");
        let id = field.as_slice().try_into().ok().filter(|_| !is_index).map(JobId::from_bytes);
        (what, id)
    }
}

/// What a repair leaves to people: bytes that perhaps are all that is left of something.
fn is_for_people(what: &str) -> bool {
    ["no id", "lost its payload", "lost its result"].iter().any(|part| what.contains(part))
}
