//! Is every job accounted for?

use std::path::Path;

use queue::{DeadReason, EnqueueOutcome, ErrorKind, JobError, JobId, JobRecord, JobState, Queue};

use super::plan::{EnqueuedPlan, Role};
use crate::exit::Failure;

/// All that is not as it was meant to be; nothing if all is well.
///
/// # Errors
/// Why the store could not be asked.
pub(super) async fn problems(
    queue: &Queue,
    plan: &EnqueuedPlan,
    records: &[(Role, JobId, Option<JobRecord>)],
    finished: bool,
) -> Result<Vec<String>, Failure> {
    let mut problems = Vec::new();
    if !finished {
        problems.push("not every job was finished in time".to_owned());
    }
    problems.extend(plan.outcomes().filter_map(|(role, outcome)| enqueued_wrongly(*role, outcome)));
    for (role, id, record) in records {
        let ended = match record {
            None => Some("the store does not know it any more".to_owned()),
            Some(record) => ended_wrongly(*role, record),
        };
        problems.extend(ended.map(|what| format!("job {id}: {what}")));
    }
    let counted: u64 = queue.stats().await?.iter().flat_map(|row| row.jobs.values()).sum();
    if counted != records.len() as u64 {
        problems.push(format!("the store counts {counted} jobs, not {}", records.len()));
    }
    for violation in queue.audit().await? {
        let job = violation.job.map(|id| format!("job {id}: ")).unwrap_or_default();
        problems.push(format!("audit: {job}{}", violation.what));
    }
    Ok(problems)
}

fn enqueued_wrongly(role: Role, outcome: &EnqueueOutcome) -> Option<String> {
    let problem = match outcome {
        EnqueueOutcome::Done(enqueued) if enqueued.duplicate == (role == Role::Duplicate) => {
            return None;
        }
        EnqueueOutcome::Done(enqueued) if enqueued.duplicate => "was taken for a duplicate",
        EnqueueOutcome::Done(_) => "was not recognised as a duplicate",
        _ => "was refused",
    };
    Some(format!("a job ({role:?}) {problem}"))
}

fn ended_wrongly(role: Role, record: &JobRecord) -> Option<String> {
    let is_as_meant = match role {
        Role::Plain => record.state == JobState::Completed || is_file_gone(record),
        Role::Delayed => {
            let waited = record.finished_at.is_some_and(|at| at >= record.due_at);
            let was_delayed = record.due_at > record.enqueued_at;
            (record.state == JobState::Completed && waited && was_delayed) || is_file_gone(record)
        }
        Role::Flaky => record.state == JobState::Completed && record.failures == 1,
        Role::Slow => {
            let timed_out = |error: &JobError| error.kind == ErrorKind::TimedOut;
            is_exhausted(record, 1) && record.last_error.as_ref().is_some_and(timed_out)
        }
        Role::Broken => is_exhausted(record, 2),
        // Has no job of its own.
        Role::Duplicate => false,
    };
    (!is_as_meant).then(|| {
        let JobRecord { state, failures, .. } = record;
        format!("({role:?}) is {state} after {failures} failed attempts")
    })
}

fn is_exhausted(record: &JobRecord, failures: u16) -> bool {
    record.state == JobState::Dead
        && record.dead_reason == Some(DeadReason::AttemptsExhausted)
        && record.failures == failures
}

/// Whoever deletes a file while the demo runs makes its job fail, rightly.
fn is_file_gone(record: &JobRecord) -> bool {
    let payload = record.spec.payload.to_json().unwrap_or_default();
    payload["path"].as_str().is_some_and(|path| !Path::new(path).exists())
}
