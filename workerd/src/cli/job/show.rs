//! `workerd job show`.

use std::io::{self, IsTerminal};

use queue::backend::QuarantinedJob;
use queue::{JobId, JobRecord, Queue};
use serde::Serialize;

use super::view::JobView;
use crate::cli::Common;
use crate::cli::many::{Found, find};
use crate::display::{escape_lines, print_bytes, table};
use crate::exit::{Exit, Failure, Outcome};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The job's id
    id: JobId,

    /// Write the bytes of one part and nothing else: payload or result, or a stored part of a
    /// quarantined job
    #[arg(long, value_name = "PART")]
    raw: Option<String>,
}

/// # Errors
/// Why it cannot be shown.
pub(super) async fn execute(common: &Common, queue: &Queue, args: &Args) -> Outcome {
    match (find(queue, args.id).await?, &args.raw) {
        (Found::Job(record), None) => show(common, &record)?,
        (Found::Quarantined(job), None) => show_quarantined(common, &job)?,
        (Found::Job(record), Some(part)) => write_part(&parts(&record), part)?,
        (Found::Quarantined(job), Some(part)) => write_part(&job.parts, part)?,
        (Found::Nothing, _) => return Err(Failure::no_such_job(args.id)),
    }
    Ok(Exit::Done)
}

/// # Errors
/// If it cannot be written.
pub(super) fn show(common: &Common, record: &JobRecord) -> Result<(), Failure> {
    let view = JobView::of(record);
    common.answer(&view, || view.to_text())
}

/// What a job that can be read has to write.
fn parts(record: &JobRecord) -> Vec<(String, Vec<u8>)> {
    let payload = Some(("payload".to_owned(), record.spec.payload.bytes().to_vec()));
    let result = record.result.as_ref();
    let result = result.map(|result| ("result".to_owned(), result.bytes().to_vec()));
    payload.into_iter().chain(result).collect()
}

/// # Errors
/// If there is no such part, or nobody to take its bytes: a terminal would obey them.
fn write_part(parts: &[(String, Vec<u8>)], name: &str) -> Result<(), Failure> {
    let Some((_, bytes)) = parts.iter().find(|(part, _)| part == name) else {
        let names: Vec<&str> = parts.iter().map(|(part, _)| part.as_str()).collect();
        let message = format!("the job has no part {name:?}");
        return Err(Failure::usage(message).advice(format!("it has {}", names.join(", "))));
    };
    if io::stdout().is_terminal() {
        let message = "raw bytes could command this terminal";
        return Err(Failure::usage(message).advice("write them to a file or a pipe"));
    }
    print_bytes(bytes).map(|_| ())
}

#[derive(Serialize)]
struct QuarantinedView<'a> {
    id: JobId,
    state: &'static str,
    reason: &'a str,
    parts: Vec<Part<'a>>,
}

#[derive(Serialize)]
struct Part<'a> {
    name: &'a str,
    bytes: usize,
}

fn show_quarantined(common: &Common, job: &QuarantinedJob) -> Result<(), Failure> {
    let parts = job.parts.iter();
    let view = QuarantinedView {
        id: job.id,
        state: queue::JobState::Quarantined.as_str(),
        reason: &job.reason,
        parts: parts.map(|(name, bytes)| Part { name, bytes: bytes.len() }).collect(),
    };
    common.answer(&view, || {
        let row = |part: &Part<'_>| vec![part.name.to_owned(), part.bytes.to_string()];
        let rows: Vec<Vec<String>> = view.parts.iter().map(row).collect();
        format!(
            "id         {}\nstate      {}\nreason     {}\n\n{}\n\
             workerd job show --raw PART writes the bytes of a part, job recover takes the job \
             back if it can be read, job delete removes it\n",
            job.id,
            view.state,
            escape_lines(&job.reason, super::view::INDENT),
            table(&["part", "bytes"], &rows)
        )
    })
}
