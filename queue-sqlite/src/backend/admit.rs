//! Admission: new jobs are refused while as many are live as their queue or a key of theirs
//! allows.

use queue_core::{EnqueueOutcome, LimitKey, NewJob, QUEUE_CLASS};

use crate::errors::Fault;
use crate::session::{Head, Session};

/// The refusal of a new job, if there is no room for it; `replaced` would leave in the same step.
pub(super) fn refusal(
    session: &mut Session<'_>,
    job: &NewJob,
    replaced: Option<&Head>,
) -> Result<Option<EnqueueOutcome>, Fault> {
    let Some(limit) = full(session, job, replaced)? else { return Ok(None) };
    let rate = session.store.starts.of(&job.spec.queue, session.now);
    let retry_after = rate.retry_after(session.now);
    Ok(Some(EnqueueOutcome::Full { limit, retry_after }))
}

/// What is full, the first of: the queue, the keys in their order.
fn full(
    session: &mut Session<'_>,
    job: &NewJob,
    replaced: Option<&Head>,
) -> Result<Option<LimitKey>, Fault> {
    let spec = &job.spec;
    let left = match replaced {
        Some(head) => Some(session.lanes.load(head.lane)?.name.clone()),
        None => None,
    };
    if session.store.queue_limits > 0 {
        let key = LimitKey::new(format!("{QUEUE_CLASS}:{}", spec.queue)).ok();
        let most = most_live(session, key.as_ref())?;
        if let (Some(key), Some(most)) = (key, most) {
            let leaves = left.as_ref().is_some_and(|name| name.queue == spec.queue);
            let live = session.live_of_queue(&spec.queue)? - i64::from(leaves);
            if live >= most {
                return Ok(Some(key));
            }
        }
    }
    for key in spec.limits.iter() {
        if let Some(most) = most_live(session, Some(key))? {
            let leaves = left.as_ref().is_some_and(|name| name.limits.contains(key));
            let live = session.limits.live(key)? - i64::from(leaves);
            if live >= most {
                return Ok(Some(key.clone()));
            }
        }
    }
    Ok(None)
}

fn most_live(session: &mut Session<'_>, key: Option<&LimitKey>) -> Result<Option<i64>, Fault> {
    let Some(key) = key else { return Ok(None) };
    let most = session.limits.in_force(key)?.settings.max_live;
    Ok(most.map(|most| i64::try_from(most).unwrap_or(i64::MAX)))
}
