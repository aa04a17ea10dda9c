//! A program's standard streams: fed and drained for as long as it likes, kept up to a bound.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};

use super::events::{Ends, Events};
use super::group::Streams;
use super::listener::{Lines, Listener, tell_line};
use super::pace::Pace;

/// How much of the end of standard error is kept.
const STDERR_TAIL_BYTES: usize = 64 * 1024;

/// How much is read at once, and how much at first: most programs write little or nothing.
const READ_BYTES: usize = 16 * 1024;
const READ_FIRST_BYTES: usize = 1024;
/// As much as a pipe holds.
const READ_SLOW_BYTES: usize = 64 * 1024;

/// The streams and what was read from them so far.
#[derive(Debug)]
pub(super) struct Pipes<'a> {
    stdin: Option<ChildStdin>,
    /// What the program has not taken yet.
    input: Bytes,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    events: Events<'a>,
    pub(super) output: Head,
    pub(super) errors: Errors<'a>,
}

impl<'a> Pipes<'a> {
    pub(super) fn new(
        streams: Streams,
        input: Bytes,
        output_max_bytes: usize,
        events: Events<'a>,
        listener: &'a dyn Listener,
    ) -> Self {
        Self {
            stdin: streams.stdin,
            input,
            stdout: streams.stdout,
            stderr: streams.stderr,
            events,
            output: Head { bytes: Vec::new(), max_bytes: output_max_bytes, overflowed: false },
            errors: Errors { tail: Tail { bytes: Vec::new() }, lines: Lines::default(), listener },
        }
    }

    /// Feeds, drains and hears the program until it has closed its ends of the standard streams.
    ///
    /// # Cancel safety
    /// Safe to drop and call again: nothing that was read or written is forgotten.
    pub(super) async fn run(&mut self) {
        let Self { stdin, input, stdout, stderr, events, output, errors } = self;
        let streams = async {
            tokio::join!(feed(stdin, input), drain(stdout, output), drain(stderr, errors));
        };
        tokio::select! {
            () = streams => {}
            never = events.serve() => match never {},
        }
    }

    /// Like [`Self::run`], and then hears it for ever: for use beside what ends an attempt, which
    /// closed streams do not.
    ///
    /// # Cancel safety
    /// As [`Self::run`].
    pub(super) async fn serve(&mut self) -> std::convert::Infallible {
        self.run().await;
        self.events.serve().await
    }

    /// When its provider wants to be asked again, as the program has said last.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.events.retry_after()
    }

    /// Tells the last words of a program that has ended, and gives the pipe of its events back.
    pub(super) fn finish(&mut self) -> Option<Ends> {
        let ends = self.events.finish();
        let Errors { lines, listener, .. } = &mut self.errors;
        lines.end(|line| tell_line(line, *listener));
        ends
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
        let mut buffer = Vec::with_capacity(READ_FIRST_BYTES);
        let mut pace = Pace::new();
        while let Ok(1..) = stream.read_buf(&mut buffer).await {
            pace.begin();
            keep.keep(&buffer);
            let is_full = buffer.len() == buffer.capacity();
            pace.end(buffer.len()).await;
            buffer.clear();
            if is_full {
                buffer.reserve(if pace.is_slow() { READ_SLOW_BYTES } else { READ_BYTES });
            }
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

/// Standard error: its end is kept, and its lines are the job's log.
#[derive(Debug)]
pub(super) struct Errors<'a> {
    pub(super) tail: Tail,
    lines: Lines,
    listener: &'a dyn Listener,
}

impl Keep for Errors<'_> {
    fn keep(&mut self, bytes: &[u8]) {
        self.tail.keep(bytes);
        self.lines.feed(bytes, |line| tell_line(line, self.listener));
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
    /// The last line that is not blank, cut after `max_bytes`; what a carriage return has written
    /// over is left out. Empty if there is none.
    pub(super) fn last_line(&self, max_bytes: usize) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let lines = text.rsplit(['\n', '\r']).map(str::trim);
        let last = lines.into_iter().find(|line| !line.is_empty()).unwrap_or_default();
        let mut end = last.len().min(max_bytes);
        while !last.is_char_boundary(end) {
            end -= 1;
        }
        last[..end].trim_end().to_owned()
    }

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
    fn the_last_line_is_the_last_that_says_something() {
        let last = |text: &str| Tail { bytes: text.into() }.last_line(5);
        assert_eq!(last("one\n two\r\n \n\n"), "two");
        assert_eq!(last("10%\r100%\r"), "100%");
        assert_eq!(last("one\nmany words"), "many");
        assert_eq!(last("ääää"), "ää");
        assert_eq!((last(""), last(" \n")), (String::new(), String::new()));
    }

    /// Counts how often something was read.
    struct Reads(usize);

    impl Keep for Reads {
        fn keep(&mut self, _: &[u8]) {
            self.0 += 1;
        }
    }

    #[tokio::test]
    async fn a_stream_without_an_end_is_not_read_as_fast_as_it_comes() {
        let (mut stream, mut reads) = (Some(tokio::io::repeat(b'y')), Reads(0));
        let time = Duration::from_millis(50);
        assert!(tokio::time::timeout(time, drain(&mut stream, &mut reads)).await.is_err());
        // Five buffers of the first kilobytes, and no more than one in each millisecond.
        assert!((5..=60).contains(&reads.0), "{}", reads.0);
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
