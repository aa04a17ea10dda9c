//! `workerd job explain`.

use queue::{Blocker, Explanation, JobId, Queue, WorkerId};
use serde_json::{Value, json};

use crate::cli::Common;
use crate::display::{escape, jobs, short, time};
use crate::exit::{Exit, Failure, Outcome};
use crate::limits;

/// # Errors
/// Why it cannot be explained.
pub(super) async fn execute(common: &Common, queue: &Queue, id: JobId) -> Outcome {
    let explanation = queue.explain(id).await?.ok_or_else(|| Failure::no_such_job(id))?;
    common.answer(&document(&explanation), || text(&explanation))?;
    Ok(Exit::Done)
}

/// Times are milliseconds since 1970-01-01 UTC.
fn document(explanation: &Explanation) -> Value {
    let Explanation { id, state, now, blockers, place, estimate, .. } = explanation;
    let blockers: Vec<Value> = blockers.iter().map(blocker).collect();
    let place = place.map(|place| {
        json!({
            "jobs_ahead": place.jobs_ahead,
            "lanes_ahead": place.lanes_ahead,
            "lanes": place.lanes,
            "more": place.more,
        })
    });
    json!({
        "id": id,
        "state": state,
        "now": now.as_ms(),
        "blockers": blockers,
        "place": place,
        "estimate_sec": estimate.map(|time| time.as_secs_f64()),
    })
}

fn blocker(blocker: &Blocker) -> Value {
    let mut document = json!({
        "reason": blocker.reason().as_str(),
        "until": blocker.over_at().map(queue::Timestamp::as_ms),
    });
    match blocker {
        Blocker::NoWorker { elsewhere } => document["elsewhere"] = json!(texts(elsewhere)),
        Blocker::Limit { status, of_worker, alternative, .. } => {
            document["limit"] = json!(status.key);
            document["of_worker"] = json!(of_worker);
            document["alternative"] = json!(alternative);
            document["running"] = json!(status.running);
            document["allowed"] = json!(status.allowed);
            document["holders"] = json!(status.holders);
        }
        _ => {}
    }
    document
}

fn texts(workers: &[WorkerId]) -> Vec<String> {
    workers.iter().map(ToString::to_string).collect()
}

fn text(explanation: &Explanation) -> String {
    let Explanation { id, state, blockers, place, estimate, .. } = explanation;
    let mut text = format!("{id} is {state}");
    if !state.is_waiting() {
        return text + ": it waits for nothing\n";
    }
    text += if blockers.is_empty() {
        ", and waits for its turn and a free slot only\n"
    } else {
        ", and waits:\n"
    };
    for blocker in blockers {
        text += &format!("  {}\n", blocker_text(blocker));
    }
    if let Some(place) = place {
        let more = if place.more { " or more" } else { "" };
        let jobs = jobs(place.jobs_ahead);
        text += &format!("before it: {jobs}{more} of its lane, ");
        text += &format!("and {} of {} lanes{more}\n", place.lanes_ahead, place.lanes);
    }
    match estimate {
        Some(time) => text + &format!("it may start in about {}\n", short(*time)),
        None => text + "when it may start cannot be said\n",
    }
}

fn blocker_text(blocker: &Blocker) -> String {
    match blocker {
        Blocker::Due { at } => format!("for its time, {}", time(*at)),
        Blocker::Paused => {
            "for its queue, which is paused; workerd queue resume ends that".to_owned()
        }
        Blocker::NoWorker { elsewhere } if elsewhere.is_empty() => {
            "for a worker: none that is alive runs its kind".to_owned()
        }
        Blocker::NoWorker { elsewhere } => format!(
            "for a worker: those that run its kind serve other queues: {}",
            escape(&texts(elsewhere).join(", "))
        ),
        Blocker::Limit { status, blocked, of_worker, alternative } => {
            let added = match (of_worker, alternative) {
                (false, _) => "",
                (true, false) => " (which its worker adds)",
                (true, true) => " (which some of its workers add; room for others is enough)",
            };
            let mut text = format!("for {}{added}: {}", status.key, limits::blocked(blocked));
            if blocked.over_at().is_none() && !status.holders.is_empty() {
                let holders: Vec<String> = status.holders.iter().map(ToString::to_string).collect();
                let more = status.running.saturating_sub(holders.len() as u64);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                text += &format!("; held by {}{more}", holders.join(", "));
            }
            text
        }
        // A newer library has more reasons.
        other => format!("for {}", other.reason().as_str()),
    }
}

#[cfg(test)]
mod tests {
    use queue::{Blocked, JobState, LimitKey, LimitSettings, LimitTarget, NewJob, Payload};

    use super::*;

    #[tokio::test]
    async fn every_reason_is_told_to_people_and_programs() {
        let queue = Queue::memory();
        let two = LimitSettings { rate: Some("1/d".parse().unwrap()), ..LimitSettings::default() };
        queue.set_limit(&LimitTarget::new("tenant:*").unwrap(), &two).await.unwrap();
        queue.pause(&"q".try_into().unwrap()).await.unwrap();
        let job = NewJob::new("k".try_into().unwrap(), Payload::raw("")).queue("q");
        let id = queue.enqueue(job.limit("tenant:a")).await.unwrap().id;
        let explanation = queue.explain(id).await.unwrap().unwrap();
        assert_eq!(explanation.state, JobState::Ready);
        let shown = text(&explanation);
        assert!(shown.starts_with(&format!("{id} is ready, and waits:\n")), "{shown}");
        assert!(shown.contains("which is paused") && shown.contains("none that is alive runs"));
        assert!(shown.contains("before it: 0 jobs of its lane, and 0 of 1 lanes\n"), "{shown}");
        let document = document(&explanation);
        assert_eq!(document["blockers"][0], json!({ "reason": "paused", "until": null }));
        assert_eq!(document["blockers"][1]["elsewhere"], json!([]));
        assert_eq!(document["place"]["jobs_ahead"], 0);
    }

    #[tokio::test]
    async fn a_key_of_some_workers_is_told_as_an_alternative() {
        let queue = Queue::memory();
        let shut = Blocked::Closed { until: queue::Timestamp::from_ms(0) };
        let key = [LimitKey::new("provider:a").unwrap()];
        let status = queue.limit_status(&key).await.unwrap().remove(0);
        let text = |alternative| {
            let status = Box::new(status.clone());
            let of_worker = true;
            blocker_text(&Blocker::Limit { status, blocked: shut, of_worker, alternative })
        };
        assert!(
            text(false).contains("for provider:a (which its worker adds): "),
            "{}",
            text(false)
        );
        let told = text(true);
        assert!(
            told.contains("(which some of its workers add; room for others is enough)"),
            "{told}"
        );
    }
}
