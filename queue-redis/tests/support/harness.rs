//! The conformance suite's way to Redis.

use queue_core::conformance::Harness;
use queue_core::{Lease, Namespace, Timestamp};
use queue_redis::RedisBackend;

use super::server::TestRedis;

/// A server, and a fresh namespace in it per store.
#[derive(Debug)]
pub struct RedisHarness {
    pub redis: TestRedis,
}

impl RedisHarness {
    pub fn new() -> Self {
        Self { redis: TestRedis::start() }
    }

    pub async fn open(&self, namespace: &Namespace) -> RedisBackend {
        RedisBackend::connect(&self.redis.url(), namespace.clone()).await.expect("a connection")
    }

    /// A namespace on the server's real clock.
    pub async fn now(&self) -> RedisBackend {
        self.open(&fresh_name()).await
    }

    /// The full name of one of the backend's keys.
    pub fn key(&self, backend: &RedisBackend, name: &str) -> String {
        format!("{{{}/0}}:{name}", backend.namespace())
    }

    /// Sends one command past the backend.
    pub fn raw<T: redis::FromRedisValue>(&self, words: &[&[u8]]) -> T {
        let mut cmd = redis::Cmd::new();
        words.iter().for_each(|word| {
            cmd.arg(*word);
        });
        cmd.query(&mut self.redis.client()).expect("the command works")
    }

    /// Makes a running job's entry of `run` unreadable, behind its token.
    pub fn spoil_run(&self, backend: &RedisBackend, lease: &Lease) {
        let (run, id) = (self.key(backend, "run"), lease.spec.id);
        let mut bytes: Vec<u8> = self.raw(&[b"HGET", run.as_bytes(), id.as_bytes()]);
        bytes[16] = 9;
        self.raw::<()>(&[b"HSET", run.as_bytes(), id.as_bytes(), &bytes]);
    }

    /// Makes somebody a holder of a limit key.
    pub fn add_holder(&self, backend: &RedisBackend, key: &str, id: &[u8]) {
        let name = self.key(backend, &format!("hold:{key}"));
        self.raw::<()>(&[b"SADD", name.as_bytes(), id]);
    }

    /// How many commands the server has run, those of scripts included.
    pub fn commands(&self) -> u64 {
        let text: String = self.raw(&[b"INFO", b"commandstats"]);
        let calls = text.lines().filter(|line| !line.contains("_info:"));
        calls
            .filter_map(|line| line.split("calls=").nth(1)?.split(',').next()?.parse::<u64>().ok())
            .sum()
    }

    /// All keys of the backend's namespace.
    pub fn names(&self, backend: &RedisBackend) -> Vec<String> {
        let mut names: Vec<String> = self.raw(&[b"KEYS", self.key(backend, "*").as_bytes()]);
        names.sort();
        names
    }

    /// Those of them that do not go by themselves.
    pub fn lasting_names(&self, backend: &RedisBackend) -> Vec<String> {
        let mut names = self.names(backend);
        names.retain(|name| self.raw::<i64>(&[b"TTL", name.as_bytes()]) == -1);
        names
    }

    fn stop_clock(&self, namespace: &Namespace, now: Timestamp) {
        let _: () = redis::cmd("HSET")
            .arg(format!("{{{namespace}/0}}:meta"))
            .arg("clock_ms")
            .arg(now.as_ms())
            .query(&mut self.redis.client())
            .expect("the clock is set");
    }
}

fn fresh_name() -> Namespace {
    Namespace::new(format!("test-{:016x}", fastrand::u64(..))).expect("a name")
}

impl Harness for RedisHarness {
    type Backend = RedisBackend;

    async fn fresh(&self, now: Timestamp) -> RedisBackend {
        let namespace = fresh_name();
        self.stop_clock(&namespace, now);
        self.open(&namespace).await
    }

    async fn reconnect(&self, backend: &RedisBackend) -> Option<RedisBackend> {
        Some(self.open(backend.namespace()).await)
    }

    async fn set_clock(&self, backend: &RedisBackend, now: Timestamp) {
        self.stop_clock(backend.namespace(), now);
    }

    async fn snapshot(&self, backend: &RedisBackend) -> Option<Vec<u8>> {
        let mut packed = Vec::new();
        for name in self.names(backend) {
            let dump: Vec<u8> = self.raw(&[b"DUMP", name.as_bytes()]);
            for part in [name.as_bytes(), &dump] {
                packed.extend(u32::try_from(part.len()).expect("a size").to_be_bytes());
                packed.extend_from_slice(part);
            }
        }
        Some(packed)
    }

    async fn restore(&self, backend: &RedisBackend, snapshot: &[u8]) {
        for name in self.names(backend) {
            self.raw::<()>(&[b"DEL", name.as_bytes()]);
        }
        let mut rest = snapshot;
        let mut part = || {
            let (length, tail) = rest.split_first_chunk::<4>()?;
            let (part, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
            rest = tail;
            Some(part)
        };
        while let (Some(name), Some(dump)) = (part(), part()) {
            self.raw::<()>(&[b"RESTORE", name, b"0", dump]);
        }
    }
}
