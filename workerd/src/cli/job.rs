//! `workerd job show`, `wait` and `cancel`.

use std::time::Duration;

use clap::Subcommand;
use queue::{CancelOutcome, JobId, JobRecord, JobState, Queue};
use serde_json::json;

use super::Common;
use super::job_view::JobView;
use crate::config::duration;
use crate::exit::{Exit, Failure, Outcome};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show everything about a job
    Show {
        /// The job's id
        id: JobId,
    },
    /// Wait until a job is finished; exits with 0 if it completed, 1 if it is dead or cancelled
    Wait {
        /// The job's id
        id: JobId,
        /// Wait at most so long, such as 30s or 5m; for ever if not given
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        timeout: Option<Duration>,
    },
    /// Cancel a job that waits, or ask for a running one to be stopped
    Cancel {
        /// The job's id
        id: JobId,
    },
}

/// How long one call waits for a job; they follow each other without a gap.
const WAIT_STEP: Duration = Duration::from_secs(3600);

/// # Errors
/// Why it was not done.
pub(super) async fn execute(common: &Common, command: Command) -> Outcome {
    let queue = common.connect().await?;
    match command {
        Command::Show { id } => {
            let record = queue.get(id).await?.ok_or_else(|| Failure::no_such_job(id))?;
            show(common, &record)?;
            Ok(Exit::Done)
        }
        Command::Wait { id, timeout } => wait(common, &queue, id, timeout).await,
        Command::Cancel { id } => cancel(common, &queue, id).await,
    }
}

fn show(common: &Common, record: &JobRecord) -> Result<(), Failure> {
    let view = JobView::of(record);
    common.answer(&view, || view.to_text())
}

async fn wait(common: &Common, queue: &Queue, id: JobId, timeout: Option<Duration>) -> Outcome {
    let record = loop {
        let record = queue.wait_finished(id, timeout.unwrap_or(WAIT_STEP)).await?;
        let record = record.ok_or_else(|| Failure::no_such_job(id))?;
        if record.state.is_finished() || timeout.is_some() {
            break record;
        }
    };
    show(common, &record)?;
    Ok(match record.state {
        JobState::Completed => Exit::Done,
        state if state.is_finished() => Exit::Failed,
        _ => Exit::TimedOut,
    })
}

async fn cancel(common: &Common, queue: &Queue, id: JobId) -> Outcome {
    let (result, text, exit) = match queue.cancel(id).await? {
        CancelOutcome::Cancelled => ("cancelled", format!("{id} is cancelled"), Exit::Done),
        CancelOutcome::Requested => {
            ("requested", format!("{id} is running; its worker will stop it"), Exit::Done)
        }
        CancelOutcome::AlreadyFinished(state) => {
            ("already_finished", format!("{id} was finished before: it is {state}"), Exit::Failed)
        }
        CancelOutcome::NotFound => return Err(Failure::no_such_job(id)),
        _ => ("unknown", format!("{id}: the store gave an unknown answer"), Exit::Failed),
    };
    common.answer(&json!({ "id": id, "result": result }), || text + "\n")?;
    Ok(exit)
}
