//! `workerd job cancel`.

use queue::{CancelOutcome, Cancelled, JobId, JobState, Queue};
use serde_json::json;

use crate::cli::Common;
use crate::cli::fields::state_of;
use crate::cli::filter::{Filter, count, not_sure};
use crate::cli::many::{Fate, Fates};
use crate::display::jobs;
use crate::exit::{Exit, Outcome};

/// What can be cancelled.
const STATES: [JobState; 4] =
    [JobState::Scheduled, JobState::Ready, JobState::Retrying, JobState::Running];

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["ids", "all"]))]
pub(in crate::cli) struct Args {
    /// The jobs' ids
    #[arg(conflicts_with_all = ["queue", "kind", "state", "yes"])]
    ids: Vec<JobId>,

    /// All live jobs, or those that the options name
    ///
    /// A queue keeps the records of 10 000 cancelled jobs; of a larger cancel the oldest are dropped.
    /// Completed records stay, and with them idempotency keys that are held as kept.
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    filter: Filter,

    /// Only jobs in this state; can be given several times
    #[arg(long, value_parser = state_of(&STATES))]
    state: Vec<JobState>,

    /// Really; without it, says what would be cancelled and exits with 1
    #[arg(long)]
    yes: bool,
}

/// # Errors
/// Why it was not done.
pub(super) async fn execute(common: &Common, queue: &Queue, args: &Args) -> Outcome {
    if args.all { all(common, queue, args).await } else { named(common, queue, &args.ids).await }
}

async fn named(common: &Common, queue: &Queue, ids: &[JobId]) -> Outcome {
    let mut fates = Fates::new(common);
    for &id in ids {
        let fate = match queue.cancel(id).await? {
            CancelOutcome::Cancelled => Some(Fate::done("cancelled", "is cancelled")),
            CancelOutcome::Requested => {
                Some(Fate::done("requested", "is running; its worker will stop it"))
            }
            CancelOutcome::AlreadyFinished(JobState::Quarantined) => {
                Some(Fate::refused("quarantined", "is quarantined and will not run"))
            }
            CancelOutcome::AlreadyFinished(state) => {
                let text = format!("was finished before: it is {state}");
                Some(Fate::refused("already_finished", text))
            }
            CancelOutcome::NotFound => None,
            _ => Some(Fate::unknown()),
        };
        fates.tell(id, fate)?;
    }
    fates.end()
}

async fn all(common: &Common, queue: &Queue, args: &Args) -> Outcome {
    let states = if args.state.is_empty() { STATES.to_vec() } else { args.state.clone() };
    let selection = args.filter.select(states);
    if !args.yes {
        return not_sure(common, "cancelled", &count(queue, &selection).await?);
    }
    let Cancelled { cancelled, requested, .. } = queue.cancel_all(&selection).await?;
    let document = json!({ "done": true, "cancelled": cancelled, "requested": requested });
    common.answer(&document, || {
        format!("cancelled {}, asked {requested} running to stop\n", jobs(cancelled))
    })?;
    Ok(Exit::Done)
}
