//! `workerd job watch`.

use std::io::Write;
use std::time::Duration;

use queue::{JobEvent, JobId, JobState, Queue};
use serde_json::{Value, json};

use super::events::{Events, Heard, state_text};
use crate::cli::Common;
use crate::config::duration;
use crate::display::{escape, time};
use crate::exit::{Exit, Failure, Outcome};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The job's id
    pub(super) id: JobId,

    /// Only log lines after this one
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(super) after_line: u64,

    /// Follow it at most so long, such as 30s or 5m; for ever if not given
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
}

/// # Errors
/// Why it cannot be followed any further.
pub(super) async fn execute(common: &Common, queue: &Queue, args: &Args) -> Outcome {
    let follow = follow(common, queue, args);
    match args.timeout {
        Some(timeout) => tokio::time::timeout(timeout, follow).await.unwrap_or(Ok(Exit::TimedOut)),
        None => follow.await,
    }
}

async fn follow(common: &Common, queue: &Queue, args: &Args) -> Outcome {
    let mut events = Events::of(queue.watch(args.id, args.after_line));
    let mut last = None;
    while let Some(heard) = events.next().await? {
        match heard {
            Heard::Event(event) => {
                if let JobEvent::State { state, .. } = event {
                    last = Some(state);
                }
                if !common.tell(&document(&event), || text(&event))? {
                    // As with `| head`: enough was heard.
                    return Ok(Exit::Done);
                }
            }
            Heard::Away(error) => {
                let message = format!("workerd: {}; trying on\n", escape(&error.to_string()));
                let _ = std::io::stderr().write_all(message.as_bytes());
            }
        }
    }
    match last {
        Some(JobState::Completed) => Ok(Exit::Done),
        Some(state) if state.is_finished() || state == JobState::Quarantined => Ok(Exit::Failed),
        Some(state) => Err(gone(args.id, state)),
        None => Err(Failure::no_such_job(args.id)),
    }
}

/// Its record went between two looks.
fn gone(id: JobId, state: JobState) -> Failure {
    let message = format!("job {id} is gone, how it ended was not kept; it was {state} before");
    Failure::new(Exit::Failed, message).detail("id", id.to_string())
}

fn document(event: &JobEvent) -> Value {
    match event {
        JobEvent::State { state, failures } => {
            json!({ "event": "state", "state": state, "failures": failures })
        }
        JobEvent::Progress(progress) => {
            json!({ "event": "progress", "percent": progress.percent, "text": progress.text })
        }
        JobEvent::Line(line) => json!({
            "event": "log",
            "line": line.number,
            "at": line.at.as_ms(),
            "attempt": line.attempt,
            "text": line.text,
        }),
        _ => json!({ "event": "unknown" }),
    }
}

fn text(event: &JobEvent) -> String {
    let line = match event {
        JobEvent::State { state, failures } => {
            format!("state     {}", state_text(*state, *failures))
        }
        JobEvent::Progress(progress) => {
            format!("progress  {:>3}% {}", progress.percent, escape(&progress.text))
        }
        JobEvent::Line(line) => format!("log       {} {}", time(line.at), escape(&line.text)),
        _ => return String::new(),
    };
    format!("{}\n", line.trim_end())
}
