//! What the life of a job costs a Redis server: CPU time of its main thread and bytes of memory,
//! beside a pipelined `SET` in the same run.
//!
//! ```text
//! cargo run --release -p queue-benches --bin redis_cost
//! ```

use std::time::Duration;

use clap::{Parser, ValueEnum};
use queue::backend::FINISHED_MAX;
use queue::{
    Backend, ClaimRequest, ClaimToken, Durability, Kind, KindSlots, Lease, Namespace, NewJob,
    Outcome, Payload, QueueName, Retention, SettleRequest, Settlement, WorkerId,
};
use queue_benches::redis_server::Redis;
use queue_benches::server_figures::ServerFigures;
use queue_redis::RedisBackend;

const SETS: usize = 100_000;
/// How many keys of one sort the jobs of [`Scene::Tenants`] and [`Scene::Accounts`] have.
const TENANTS: usize = 1000;

#[derive(Parser)]
#[command(version, about = "What the life of a job costs a Redis server")]
struct Options {
    /// The jobs to measure with; all sorts if none is named.
    #[arg(long, value_enum)]
    scene: Vec<Scene>,
    /// Jobs per call.
    #[arg(long, value_delimiter = ',', default_value = "100,10,1")]
    batch: Vec<usize>,
    /// How many jobs; a tenth of them one by one.
    #[arg(long, default_value_t = 100_000)]
    jobs: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scene {
    /// Jobs without limit keys whose records are kept, up to the cap.
    Kept,
    /// The same, and no record is kept.
    Unkept,
    /// Each job has the same two limit keys, without settings.
    Shared,
    /// A limit key of a thousand tenants and one that all share: a thousand lanes.
    Tenants,
    /// Two limit keys of a thousand tenants: as many lanes.
    Accounts,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let scenes = match options.scene.as_slice() {
        [] => Scene::value_variants(),
        some => some,
    };
    for &scene in scenes {
        for &batch in &options.batch {
            let jobs = if batch == 1 { options.jobs / 10 } else { options.jobs };
            measure(scene, batch, jobs).await?;
            if scene == Scene::Kept {
                kept_bytes(batch, jobs).await?;
            }
        }
    }
    Ok(())
}

fn job(scene: Scene, number: usize) -> anyhow::Result<NewJob> {
    let job = NewJob::new(Kind::new("send")?, Payload::raw(vec![7; 100]));
    Ok(match scene {
        Scene::Kept => job,
        Scene::Unkept => {
            let retention = Retention { completed: Duration::ZERO, ..Retention::default() };
            job.retention(retention)
        }
        Scene::Shared => job.limit("provider:mail").limit("region:north"),
        Scene::Tenants => job.limit(format!("tenant:{}", number % TENANTS)).limit("provider:mail"),
        Scene::Accounts => {
            let tenant = number % TENANTS;
            job.limit(format!("tenant:{tenant}")).limit(format!("account:{tenant}"))
        }
    })
}

async fn measure(scene: Scene, batch: usize, jobs: usize) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let redis = Redis::start(folder.path())?;
    let mut server = ServerFigures::connect(&redis.url())?;
    println!("{scene:?}: {jobs} jobs in batches of {batch}, payload 100 bytes:");
    let set_us = server.plain_set_us(SETS)?;
    println!("  a pipelined SET, to compare with: {set_us:.2} us of CPU");
    let backend = RedisBackend::connect(&redis.url(), Namespace::default()).await?;

    // The server learns the scripts, which take memory.
    backend.enqueue(&[job(scene, 0)?], Durability::Memory).await?;
    settle(&backend, &[backend.claim(&request(1)?).await?.leases]).await?;

    let (cpu, memory) = (server.cpu_us()?, server.memory_bytes()?);
    for first in (0..jobs).step_by(batch) {
        let jobs: anyhow::Result<Vec<NewJob>> =
            (first..first + batch).map(|number| job(scene, number)).collect();
        backend.enqueue(&jobs?, Durability::Memory).await?;
    }
    report(&mut server, "enqueue", jobs, cpu)?;
    let queued_bytes = (server.memory_bytes()? - memory) / jobs as f64;
    println!("  {queued_bytes:.0} bytes a queued job");

    let cpu = server.cpu_us()?;
    let mut claims = Vec::new();
    for _ in 0..jobs / batch {
        claims.push(backend.claim(&request(batch)?).await?.leases);
    }
    report(&mut server, "claim", jobs, cpu)?;
    if scene == Scene::Unkept {
        let cpu = server.cpu_us()?;
        settle(&backend, &claims).await?;
        return report(&mut server, "settle, no record kept", jobs, cpu);
    }

    // Up to the cap records are kept; beyond it each new one drops an old one.
    let cap = usize::try_from(FINISHED_MAX)?.min(jobs);
    let rest = claims.split_off(cap / batch);
    let cpu = server.cpu_us()?;
    settle(&backend, &claims).await?;
    report(&mut server, "settle, record kept", cap, cpu)?;
    if rest.is_empty() {
        return Ok(());
    }
    let cpu = server.cpu_us()?;
    settle(&backend, &rest).await?;
    report(&mut server, "settle, an older record dropped", jobs - cap, cpu)
}

/// The memory of completed jobs, in so many queues that none has more of them than are kept.
async fn kept_bytes(batch: usize, jobs: usize) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let redis = Redis::start(folder.path())?;
    let mut server = ServerFigures::connect(&redis.url())?;
    let backend = RedisBackend::connect(&redis.url(), Namespace::default()).await?;
    let mut memory = 0.0;
    // What comes first makes the server know the scripts.
    for first in (0..jobs + batch).step_by(batch) {
        let queue = format!("queue{}", first / usize::try_from(FINISHED_MAX)?);
        let some = (first..first + batch).map(|n| Ok(job(Scene::Kept, n)?.queue(&*queue)));
        backend.enqueue(&some.collect::<anyhow::Result<Vec<_>>>()?, Durability::Memory).await?;
        let request = ClaimRequest { queues: vec![QueueName::new(queue)?], ..request(batch)? };
        settle(&backend, &[backend.claim(&request).await?.leases]).await?;
        if first == 0 {
            memory = server.memory_bytes()?;
        }
    }
    println!("  {:.0} bytes a completed job", (server.memory_bytes()? - memory) / jobs as f64);
    Ok(())
}

fn request(batch: usize) -> anyhow::Result<ClaimRequest> {
    let max = u32::try_from(batch)?;
    Ok(ClaimRequest {
        token: ClaimToken::random(),
        worker: WorkerId::random(),
        queues: vec![QueueName::default()],
        kinds: vec![KindSlots::new(Kind::new("send")?, max)],
        max,
        round_jobs: 0,
        lease: Duration::from_secs(600),
    })
}

async fn settle(backend: &RedisBackend, claims: &[Vec<Lease>]) -> anyhow::Result<()> {
    for leases in claims {
        let settlements = leases.iter().map(|lease| Settlement {
            id: lease.spec.id,
            token: lease.token,
            outcome: Outcome::Completed { result: None },
            elapsed: Duration::from_millis(3),
        });
        let request = SettleRequest { settlements: settlements.collect(), claim: None };
        backend.settle(&request).await?;
    }
    Ok(())
}

fn report(
    server: &mut ServerFigures,
    what: &str,
    jobs: usize,
    cpu_before_us: f64,
) -> anyhow::Result<()> {
    let each = (server.cpu_us()? - cpu_before_us) / jobs as f64;
    println!("  {what}: {each:.2} us of CPU a job");
    Ok(())
}
