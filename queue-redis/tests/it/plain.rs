//! Where the plain part of a script does a call, it does what the whole one would have done.
//!
//! Random sequences of calls go through a [`Twin`], which makes each of them with both.
//! `PLAIN_CASES=2000` tries as many sequences; the seed of a failing one is in its message, and
//! `PLAIN_SEED` repeats it.

use std::time::Duration;

use fastrand::Rng;
use queue_core::conformance::Harness;
use queue_core::{
    Adaptive, Backend, Breaker, ClaimRequest, ClaimToken, Codec, Durability, ErrorKind, JobError,
    JobId, Kind, KindSlots, Lease, LimitKeys, LimitSettings, LimitTarget, NewJob, OnConflict,
    Outcome, Payload, QueueName, Rate, Retention, SettleRequest, Settlement, Timestamp, WorkerId,
};
use queue_redis::RedisBackend;

use crate::support::harness::RedisHarness;
use crate::support::twin::Twin;

const START: Timestamp = Timestamp::from_ms(4_102_444_800_000);
const STEPS: usize = 40;
const KINDS: [&str; 3] = ["a", "b", "c"];
const QUEUES: [&str; 2] = ["default", "other"];

#[tokio::test]
async fn plain_parts_do_what_the_whole_scripts_do() {
    let cases = std::env::var("PLAIN_CASES").ok().and_then(|cases| cases.parse().ok());
    let seed: Option<u64> = std::env::var("PLAIN_SEED").ok().and_then(|seed| seed.parse().ok());
    let harness = RedisHarness::new();
    let twin = Twin::start(&harness.redis);
    for round in 0..cases.unwrap_or(24_u64) {
        let seed = seed.unwrap_or(round);
        Round::new(&harness, &twin, seed).await.run().await;
        harness.raw::<()>(&[b"FLUSHALL"]);
    }
    if seed.is_some() {
        return;
    }
    for name in ["enqueue", "claim", "settle"] {
        let tally = twin.tally(name);
        // Otherwise nothing was compared, or next to nothing.
        assert!(tally.calls > 0, "{name}");
        assert!(tally.plain * 4 >= tally.calls, "{name}: {tally:?}");
        assert!(tally.shortest * 20 >= tally.calls, "{name}: {tally:?}");
    }
}

/// What a sequence has to do with limits.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Limits {
    /// No keys at all.
    Without,
    /// Jobs have keys, and nothing is set.
    Unset,
    /// Only how many may run is set.
    Concurrency,
    Everything,
}

struct Round<'a> {
    harness: &'a RedisHarness,
    twin: &'a Twin,
    backend: RedisBackend,
    rng: Rng,
    seed: u64,
    now: Timestamp,
    limits: Limits,
    /// How many keys of a class there are.
    keys: usize,
    /// The first so many of both; few of them have many lanes each.
    kinds: usize,
    queues: usize,
    held: Vec<Lease>,
    jobs: Vec<NewJob>,
}

impl<'a> Round<'a> {
    async fn new(harness: &'a RedisHarness, twin: &'a Twin, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let backend = twin.backend().await;
        harness.set_clock(&backend, START).await;
        let limits = [Limits::Without, Limits::Unset, Limits::Concurrency, Limits::Everything];
        let limits = limits[rng.usize(..limits.len())];
        let keys = [3, 12, 90][rng.usize(..3)];
        let (kinds, queues) = [(1, 1), (2, 1), (3, 2), (3, 2)][rng.usize(..4)];
        Self {
            harness,
            twin,
            backend,
            rng,
            seed,
            now: START,
            limits,
            keys,
            kinds,
            queues,
            held: Vec::new(),
            jobs: Vec::new(),
        }
    }

    async fn run(mut self) {
        for nth in 0..STEPS {
            let what = self.step().await;
            let differences = self.twin.differences();
            assert!(
                differences.is_empty(),
                "seed {}, step {nth}, {what}, limits {:?}:\n{}",
                self.seed,
                self.limits,
                differences.join("\n"),
            );
        }
    }

