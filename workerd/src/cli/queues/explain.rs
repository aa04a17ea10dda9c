//! `workerd queue explain`.

use queue::{Queue, QueueName, Reason};
use serde_json::{Map, json};

use super::if_unknown;
use crate::cli::Common;
use crate::display::table;
use crate::exit::{Exit, Outcome};

/// # Errors
/// Why the store could not be looked at.
pub(super) async fn execute(common: &Common, queue: &Queue, names: &[QueueName]) -> Outcome {
    for name in names {
        let backlog = queue.backlog(name).await?;
        let reasons: Map<_, _> =
            backlog.reasons.iter().map(|(r, jobs)| (r.as_str().to_owned(), json!(jobs))).collect();
        let not_looked_at = backlog.not_looked_at;
        let waits = !backlog.reasons.is_empty() || not_looked_at > 0;
        let unknown = if waits { "" } else { if_unknown(common, queue, name).await };
        let document = json!({ "queue": name, "reasons": reasons, "not_looked_at": not_looked_at });
        common.answer(&document, || {
            let counted = backlog.reasons.iter().map(|(reason, jobs)| (*jobs, meaning(*reason)));
            let rest = (not_looked_at > 0).then_some((not_looked_at, "in lanes not looked at"));
            let rows: Vec<Vec<String>> = counted
                .chain(rest)
                .map(|(jobs, why)| vec![name.to_string(), jobs.to_string(), why.to_owned()])
                .collect();
            if !waits {
                return format!("nothing waits in {name}{unknown}\n");
            }
            table(&["queue", "jobs", "wait for"], &rows)
        })?;
    }
    Ok(Exit::Done)
}

fn meaning(reason: Reason) -> &'static str {
    match reason {
        Reason::Scheduled => "their time",
        Reason::Paused => "their queue, which is paused",
        Reason::Unroutable => "a worker that runs their kind",
        Reason::Limit => "room: as many run as a limit allows",
        Reason::Rate => "the rate of a limit",
        Reason::Breaker => "a breaker that is open",
        Reason::Throttled => "a provider that asked for a pause",
        Reason::Slot => "a free slot",
        // A newer library has more reasons.
        other => other.as_str(),
    }
}
