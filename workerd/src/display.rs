//! Texts for a terminal. What jobs say about themselves may come from anybody: nothing of it may
//! move the cursor, change colours or reorder what is shown.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::{Duration, SystemTime};

use queue::Timestamp;

use crate::exit::{Exit, Failure};

/// The text with everything that does not simply show replaced by its escape; newlines too.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// The text with its lines kept and everything else as in [`escape`].
pub(crate) fn escape_lines(text: &str, indent: &str) -> String {
    let lines: Vec<_> = text.lines().map(escape).collect();
    lines.join(&format!("\n{indent}"))
}

/// The text of a JSON document with what [`escape`] would escape in the escapes of JSON: the same
/// document to whoever reads it, and harmless to a terminal.
pub(crate) fn escape_json(json: &str) -> Cow<'_, str> {
    if !json.chars().any(is_unsafe) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        // Between the strings of a compact document there is none of them.
        if is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// The beginning of a text, with a mark if there is more.
pub(crate) fn shortened(text: &str, max_chars: usize) -> Cow<'_, str> {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// Control characters, and those that reorder or hide text.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{061c}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
        || matches!(c, '\u{e0000}'..='\u{e007f}')
}

/// Rows under a header, in columns as wide as they need to be.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header.iter().map(|&text| text.to_owned()).collect();
    let all = || std::iter::once(&header).chain(rows);
    let width = |column: usize| all().map(|row| escape(&row[column]).chars().count()).max();
    let widths: Vec<usize> = (0..header.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in all() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{:width$}  ", escape(cell));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `1 job`, `2 jobs`.
pub(crate) fn jobs(count: u64) -> String {
    if count == 1 { "1 job".to_owned() } else { format!("{count} jobs") }
}

/// A duration as it would be written in a file: `1m 30s`, `365d`. It reads back as the same.
///
/// Not what `humantime` makes of it, which has months and years of days with fractions.
pub(crate) fn exact(duration: Duration) -> String {
    const UNITS: [(u128, &str); 7] = [
        (86_400_000_000_000, "d"),
        (3_600_000_000_000, "h"),
        (60_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
        (1, "ns"),
    ];
    let mut left = duration.as_nanos();
    let mut parts = Vec::new();
    for (size, unit) in UNITS {
        if left >= size {
            parts.push(format!("{}{unit}", left / size));
            left %= size;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// A duration in two units at most, as people say it.
pub(crate) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let rounded = match seconds {
        0 => Duration::from_millis(duration.as_micros().div_ceil(1000).try_into().unwrap_or(0)),
        1..60 => Duration::from_millis(duration.as_millis().try_into().unwrap_or(0) / 10 * 10),
        60..3600 => Duration::from_secs(seconds),
        3600..86_400 => Duration::from_secs(seconds / 60 * 60),
        _ => Duration::from_secs(seconds / 3600 * 3600),
    };
    if rounded.as_secs() < 60 && rounded.as_millis() >= 1000 {
        return format!("{:.2}s", rounded.as_secs_f64());
    }
    exact(rounded)
}

/// The last point in time that has a text of its own: after it, years have five digits.
const TIME_MAX: Timestamp = Timestamp::from_ms(253_402_300_799_999);

/// A point in time in UTC; of one after the year 9999, which anybody may enqueue a job for, only
/// that it is.
pub(crate) fn time(timestamp: Timestamp) -> String {
    if timestamp > TIME_MAX {
        return "after 9999-12-31".to_owned();
    }
    humantime::format_rfc3339_millis(SystemTime::from(timestamp)).to_string()
}

/// Writes to standard output. A reader that has gone, as with `| head`, is no failure.
///
/// # Errors
/// Why it cannot be written, such as a full disk: what was asked for did not get anywhere.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes()).map(|_| ())
}

/// As [`print()`], for any bytes; says whether somebody still reads.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            Err(Failure::new(Exit::Failed, format!("cannot write to standard output: {error}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        let hostile = "a\x1b[31mred\x07\r\n\u{9b}2J\u{202e}txt\u{200b}\u{feff}\u{7f}";
        let shown = escape(hostile);
        assert_eq!(
            shown,
            "a\\u{1b}[31mred\\u{7}\\r\\n\\u{9b}2J\\u{202e}txt\\u{200b}\\u{feff}\\u{7f}"
        );
        assert_eq!(escape("plain äöü 字"), "plain äöü 字");
        assert_eq!(escape_lines("a\nb\x1b", "  "), "a\n  b\\u{1b}");
    }

    #[test]
    fn a_document_that_a_terminal_would_obey_reads_the_same_without() {
        let hostile = serde_json::json!({ "a\u{9b}": "\u{1b}[0m\u{202e}\u{e0041}ä" });
        let text = hostile.to_string();
        let shown = escape_json(&text);
        assert!(!shown.chars().any(is_unsafe), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), hostile);
        assert_eq!(escape_json("{\"a\":\"ä\"}"), "{\"a\":\"ä\"}");
    }

    #[test]
    fn a_text_is_shortened_between_characters() {
        assert_eq!((shortened("äöü", 3), shortened("äöü", 2)), ("äöü".into(), "äö…".into()));
    }

    #[test]
    fn columns_line_up_and_cells_stay_on_their_line() {
        let rows =
            [vec!["ä\n".to_owned(), "1".to_owned()], vec!["long".to_owned(), "22".to_owned()]];
        assert_eq!(table(&["name", "n"], &rows), "name  n\nä\\n   1\nlong  22\n");
    }

    #[test]
    fn any_time_has_a_text() {
        assert_eq!(time(Timestamp::from_ms(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(TIME_MAX), "9999-12-31T23:59:59.999Z");
        for ms in [TIME_MAX.as_ms() + 1, Timestamp::MAX.as_ms(), u64::MAX] {
            assert_eq!(time(Timestamp::from_ms(ms)), "after 9999-12-31");
        }
    }

    #[test]
    fn durations_are_written_in_units_that_are_read_back() {
        const DAY: u64 = 86_400_000;
        for (ms, text) in [
            (0, "0s"),
            (90_000, "1m 30s"),
            (1500, "1s 500ms"),
            (DAY, "1d"),
            (31 * DAY + 3_600_000, "31d 1h"),
            (365 * DAY, "365d"),
        ] {
            let duration = Duration::from_millis(ms);
            assert_eq!(exact(duration), text);
            assert_eq!(crate::config::duration(text).unwrap(), duration);
        }
        assert_eq!(exact(Duration::new(1, 2_003)), "1s 2us 3ns");
        assert_eq!(humantime::parse_duration("1s 2us 3ns").unwrap(), Duration::new(1, 2_003));
    }

    #[test]
    fn durations_are_short() {
        for (ms, text) in [
            (0, "0s"),
            (1, "1ms"),
            (999, "999ms"),
            (1500, "1.50s"),
            (61_900, "1m 1s"),
            (7_385_000, "2h 3m"),
            (40 * 86_400_000 + 7_385_000, "40d 2h"),
        ] {
            assert_eq!(short(Duration::from_millis(ms)), text);
        }
        assert_eq!(short(Duration::from_micros(10)), "1ms");
    }
}
