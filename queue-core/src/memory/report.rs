//! Progress and logs of running jobs, and looks at watched ones.

use std::collections::VecDeque;

use super::model::Model;
use crate::{
    ClaimToken, LOG_LINES_MAX, LOG_MAX_BYTES, LogLine, Report, Reported, Timestamp, WatchRequest,
    Watched,
};

/// The log of a job.
#[derive(Debug, Clone, Default)]
pub(super) struct Log {
    /// Whose lines were counted last, and how many of them have been seen.
    seen: Option<(ClaimToken, u64)>,
    /// The number of the last line ever written.
    last: u64,
    lines: VecDeque<LogLine>,
}

impl Log {
    /// Writes those of a report's lines that have not been seen.
    fn add(&mut self, report: &Report, attempt: u16, now: Timestamp) {
        let seen = self.seen.filter(|(token, _)| *token == report.token).map_or(0, |(_, n)| n);
        let known = seen.saturating_sub(report.lines_before);
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        for text in report.lines.iter().skip(known) {
            self.last += 1;
            self.lines.push_back(LogLine::new(self.last, now, attempt, text.clone()));
        }
        let end = report.lines_before.saturating_add(report.lines.len() as u64);
        self.seen = Some((report.token, seen.max(end)));
        while self.is_too_long() {
            self.lines.pop_front();
        }
    }

    fn is_too_long(&self) -> bool {
        let bytes: usize = self.lines.iter().map(|line| line.text.len()).sum();
        self.lines.len() > LOG_LINES_MAX || bytes > LOG_MAX_BYTES
    }
}

impl Model {
    pub(super) fn report(&mut self, report: &Report) -> Reported {
        let now = self.now;
        let Some(entry) = self.jobs.get_mut(&report.id) else { return Reported::Stale };
        if entry.holder != Some(report.token) {
            return Reported::Stale;
        }
        if let Some(progress) = &report.progress {
            entry.record.progress = Some(progress.clone());
        }
        let attempt = entry.record.failures.saturating_add(1);
        entry.log.add(report, attempt, now);
        Reported::Applied
    }

    pub(super) fn watch(&self, request: WatchRequest) -> Option<Watched> {
        let entry = self.jobs.get(&request.id)?;
        let record = &entry.record;
        let mut watched = Watched::new(record.state, record.failures);
        watched.finished_at = record.finished_at;
        watched.progress = record.progress.clone();
        let is_new = |line: &&LogLine| line.number > request.after_line;
        watched.lines = entry.log.lines.iter().filter(is_new).cloned().collect();
        Some(watched)
    }
}
