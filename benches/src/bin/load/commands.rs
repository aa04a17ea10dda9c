//! Commands run by the daemon, beside a bare loop that spawns as many at a time.

use std::fmt::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use queue::{JobState, Kind, NewJob, Payload, Queue};
use queue_benches::results::Results;

use super::Settings;
use super::store::{Store, not_kept};

const COMMANDS: usize = 8_000;
const AT_A_TIME: usize = 4;
const PROGRAM: &str = "true";

pub(crate) async fn run(settings: &Settings, results: &mut Results) -> anyhow::Result<()> {
    bare(results).await?;
    by_daemon(settings, results).await?;
    results.add_ratio("commands by workerd / bare loop", "commands by workerd", "commands, bare");
    Ok(())
}

async fn bare(results: &mut Results) -> anyhow::Result<()> {
    let started = Instant::now();
    let loops: Vec<_> = (0..AT_A_TIME)
        .map(|_| {
            tokio::spawn(async {
                for _ in 0..COMMANDS / AT_A_TIME {
                    let mut command = tokio::process::Command::new(PROGRAM);
                    // As the daemon does: it keeps the last lines of what a command writes.
                    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
                    command.output().await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for each in loops {
        each.await??;
    }
    results.add("commands, bare", "/s", COMMANDS as f64 / started.elapsed().as_secs_f64());
    Ok(())
}

async fn by_daemon(settings: &Settings, results: &mut Results) -> anyhow::Result<()> {
    let store = Store::start()?;
    let queue = store.queue().await?;
    let kind = Kind::new("load.command")?;
    let job = || {
        let payload = Payload::raw(b"null".to_vec());
        NewJob::new(kind.clone(), payload).retention(not_kept())
    };
    queue.enqueue_all((0..COMMANDS).map(|_| job())).await?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("workerd.toml");
    let mut config = String::new();
    writeln!(config, "[store]\nurl = {:?}", store.url())?;
    writeln!(config, "[worker]\nconcurrency = {AT_A_TIME}")?;
    writeln!(config, "[executors.{kind:?}]", kind = kind.as_str())?;
    writeln!(config, "type = \"command\"\nargv = [{PROGRAM:?}]")?;
    writeln!(config, "[http]\nlisten = \"127.0.0.1:0\"\n[log]\nlevel = \"error\"")?;
    std::fs::write(&path, config)?;
    let mut daemon = tokio::process::Command::new(&settings.workerd)
        .arg("run")
        .arg("-c")
        .arg(&path)
        // A daemon that is killed leaves the folders of its commands behind.
        .env("TMPDIR", folder.path())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", settings.workerd.display()))?;
    // Its start is not what is measured.
    let before = left(&queue, COMMANDS - 1).await?;
    let started = Instant::now();
    left(&queue, 0).await?;
    let seconds = started.elapsed().as_secs_f64();
    daemon.kill().await?;
    results.add("commands by workerd", "/s", before as f64 / seconds);
    Ok(())
}

/// Waits until at most so many jobs are left, and tells how many are.
async fn left(queue: &Queue, at_most: usize) -> anyhow::Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let stats = queue.stats().await?;
        let live = |row: &queue::QueueStats| {
            let of = |state| row.jobs.get(&state).copied().unwrap_or(0);
            of(JobState::Ready) + of(JobState::Running) + of(JobState::Retrying)
        };
        let live: u64 = stats.iter().map(live).sum();
        if live <= at_most as u64 {
            return Ok(live);
        }
        anyhow::ensure!(Instant::now() < deadline, "{live} commands are left");
        // Looking costs the server and this process what the commands could use.
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
