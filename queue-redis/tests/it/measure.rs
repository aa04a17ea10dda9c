//! What a job costs the server. Not a test of anything, hence ignored; to see the numbers:
//! `cargo test -p queue-redis --test it measure -- --ignored --nocapture`.

use std::time::Duration;

use queue_core::{
    Backend, ClaimRequest, ClaimToken, Kind, KindSlots, Lease, Namespace, NewJob, Outcome, Payload,
    QueueName, SettleRequest, Settlement, WorkerId,
};
use queue_redis::RedisBackend;

use crate::support::server::TestRedis;

const JOBS: usize = 100_000;
/// `queue_core::backend::FINISHED_MAX`.
const FINISHED_MAX: usize = 10_000;

fn info(redis: &TestRedis, section: &str, field: &str) -> String {
    let text: String =
        redis::cmd("INFO").arg(section).query(&mut redis.client()).expect("the server's figures");
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.unwrap_or_default().trim_start_matches(':').to_owned()
}

/// Runs `work` and prints the time of the server's main thread meanwhile, per job.
async fn phase<T>(redis: &TestRedis, name: &str, jobs: usize, work: impl Future<Output = T>) -> T {
    let reset = redis::cmd("CONFIG").arg("RESETSTAT").query::<()>(&mut redis.client());
    reset.expect("figures reset");
    let cpu = || -> f64 {
        let seconds = |name| info(redis, "cpu", name).parse::<f64>().unwrap_or(0.0);
        seconds("used_cpu_user_main_thread") + seconds("used_cpu_sys_main_thread")
    };
    let cpu_before = cpu();
    let answer = work.await;
    let cpu_us = (cpu() - cpu_before) * 1e6 / jobs as f64;
    let stat = info(redis, "commandstats", "cmdstat_evalsha");
    let number = |name: &str| -> f64 {
        let value = stat.split(&[':', ','][..]).find_map(|part| part.strip_prefix(name));
        value.and_then(|value| value.parse().ok()).unwrap_or(0.0)
    };
    let scripts_us = number("usec=") / jobs as f64;
    println!("  {name}: {cpu_us:.2} us of CPU a job, {scripts_us:.2} us in scripts");
    answer
}

/// What to compare with: the cost of a command on this machine.
async fn plain_sets(redis: &TestRedis) {
    let mut client = redis.client();
    phase(redis, "SET, pipelined, for comparison", JOBS, async {
        for batch in 0..JOBS / 100 {
            let mut pipeline = redis::pipe();
            for n in 0..100 {
                pipeline.set(format!("key:{}", batch * 100 + n), [7_u8; 100].as_slice());
            }
            pipeline.exec(&mut client).expect("keys are set");
        }
    })
    .await;
    redis::cmd("FLUSHALL").exec(&mut client).expect("keys are gone");
}

async fn measure(batch: usize, jobs: usize) {
    let redis = TestRedis::start();
    println!("{jobs} jobs in batches of {batch}, payload 100 bytes:");
    plain_sets(&redis).await;
    let backend = RedisBackend::connect(&redis.url(), Namespace::default()).await.unwrap();
    let memory = || info(&redis, "memory", "used_memory").parse::<f64>().unwrap_or(0.0);
    let before = memory();
    phase(&redis, "enqueue", jobs, async {
        for _ in 0..jobs / batch {
            let job = || NewJob::new(Kind::new("send").unwrap(), Payload::raw(vec![7; 100]));
            let jobs: Vec<NewJob> = (0..batch).map(|_| job()).collect();
            backend.enqueue(&jobs).await.unwrap();
        }
    })
    .await;
    println!("  {:.0} bytes a queued job", (memory() - before) / jobs as f64);
    let request = || ClaimRequest {
        token: ClaimToken::random(),
        worker: WorkerId::random(),
        queues: vec![QueueName::default()],
        kinds: vec![KindSlots { kind: Kind::new("send").unwrap(), slots: 1000 }],
        max: u32::try_from(batch).unwrap(),
        lease: Duration::from_secs(60),
    };
    let mut claims = phase(&redis, "claim", jobs, async {
        let mut all = Vec::new();
        for _ in 0..jobs / batch {
            all.push(backend.claim(&request()).await.unwrap().leases);
        }
        all
    })
    .await;
    // Up to the cap records are kept; beyond it each new one drops an old one.
    let rest = claims.split_off(FINISHED_MAX / batch);
    let name = "settle completed, record kept";
    phase(&redis, name, FINISHED_MAX, settle(&backend, &claims)).await;
    let name = "settle completed, an older record dropped";
    phase(&redis, name, jobs - FINISHED_MAX, settle(&backend, &rest)).await;
}

async fn settle(backend: &RedisBackend, claims: &[Vec<Lease>]) {
    for leases in claims {
        let settlements = leases.iter().map(|lease| Settlement {
            id: lease.spec.id,
            token: lease.token,
            outcome: Outcome::Completed { result: None },
            elapsed: Duration::from_millis(3),
        });
        let request = SettleRequest { settlements: settlements.collect(), claim: None };
        backend.settle(&request).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "prints numbers, checks nothing"]
async fn measure_the_life_of_a_job() {
    measure(100, JOBS).await;
    measure(10, JOBS).await;
    measure(1, 20_000).await;
}
