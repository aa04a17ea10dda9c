//! A worker process that writes down when each of its attempts began and ended.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use queue::{Connect, Context, Fail, Job, Queue, State, Worker};
use serde::{Deserialize, Serialize};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(long)]
    url: String,
    /// Where events are appended, in one write each.
    #[arg(long)]
    log: PathBuf,
    #[arg(long)]
    slots: usize,
    #[arg(long)]
    lease_ms: u64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Nap {
    pub(crate) ms: u64,
}

impl Job for Nap {
    const KIND: &'static str = "limits.nap";
}

/// The key that these workers add.
pub(crate) const PROVIDER: &str = "provider:bench";

/// Microseconds since 1970 by this machine's clock.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let log = OpenOptions::new().append(true).open(&options.log)?;
    let queue = Queue::connect(&options.url).await?;
    let worker = Worker::new(&queue)
        .concurrency(options.slots)
        .lease(Duration::from_millis(options.lease_ms))
        .state(Arc::new(log))
        .handle::<Nap, _>(nap)
        .limits(Nap::KIND, [PROVIDER])
        .start()?;
    // Until it is killed.
    std::future::pending::<()>().await;
    drop(worker);
    Ok(())
}

async fn nap(State(log): State<Arc<File>>, context: Context, nap: Nap) -> Result<(), Fail> {
    let process = std::process::id();
    let (id, fence) = (context.job_id(), context.fence());
    write(&log, &format!("start {process} {id} {} {fence}\n", now_us()))?;
    tokio::time::sleep(Duration::from_millis(nap.ms)).await;
    write(&log, &format!("end {process} {id} {} {fence}\n", now_us()))?;
    Ok(())
}

fn write(mut log: &File, line: &str) -> Result<(), Fail> {
    Ok(log.write_all(line.as_bytes())?)
}
