//! How many jobs a second go through one file, beside a plain loop of inserts in the same run. The
//! jobs carry no limit keys, or up to 2 each: that of a provider, and those of ten tenants.
//!
//! ```sh
//! cargo run --release -p queue-sqlite --example throughput [directory] [jobs] [keys]
//! ```

use std::path::Path;
use std::time::{Duration, Instant};

use queue_core::{
    Backend, ClaimRequest, ClaimToken, JobId, Kind, KindSlots, LimitSettings, LimitTarget, NewJob,
    Outcome, Payload, QueueName, SettleRequest, Settlement, WorkerId,
};
use queue_sqlite::{Durability, SqliteBackend, SqliteOptions};

type Failure = Box<dyn std::error::Error>;

const PAYLOAD: [u8; 100] = [7; 100];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let directory = tempfile::tempdir_in(arguments.next().unwrap_or_else(|| ".".to_owned()))?;
    let jobs: usize = arguments.next().map_or(Ok(20_000), |text| text.parse())?;
    let keys: usize = arguments.next().map_or(Ok(0), |text| text.parse())?;
    println!("{jobs} jobs with {} bytes and {keys} limit keys each; per second", PAYLOAD.len());
    println!(
        "{:<8} {:>5} {:>14} {:>10} {:>14} {:>14}",
        "sync", "batch", "plain inserts", "enqueue", "claim+settle", "cycle"
    );
    for durability in [Durability::Fsync, Durability::Memory] {
        for batch in [1, 100, 500] {
            // One sync for each job takes a while.
            let jobs = if batch == 1 { jobs / 20 } else { jobs };
            let name = format!("{durability:?}-{batch}");
            let path = directory.path().join(&name);
            let plain = plain_inserts(&path.with_extension("plain"), durability, jobs, batch)?;
            let options = SqliteOptions::default().durability(durability);
            let backend = SqliteBackend::open(&path, options)?;
            set_limits(&backend, keys).await?;
            let enqueued = enqueue(&backend, jobs, batch, keys).await?;
            let worked = work(&backend, jobs, batch).await?;
            let rate = |time: Duration| jobs as f64 / time.as_secs_f64();
            println!(
                "{:<8} {batch:>5} {:>14.0} {:>10.0} {:>14.0} {:>14.0}",
                format!("{durability:?}"),
                rate(plain),
                rate(enqueued),
                rate(worked),
                rate(enqueued + worked),
            );
            backend.close().await;
        }
    }
    Ok(())
}

/// What anybody would write who needs no queue: one table, one index, a transaction per batch.
fn plain_inserts(
    path: &Path,
    durability: Durability,
    jobs: usize,
    batch: usize,
) -> Result<Duration, Failure> {
    let conn = rusqlite::Connection::open(path)?;
    conn.pragma_update(None, "journal_mode", "wal")?;
    let synchronous = if durability == Durability::Fsync { "FULL" } else { "NORMAL" };
    conn.pragma_update(None, "synchronous", synchronous)?;
    conn.execute_batch("CREATE TABLE plain (id BLOB PRIMARY KEY, payload BLOB)")?;
    let started = Instant::now();
    for _ in 0..jobs / batch {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        let mut insert = conn.prepare_cached("INSERT INTO plain VALUES (?1, ?2)")?;
        for _ in 0..batch {
            insert.execute((JobId::new().as_bytes(), PAYLOAD))?;
        }
        conn.execute_batch("COMMIT")?;
    }
    Ok(started.elapsed())
}

/// Limits that are far away, but have to be looked at.
async fn set_limits(backend: &SqliteBackend, keys: usize) -> Result<(), Failure> {
    let rate = Some("1000000/1s".parse()?);
    let limited = LimitSettings { concurrency: Some(10_000), rate, ..LimitSettings::default() };
    for target in ["provider:x", "tenant:*"].into_iter().take(keys) {
        backend.set_limit(&LimitTarget::new(target)?, Some(&limited)).await?;
    }
    Ok(())
}

async fn enqueue(
    backend: &SqliteBackend,
    jobs: usize,
    batch: usize,
    keys: usize,
) -> Result<Duration, Failure> {
    let kind = Kind::new("bench")?;
    let mut number = 0;
    let mut new = || {
        number += 1;
        let limits = ["provider:x".to_owned(), format!("tenant:{}", number % 10)];
        let job = NewJob::new(kind.clone(), Payload::raw(PAYLOAD.to_vec()));
        limits.into_iter().take(keys).fold(job, NewJob::limit)
    };
    let started = Instant::now();
    for _ in 0..jobs / batch {
        let batch: Vec<NewJob> = std::iter::repeat_with(&mut new).take(batch).collect();
        backend.enqueue(&batch, queue_core::Durability::Memory).await?;
    }
    Ok(started.elapsed())
}

/// One worker that settles a batch and claims the next one in the same call, as they do.
async fn work(backend: &SqliteBackend, jobs: usize, batch: usize) -> Result<Duration, Failure> {
    let kind = Kind::new("bench")?;
    let worker = WorkerId::random();
    let mut settlements = Vec::new();
    let mut settled = 0;
    let started = Instant::now();
    while settled < jobs {
        let max = u32::try_from(batch)?;
        let request = ClaimRequest {
            token: ClaimToken::random(),
            worker: worker.clone(),
            queues: vec![QueueName::default()],
            kinds: vec![KindSlots::new(kind.clone(), max)],
            max,
            round_jobs: 0,
            lease: Duration::from_secs(30),
        };
        settled += settlements.len();
        let request = SettleRequest { settlements, claim: Some(request) };
        let leases = backend.settle(&request).await?.claim.unwrap_or_default().leases;
        settlements = leases
            .into_iter()
            .map(|lease| Settlement {
                id: lease.spec.id,
                token: lease.token,
                outcome: Outcome::Completed { result: None },
                elapsed: Duration::from_millis(1),
            })
            .collect();
    }
    Ok(started.elapsed())
}
