//! `workerd enqueue --batch`: a job in JSON per line, as many as there are.
//!
//! Lines are read, checked and written 500 or 4 MiB at a time, as far as they ask for the same
//! durability, so a file of any length takes
//! little memory. What was written when something goes wrong is told by line numbers. Programs
//! get a document for each line as soon as the store has answered for it, and one in the end.

mod line;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use queue::backend::PASS_MAX;
use queue::{EnqueueOutcome, Error, NewJob, Queue};
use serde::Serialize;
use serde_json::json;

use super::fields::conflict_text;
use super::{Common, enqueue};
use crate::display::print;
use crate::exit::{Exit, Failure, Outcome, whole_seconds};
use line::{Chunk, Lines};

/// How many conflicts are listed; all are counted.
const CONFLICTS_LISTED_MAX: usize = 100;

/// Lines that are read and written at once end with this many bytes.
const CHUNK_MAX_BYTES: usize = 4 * 1024 * 1024;

/// The waits between attempts to write a chunk to a store that does not answer.
const RETRY_WAITS_MS: [u64; 6] = [50, 100, 250, 500, 1000, 2000];

/// What came of the lines.
#[derive(Debug, Default, Serialize)]
struct Summary {
    created: usize,
    duplicates: usize,
    /// Of the created ones, those that took the place of another.
    replacements: usize,
    conflicts: usize,
    /// The first of them.
    conflicting: Vec<Conflict>,
    /// Lines up to the one below that a queue or a key had no room for.
    refused: Vec<usize>,
    /// The last line that the store has answered for; where it had no more room, the last one
    /// that it has taken.
    written_to_line: usize,
}

#[derive(Debug, Clone, Serialize)]
struct Conflict {
    line: usize,
    existing: String,
    reason: String,
}

/// # Errors
/// The line that stopped it, and what came of the lines before.
pub(super) async fn execute(common: &Common, file: &Path) -> Outcome {
    let input: Box<dyn Read> = if file == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let opened = File::open(file);
        Box::new(opened.map_err(|e| Failure::usage(format!("{}: {e}", file.display())))?)
    };
    let queue = common.connect_to_write().await?;
    let mut summary = Summary::default();
    let mut lines = Lines::new(BufReader::new(input));
    if let Err(failure) = write_all(common, &queue, &mut lines, &mut summary).await {
        return Err(summary.explain(failure));
    }
    common.answer(&summary, || summary.to_text())?;
    Ok(if summary.conflicts > 0 { Exit::Conflict } else { Exit::Done })
}

