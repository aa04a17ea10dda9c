//! `workerd job retry`, `delete` and `recover`.

use queue::{
    DeleteOutcome, JobId, JobRecord, JobState, Queue, RecoverOutcome, RetryOutcome, RetryRequest,
};

use crate::cli::Common;
use crate::cli::many::{Fate, Fates, Found, find};
use crate::exit::{Exit, Failure, Outcome};

/// # Errors
/// Why the store could not be asked, or which jobs it does not know.
pub(super) async fn retry(
    common: &Common,
    queue: &Queue,
    ids: &[JobId],
    keep_counts: bool,
) -> Outcome {
    let mut fates = Fates::new(common);
    for &id in ids {
        let fate = match find(queue, id).await? {
            Found::Job(record) => retried(queue, &record, keep_counts).await?,
            Found::Quarantined(_) => Some(quarantined()),
            Found::Nothing => None,
        };
        fates.tell(id, fate)?;
    }
    fates.end()
}

/// Makes a job ready again that is still finished as it was seen.
///
/// # Errors
/// Why the store could not be asked.
pub(in crate::cli) async fn retried(
    queue: &Queue,
    record: &JobRecord,
    keep_counts: bool,
) -> Result<Option<Fate>, Failure> {
    let Some(finished_at) = record.finished_at else {
        return Ok(Some(unfinished(record.state)));
    };
    let request = RetryRequest { jobs: vec![(record.spec.id, finished_at)], keep_counts };
    let outcome = queue.retry_all(&request).await?.into_iter().next();
    Ok(match outcome {
        Some(RetryOutcome::Ready) => Some(Fate::done("ready", "is ready again")),
        Some(RetryOutcome::Unchanged(state)) if !state.is_finished() => Some(unfinished(state)),
        Some(RetryOutcome::Unchanged(_)) => {
            Some(Fate::refused("changed", "was run and finished again meanwhile: look at it first"))
        }
        Some(RetryOutcome::KeyTaken { by }) => Some(Fate {
            result: "key_taken",
            text: format!("stays as it is: its idempotency key belongs to job {by} now"),
            exit: Exit::Conflict,
        }),
        Some(RetryOutcome::Expired) => {
            Some(Fate::refused("expired", "stays as it is: its time to start is over"))
        }
        Some(RetryOutcome::NotFound) | None => None,
        Some(_) => Some(Fate::unknown()),
    })
}

fn unfinished(state: JobState) -> Fate {
    match state {
        JobState::Quarantined => quarantined(),
        _ => Fate::refused("not_finished", format!("is not finished: it is {state}")),
    }
}

fn quarantined() -> Fate {
    Fate::refused("quarantined", "is quarantined; try workerd job recover")
}

/// # Errors
/// Why the store could not be asked, or which jobs it does not know.
pub(super) async fn delete(common: &Common, queue: &Queue, ids: &[JobId]) -> Outcome {
    let mut fates = Fates::new(common);
    for &id in ids {
        let fate = match queue.delete(id).await? {
            DeleteOutcome::Deleted => Some(Fate::done("deleted", "is deleted")),
            DeleteOutcome::Unchanged(JobState::Running) => {
                let text = "is running and stays; cancel it first, with workerd job cancel";
                Some(Fate::refused("running", text))
            }
            DeleteOutcome::Unchanged(state) => {
                let text = format!("stays: it has just become {state}; try again");
                Some(Fate::refused("changed", text))
            }
            DeleteOutcome::NotFound => None,
            _ => Some(Fate::unknown()),
        };
        fates.tell(id, fate)?;
    }
    fates.end()
}

/// # Errors
/// Why the store could not be asked, or which jobs it does not know.
pub(super) async fn recover(common: &Common, queue: &Queue, ids: &[JobId]) -> Outcome {
    let mut fates = Fates::new(common);
    for &id in ids {
        let fate = match queue.recover(id).await? {
            RecoverOutcome::Recovered(state) => {
                Some(Fate::done("recovered", format!("is out of quarantine: it is {state}")))
            }
            RecoverOutcome::Unreadable => {
                let text = "still cannot be read and stays in quarantine";
                Some(Fate::refused("unreadable", text))
            }
            RecoverOutcome::Unchanged(state) => {
                let text = format!("is not quarantined: it is {state}");
                Some(Fate::refused("not_quarantined", text))
            }
            RecoverOutcome::NotFound => None,
            _ => Some(Fate::unknown()),
        };
        fates.tell(id, fate)?;
    }
    fates.end()
}
