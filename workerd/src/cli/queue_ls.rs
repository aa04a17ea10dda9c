//! `workerd queue ls`.

use std::collections::BTreeMap;

use clap::Subcommand;
use queue::{JobState, QueueStats};
use serde::Serialize;

use super::Common;
use crate::display::table;
use crate::exit::{Exit, Outcome};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Count the jobs of every queue and kind, by state
    Ls,
}

#[derive(Serialize)]
struct Listed {
    queues: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    queue: String,
    kind: String,
    /// States without jobs are left out.
    jobs: BTreeMap<&'static str, u64>,
}

/// # Errors
/// Why the store could not be looked at.
pub(super) async fn execute(common: &Common) -> Outcome {
    let stats = common.connect().await?.stats().await?;
    let listed = Listed { queues: stats.iter().map(row).collect() };
    common.answer(&listed, || text(&stats))?;
    Ok(Exit::Done)
}

fn row(stats: &QueueStats) -> Row {
    let jobs = stats.jobs.iter().map(|(state, count)| (state.as_str(), *count));
    Row { queue: stats.queue.to_string(), kind: stats.kind.to_string(), jobs: jobs.collect() }
}

/// Only states that some job is in have a column.
fn text(stats: &[QueueStats]) -> String {
    if stats.is_empty() {
        return "no jobs\n".to_owned();
    }
    let is_used = |state: &JobState| stats.iter().any(|row| row.jobs.contains_key(state));
    let states: Vec<JobState> = JobState::ALL.into_iter().filter(is_used).collect();
    let header: Vec<&str> =
        ["queue", "kind"].into_iter().chain(states.iter().map(|state| state.as_str())).collect();
    let row = |row: &QueueStats| {
        let count = |state| row.jobs.get(state).copied().unwrap_or(0).to_string();
        let names = [row.queue.to_string(), row.kind.to_string()];
        names.into_iter().chain(states.iter().map(count)).collect()
    };
    table(&header, &stats.iter().map(row).collect::<Vec<_>>())
}
