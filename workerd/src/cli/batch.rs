//! `workerd enqueue --batch`: a job in JSON per line, as many as there are.
//!
//! Lines are read, checked and written 500 at a time, so a file of any length takes little
//! memory. What was written when something goes wrong is told by line numbers.

mod line;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use queue::backend::PASS_MAX;
use queue::{EnqueueOutcome, Error, NewJob, Queue};
use serde::Serialize;

use super::Common;
use crate::exit::{Exit, Failure, Outcome};
use line::Lines;

/// How many conflicts are listed; all are counted.
const CONFLICTS_LISTED_MAX: usize = 100;

/// The waits between attempts to write a chunk to a store that does not answer.
const RETRY_WAITS_MS: [u64; 6] = [50, 100, 250, 500, 1000, 2000];

/// What came of the lines.
#[derive(Debug, Default, Serialize)]
struct Summary {
    created: usize,
    duplicates: usize,
    conflicts: usize,
    /// The first of them.
    conflicting: Vec<Conflict>,
}

#[derive(Debug, Serialize)]
struct Conflict {
    line: usize,
    existing: String,
    reason: String,
}

/// # Errors
/// The line that stopped it, and which lines are in the queue.
pub(super) async fn execute(common: &Common, file: &Path) -> Outcome {
    let input: Box<dyn Read> = if file == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let opened = File::open(file);
        Box::new(opened.map_err(|e| Failure::usage(format!("{}: {e}", file.display())))?)
    };
    let mut lines = Lines::new(BufReader::new(input));
    let queue = common.connect().await?;
    let mut summary = Summary::default();
    let mut written_to = 0;
    loop {
        let chunk = lines.chunk(PASS_MAX as usize).map_err(|e| not_written(e, written_to))?;
        let (Some((first, _)), Some((last, _))) = (chunk.first(), chunk.last()) else { break };
        let range = *first..=*last;
        let jobs: Vec<NewJob> = chunk.iter().map(|(_, job)| job.clone()).collect();
        let outcomes =
            write(&queue, &jobs).await.map_err(|e| interrupted(e, &range, written_to))?;
        written_to = *range.end();
        summary.count(chunk.iter().map(|(line, _)| *line), outcomes);
    }
    common.answer(&summary, || summary.to_text())?;
    Ok(if summary.conflicts > 0 { Exit::Conflict } else { Exit::Done })
}

/// Writes a chunk. Its jobs keep their ids, so that writing it again after a lost reply makes
/// them once.
async fn write(queue: &Queue, jobs: &[NewJob]) -> Result<Vec<EnqueueOutcome>, Error> {
    let mut waits = RETRY_WAITS_MS.into_iter();
    loop {
        match (queue.enqueue_all(jobs.iter().cloned()).await, waits.next()) {
            (Err(Error::Unavailable(_)), Some(wait_ms)) => {
                tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            }
            (answer, _) => return answer,
        }
    }
}

/// A line is wrong: its chunk is not written.
fn not_written(failure: Failure, written_to: usize) -> Failure {
    failure.advice(described(written_to)).detail("written_to_line", written_to)
}

/// The store failed in the middle of a chunk.
fn interrupted(error: Error, range: &RangeInclusive<usize>, written_to: usize) -> Failure {
    let is_unknown = matches!(error, Error::Unavailable(_));
    let failure =
        Failure::from(error).context(format!("lines {} to {}", range.start(), range.end()));
    let written = if is_unknown {
        format!("whether they are queued is not known; {}", described(written_to))
    } else {
        described(written_to)
    };
    failure.advice(written).detail("written_to_line", written_to)
}

fn described(written_to: usize) -> String {
    if written_to == 0 {
        return "no line before that is queued".to_owned();
    }
    let next = written_to + 1;
    format!("lines 1 to {written_to} are queued: go on with tail -n +{next}")
}

impl Summary {
    fn count(&mut self, lines: impl Iterator<Item = usize>, outcomes: Vec<EnqueueOutcome>) {
        for (line, outcome) in lines.zip(outcomes) {
            match outcome {
                EnqueueOutcome::Done(enqueued) if enqueued.duplicate => self.duplicates += 1,
                EnqueueOutcome::Done(_) => self.created += 1,
                EnqueueOutcome::Conflict { existing, reason } => {
                    self.conflicts += 1;
                    if self.conflicting.len() < CONFLICTS_LISTED_MAX {
                        let (existing, reason) = (existing.to_string(), reason.to_string());
                        self.conflicting.push(Conflict { line, existing, reason });
                    }
                }
                _ => {}
            }
        }
    }

    fn to_text(&self) -> String {
        let Self { created, duplicates, conflicts, conflicting } = self;
        let mut text =
            format!("{created} created, {duplicates} there before, {conflicts} in conflict\n");
        for Conflict { line, existing, reason } in conflicting {
            text += &format!("line {line}: conflicts with {existing}: {reason}\n");
        }
        if *conflicts > conflicting.len() {
            text += &format!("and {} more\n", conflicts - conflicting.len());
        }
        text
    }
}
