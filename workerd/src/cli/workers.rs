//! `workerd worker`: who is there to run jobs.

use clap::Subcommand;
use queue::backend::LiveWorker;
use serde_json::{Value, json};

use super::Common;
use crate::display::table;
use crate::exit::{Exit, Outcome};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the workers that have said lately that they are there, and what they run
    Ls,
}

/// # Errors
/// Why the store could not be looked at.
pub(super) async fn execute(common: &Common, command: &Command) -> Outcome {
    let Command::Ls = command;
    let mut workers = common.connect().await?.workers().await?;
    workers.sort_by(|a, b| (&a.info.id, a.info.instance).cmp(&(&b.info.id, b.info.instance)));
    let documents: Vec<Value> = workers.iter().map(document).collect();
    common.answer(&json!({ "workers": documents }), || text(&workers))?;
    Ok(Exit::Done)
}

fn document(worker: &LiveWorker) -> Value {
    let info = &worker.info;
    let kinds: Vec<Value> = info
        .kinds
        .iter()
        .map(|k| json!({ "kind": k.kind, "concurrency": k.concurrency, "limits": k.limits }))
        .collect();
    json!({
        "worker": info.id.to_string(),
        "queues": info.queues,
        "kinds": kinds,
        "concurrency": info.concurrency,
        "running": info.running,
    })
}

fn text(workers: &[LiveWorker]) -> String {
    if workers.is_empty() {
        return "no workers\n".to_owned();
    }
    let row = |worker: &LiveWorker| {
        let info = &worker.info;
        let queues: Vec<&str> = info.queues.iter().map(|queue| queue.as_str()).collect();
        let kinds: Vec<&str> = info.kinds.iter().map(|k| k.kind.as_str()).collect();
        vec![
            info.id.to_string(),
            format!("{} of {}", info.running, info.concurrency),
            queues.join(", "),
            kinds.join(", "),
        ]
    };
    let rows: Vec<Vec<String>> = workers.iter().map(row).collect();
    table(&["worker", "running", "queues", "kinds"], &rows)
}
