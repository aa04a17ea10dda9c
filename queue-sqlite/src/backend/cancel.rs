//! T12 and T13: jobs are called off.

use queue_core::{CancelOutcome, JobId, JobState};

use crate::errors::Fault;
use crate::session::{Finish, Session};

pub(super) const UPDATE_ASKED: &str = "UPDATE job SET cancel_requested = 1 WHERE job = ?1";

/// Cancels jobs that wait and asks for running ones to be stopped, in order.
pub(super) fn cancel(
    session: &mut Session<'_>,
    ids: &[JobId],
) -> Result<Vec<CancelOutcome>, Fault> {
    ids.iter().map(|id| cancel_one(session, *id)).collect()
}

fn cancel_one(session: &mut Session<'_>, id: JobId) -> Result<CancelOutcome, Fault> {
    let Some(head) = session.head(id)? else { return Ok(CancelOutcome::NotFound) };
    match head.state {
        JobState::Running => {
            session.conn.prepare_cached(UPDATE_ASKED)?.execute([head.job])?;
            session.announce();
            Ok(CancelOutcome::Requested)
        }
        JobState::Scheduled | JobState::Ready | JobState::Retrying => {
            let end = Finish { state: JobState::Cancelled, reason: None, elapsed_ms: None };
            session.finish(&head, end)?;
            Ok(CancelOutcome::Cancelled)
        }
        finished => Ok(CancelOutcome::AlreadyFinished(finished)),
    }
}
