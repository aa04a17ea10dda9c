//! Is every job accounted for?

use std::time::Duration;

use queue::{
    DeadReason, EnqueueOutcome, ErrorKind, JobError, JobId, JobRecord, JobState, Queue, Timestamp,
};

use super::plan::{EnqueuedPlan, FILE_KIND, Place, Role};
use crate::exit::Failure;

/// How many wrong jobs are named; all are counted.
const NAMED_MAX: usize = 20;

/// How exactly the start of a job is known: it is computed from its end, which is the store's
/// time, and from how long it took, which is the worker's.
const START_TOLERANCE: Duration = Duration::from_millis(50);

/// A job that was made, and how it was last seen.
pub(super) type Ran<'a> = (Role, JobId, Option<&'a JobRecord>);

/// All that is not as it was meant to be; nothing if all is well.
///
/// # Errors
/// Why the store could not be asked.
pub(super) async fn problems(
    queue: &Queue,
    place: &Place,
    plan: &EnqueuedPlan,
    ran: &[Ran<'_>],
) -> Result<Vec<String>, Failure> {
    let mut problems = Vec::new();
    problems.extend(plan.outcomes().filter_map(|(role, outcome)| enqueued_wrongly(*role, outcome)));
    let wrong: Vec<String> = ran
        .iter()
        .filter_map(|(role, id, record)| {
            let what = match record {
                None => Some("the store does not know it".to_owned()),
                Some(record) => ended_wrongly(*role, record),
            };
            Some(format!("job {id}: {}", what?))
        })
        .collect();
    let more = wrong.len().saturating_sub(NAMED_MAX);
    problems.extend(wrong.into_iter().take(NAMED_MAX));
    if more > 0 {
        problems.push(format!("and {more} more jobs"));
    }
    problems.extend(urgent_came_late(ran));
    problems.extend(limit_was_exceeded(place, ran));
    for violation in queue.audit().await? {
        let job = violation.job.map(|id| format!("job {id}: ")).unwrap_or_default();
        problems.push(format!("audit: {job}{}", violation.what));
    }
    Ok(problems)
}

/// The urgent job was enqueued last and is taken first. Jobs that are taken together with it may
/// end before it starts; half of all jobs cannot.
fn urgent_came_late(ran: &[Ran<'_>]) -> Option<String> {
    let urgent = ran.iter().find(|(role, ..)| *role == Role::Urgent)?;
    let started = started(urgent.2?)?;
    let others = ran.iter().filter(|(role, ..)| *role == Role::Plain);
    let ended = others.clone().filter_map(|(.., record)| record.as_ref()?.finished_at);
    let before = ended.filter(|at| *at < started).count();
    let others = others.count();
    (others >= 20 && before > others / 2)
        .then(|| format!("job {}: {before} less urgent jobs ended before it started", urgent.1))
}

fn limit_was_exceeded(place: &Place, ran: &[Ran<'_>]) -> Option<String> {
    let (most, limit) = (most_at_once(ran), place.most_at_once);
    (most > limit)
        .then(|| format!("{most} checksums ran at once, and {} allows {limit}", place.limit))
}

/// What rounding can take from a start: a job that started when another ended did not run beside
/// it.
const ROUNDING_MS: u64 = 2;

/// How many of the jobs that need the limit ran at once.
pub(super) fn most_at_once(ran: &[Ran<'_>]) -> u32 {
    let mut changes = Vec::new();
    for record in ran.iter().filter_map(|(.., record)| *record) {
        if record.spec.kind.as_str() != FILE_KIND {
            continue;
        }
        if let (Some(started), Some(ended)) = (started(record), record.finished_at) {
            changes.push((started.as_ms() + ROUNDING_MS, 1));
            changes.push((ended.as_ms().max(started.as_ms() + ROUNDING_MS), -1));
        }
    }
    // Of the same time, ends come first.
    changes.sort_unstable();
    let running = changes.iter().scan(0_i32, |running, (_, change)| {
        *running += change;
        Some(*running)
    });
    running.max().and_then(|most| u32::try_from(most).ok()).unwrap_or(0)
}

fn started(record: &JobRecord) -> Option<Timestamp> {
    let elapsed_ms = u64::try_from(record.elapsed?.as_millis()).ok()?;
    Some(Timestamp::from_ms(record.finished_at?.as_ms().saturating_sub(elapsed_ms)))
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
        Role::Plain | Role::Urgent => record.state == JobState::Completed || has_vanished(record),
        Role::Delayed => {
            let waited = started(record).is_some_and(|at| {
                record.due_at.since(at) <= START_TOLERANCE && record.due_at > record.enqueued_at
            });
            (record.state == JobState::Completed && waited) || has_vanished(record)
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
        let error = record.last_error.as_ref().map(|error| format!(": {error}"));
        let error = error.unwrap_or_default();
        format!("({role:?}) is {state} after {failures} failed attempts{error}")
    })
}

fn is_exhausted(record: &JobRecord, failures: u16) -> bool {
    record.state == JobState::Dead
        && record.dead_reason == Some(DeadReason::AttemptsExhausted)
        && record.failures == failures
}

/// Whether the job is dead because its file is gone, or cannot be read any more: whoever takes it
/// away while the demo runs makes its job fail, rightly.
pub(super) fn has_vanished(record: &JobRecord) -> bool {
    let payload = record.spec.payload.to_json().unwrap_or_default();
    let is_unreadable = |path: &str| std::fs::File::open(path).is_err();
    record.state == JobState::Dead && payload["path"].as_str().is_some_and(is_unreadable)
}
