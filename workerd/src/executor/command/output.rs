//! A program's standard streams: fed and drained for as long as it likes, kept up to a bound.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};

use super::group::Streams;

/// How much of the end of standard error is kept.
const STDERR_TAIL_BYTES: usize = 64 * 1024;

/// How much is read at once.
const READ_BYTES: usize = 16 * 1024;

/// The streams and what was read from them so far.
#[derive(Debug)]
pub(super) struct Pipes {
    stdin: Option<ChildStdin>,
    /// What the program has not taken yet.
    input: Bytes,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    pub(super) output: Head,
    pub(super) errors: Tail,
}

impl Pipes {
    pub(super) fn new(streams: Streams, input: Bytes, output_max_bytes: usize) -> Self {
        Self {
            stdin: streams.stdin,
            input,
            stdout: streams.stdout,
            stderr: streams.stderr,
            output: Head { bytes: Vec::new(), max_bytes: output_max_bytes, overflowed: false },
            errors: Tail { bytes: Vec::new() },
        }
    }

    /// Feeds and drains the program until it has closed its ends.
    ///
    /// # Cancel safety
    /// Safe to drop and call again: nothing that was read or written is forgotten.
    pub(super) async fn run(&mut self) {
        tokio::join!(
            feed(&mut self.stdin, &mut self.input),
            drain(&mut self.stdout, &mut self.output),
            drain(&mut self.stderr, &mut self.errors),
        );
    }

    /// Like [`Self::run`], and then waits for ever: for use beside what ends an attempt, which
    /// closed streams do not.
    pub(super) async fn serve(&mut self) -> std::convert::Infallible {
        self.run().await;
        std::future::pending().await
    }
}

/// A program that does not read its input is none of our business: errors end the feeding.
async fn feed(pipe: &mut Option<ChildStdin>, input: &mut Bytes) {
    if let Some(stdin) = pipe {
        let _ = stdin.write_all_buf(input).await;
    }
    // Dropping it closes it: the program sees the end of its input.
    *pipe = None;
}

async fn drain(pipe: &mut Option<impl AsyncRead + Unpin>, keep: &mut impl Keep) {
    if let Some(stream) = pipe {
        let mut buffer = vec![0; READ_BYTES];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            keep.keep(&buffer[..count]);
        }
    }
    *pipe = None;
}

/// What is kept of a stream.
trait Keep {
    fn keep(&mut self, bytes: &[u8]);
}

/// The beginning of a stream.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) bytes: Vec<u8>,
    max_bytes: usize,
    /// Whether there was more.
    pub(super) overflowed: bool,
}

impl Keep for Head {
    fn keep(&mut self, bytes: &[u8]) {
        let room = self.max_bytes - self.bytes.len();
        self.overflowed |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// The end of a stream.
#[derive(Debug)]
pub(super) struct Tail {
    bytes: Vec<u8>,
}

impl Keep for Tail {
    fn keep(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        // Cut only now and then, so that each byte is moved at most once.
        if self.bytes.len() > 2 * STDERR_TAIL_BYTES {
            self.bytes.drain(..self.bytes.len() - STDERR_TAIL_BYTES);
        }
    }
}

impl Tail {
    /// The last whole lines that fit into `max_bytes`, or the end of the last line if not even
    /// that one fits; bytes that are not UTF-8 are replaced.
    pub(super) fn last_lines(&self, max_bytes: usize) -> String {
        let text = String::from_utf8_lossy(self.bytes.trim_ascii_end());
        if text.len() <= max_bytes {
            return text.into_owned();
        }
        let mut start = text.len() - max_bytes;
        while !text.is_char_boundary(start) {
            start += 1;
        }
        let end = &text[start..];
        let is_whole = text[..start].ends_with('\n');
        match end.find('\n') {
            Some(newline) if !is_whole => end[newline + 1..].to_owned(),
            _ => end.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_keeps_its_bound_and_knows_of_more() {
        let mut head = Head { bytes: Vec::new(), max_bytes: 4, overflowed: false };
        head.keep(b"abcd");
        assert!(!head.overflowed);
        head.keep(b"e");
        assert!(head.overflowed);
        assert_eq!(head.bytes, b"abcd");
    }

    #[test]
    fn a_tail_keeps_the_last_lines_in_bounded_memory() {
        let mut tail = Tail { bytes: Vec::new() };
        for number in 0..100_000 {
            tail.keep(format!("line {number}\n").as_bytes());
            assert!(tail.bytes.len() <= 2 * STDERR_TAIL_BYTES);
        }
        assert_eq!(tail.last_lines(25), "line 99998\nline 99999");
        assert_eq!(tail.last_lines(21), "line 99998\nline 99999");
        assert_eq!(tail.last_lines(20), "line 99999");
        assert_eq!(tail.last_lines(3), "999");
    }

    #[test]
    fn a_tail_is_cut_between_characters() {
        let mut tail = Tail { bytes: Vec::new() };
        tail.keep("äöü\n".as_bytes());
        tail.keep(&[0xff]);
        assert_eq!(tail.last_lines(100), "äöü\n\u{fffd}");
        assert_eq!(Tail { bytes: "äöü".into() }.last_lines(3), "ü");
    }
}
