//! `workerd queue purge`.

use queue::{JobState, Queue, QueueName, Selection};
use serde_json::json;

use super::if_unknown;
use crate::cli::Common;
use crate::cli::fields::state_of;
use crate::cli::filter::{count, not_sure};
use crate::display::jobs;
use crate::exit::{Exit, Outcome};

/// What can be purged. Running jobs are cancelled instead, and quarantined ones, whose queue may
/// not be known, are deleted one by one.
const STATES: [JobState; 6] = [
    JobState::Scheduled,
    JobState::Ready,
    JobState::Retrying,
    JobState::Completed,
    JobState::Dead,
    JobState::Cancelled,
];

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The queue's name
    name: QueueName,

    /// Jobs in this state; can be given several times [default: scheduled, ready and retrying]
    #[arg(long, value_parser = state_of(&STATES))]
    state: Vec<JobState>,

    /// Really; without it, says what would be deleted and exits with 1
    #[arg(long)]
    yes: bool,
}

/// # Errors
/// Why it was not done.
pub(super) async fn execute(common: &Common, queue: &Queue, args: &Args) -> Outcome {
    let states = if args.state.is_empty() {
        STATES.into_iter().filter(|state| state.is_waiting()).collect()
    } else {
        args.state.clone()
    };
    let selection = Selection::of(states).queue(Some(args.name.clone()));
    if !args.yes {
        return not_sure(common, "deleted", &count(queue, &selection).await?);
    }
    let unknown = if_unknown(common, queue, &args.name).await;
    let deleted = queue.purge(&selection).await?;
    common.answer(&json!({ "done": true, "deleted": deleted }), || {
        format!("deleted {} of {}{unknown}\n", jobs(deleted), args.name)
    })?;
    Ok(Exit::Done)
}
