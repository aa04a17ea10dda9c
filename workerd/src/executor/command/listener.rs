//! What a running program says about itself, and who hears it.

use std::fmt;
use std::time::Duration;

use queue::{Context, Progress, THROTTLE_MAX};
use serde::Deserialize;

use super::THROTTLED_DELAY_MIN_MS;

/// Who hears of a running program.
pub(super) trait Listener: fmt::Debug + Send + Sync {
    /// Lines for the job's log.
    fn log(&self, text: &str);
    /// How far the job is.
    fn progress(&self, progress: Progress);
}

impl Listener for Context {
    fn log(&self, text: &str) {
        Self::log(self, text);
    }

    fn progress(&self, progress: Progress) {
        Self::progress(self, progress);
    }
}

/// What a line of `$WORKERD_EVENTS` may say. Other keys are for later versions.
#[derive(Deserialize)]
struct Event {
    progress: Option<f64>,
    text: Option<String>,
    log: Option<String>,
    retry_after_sec: Option<f64>,
}

/// Tells what a line of `$WORKERD_EVENTS` says. One that says nothing that can be understood was
/// meant to be read by people: it goes to the log. Answers when the provider wants to be asked
/// again, if it says so.
pub(super) fn tell_event(line: &[u8], listener: &dyn Listener) -> Option<Duration> {
    let line = line.trim_ascii();
    // Without the brace a list would be taken for the fields in their order.
    let event = line.starts_with(b"{").then(|| serde_json::from_slice::<Event>(line));
    let Some(Ok(Event { progress, text, log, retry_after_sec })) = event else {
        tell_line(line, listener);
        return None;
    };
    if let Some(percent) = progress {
        // Out of range or with a fraction: the nearest whole percent below.
        let percent = percent.clamp(0.0, 100.0) as u8;
        listener.progress(Progress::new(percent, text.unwrap_or_default()));
    }
    if let Some(text) = log {
        listener.log(&text);
    }
    let min = Duration::from_millis(THROTTLED_DELAY_MIN_MS);
    let in_bounds = |seconds: f64| seconds.clamp(min.as_secs_f64(), THROTTLE_MAX.as_secs_f64());
    retry_after_sec.map(|seconds| Duration::from_secs_f64(in_bounds(seconds)))
}

/// Tells a line of standard error: of a line that was written over and over, as progress bars
/// are, the last.
pub(super) fn tell_line(line: &[u8], listener: &dyn Listener) {
    let line = line.trim_ascii_end();
    let last = line.rsplit(|byte| *byte == b'\r').next().unwrap_or_default();
    if !last.is_empty() {
        listener.log(&String::from_utf8_lossy(last));
    }
}

/// Takes a stream apart into lines, in bounded memory.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    /// Whether the beginning was too long and was told already.
    is_cut: bool,
}

/// The most bytes of a line; what comes after them is left out.
const LINE_MAX_BYTES: usize = 16 * 1024;

impl Lines {
    /// Tells each line that ends in `bytes`, without its end.
    pub(super) fn feed(&mut self, bytes: &[u8], mut tell: impl FnMut(&[u8])) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.keep(&rest[..end], &mut tell);
            self.end(&mut tell);
            rest = &rest[end + 1..];
        }
        self.keep(rest, &mut tell);
    }

    /// Tells a last line that has no end.
    pub(super) fn end(&mut self, mut tell: impl FnMut(&[u8])) {
        if !self.is_cut && !self.partial.is_empty() {
            tell(&self.partial);
        }
        self.partial.clear();
        self.is_cut = false;
    }

    fn keep(&mut self, bytes: &[u8], tell: &mut impl FnMut(&[u8])) {
        if self.is_cut {
            return;
        }
        let room = LINE_MAX_BYTES - self.partial.len();
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if bytes.len() > room {
            tell(&self.partial);
            self.is_cut = true;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Keeps what it hears.
    #[derive(Debug, Default)]
    pub(in super::super) struct Heard {
        pub(in super::super) lines: Mutex<Vec<String>>,
        pub(in super::super) progress: Mutex<Vec<Progress>>,
    }

    impl Listener for Heard {
        fn log(&self, text: &str) {
            self.lines.lock().unwrap().extend(text.lines().map(str::to_owned));
        }

        fn progress(&self, progress: Progress) {
            self.progress.lock().unwrap().push(progress);
        }
    }

    #[test]
    fn events_are_told_and_what_is_none_goes_to_the_log() {
        let heard = Heard::default();
        for line in [
            r#"{"progress": 40, "text": "half", "new": [1]}"#,
            r#" {"progress": 250.9} "#,
            r#"{"progress": -1, "log": "a\nb"}"#,
            r#"{"text": "alone"}"#,
            r#"{"progress": "40"}"#,
            "[40]",
            "plain",
            "",
        ] {
            assert_eq!(tell_event(line.as_bytes(), &heard), None);
        }
        let progress = heard.progress.into_inner().unwrap();
        assert_eq!(progress, [(40, "half"), (100, ""), (0, "")].map(|(p, t)| Progress::new(p, t)));
        let lines = heard.lines.into_inner().unwrap();
        assert_eq!(lines, ["a", "b", r#"{"progress": "40"}"#, "[40]", "plain"]);
    }

    #[test]
    fn a_provider_asks_for_a_second_to_a_day() {
        let heard = Heard::default();
        for (seconds, expected_ms) in
            [("90", 90_000), ("1.5", 1500), ("0", 1000), ("-7", 1000), ("1e300", 86_400_000)]
        {
            let line = format!(r#"{{"retry_after_sec": {seconds}}}"#);
            let told = tell_event(line.as_bytes(), &heard);
            assert_eq!(told, Some(Duration::from_millis(expected_ms)), "{seconds}");
        }
        let date = br#"{"retry_after_sec": "Fri, 31 Dec 1999 23:59:59 GMT"}"#;
        assert_eq!(tell_event(date, &heard), None);
        assert_eq!(heard.lines.into_inner().unwrap().len(), 1);
    }

    #[test]
    fn a_line_that_was_written_over_is_told_as_it_ended() {
        let heard = Heard::default();
        tell_line(b"10%\r50%\r100%\r", &heard);
        tell_line(b"\xff\t.", &heard);
        assert_eq!(*heard.lines.lock().unwrap(), ["100%", "\u{fffd}\t."]);
    }

    #[test]
    fn lines_come_in_pieces_and_long_ones_are_cut() {
        let (mut lines, mut told) = (Lines::default(), Vec::new());
        let long = vec![b'x'; LINE_MAX_BYTES + 1];
        for piece in [&b"on"[..], b"e\ntw", b"o\n\n", &long, &long, b"y\nthree"] {
            lines.feed(piece, |line| told.push(line.to_vec()));
            assert!(lines.partial.len() <= LINE_MAX_BYTES);
        }
        lines.end(|line| told.push(line.to_vec()));
        lines.end(|line| told.push(line.to_vec()));
        assert_eq!(told, [&b"one"[..], b"two", &long[1..], b"three"]);
    }
}