    async fn step(&mut self) -> &'static str {
        match self.rng.u8(..100) {
            0..30 => self.enqueue().await,
            30..58 => self.claim().await,
            58..80 => self.settle().await,
            80..86 => self.advance().await,
            86..92 if self.limits != Limits::Without => self.set_limit().await,
            86..88 => self.pause().await,
            _ => self.operate().await,
        }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.u32(..n) == 0
    }

    fn a_key(&mut self) -> String {
        match self.rng.u8(..8) {
            0 => "provider:x".to_owned(),
            1 => "provider:y".to_owned(),
            2 => format!("model:{}", self.rng.u8(..3)),
            _ => format!("tenant:{}", self.rng.usize(..self.keys)),
        }
    }

    /// As workers add them, and providers ask for pauses.
    fn provider(&mut self) -> String {
        if self.one_in(3) { self.a_key() } else { "provider:x".to_owned() }
    }

    fn job(&mut self, is_odd: bool) -> NewJob {
        let kind = Kind::new(KINDS[self.rng.usize(..self.kinds)]).expect("a kind");
        let mut id = [0; 16];
        self.rng.fill(&mut id);
        let codec = [Codec::Raw, Codec::Json, Codec::Msgpack][self.rng.usize(..3)];
        let size = [0, 7, 7, 1023, 1024][self.rng.usize(..5)];
        let payload = Payload::from_parts(codec, vec![b'7'; size]);
        let mut job = NewJob::new(kind, payload).id(JobId::from_bytes(id));
        job = job.queue(QUEUES[self.rng.usize(..self.queues)]);
        if self.one_in(4) {
            job = job.priority(self.rng.u8(..10));
        }
        if self.limits != Limits::Without && !self.one_in(4) {
            for _ in 0..[1, 1, 1, 2, 4][self.rng.usize(..5)] {
                let key = self.a_key();
                job = job.limit(key);
            }
        }
        if self.one_in(6) {
            // The usual time for dead ones, or none.
            let dead = [Retention::default().dead, Duration::ZERO][self.rng.usize(..2)];
            job = job.retention(Retention { completed: Duration::ZERO, dead });
        }
        if self.one_in(6) {
            job = job.max_attempts(9);
        }
        if self.one_in(8) {
            job = job.on_conflict(OnConflict::Reject); // a group of its own in the same lane
        }
        if !is_odd {
            return job;
        }
        match self.rng.u8(..5) {
            0 => job.delay(Duration::from_secs(self.rng.u64(..60))),
            1 => job.expires_at(self.now.after(Duration::from_secs(self.rng.u64(1..60)))),
            2 => job.idempotency_key(format!("key-{}", self.rng.u8(..9))),
            3 => {
                job.spec.payload = Payload::raw(vec![7; 1500]);
                job
            }
            _ => job,
        }
    }

    async fn enqueue(&mut self) -> &'static str {
        let is_odd = self.one_in(5);
        let count = if self.one_in(30) { 300 } else { [1, 1, 3, 10, 50][self.rng.usize(..5)] };
        let mut jobs: Vec<NewJob> = (0..count).map(|_| self.job(is_odd)).collect();
        if self.limits != Limits::Without && self.one_in(6) {
            // Each has a lane of its own.
            let keyed = |(n, job): (usize, NewJob)| match job.spec.limits.is_empty() {
                true => job.limit(format!("tenant:n{n}")),
                false => job,
            };
            jobs = jobs.into_iter().enumerate().map(keyed).collect();
        }
        if self.one_in(12) && !self.jobs.is_empty() {
            let old = self.rng.usize(..self.jobs.len());
            jobs.push(self.jobs[old].clone());
        }
        self.jobs.extend(jobs.iter().cloned());
        self.backend.enqueue(&jobs, Durability::Memory).await.expect("an enqueue");
        "enqueue"
    }

    fn request(&mut self) -> ClaimRequest {
        let mut token = [0; 16];
        self.rng.fill(&mut token);
        let mut kinds: Vec<&str> = KINDS.to_vec();
        self.rng.shuffle(&mut kinds);
        kinds.truncate(self.rng.usize(1..=3));
        let max = [1, 2, 5, 30, 200][self.rng.usize(..5)];
        let adds = self.limits != Limits::Without && self.one_in(3);
        let kinds = kinds
            .into_iter()
            .map(|kind| {
                let slots = if self.one_in(3) { self.rng.u32(..=max) } else { max };
                let mut slots = KindSlots::new(Kind::new(kind).expect("a kind"), slots);
                if adds && !self.one_in(3) {
                    let keys: Vec<String> =
                        (0..self.rng.u8(1..3)).map(|_| self.provider()).collect();
                    slots.limits = LimitKeys::parse(keys).expect("keys");
                }
                slots
            })
            .collect();
        let mut queues: Vec<QueueName> =
            QUEUES.iter().map(|name| QueueName::new(name).expect("a queue")).collect();
        self.rng.shuffle(&mut queues);
        queues.truncate(self.rng.usize(1..=2));
        ClaimRequest {
            token: ClaimToken::from_bytes(token),
            worker: WorkerId::new("tester").expect("a name"),
            queues,
            kinds,
            max,
            round_jobs: [0, 0, 12, 400][self.rng.usize(..4)],
            lease: Duration::from_secs(30),
        }
    }

    async fn claim(&mut self) -> &'static str {
        let request = self.request();
        let claim = self.backend.claim(&request).await.expect("a claim");
        if self.one_in(20) {
            self.backend.claim(&request).await.expect("a repeat");
        }
        self.held.extend(claim.leases);
        "claim"
    }

    fn outcome(&mut self) -> Outcome {
        let delay = Duration::from_secs(self.rng.u64(..20));
        let error = JobError::new(ErrorKind::Failed, "no");
        match self.rng.u8(..8) {
            0 => Outcome::Retry { delay, error },
            1 => Outcome::Dead { error },
            2 => Outcome::Released,
            3..6 if self.limits == Limits::Everything => {
                let limits = LimitKeys::parse([self.provider()]).expect("a key");
                Outcome::Throttled { delay, limits }
            }
            3 => Outcome::Snoozed { delay },
            6 => Outcome::Cancelled,
            _ => Outcome::Completed { result: Some(Payload::raw(vec![7; self.rng.usize(..2000)])) },
        }
    }

    async fn settle(&mut self) -> &'static str {
        let is_odd = self.one_in(4);
        self.rng.shuffle(&mut self.held);
        let count = [1, 3, 20, 400][self.rng.usize(..4)].min(self.held.len());
        let leases: Vec<Lease> = self.held.drain(..count).collect();
        if leases.is_empty() {
            return "nothing to settle";
        }
        let settlements = leases
            .iter()
            .map(|lease| Settlement {
                id: lease.spec.id,
                token: lease.token,
                outcome: if is_odd { self.outcome() } else { Outcome::Completed { result: None } },
                elapsed: Duration::from_millis(self.rng.u64(..3)),
            })
            .collect();
        let claim = if self.one_in(3) { Some(self.request()) } else { None };
        let request = SettleRequest { settlements, claim };
        let reply = self.backend.settle(&request).await.expect("a settle");
        if self.one_in(15) {
            self.backend.settle(&request).await.expect("a repeat");
        }
        self.held.extend(reply.claim.into_iter().flat_map(|claim| claim.leases));
        "settle"
    }

    async fn advance(&mut self) -> &'static str {
        let by = Duration::from_secs([1, 5, 31, 70][self.rng.usize(..4)]);
        self.now = self.now.after(by);
        self.harness.set_clock(&self.backend, self.now).await;
        if self.rng.bool() {
            self.backend.maintain(500).await.expect("maintenance");
        }
        "advance"
    }

    fn settings(&mut self) -> LimitSettings {
        let concurrency = Some([1, 4, 20, 1000][self.rng.usize(..4)]);
        let mut set = LimitSettings { concurrency, ..LimitSettings::default() };
        if self.limits != Limits::Everything {
            return set;
        }
        match self.rng.u8(..6) {
            0 => {
                let rate = Rate::new(self.rng.u32(1..5), Duration::from_secs(1));
                set.rate = Some(rate.with_burst(self.rng.u32(1..50)));
            }
            1 => {
                set.breaker = Some(Breaker {
                    failures: self.rng.u32(1..4),
                    window: Duration::from_secs(60),
                    cooldown: Duration::from_secs(5),
                });
            }
            2 => set.weight = Some(self.rng.u32(1..9)),
            3 => set.max_live = Some(self.rng.u64(1..200)),
            4 => set.adaptive = Some(Adaptive { floor: 1 }),
            _ => {}
        }
        set
    }

    async fn set_limit(&mut self) -> &'static str {
        if self.limits == Limits::Unset {
            return "no settings";
        }
        let target = match self.rng.u8(..10) {
            0..3 => "tenant:*".to_owned(),
            3 => "provider:*".to_owned(),
            _ => self.a_key(),
        };
        let target = LimitTarget::new(target).expect("a target");
        let settings = if self.one_in(4) { None } else { Some(self.settings()) };
        self.backend.set_limit(&target, settings.as_ref()).await.expect("a setting");
        "set_limit"
    }

    async fn pause(&mut self) -> &'static str {
        let queue = QueueName::new(QUEUES[self.rng.usize(..2)]).expect("a queue");
        let is_paused = self.rng.bool();
        self.backend.set_paused(&queue, is_paused).await.expect("a pause");
        "pause"
    }

    /// What people and housekeeping do.
    async fn operate(&mut self) -> &'static str {
        match self.rng.u8(..6) {
            0 => {
                let queue = QueueName::new(QUEUES[self.rng.usize(..2)]).expect("a queue");
                let is_paused = self.one_in(3);
                self.backend.set_paused(&queue, is_paused).await.expect("a pause");
                "pause"
            }
            1 if !self.jobs.is_empty() => {
                let some = self.rng.usize(..self.jobs.len());
                let ids: Vec<JobId> =
                    self.jobs[some..].iter().take(3).map(NewJob::job_id).collect();
                self.backend.cancel(&ids).await.expect("a cancel");
                "cancel"
            }
            2 => {
                let key = self.a_key().parse().expect("a key");
                self.backend.reset_limit(&key).await.expect("a reset");
                "reset_limit"
            }
            _ => {
                self.backend.maintain(500).await.expect("maintenance");
                "maintain"
            }
        }
    }
}
