//! Errors that are the same but for their numbers and names.

use std::fmt;
use std::str::FromStr;

use super::JobError;
use crate::SUMMARY_ERROR_MAX_BYTES;

/// A name for "the same error again": errors of one kind whose messages differ only in numbers,
/// ids and quoted texts have the same fingerprint. 16 hexadecimal digits as text.
///
/// It is made of the first line of the message, as far as a [`JobSummary`](crate::JobSummary)
/// holds it, with each run of letters and digits that contains a digit and each quoted text
/// replaced, except for the number behind a word such as `code`, `status` or `signal`, hashed with [FNV-1a](https://datatracker.ietf.org/doc/html/draft-eastlake-fnv).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// The fingerprint of an error.
    #[must_use]
    pub fn of(error: &JobError) -> Self {
        let error = error.shortened(SUMMARY_ERROR_MAX_BYTES);
        let line = error.message.lines().next().unwrap_or_default();
        let text = format!("{:?} {}", error.kind, pattern(line));
        let fnv = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(text.bytes().fold(0xcbf2_9ce4_8422_2325, fnv))
    }
}

/// The message without what usually differs from one time to the next.
fn pattern(line: &str) -> String {
    let mut pattern = String::with_capacity(line.len());
    let mut rest = line;
    // The last word, and what stood before the token.
    let (mut word, mut before) = ("", ' ');
    while let Some(first) = rest.chars().next() {
        // An apostrophe inside a word is none that opens a quotation.
        let quotes = matches!(first, '"' | '`') || (first == '\'' && !is_word(before));
        let closing = if quotes { rest[1..].find(first) } else { None };
        let bytes = match closing {
            Some(end) => end + 2,
            None => rest.find(|c: char| !is_word(c)).unwrap_or(rest.len()).max(first.len_utf8()),
        };
        let (token, after) = rest.split_at(bytes);
        let has_digit = token.bytes().any(|byte| byte.is_ascii_digit());
        let names_a_cause = CAUSES.iter().any(|cause| cause.eq_ignore_ascii_case(word));
        let varies = closing.is_some() || (has_digit && !names_a_cause);
        pattern.push_str(if varies { "#" } else { token });
        if token.chars().all(is_word) {
            word = token;
        }
        before = token.chars().next_back().unwrap_or(' ');
        rest = after;
    }
    pattern
}

/// Words whose number says what went wrong.
const CAUSES: [&str; 7] = ["code", "error", "errno", "exit", "http", "signal", "status"];

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || "_-".contains(c)
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;
    fn from_str(text: &str) -> Result<Self, InvalidFingerprint> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = digits.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or(InvalidFingerprint)
    }
}

/// A text is not a fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an error fingerprint: it has 16 hexadecimal digits, such as 0f3c9a64b27d1e58")]
pub struct InvalidFingerprint;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn of(message: &str) -> Fingerprint {
        Fingerprint::of(&JobError::new(ErrorKind::Failed, message))
    }

    #[test]
    fn numbers_ids_and_quoted_texts_do_not_count() {
        assert_eq!(of("no user 17 in \"eu\""), of("no user 4711 in \"us west\""));
        assert_eq!(
            of("job 0198c2f0-7b1c-7e3a-9d52-3f4e5a6b7c8d: timed out after 1.5s"),
            of("job 0198c2f0-7b1c-7e3a-9d52-000000000000: timed out after 20.25s\nat line 3"),
        );
        assert_ne!(of("no user 17"), of("no order 17"));
        assert_eq!(of("KeyError: 'alice'"), of("KeyError: 'bob the second'"));
        assert_eq!(of("can't open 'a b'"), of("can't open 'c'"));
        let panicked = JobError::new(ErrorKind::Panicked, "no user 17");
        assert_ne!(of("no user 17"), Fingerprint::of(&panicked));
    }

    #[test]
    fn numbers_that_name_the_cause_count() {
        assert_ne!(of("exit code 1: no"), of("exit code 137: no"));
        assert_ne!(of("signal 9"), of("signal 11"));
        assert_ne!(of("HTTP 404 for order 7"), of("HTTP 500 for order 7"));
        assert_eq!(of("HTTP 404 for order 7"), of("HTTP 404 for order 8"));
        assert_ne!(of("status: 404"), of("status: 500"));
    }

    #[test]
    fn any_message_has_one_and_its_text_reads_back() {
        for message in ["", "\"", "\"open", "``", "'", "''", "ä \"ö\" 日本", &"x1 ".repeat(1000)]
        {
            let fingerprint = of(message);
            assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint), "{message:?}");
        }
        assert_eq!("12".parse::<Fingerprint>(), Err(InvalidFingerprint));
        assert_eq!(pattern("a `b c` d1-e \"x"), "a # # \"x");
        assert_eq!(pattern("it's 'ä'"), "it's #");
    }
}
