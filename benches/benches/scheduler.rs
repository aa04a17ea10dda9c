//! Who runs next, and the engine that runs it, on the memory backend:
//! `cargo bench -p queue-benches --bench scheduler`.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use queue::{
    Backend, ClaimRequest, ClaimToken, Durability, Kind, KindSlots, MemoryBackend, NewJob, Payload,
    Queue, QueueName, WorkerId,
};
use queue_benches::delivery::Delivery;

fn send() -> Kind {
    Kind::new("send").unwrap()
}

fn claim_of(max: u32) -> ClaimRequest {
    ClaimRequest {
        token: ClaimToken::random(),
        worker: WorkerId::new("bench").unwrap(),
        queues: vec![QueueName::default()],
        kinds: vec![KindSlots::new(send(), max)],
        max,
        round_jobs: 0,
        lease: Duration::from_secs(30),
    }
}

/// A claim of 32 jobs of which each is of another tenant, out of so many tenants.
fn turns(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut group = c.benchmark_group("scheduler/turns");
    group.throughput(Throughput::Elements(32));
    for tenants in [1, 100, 1000] {
        let full = || {
            let backend = MemoryBackend::new();
            let of =
                |n: u32| NewJob::new(send(), Payload::raw(vec![7; 8])).limit(format!("tenant:{n}"));
            let jobs: Vec<NewJob> = (0..tenants.max(64)).map(|n| of(n % tenants)).collect();
            for some in jobs.chunks(500) {
                runtime.block_on(backend.enqueue(some, Durability::Memory)).unwrap();
            }
            backend
        };
        let claim = |backend: MemoryBackend| {
            let claim = runtime.block_on(backend.claim(&claim_of(32))).unwrap();
            assert_eq!(claim.leases.len(), 32);
            backend
        };
        group.bench_function(BenchmarkId::from_parameter(tenants), |b| {
            b.iter_batched(full, claim, BatchSize::SmallInput);
        });
    }
    group.finish();
}

/// Jobs that do nothing, from the first claim to the end of the worker.
fn engine(c: &mut Criterion) {
    const JOBS: usize = 2000;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut group = c.benchmark_group("scheduler/engine");
    group.sample_size(20).throughput(Throughput::Elements(JOBS as u64));
    for slots in [4, 200] {
        let full = || {
            let queue = Queue::memory();
            let of =
                |n: usize| NewJob::new(send(), Payload::raw((n as u64).to_le_bytes().to_vec()));
            runtime.block_on(queue.enqueue_all((0..JOBS).map(of))).unwrap();
            queue
        };
        let drain = |queue: Queue| {
            runtime.block_on(async {
                let delivery = Delivery::new(JOBS);
                let worker = queue::Worker::new(&queue).concurrency(slots);
                let worker = worker.executor(send(), None, delivery.clone()).start().unwrap();
                delivery.reaches(JOBS as u64).await;
                worker.drain(Duration::from_secs(30)).await;
                delivery.check().unwrap();
            });
        };
        group.bench_function(BenchmarkId::new("slots", slots), |b| {
            b.iter_batched(full, drain, BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(all, turns, engine);
criterion_main!(all);
