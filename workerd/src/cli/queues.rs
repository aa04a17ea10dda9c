//! `workerd queue`: what waits where, and whether it may start.

mod explain;
mod ls;
mod purge;

use clap::Subcommand;
use queue::{Queue, QueueName};
use serde_json::json;

use super::Common;
use crate::exit::{Exit, Outcome};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Count the jobs of every queue and kind, by state, and name the paused queues
    Ls,
    /// Say what the jobs that wait in queues wait for, by how many
    Explain {
        /// The queues' names
        #[arg(required = true)]
        names: Vec<QueueName>,
    },
    /// Start no more jobs of these queues; running ones go on
    Pause {
        /// The queues' names; a queue need not have jobs
        #[arg(required = true)]
        names: Vec<QueueName>,
    },
    /// Let jobs of these queues start again
    Resume {
        /// The queues' names
        #[arg(required = true)]
        names: Vec<QueueName>,
    },
    /// Delete the jobs of a queue that wait, or those in the states that are named
    Purge(purge::Args),
}

/// # Errors
/// Why it was not done.
pub(super) async fn execute(common: &Common, command: Command) -> Outcome {
    let queue = match command {
        // What is paused before there are jobs is to stay so.
        Command::Pause { .. } | Command::Resume { .. } => common.connect_to_write().await?,
        _ => common.connect().await?,
    };
    match command {
        Command::Ls => ls::execute(common, &queue).await,
        Command::Explain { names } => explain::execute(common, &queue, &names).await,
        Command::Pause { names } => set_paused(common, &queue, &names, true).await,
        Command::Resume { names } => set_paused(common, &queue, &names, false).await,
        Command::Purge(args) => purge::execute(common, &queue, &args).await,
    }
}

/// What people are told besides of a queue of which the store has no job: its name may be wrong. A store that
/// cannot be asked is no reason to fail what was asked for.
async fn if_unknown(common: &Common, queue: &Queue, name: &QueueName) -> &'static str {
    if common.json {
        return "";
    }
    match queue.stats().await {
        Ok(rows) if rows.iter().all(|row| row.queue != *name) => {
            " (the store has no job of a queue with this name)"
        }
        _ => "",
    }
}

async fn set_paused(common: &Common, queue: &Queue, names: &[QueueName], paused: bool) -> Outcome {
    for name in names {
        let changed = if paused { queue.pause(name).await? } else { queue.resume(name).await? };
        let unknown = if_unknown(common, queue, name).await;
        let document = json!({ "queue": name, "paused": paused, "changed": changed });
        common.answer(&document, || {
            let is = if paused { "is paused" } else { "is not paused" };
            let so = if changed { "" } else { ", as before" };
            format!("{name} {is}{so}{unknown}\n")
        })?;
    }
    Ok(Exit::Done)
}
