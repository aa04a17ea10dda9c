//! `workerd queue ls`.

use std::collections::BTreeMap;

use queue::{JobState, Queue, QueueName, QueueStats};
use serde::Serialize;

use crate::cli::Common;
use crate::display::table;
use crate::exit::{Exit, Outcome};

#[derive(Serialize)]
struct Listed<'a> {
    queues: Vec<Row>,
    /// By name; also those without jobs.
    paused: &'a [QueueName],
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
pub(super) async fn execute(common: &Common, queue: &Queue) -> Outcome {
    let (stats, paused) = (queue.stats().await?, queue.paused().await?);
    let listed = Listed { queues: stats.iter().map(row).collect(), paused: &paused };
    common.answer(&listed, || text(&stats, &paused))?;
    Ok(Exit::Done)
}

fn row(stats: &QueueStats) -> Row {
    let jobs = stats.jobs.iter().map(|(state, count)| (state.as_str(), *count));
    Row { queue: stats.queue.to_string(), kind: stats.kind.to_string(), jobs: jobs.collect() }
}

/// Only states that some job is in have a column, and pauses if there is one.
fn text(stats: &[QueueStats], paused: &[QueueName]) -> String {
    if stats.is_empty() && paused.is_empty() {
        return "no jobs\n".to_owned();
    }
    let is_used = |state: &JobState| stats.iter().any(|row| row.jobs.contains_key(state));
    let states: Vec<JobState> = JobState::ALL.into_iter().filter(is_used).collect();
    let mut header = vec!["queue", "kind"];
    header.extend(states.iter().map(|state| state.as_str()));
    let mut rows: Vec<Vec<String>> = stats
        .iter()
        .map(|row| {
            let count = |state| row.jobs.get(state).copied().unwrap_or(0).to_string();
            let names = [row.queue.to_string(), row.kind.to_string()];
            names.into_iter().chain(states.iter().map(count)).collect()
        })
        .collect();
    if !paused.is_empty() {
        header.push("paused");
        for (row, stats) in rows.iter_mut().zip(stats) {
            row.push(if paused.contains(&stats.queue) { "paused" } else { "" }.to_owned());
        }
        let without_jobs = paused.iter().filter(|name| stats.iter().all(|s| s.queue != **name));
        rows.extend(without_jobs.map(|name| {
            let mut row = vec![String::new(); header.len() - 1];
            row[0] = name.to_string();
            row.push("paused".to_owned());
            row
        }));
    }
    table(&header, &rows)
}

#[cfg(test)]
mod tests {
    use queue::Kind;

    use super::*;

    #[test]
    fn paused_queues_are_marked_also_without_jobs() {
        let name = |name: &str| QueueName::new(name).unwrap();
        let jobs = BTreeMap::from([(JobState::Ready, 2)]);
        let stats = [QueueStats::new(name("a"), Kind::new("k").unwrap(), jobs)];
        assert_eq!(text(&stats, &[]), "queue  kind  ready\na      k     2\n");
        let shown = text(&stats, &[name("a"), name("b")]);
        let expected = "queue  kind  ready  paused\na      k     2      paused\n\
                        b                   paused\n";
        assert_eq!(shown, expected);
    }
}
