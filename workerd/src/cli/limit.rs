//! `workerd limit`: what providers and tenants may have running, and who keeps jobs waiting.

mod ls;
mod reset;
mod rm;
mod set;
mod show;
mod view;

use clap::Subcommand;
use queue::{LimitKey, LimitTarget};

use super::Common;
use crate::config::limits::target;
use crate::exit::Outcome;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List all limits with what they have running and what keeps jobs waiting; of keys without
    /// settings of their own those that live workers add and that are closed, others are shown by name
    Ls,
    /// Show everything about keys, with the jobs that hold them
    Show {
        /// Keys such as tenant:acme, queues such as queue:default, or classes such as tenant:*
        #[arg(required = true, value_name = "KEY", value_parser = target)]
        keys: Vec<LimitTarget>,
    },
    /// Change what is named here of a limit, for everyone and at once; the rest of it stays
    Set(set::Args),
    /// End what keeps jobs from starting for a time: the pause that a provider asked for, an open
    /// breaker with its failures, a concurrency that was reduced; settings stay as they are
    Reset {
        /// Keys such as provider:openai
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<LimitKey>,
    },
    /// Remove limits
    Rm {
        /// Keys such as tenant:acme, or classes such as tenant:*
        #[arg(required = true, value_name = "KEY", value_parser = target)]
        targets: Vec<LimitTarget>,
    },
}

/// # Errors
/// Why it was not done.
pub(super) async fn execute(common: &Common, command: Command) -> Outcome {
    match command {
        Command::Ls => ls::execute(common, &common.connect().await?).await,
        Command::Show { keys } => show::execute(common, &common.connect().await?, &keys).await,
        Command::Set(args) => {
            args.verify()?;
            set::execute(common, &common.connect_to_write().await?, &args).await
        }
        Command::Reset { keys } => reset::execute(common, &common.connect().await?, &keys).await,
        Command::Rm { targets } => rm::execute(common, &common.connect().await?, &targets).await,
    }
}
