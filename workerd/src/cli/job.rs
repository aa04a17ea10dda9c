//! `workerd job`: a job, or several, by id; and lists of them.

mod cancel;
pub(super) mod change;
mod content;
mod events;
mod explain;
pub(super) mod ls;
mod show;
mod view;
mod wait;
mod watch;

use std::time::{Duration, Instant};

use clap::Subcommand;
use queue::JobId;

use super::Common;
use crate::exit::Outcome;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List jobs, the live ones first
    Ls(ls::Args),
    /// Show everything about a job
    Show(show::Args),
    /// Say why a job does not run: all that keeps it, who holds what it needs, what is before it
    Explain {
        /// The job's id
        id: JobId,
    },
    /// Follow a job: its state, its progress and its log, until it is finished; exits like wait
    Watch(watch::Args),
    /// Wait until a job is finished; exits with 0 if it completed, 1 if it is dead or cancelled
    Wait(wait::Args),
    /// Cancel jobs that wait, or ask for running ones to be stopped
    Cancel(cancel::Args),
    /// Make finished jobs ready again
    Retry {
        /// The jobs' ids
        #[arg(required = true)]
        ids: Vec<JobId>,
        /// Keep the counts of failures, stalls and snoozes: one more attempt instead of all
        #[arg(long)]
        keep_counts: bool,
    },
    /// Delete jobs with everything that belongs to them; running ones stay
    Delete {
        /// The jobs' ids
        #[arg(required = true)]
        ids: Vec<JobId>,
    },
    /// Take jobs out of quarantine that this program can read
    Recover {
        /// The jobs' ids
        #[arg(required = true)]
        ids: Vec<JobId>,
    },
}

impl Command {
    /// How long a job is followed at most.
    fn timeout(&self) -> Option<Duration> {
        match self {
            Self::Watch(args) => args.timeout,
            Self::Wait(args) => args.timeout,
            _ => None,
        }
    }
}

/// # Errors
/// Why it was not done.
pub(super) async fn execute(common: &Common, command: Command) -> Outcome {
    let (begun, timeout) = (Instant::now(), command.timeout());
    let queue = match &command {
        Command::Watch(_) | Command::Wait(_) => common.connect_to_follow(timeout).await?,
        _ => common.connect().await?,
    };
    let timeout = timeout.map(|timeout| timeout.saturating_sub(begun.elapsed()));
    match command {
        Command::Ls(args) => ls::execute(common, &queue, args).await,
        Command::Show(args) => show::execute(common, &queue, &args).await,
        Command::Explain { id } => explain::execute(common, &queue, id).await,
        Command::Watch(args) => {
            watch::execute(common, &queue, &watch::Args { timeout, ..args }).await
        }
        Command::Wait(args) => wait::execute(common, &queue, &wait::Args { timeout, ..args }).await,
        Command::Cancel(args) => cancel::execute(common, &queue, &args).await,
        Command::Retry { ids, keep_counts } => {
            change::retry(common, &queue, &ids, keep_counts).await
        }
        Command::Delete { ids } => change::delete(common, &queue, &ids).await,
        Command::Recover { ids } => change::recover(common, &queue, &ids).await,
    }
}
