//! Which jobs a command is about, and that it is meant.

use std::collections::BTreeMap;

use queue::{JobState, Kind, Queue, QueueName, Selection};
use serde_json::json;

use super::Common;
use crate::display::jobs;
use crate::exit::{Exit, Failure, Outcome};

/// `--queue` and `--kind`.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Filter {
    /// Only jobs of this queue
    #[arg(long, value_name = "NAME")]
    pub(super) queue: Option<QueueName>,

    /// Only jobs of this kind
    #[arg(long)]
    pub(super) kind: Option<Kind>,
}

impl Filter {
    pub(super) fn select(&self, states: impl IntoIterator<Item = JobState>) -> Selection {
        Selection::of(states).queue(self.queue.clone()).kind(self.kind.clone())
    }
}

/// How many jobs there are in each state; states without jobs are left out.
pub(super) type Counts = BTreeMap<&'static str, u64>;

/// Counts what a selection holds, without listing it.
///
/// # Errors
/// Why the store could not be asked.
pub(super) async fn count(queue: &Queue, selection: &Selection) -> Result<Counts, Failure> {
    let mut counts = Counts::new();
    for row in queue.stats().await? {
        let is_in = selection.queue.as_ref().is_none_or(|queue| *queue == row.queue)
            && selection.kind.as_ref().is_none_or(|kind| *kind == row.kind);
        for (state, jobs) in row.jobs.iter().filter(|_| is_in) {
            if selection.states.contains(state) {
                *counts.entry(state.as_str()).or_default() += jobs;
            }
        }
    }
    Ok(counts)
}

/// Says what a command would do if it were told `--yes`. Not done is no success.
///
/// # Errors
/// If it cannot be written.
pub(super) fn not_sure(common: &Common, done: &'static str, counts: &Counts) -> Outcome {
    let sum: u64 = counts.values().sum();
    let document = json!({ "would_be": done, "jobs": sum, "states": counts, "done": false });
    common.answer(&document, || {
        let by_state: Vec<_> = counts.iter().map(|(state, n)| format!("{n} {state}")).collect();
        let of_them =
            if by_state.is_empty() { String::new() } else { format!(" ({})", by_state.join(", ")) };
        let jobs = jobs(sum);
        format!("would be {done}: {jobs}{of_them}; nothing was done, repeat it with --yes\n")
    })?;
    Ok(Exit::Failed)
}
