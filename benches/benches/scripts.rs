//! The calls of a job's life, each one script, on a redis-server of their own that keeps nothing:
//! `cargo bench -p queue-benches --bench scripts`.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use queue::{
    Backend, ClaimRequest, ClaimToken, Durability, Kind, KindSlots, Lease, Namespace, NewJob,
    Outcome, Payload, QueueName, Retention, SettleRequest, Settlement, WorkerId,
};
use queue_benches::redis_server::Redis;
use queue_redis::RedisBackend;
use tokio::runtime::Runtime;

/// Jobs in a call.
const BATCHES: [u32; 3] = [1, 10, 100];

struct Store<'a> {
    runtime: &'a Runtime,
    backend: RedisBackend,
}

impl Store<'_> {
    fn jobs(&self, count: u32) -> Vec<NewJob> {
        let nothing = Retention { completed: Duration::ZERO, dead: Duration::ZERO };
        let job = || NewJob::new(Kind::new("send").unwrap(), Payload::raw(vec![7; 100]));
        (0..count).map(|_| job().retention(nothing)).collect()
    }

    fn enqueue(&self, jobs: &[NewJob]) {
        let all = self.runtime.block_on(self.backend.enqueue(jobs, Durability::Memory)).unwrap();
        assert_eq!(all.len(), jobs.len());
    }

    fn claim(&self, max: u32) -> Vec<Lease> {
        let request = ClaimRequest {
            token: ClaimToken::random(),
            worker: WorkerId::new("bench").unwrap(),
            queues: vec![QueueName::default()],
            kinds: vec![KindSlots::new(Kind::new("send").unwrap(), max)],
            max,
            round_jobs: 0,
            lease: Duration::from_secs(600),
        };
        let leases = self.runtime.block_on(self.backend.claim(&request)).unwrap().leases;
        assert_eq!(leases.len(), max as usize);
        leases
    }

    fn settle(&self, leases: &[Lease]) {
        let settlements = leases.iter().map(|lease| Settlement {
            id: lease.spec.id,
            token: lease.token,
            outcome: Outcome::Completed { result: None },
            elapsed: Duration::ZERO,
        });
        let request = SettleRequest { settlements: settlements.collect(), claim: None };
        let reply = self.runtime.block_on(self.backend.settle(&request)).unwrap();
        assert_eq!(reply.settled.len(), leases.len());
    }
}

/// Each round trip, by how many jobs it carries. What was enqueued is claimed and settled again, so
/// that the store stays as small as it is.
fn scripts(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::start_volatile(folder.path()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let url = format!("redis://127.0.0.1:{}", redis.port());
    let backend = RedisBackend::connect(&url, Namespace::default());
    let backend = runtime.block_on(backend).unwrap();
    let store = Store { runtime: &runtime, backend };
    let mut group = c.benchmark_group("script");
    group.sample_size(30).measurement_time(Duration::from_secs(3));
    for batch in BATCHES {
        group.throughput(Throughput::Elements(batch.into()));
        let finish = |jobs: u32| store.settle(&store.claim(jobs));
        group.bench_function(BenchmarkId::new("enqueue", batch), |b| {
            b.iter_custom(|rounds| {
                let mut took = Duration::ZERO;
                for _ in 0..rounds {
                    let jobs = store.jobs(batch);
                    let started = std::time::Instant::now();
                    store.enqueue(&jobs);
                    took += started.elapsed();
                    finish(batch);
                }
                took
            });
        });
        group.bench_function(BenchmarkId::new("claim", batch), |b| {
            b.iter_custom(|rounds| {
                let mut took = Duration::ZERO;
                for _ in 0..rounds {
                    store.enqueue(&store.jobs(batch));
                    let started = std::time::Instant::now();
                    let leases = store.claim(batch);
                    took += started.elapsed();
                    store.settle(&leases);
                }
                took
            });
        });
        group.bench_function(BenchmarkId::new("settle", batch), |b| {
            let claimed = || {
                store.enqueue(&store.jobs(batch));
                store.claim(batch)
            };
            let settle = |leases: Vec<Lease>| store.settle(&leases);
            b.iter_batched(claimed, settle, BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(all, scripts);
criterion_main!(all);
