//! The pieces that every job passes through, without a store: `cargo bench -p queue-benches`.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use queue::{
    Backend, ClaimRequest, ClaimToken, Durability, Job, JobOptions, Kind, KindSlots, MemoryBackend,
    NewJob, Outcome, QueueName, SettleRequest, Settlement, WorkerId,
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Email {
    to: String,
    template: String,
    body: String,
}

impl Job for Email {
    const KIND: &'static str = "email.send";
}

/// About 100 bytes as MessagePack.
fn email() -> Email {
    let body = "x".repeat(40);
    Email { to: "somebody@example.org".to_owned(), template: "welcome".to_owned(), body }
}

fn jobs(c: &mut Criterion) {
    let typed = email();
    c.bench_function("job/new", |b| b.iter(|| NewJob::of(&typed).unwrap()));
    let job = NewJob::of(&typed).unwrap();
    c.bench_function("job/validate", |b| b.iter(|| job.validate(256 * 1024)));
    c.bench_function("job/decode", |b| b.iter(|| job.spec.payload.decode::<Email>().unwrap()));
    let options = JobOptions::default().encode();
    c.bench_function("options/decode", |b| b.iter(|| JobOptions::decode(&options).unwrap()));
}

/// What the Redis backend stores of a job and reads of it again: the header that scripts read, and the
/// payload behind it.
fn header(c: &mut Criterion) {
    let job = NewJob::of(&email()).unwrap();
    c.bench_function("header/pack", |b| b.iter(|| queue_redis::bench::pack(&job.spec)));
    let record = queue_redis::bench::record(&job.spec);
    let unpacked = queue_redis::bench::unpack(&job.spec, record.clone()).unwrap();
    assert_eq!(unpacked.payload, job.spec.payload);
    c.bench_function("header/unpack", |b| {
        let unpack = |record| queue_redis::bench::unpack(&job.spec, record).unwrap();
        b.iter_batched(|| record.clone(), unpack, BatchSize::SmallInput);
    });
}

fn claim_of(max: u32) -> ClaimRequest {
    ClaimRequest {
        token: ClaimToken::random(),
        worker: WorkerId::new("bench").unwrap(),
        queues: vec![QueueName::default()],
        kinds: vec![KindSlots::new(Kind::new(Email::KIND).unwrap(), max)],
        max,
        round_jobs: 0,
        lease: Duration::from_secs(30),
    }
}

/// The life of 64 jobs in the memory backend.
fn memory(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut group = c.benchmark_group("memory");
    group.throughput(Throughput::Elements(64));
    group.bench_function("life", |b| {
        let batch = || -> Vec<NewJob> { (0..64).map(|_| NewJob::of(&email()).unwrap()).collect() };
        let life = |jobs: Vec<NewJob>| {
            runtime.block_on(async {
                let backend = MemoryBackend::new();
                backend.enqueue(&jobs, Durability::Memory).await.unwrap();
                let claim = backend.claim(&claim_of(64)).await.unwrap();
                let settlements = claim.leases.iter().map(|lease| Settlement {
                    id: lease.spec.id,
                    token: lease.token,
                    outcome: Outcome::Completed { result: None },
                    elapsed: Duration::ZERO,
                });
                let request = SettleRequest { settlements: settlements.collect(), claim: None };
                backend.settle(&request).await.unwrap()
            })
        };
        b.iter_batched(batch, life, BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(pieces, jobs, header, memory);
criterion_main!(pieces);
