//! `workerd dead`: jobs that will not run again unless somebody says so.

mod ls;
mod purge;
mod redrive;

use clap::Subcommand;

use super::Common;
use crate::exit::Outcome;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List dead jobs, or group them by what killed them
    Ls(ls::Args),
    /// Run dead jobs again: those that are named, or all that match
    Redrive(redrive::Args),
    /// Delete dead jobs
    Purge(purge::Args),
}

/// # Errors
/// Why it was not done.
pub(super) async fn execute(common: &Common, command: Command) -> Outcome {
    if let Command::Redrive(args) = &command {
        args.verify()?;
    }
    let queue = common.connect().await?;
    match command {
        Command::Ls(args) => ls::execute(common, &queue, args).await,
        Command::Redrive(args) => redrive::execute(common, &queue, &args).await,
        Command::Purge(args) => purge::execute(common, &queue, &args).await,
    }
}