/// # Errors
/// The line that is wrong, whose chunk is not written, why the store did not take a chunk, or the
/// first line that there was no room for.
async fn write_all(
    common: &Common,
    queue: &Queue,
    lines: &mut Lines<impl BufRead>,
    summary: &mut Summary,
) -> Result<(), Failure> {
    loop {
        let Chunk { jobs, durability } = lines.chunk(PASS_MAX as usize, CHUNK_MAX_BYTES)?;
        let (Some((first, _)), Some((last, _))) = (jobs.first(), jobs.last()) else {
            return Ok(());
        };
        let range = *first..=*last;
        let (numbers, jobs): (Vec<usize>, Vec<NewJob>) = jobs.into_iter().unzip();
        let queue = durability.map_or(queue.clone(), |asked| queue.clone().durability(asked));
        let outcomes = write(&queue, &jobs).await.map_err(|e| interrupted(e, &range))?;
        summary.written_to_line = *range.end();
        let outcomes: Vec<_> = numbers.into_iter().zip(outcomes).collect();
        let full = summary.refuse(&outcomes);
        summary.count(common.json, outcomes.into_iter())?;
        // What comes next would be refused as well.
        full.map_or(Ok(()), Err)?;
    }
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

/// The store failed in the middle of a chunk.
fn interrupted(error: Error, range: &RangeInclusive<usize>) -> Failure {
    let is_unknown = matches!(error, Error::Unavailable(_));
    let failure =
        Failure::from(error).context(format!("lines {} to {}", range.start(), range.end()));
    if is_unknown { failure.advice("whether they are queued is not known") } else { failure }
}

impl Summary {
    /// Notes the lines of a chunk that there was no room for, and how far it was written. Answers
    /// why the first of them was refused.
    fn refuse(&mut self, outcomes: &[(usize, EnqueueOutcome)]) -> Option<Failure> {
        let is_full = |outcome: &EnqueueOutcome| matches!(outcome, EnqueueOutcome::Full { .. });
        let mut full = outcomes.iter().filter(|(_, outcome)| is_full(outcome));
        let (line, outcome) = full.next()?;
        let EnqueueOutcome::Full { limit, retry_after } = outcome.clone() else { return None };
        // All the lines that are still to be written come after this one, if it is possible.
        let taken = outcomes.iter().rev().find(|(_, outcome)| !is_full(outcome));
        self.written_to_line = taken.map_or(line - 1, |(line, _)| *line);
        let refused = std::iter::once(line).chain(full.map(|(line, _)| line)).copied();
        self.refused = refused.filter(|line| *line < self.written_to_line).collect();
        let failure = Failure::from(Error::QueueFull { limit, retry_after });
        Some(failure.context(format!("line {line}")))
    }

    /// Counts what came of a chunk, and tells programs line by line.
    fn count(
        &mut self,
        tell: bool,
        outcomes: impl Iterator<Item = (usize, EnqueueOutcome)>,
    ) -> Result<(), Failure> {
        let mut told = String::new();
        for (line, outcome) in outcomes {
            let document = match outcome {
                EnqueueOutcome::Done(enqueued) => {
                    let duplicate = enqueued.duplicate;
                    *(if duplicate { &mut self.duplicates } else { &mut self.created }) += 1;
                    self.replacements += usize::from(enqueued.replaced.is_some());
                    let mut document = enqueue::document(&enqueued);
                    document["line"] = line.into();
                    document
                }
                EnqueueOutcome::Conflict { existing, reason } => {
                    self.conflicts += 1;
                    let (existing, reason) = (existing.to_string(), conflict_text(reason));
                    let conflict = json!({ "existing": existing, "reason": reason });
                    if self.conflicting.len() < CONFLICTS_LISTED_MAX {
                        self.conflicting.push(Conflict { line, existing, reason });
                    }
                    json!({ "line": line, "conflict": conflict })
                }
                EnqueueOutcome::Full { limit, retry_after } => {
                    let retry_after_sec = whole_seconds(retry_after);
                    let refused = json!({ "limit": limit, "retry_after_sec": retry_after_sec });
                    json!({ "line": line, "refused": refused })
                }
                _ => continue,
            };
            if tell {
                told += &format!("{document}\n");
            }
        }
        print(&told)
    }

    /// Adds to a failure what came of the lines before it.
    fn explain(&self, failure: Failure) -> Failure {
        let Self { created, duplicates, replacements, conflicts, written_to_line, .. } = self;
        let failure = failure
            .detail("written_to_line", *written_to_line)
            .detail("created", *created)
            .detail("duplicates", *duplicates)
            .detail("replacements", *replacements)
            .detail("conflicts", *conflicts)
            .detail("conflicting", json!(self.conflicting))
            .detail("refused", self.refused.as_slice());
        if *written_to_line == 0 {
            return failure.advice("no line before that is queued");
        }
        let (next, text) = (written_to_line + 1, self.to_text());
        let (done, text) = (format!("the lines up to {written_to_line}"), text.trim_end());
        failure.advice(match self.refused.as_slice() {
            [] => format!("{done} are done (go on with tail -n +{next}): {text}"),
            lines => format!(
                "{done} are done, except {}, which were refused (go on with those and all behind \
                 {written_to_line}: sed -n '{}p;{next},$p'): {text}",
                ranges(lines, " to ", ", "),
                ranges(lines, ",", "p;")
            ),
        })
    }

    fn to_text(&self) -> String {
        let Self { created, duplicates, replacements, conflicts, conflicting, .. } = self;
        let replaced = match replacements {
            0 => String::new(),
            count => format!(" ({count} in the place of another)"),
        };
        let mut text = format!(
            "{created} created{replaced}, {duplicates} there before, {conflicts} in conflict\n"
        );
        for Conflict { line, existing, reason } in conflicting {
            text += &format!("line {line}: conflicts with {existing}: {reason}\n");
        }
        if *conflicts > conflicting.len() {
            text += &format!("and {} more\n", conflicts - conflicting.len());
        }
        text
    }
}

/// Rising numbers as `2, 4 to 7`, or with other words between the ends of a range and between two of them.
fn ranges(numbers: &[usize], to: &str, then: &str) -> String {
    let ranges = numbers.chunk_by(|a, b| a + 1 == *b);
    let text = |range: &[usize]| match range {
        [first, .., last] => format!("{first}{to}{last}"),
        _ => range.iter().map(ToString::to_string).collect(),
    };
    ranges.map(text).collect::<Vec<_>>().join(then)
}

#[cfg(test)]
mod tests {
    use queue::{LimitSettings, LimitTarget};

    use super::*;

    /// Writes as many jobs to each queue as the letters say, where the queue `a` takes two.
    async fn refused(letters: &str) -> (Summary, Option<String>) {
        let queue = Queue::memory();
        let two = LimitSettings { max_live: Some(2), ..LimitSettings::default() };
        queue.set_limit(&LimitTarget::new("queue:a").unwrap(), &two).await.unwrap();
        let job = |letter: char| {
            NewJob::new("k".try_into().unwrap(), queue::Payload::raw("")).queue(letter.to_string())
        };
        let outcomes = queue.enqueue_all(letters.chars().map(job)).await.unwrap();
        let outcomes: Vec<_> = (1..).zip(outcomes).collect();
        let mut summary = Summary { written_to_line: outcomes.len(), ..Summary::default() };
        let full = summary.refuse(&outcomes).map(|failure| summary.explain(failure).to_string());
        (summary, full)
    }

    #[tokio::test]
    async fn a_batch_goes_on_where_there_was_no_more_room() {
        let (summary, full) = refused("aaaa").await;
        assert_eq!((summary.written_to_line, summary.refused), (2, vec![]));
        let full = full.unwrap();
        assert!(full.starts_with("line 3: queue:a has as many live jobs"), "{full}");
        assert!(full.contains("the lines up to 2 are done (go on with tail -n +3)"), "{full}");

        let (summary, full) = refused("aabaabbaa").await;
        assert_eq!((summary.written_to_line, summary.refused), (7, vec![4, 5]));
        let full = full.unwrap();
        assert!(full.contains("up to 7 are done, except 4 to 5, which were refused"), "{full}");
        assert!(full.contains("sed -n '4,5p;8,$p'"), "{full}");

        assert!(refused("aab").await.1.is_none());
    }

    #[test]
    fn lines_are_told_as_ranges() {
        assert_eq!(ranges(&[2, 4, 5, 6, 9], " to ", ", "), "2, 4 to 6, 9");
        assert_eq!(ranges(&[2, 4, 5, 6, 9], ",", "p;"), "2p;4,6p;9");
    }
}
