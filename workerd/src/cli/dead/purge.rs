//! `workerd dead purge`.

use queue::{DeleteOutcome, Fingerprint, JobId, JobState, ListRequest, Queue};
use serde_json::json;

use crate::cli::Common;
use crate::cli::filter::{Counts, Filter, count, not_sure};
use crate::display::jobs;
use crate::exit::{Exit, Failure, Outcome};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    filter: Filter,

    /// Only jobs whose last error has this fingerprint, as dead ls --errors shows it
    #[arg(long, value_name = "FINGERPRINT")]
    error: Option<Fingerprint>,

    /// Really; without it, says what would be deleted and exits with 1
    #[arg(long)]
    yes: bool,
}

/// # Errors
/// Why it was not done.
pub(super) async fn execute(common: &Common, queue: &Queue, args: &Args) -> Outcome {
    let selection = args.filter.select([JobState::Dead]);
    let deleted = match args.error {
        _ if !args.yes => {
            let counts = match args.error {
                None => count(queue, &selection).await?,
                Some(error) => count_with(queue, &args.filter, error).await?,
            };
            return not_sure(common, "deleted", &counts);
        }
        None => queue.purge(&selection).await?,
        Some(error) => purge_with(queue, &args.filter, error).await?,
    };
    common.answer(&json!({ "done": true, "deleted": deleted }), || {
        format!("deleted {}\n", jobs(deleted))
    })?;
    Ok(Exit::Done)
}

async fn count_with(queue: &Queue, filter: &Filter, error: Fingerprint) -> Result<Counts, Failure> {
    let groups = queue.dead_errors(filter.queue.as_ref(), filter.kind.as_ref()).await?;
    let group = groups.into_iter().find(|group| group.error == Some(error));
    Ok(group.map(|group| (JobState::Dead.as_str(), group.jobs)).into_iter().collect())
}

/// Deletes dead jobs that have this last error, and says how many.
async fn purge_with(queue: &Queue, filter: &Filter, error: Fingerprint) -> Result<u64, Failure> {
    let mut deleted = 0;
    // Deleting moves others to pages that are past: until a sweep finds nothing.
    loop {
        let of_sweep = sweep(queue, filter, error).await?;
        deleted += of_sweep;
        if of_sweep == 0 {
            return Ok(deleted);
        }
    }
}

async fn sweep(queue: &Queue, filter: &Filter, error: Fingerprint) -> Result<u64, Failure> {
    let Filter { queue: name, kind } = filter.clone();
    let request = ListRequest { queue: name, kind, ..ListRequest::new(JobState::Dead) };
    let (mut pages, mut deleted) = (queue.pages(request), 0);
    while let Some(page) = pages.next().await? {
        let has_it =
            |job: &&queue::JobSummary| job.last_error.as_ref().map(Fingerprint::of) == Some(error);
        let with_it: Vec<(JobId, JobState)> =
            page.jobs.iter().filter(has_it).map(|job| (job.id, JobState::Dead)).collect();
        let outcomes = queue.backend().delete_boxed(&with_it).await?;
        deleted += outcomes.iter().filter(|o| **o == DeleteOutcome::Deleted).count() as u64;
    }
    Ok(deleted)
}
