//! What the adapters written in Rust have in common: the command line that the driver speaks, and
//! the measuring that happens inside a peer's process. The README has the protocol.

mod enqueue;
mod pickup;
mod tally;
mod work;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

pub use tally::Tally;
pub use work::Work;

/// One job queue, used as its documentation tells a user to.
pub trait Peer: Clone + Send + Sync + Sized + 'static {
    /// Stops the worker when told to; dropping it need not.
    type Worker: Stop;

    /// What the driver should know before it starts.
    fn about() -> About;

    /// Connects; with a worker or not.
    fn connect(options: &Connection) -> impl Future<Output = anyhow::Result<Self>> + Send;

    /// Enqueues one job and returns when it was acknowledged.
    fn enqueue(&self, work: Work) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Enqueues all of them through the peer's own bulk call.
    fn enqueue_all(&self, works: Vec<Work>) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Starts a worker whose handler does nothing but [`Tally::ran`].
    fn start(
        &self,
        concurrency: usize,
        tally: Tally,
    ) -> impl Future<Output = anyhow::Result<Self::Worker>> + Send;
}

/// A worker that runs.
pub trait Stop: Send {
    /// Lets running jobs end, reports what they came to, and returns.
    fn stop(self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// What the driver should know of a peer before it starts.
#[derive(Debug, Serialize)]
pub struct About {
    /// The version that is measured.
    pub version: String,
    /// What differs between the variants and from the peer's defaults.
    pub settings: BTreeMap<&'static str, &'static str>,
}

impl About {
    /// Takes the version of `package` from the lock file that the adapter was built with.
    #[must_use]
    pub fn of(lock: &str, package: &str, settings: &[(&'static str, &'static str)]) -> Self {
        let entry = format!("name = \"{package}\"\nversion = \"");
        let after = lock.split_once(&entry).map_or("", |(_, after)| after);
        let version = after.split('"').next().unwrap_or_default().to_owned();
        Self { version, settings: settings.iter().copied().collect() }
    }
}

/// Where to connect, and how.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// The store; it holds nothing else.
    #[arg(long)]
    pub url: String,
    /// Which of the peer's settings, where there is a choice.
    #[arg(long, default_value = "default")]
    pub variant: String,
}

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints the version and the settings.
    About,
    /// Enqueues and prints how long that took.
    Enqueue {
        #[command(flatten)]
        connection: Connection,
        #[arg(long)]
        jobs: u32,
        #[arg(long)]
        mode: Mode,
        /// How many enqueue at a time with `--mode many`.
        #[arg(long, default_value_t = 64)]
        callers: u32,
    },
    /// Runs a worker until its input ends.
    Work {
        #[command(flatten)]
        connection: Connection,
        #[arg(long)]
        jobs: u32,
        #[arg(long)]
        concurrency: usize,
        /// Where to write how often each job ran: one byte a job.
        #[arg(long)]
        tally: PathBuf,
    },
    /// Enqueues job after job for an idle worker and prints how long each took to start.
    Pickup {
        #[command(flatten)]
        connection: Connection,
        #[arg(long)]
        jobs: u32,
        #[arg(long)]
        concurrency: usize,
        /// How long the worker has nothing to do before each job.
        #[arg(long, default_value_t = 20)]
        gap_ms: u64,
        /// No new job is enqueued after so long.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    One,
    Many,
    Bulk,
}

/// The whole of an adapter's `main`.
///
/// # Errors
/// What the peer cannot do.
pub fn main<P: Peer>() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run::<P>(arguments.command))
}

async fn run<P: Peer>(command: Command) -> anyhow::Result<()> {
    match command {
        Command::About => say(&P::about()),
        Command::Enqueue { connection, jobs, mode, callers } => {
            say(&enqueue::run(&P::connect(&connection).await?, jobs, mode, callers).await?)
        }
        Command::Work { connection, jobs, concurrency, tally } => {
            work::run(&P::connect(&connection).await?, jobs, concurrency, &tally).await
        }
        Command::Pickup { connection, jobs, concurrency, gap_ms, seconds } => {
            let peer = P::connect(&connection).await?;
            say(&pickup::run(&peer, jobs, concurrency, gap_ms, seconds).await?)
        }
    }
}

/// Prints one line of JSON.
fn say(message: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, message)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}
