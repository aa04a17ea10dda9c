//! `workerd job explain`.

use queue::{Blocker, Explanation, JobId, Position, Queue, WorkerId};
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
    let Explanation { id, state, now, blockers, position, expires_at, estimate, .. } = explanation;
    let blockers: Vec<Value> = blockers.iter().map(blocker).collect();
    let position = position.as_ref().map(|position| {
        json!({
            "jobs_ahead": position.jobs_ahead,
            "urgent_lanes": position.urgent_lanes,
            "urgent_jobs": position.urgent_jobs,
            "other_lanes": position.other_lanes,
            "other_lanes_first": position.other_lanes_first,
            "held_up_lanes": position.held_up_lanes,
            "queues_first": position.queues_first,
            "more_jobs": position.more_jobs,
            "more_lanes": position.more_lanes,
        })
    });
    json!({
        "id": id,
        "state": state,
        "now": now.as_ms(),
        "blockers": blockers,
        "position": position,
        "expires_at": expires_at.map(queue::Timestamp::as_ms),
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
    let Explanation { id, state, now, blockers, position, expires_at, estimate, .. } = explanation;
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
    if let Some(position) = position {
        text += &position_text(position);
    }
    let more = position.as_ref().is_some_and(|position| position.more_jobs || position.more_lanes);
    text + &match (expires_at, estimate) {
        (Some(at), _) if at <= now => {
            format!("it has expired, at {}: it is dead as soon as a claim meets it\n", time(*at))
        }
        (Some(at), _) => format!("it expires before it may start, at {}\n", time(*at)),
        (None, Some(time)) if more => format!("it may start in about {} or later\n", short(*time)),
        (None, Some(time)) => format!("it may start in about {}\n", short(*time)),
        (None, None) => "when it may start cannot be said\n".to_owned(),
    }
}

fn position_text(position: &Position) -> String {
    let or_more = |more| if more { " or more" } else { "" };
    let lanes = |count| if count == 1 { "lane" } else { "lanes" };
    let more = or_more(position.more_jobs);
    let mut text = format!("before it: {}{more} of its lane", jobs(position.jobs_ahead));
    let (urgent, more) = (position.urgent_lanes, or_more(position.more_lanes));
    if urgent > 0 {
        let of_urgent = jobs(position.urgent_jobs);
        text += &format!(", and {of_urgent} of {urgent} more urgent {}{more}", lanes(urgent));
    }
    text.push('\n');
    let (others, first) = (position.other_lanes, position.other_lanes_first);
    if others > 0 {
        text += &format!("its lane takes turns with {others} other {}{more}, ", lanes(others));
        text += &format!("{first} of them before it\n");
    }
    let held_up = position.held_up_lanes;
    if held_up > 0 {
        let held_lanes = lanes(held_up);
        text += &format!("passed over: {held_up} {held_lanes} that nobody runs or a limit keeps\n");
    }
    if !position.queues_first.is_empty() {
        let queues = position.queues_first.iter();
        let queues = queues.map(|(queue, ready)| format!("{queue} ({} ready)", jobs(*ready)));
        let queues: Vec<String> = queues.collect();
        text += &format!("its workers serve other queues first: {}\n", queues.join(", "));
    }
    text
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
                (true, true) => {
                    " (which some of its workers add; a place at one of the others is enough)"
                }
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
        assert!(shown.contains("before it: 0 jobs of its lane\n"), "{shown}");
        let document = document(&explanation);
        assert_eq!(document["blockers"][0], json!({ "reason": "paused", "until": null }));
        assert_eq!(document["blockers"][1]["elsewhere"], json!([]));
        assert_eq!(document["position"]["jobs_ahead"], 0);
    }

    #[tokio::test]
    async fn what_is_before_it_is_told_lane_by_lane() {
        let queue = Queue::memory();
        let job = |kind: &str| NewJob::new(kind.try_into().unwrap(), Payload::raw(""));
        let of = |tenant: &str| job("k").limit(format!("tenant:{tenant}"));
        queue.enqueue_all([job("a").priority(1), job("b").priority(0), of("x")]).await.unwrap();
        queue.enqueue_all((0..3).map(|_| job("b").priority(0))).await.unwrap();
        let first = queue.enqueue(of("y")).await.unwrap().id;
        queue.enqueue(of("z")).await.unwrap();
        let second = queue.enqueue(of("y")).await.unwrap().id;
        let shown = async |id| text(&queue.explain(id).await.unwrap().unwrap());
        let told = "before it: 1 job of its lane, and 5 jobs of 2 more urgent lanes\n\
            its lane takes turns with 2 other lanes, 1 of them before it\n\
            passed over: 2 lanes that nobody runs or a limit keeps\n";
        let (shown, of_first) = (shown(second).await, shown(first).await);
        assert!(shown.contains(told), "{shown}");
        assert!(of_first.contains("before it: 0 jobs of its lane, and 5 jobs"), "{of_first}");
    }

    #[tokio::test]
    async fn an_expired_job_is_not_told_to_start() {
        let queue = Queue::memory();
        let job = || NewJob::new("k".try_into().unwrap(), Payload::raw(""));
        let past = job().expires_at(std::time::UNIX_EPOCH + std::time::Duration::from_millis(1));
        let hour = std::time::Duration::from_secs(3600);
        let late = std::time::SystemTime::now() + hour;
        let shown = async |job| {
            let id = queue.enqueue(job).await.unwrap().id;
            let explanation = queue.explain(id).await.unwrap().unwrap();
            (document(&explanation)["expires_at"].clone(), text(&explanation))
        };
        let (at, told) = shown(past).await;
        assert!(at == json!(1) && told.contains("it has expired, at 1970"), "{told}");
        let (at, told) = shown(job().expires_at(late).delay(hour * 2)).await;
        assert!(
            at == json!(queue::Timestamp::from(late).as_ms())
                && told.contains("it expires before it may"),
            "{told}"
        );
        let (at, told) = shown(job().expires_at(late)).await;
        assert!(at.is_null() && !told.contains("expire"), "{told}");
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
            told.contains(
                "(which some of its workers add; a place at one of the others is enough)"
            ),
            "{told}"
        );
    }
}
