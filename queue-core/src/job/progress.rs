//! What a running job says about itself: how far it is, and the lines of its log.

use crate::Timestamp;

/// The most bytes of a progress text that are kept.
pub const PROGRESS_TEXT_MAX_BYTES: usize = 256;

/// The most bytes of one line of a job's log.
pub const LOG_LINE_MAX_BYTES: usize = 4 * 1024;

/// The last so many lines of a job's log are kept.
pub const LOG_LINES_MAX: usize = 100;

/// The most bytes of text that a job's log keeps.
pub const LOG_MAX_BYTES: usize = 64 * 1024;

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// 0 to 100.
    pub percent: u8,
    /// What it is doing, for people; may be empty.
    pub text: String,
}

impl Progress {
    /// `percent` is at most 100, and `text` is cut to [`PROGRESS_TEXT_MAX_BYTES`].
    #[must_use]
    pub fn new(percent: u8, text: impl Into<String>) -> Self {
        Self { percent: percent.min(100), text: shortened(&text.into(), PROGRESS_TEXT_MAX_BYTES) }
    }
}

/// One line of a job's log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogLine {
    /// Its place in the job's log, from 1, over all attempts.
    pub number: u64,
    /// The store's time when it arrived.
    pub at: Timestamp,
    /// The attempt that wrote it ([`JobRecord::attempt`](crate::JobRecord::attempt)).
    pub attempt: u16,
    /// Without its line end.
    pub text: String,
}

impl LogLine {
    /// A line, as a store reads it back.
    #[must_use]
    pub const fn new(number: u64, at: Timestamp, attempt: u16, text: String) -> Self {
        Self { number, at, attempt, text }
    }
}

/// Cuts a text that is longer than `max_bytes` between two characters and marks the cut.
pub(crate) fn shortened(text: &str, max_bytes: usize) -> String {
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    let mut end = max_bytes - "…".len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    // Not cut out of a copy: that would keep the room of the whole text.
    [&text[..end], "…"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(shortened("äää", 6), "äää");
        assert_eq!(shortened("ääää", 6), "ä…");
        assert_eq!(Progress::new(200, "x".repeat(300)).percent, 100);
        assert!(Progress::new(0, "x".repeat(300)).text.len() <= PROGRESS_TEXT_MAX_BYTES);
    }
}
