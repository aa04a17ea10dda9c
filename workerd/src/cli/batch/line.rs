//! The lines of a batch.

mod fields;
mod job;

use std::io::{BufRead, Read};

use queue::payload::PAYLOAD_HARD_MAX_BYTES;
use queue::{Durability, NewJob};

use crate::exit::Failure;
use job::job;

/// The most bytes of a line: the greatest payload and room for everything else.
const LINE_MAX_BYTES: u64 = PAYLOAD_HARD_MAX_BYTES as u64 + 64 * 1024;

/// Jobs that are written together, with their line numbers; none at the end.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) jobs: Vec<(usize, NewJob)>,
    /// What all of them ask for.
    pub(super) durability: Option<Durability>,
}

/// A line that was read.
#[derive(Debug)]
struct Parsed {
    number: usize,
    job: NewJob,
    durability: Option<Durability>,
}

/// Reads lines and counts them from 1.
#[derive(Debug)]
pub(super) struct Lines<R> {
    input: R,
    number: usize,
    buffer: Vec<u8>,
    /// A line that begins the next chunk.
    ahead: Option<Parsed>,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, number: 0, buffer: Vec::new(), ahead: None }
    }

    /// The jobs of the next lines, at most `max` or about `max_bytes`, up to one that asks for
    /// another durability. Blank lines are skipped.
    ///
    /// # Errors
    /// The first line that is no job, and why.
    pub(super) fn chunk(&mut self, max: usize, max_bytes: usize) -> Result<Chunk, Failure> {
        let (mut chunk, mut bytes) = (Chunk::default(), 0);
        while chunk.jobs.len() < max && bytes < max_bytes {
            let Some(line) = self.next_job()? else { break };
            if chunk.jobs.is_empty() {
                chunk.durability = line.durability;
            } else if chunk.durability != line.durability {
                self.ahead = Some(line);
                break;
            }
            bytes += self.buffer.len();
            chunk.jobs.push((line.number, line.job));
        }
        Ok(chunk)
    }

    /// The job of the next line that is not blank.
    fn next_job(&mut self) -> Result<Option<Parsed>, Failure> {
        if let Some(line) = self.ahead.take() {
            return Ok(Some(line));
        }
        while self.next_line()? {
            let mut line = self.buffer.as_slice();
            if self.number == 1 {
                // What some editors put before a text to say that it is Unicode.
                line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
            }
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let (job, durability) = job(line).map_err(|e| self.wrong(&e))?;
            return Ok(Some(Parsed { number: self.number, job, durability }));
        }
        Ok(None)
    }

    /// Reads one line into the buffer; `false` at the end of the input.
    fn next_line(&mut self) -> Result<bool, Failure> {
        self.buffer.clear();
        self.number += 1;
        let mut limited = self.input.by_ref().take(LINE_MAX_BYTES + 1);
        let count = limited
            .read_until(b'\n', &mut self.buffer)
            .map_err(|e| Failure::usage(format!("line {} cannot be read: {e}", self.number)))?;
        if count as u64 > LINE_MAX_BYTES {
            return Err(self.wrong(&format!("has more than {LINE_MAX_BYTES} bytes")));
        }
        Ok(count > 0)
    }

    fn wrong(&self, message: &str) -> Failure {
        let failure = Failure::usage(format!("line {}: {message}", self.number));
        failure.detail("line", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_in_chunks_and_blank_ones_skipped() {
        let text = "{\"kind\":\"a\",\"payload\":1}\n\n{\"kind\":\"b\",\"payload\":2}\r\n\
                    {\"kind\":\"c\",\"payload\":3}";
        let mut lines = Lines::new(text.as_bytes());
        let numbers = |chunk: Chunk| chunk.jobs.iter().map(|c| c.0).collect::<Vec<_>>();
        assert_eq!(numbers(lines.chunk(2, 100).unwrap()), [1, 3]);
        assert_eq!(numbers(lines.chunk(2, 100).unwrap()), [4]);
        assert!(lines.chunk(2, 100).unwrap().jobs.is_empty());
    }

    #[test]
    fn a_chunk_asks_for_one_durability() {
        let line = |more: &str| format!("{{\"kind\":\"a\",\"payload\":1{more}}}\n");
        let (fsync, plain) = (line(",\"durability\":\"fsync\""), line(""));
        let text = [&*plain, &plain, &fsync, &fsync, "\n", &plain].concat();
        let mut lines = Lines::new(text.as_bytes());
        let mut chunks = Vec::new();
        while let chunk = lines.chunk(10, usize::MAX).unwrap()
            && let Some((first, _)) = chunk.jobs.first()
        {
            chunks.push((*first, chunk.jobs.len(), chunk.durability));
        }
        assert_eq!(chunks, [(1, 2, None), (3, 2, Some(Durability::Fsync)), (6, 1, None)]);
    }

    #[test]
    fn a_chunk_is_bounded_in_bytes_and_a_byte_order_mark_is_no_mistake() {
        let line = "{\"kind\":\"a\",\"payload\":1}\n";
        let text = format!("\u{feff}{}", line.repeat(5));
        let mut lines = Lines::new(text.as_bytes());
        assert_eq!(lines.chunk(10, 2 * line.len()).unwrap().jobs.len(), 2);
        assert_eq!(lines.chunk(10, 1).unwrap().jobs.len(), 1);
        assert_eq!(lines.chunk(10, usize::MAX).unwrap().jobs.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let wrong =
            |text: &str| Lines::new(text.as_bytes()).chunk(10, usize::MAX).unwrap_err().to_string();
        let text = "{\"kind\":\"a\",\"payload\":1}\n{\"kind\":\"a\"}\n";
        assert_eq!(wrong(text), "line 2: payload is missing");
        let long = format!("{{\"kind\":\"a\",\"payload\":\"{}\"}}", "x".repeat(256 * 1024));
        let error = wrong(&long);
        assert!(error.contains("line 1: payload: 262146 bytes"), "{error}");
    }
}
