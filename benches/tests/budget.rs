//! What a job may cost, in figures that do not depend on how fast or busy the machine is: commands,
//! round trips, bytes, allocations, and the server's CPU time in units of a plain `SET` of the same
//! run. A change that makes one of them worse fails here; one that makes them better should lower
//! the budget.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::System;
use std::time::Duration;

use queue::{Connect as _, Kind, LimitSettings, NewJob, Queue, Retention, Worker};
use queue_benches::delivery::Delivery;
use queue_benches::redis_server::Redis;
use queue_benches::server_figures::{Commands, ServerFigures};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const JOBS: usize = 20_000;
const CONCURRENCY: usize = 100;
const TENANTS: usize = 1_000;

/// What something cost, for each job.
#[derive(Debug, Clone, Copy)]
struct Cost {
    commands: f64,
    round_trips: f64,
    allocations: f64,
    allocated_bytes: f64,
    stored_bytes: f64,
    /// In units of a `SET`.
    server_cpu: f64,
}

struct Meter {
    server: ServerFigures,
    set_us: f64,
    commands: Commands,
    allocations: usize,
    allocated_bytes: usize,
    stored_bytes: f64,
    cpu_us: f64,
}

impl Meter {
    fn new(url: &str) -> Self {
        let mut server = ServerFigures::connect(url).unwrap();
        // The least of some: whatever else the machine does only adds to it.
        let sets = (0..5).map(|_| server.plain_set_us(10_000).unwrap());
        let set_us = sets.fold(f64::INFINITY, f64::min);
        let mut meter = Self {
            server,
            set_us,
            commands: Commands::default(),
            allocations: 0,
            allocated_bytes: 0,
            stored_bytes: 0.0,
            cpu_us: 0.0,
        };
        meter.read();
        meter
    }

    fn read(&mut self) {
        self.cpu_us = self.server.cpu_us().unwrap();
        self.stored_bytes = self.server.memory_bytes().unwrap();
        self.commands = self.server.commands().unwrap();
        let stats = ALLOCATOR.stats();
        self.allocations = stats.allocations + stats.reallocations;
        self.allocated_bytes = stats.bytes_allocated;
    }

    /// What came since the last time.
    fn cost(&mut self, jobs: usize) -> Cost {
        let (commands, allocations) = (self.commands, self.allocations);
        let (bytes, stored, cpu) = (self.allocated_bytes, self.stored_bytes, self.cpu_us);
        self.read();
        let commands = self.commands.since(commands);
        let each = |total: f64| total / jobs as f64;
        Cost {
            commands: each(commands.all as f64),
            round_trips: each(commands.scripts as f64),
            allocations: each((self.allocations - allocations) as f64),
            allocated_bytes: each((self.allocated_bytes - bytes) as f64),
            stored_bytes: each(self.stored_bytes - stored),
            server_cpu: each(self.cpu_us - cpu) / self.set_us,
        }
    }
}

fn jobs(retention: Retention) -> Vec<NewJob> {
    let kind = Kind::new("send").unwrap();
    let job = |n| Delivery::job(&kind, n as u64, 100).retention(retention);
    (0..JOBS).map(job).collect()
}

async fn drained(queue: &Queue) {
    let delivery = Delivery::new(JOBS);
    let worker = Worker::new(queue)
        .concurrency(CONCURRENCY)
        .executor(Kind::new("send").unwrap(), None, delivery.clone())
        .start()
        .unwrap();
    delivery.reaches(JOBS as u64).await;
    worker.drain(Duration::from_secs(60)).await;
    delivery.check().unwrap();
}

async fn limit(queue: &Queue, target: &str, most: u32) {
    let settings = LimitSettings { concurrency: Some(most), ..LimitSettings::default() };
    queue.set_limit(&target.parse().unwrap(), &settings).await.unwrap();
}

fn within(what: &str, measured: f64, budget: f64) {
    println!("{what:<48} {measured:>9.3} of {budget}");
    if std::env::var_os("BUDGET_SHOW").is_some() {
        return;
    }
    assert!(measured <= budget, "{what}: {measured:.3}, and the budget is {budget}");
}

#[tokio::test]
async fn a_job_costs_no_more_than_it_did() {
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::start_volatile(folder.path()).unwrap();
    let queue = Queue::connect(&redis.url()).await.unwrap();
    queue.stats().await.unwrap();
    let mut meter = Meter::new(&redis.url());

    let none = Retention { completed: Duration::ZERO, ..Retention::default() };
    let bulk = jobs(none);
    meter.read();
    queue.enqueue_all(bulk).await.unwrap();
    let enqueued = meter.cost(JOBS);
    drained(&queue).await;
    let ran = meter.cost(JOBS);
    let kept = jobs(Retention::default());
    meter.read();
    queue.enqueue_all(kept).await.unwrap();
    drained(&queue).await;
    let whole = meter.cost(JOBS);

    within("enqueue: round trips", enqueued.round_trips, 0.0025);
    within("enqueue: commands", enqueued.commands, 0.045);
    within("enqueue: stored bytes", enqueued.stored_bytes, 240.0);
    within("enqueue: allocations", enqueued.allocations, 2.5);
    within("enqueue: allocated bytes", enqueued.allocated_bytes, 1300.0);
    within("enqueue: server CPU, in SETs", enqueued.server_cpu, 8.0);
    within("run: round trips", ran.round_trips, 0.05);
    within("run: commands", ran.commands, 0.5);
    within("run: allocations", ran.allocations, 12.0);
    within("run: allocated bytes", ran.allocated_bytes, 3800.0);
    within("run: server CPU, in SETs", ran.server_cpu, 15.0);
    for (most, commands, server_cpu) in [(100, 2.5, 25.0), (1, 9.0, 60.0)] {
        limit(&queue, "tenant:*", most).await;
        limit(&queue, "provider:p", 10_000).await;
        let of_tenants = jobs(none)
            .into_iter()
            .enumerate()
            .map(|(n, job)| job.limit(format!("tenant:t{}", n % TENANTS)).limit("provider:p"));
        queue.enqueue_all(of_tenants).await.unwrap();
        meter.read();
        drained(&queue).await;
        let ran = meter.cost(JOBS);
        let what = format!("run, {most} at a time for each of {TENANTS} tenants");
        within(&format!("{what}: commands"), ran.commands, commands);
        within(&format!("{what}: server CPU, in SETs"), ran.server_cpu, server_cpu);
    }

    // As many records as are kept of a queue are half of the jobs.
    within("whole life, half of the records kept: stored bytes", whole.stored_bytes, 172.0);
    within("whole life, records kept: commands", whole.commands, 0.9);
    within("whole life, records kept: server CPU, in SETs", whole.server_cpu, 28.0);
}
