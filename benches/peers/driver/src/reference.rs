//! What Redis alone can do in the same run: no queue can be faster.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;

use crate::redis_server::Redis;
use crate::scenarios::{Settings, percentile};

/// Of one hand-over, in which the waiter must have gone to sleep before.
const GAP: Duration = Duration::from_millis(20);
const CALLERS: u32 = 64;

pub(crate) fn measure(
    settings: &Settings,
    values: &mut BTreeMap<String, Vec<f64>>,
) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let redis = Redis::start(folder.path(), settings.appendonly)?;
    let mut push = |name: &str, value: f64| values.entry(name.to_owned()).or_default().push(value);
    let handovers = hand_overs(&redis, settings.pick_ups)?;
    for (name, percent) in [("blpop_p50_ms", 50), ("blpop_p99_ms", 99)] {
        if let Some(us) = percentile(&handovers, percent) {
            push(name, us as f64 / 1000.0);
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let jobs = settings.single_jobs;
    push("evalsha_one_per_s", runtime.block_on(round_trips(&redis, jobs, 1))?);
    push("evalsha_many_per_s", runtime.block_on(round_trips(&redis, jobs, CALLERS))?);
    Ok(())
}

/// From before a push until the client that was blocked on the list has it; sorted.
fn hand_overs(redis: &Redis, count: u32) -> anyhow::Result<Vec<u64>> {
    let mut pops = redis.connect()?;
    let mut pushes = redis.connect()?;
    let (send, received) = channel();
    let popper = std::thread::spawn(move || {
        for _ in 0..count {
            let popped: redis::RedisResult<(String, String)> =
                redis::cmd("BLPOP").arg("list").arg(30).query(&mut pops);
            if popped.is_err() || send.send(Instant::now()).is_err() {
                return;
            }
        }
    });
    let mut latencies = Vec::new();
    for _ in 0..count {
        std::thread::sleep(GAP);
        let pushed = Instant::now();
        redis::cmd("RPUSH").arg("list").arg("x").exec(&mut pushes)?;
        let popped = received.recv()?;
        latencies.push(u64::try_from(popped.duration_since(pushed).as_micros())?);
    }
    drop(received);
    if popper.join().is_err() {
        anyhow::bail!("the waiter of the hand-over failed");
    }
    latencies.sort_unstable();
    Ok(latencies)
}

/// Calls a second of a script that does nothing, with 100 bytes, over one connection.
async fn round_trips(redis: &Redis, calls: u32, callers: u32) -> anyhow::Result<f64> {
    let client = redis::Client::open(redis.url())?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let script: String =
        redis::cmd("SCRIPT").arg("LOAD").arg("return 1").query_async(&mut connection).await?;
    let started = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..callers {
        tasks.push(tokio::spawn(call(connection.clone(), script.clone(), calls / callers)));
    }
    for task in tasks {
        task.await??;
    }
    Ok(f64::from(calls / callers * callers) / started.elapsed().as_secs_f64())
}

async fn call(
    mut connection: MultiplexedConnection,
    script: String,
    calls: u32,
) -> anyhow::Result<()> {
    let argument = [b'x'; 100];
    for _ in 0..calls {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&script).arg(0).arg(&argument[..]);
        let _: i64 = command.query_async(&mut connection).await?;
    }
    Ok(())
}
