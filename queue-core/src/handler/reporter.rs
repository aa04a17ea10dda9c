//! What an attempt has to tell, until the store has it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::job::shortened;
use crate::{
    ClaimToken, JobId, LOG_LINE_MAX_BYTES, LOG_LINES_MAX, LOG_MAX_BYTES, Progress, Report,
};

/// One attempt's end of the reports: takes progress and lines without waiting for the store.
#[derive(Clone)]
pub(crate) struct Reporter(Arc<Shared>);

struct Shared {
    id: JobId,
    token: ClaimToken,
    pending: Mutex<Pending>,
    /// To the task that sends reports.
    outbox: mpsc::UnboundedSender<Reporter>,
}

#[derive(Default)]
struct Pending {
    progress: Option<Progress>,
    /// The newest; more than the store keeps are not worth keeping here.
    lines: VecDeque<String>,
    /// The bytes of their texts.
    bytes: usize,
    /// How many lines came before these.
    lines_before: u64,
    /// Whether it stands in the outbox.
    is_queued: bool,
}

impl Pending {
    fn push(&mut self, line: String) {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > LOG_LINES_MAX || self.bytes > LOG_MAX_BYTES {
            self.pop();
        }
    }

    /// Forgets the oldest line; says whether there was one.
    fn pop(&mut self) -> bool {
        let Some(line) = self.lines.pop_front() else { return false };
        self.bytes -= line.len();
        self.lines_before += 1;
        true
    }
}

impl Reporter {
    pub(crate) fn new(id: JobId, token: ClaimToken, outbox: mpsc::UnboundedSender<Self>) -> Self {
        Self(Arc::new(Shared { id, token, pending: Mutex::default(), outbox }))
    }

    pub(crate) fn progress(&self, progress: Progress) {
        self.change(|pending| pending.progress = Some(progress));
    }

    /// Takes a text apart into lines.
    pub(crate) fn log(&self, text: &str) {
        self.change(|pending| {
            for line in text.lines() {
                pending.push(shortened(line, LOG_LINE_MAX_BYTES));
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Pending)) {
        let mut pending = self.pending();
        change(&mut pending);
        if !std::mem::replace(&mut pending.is_queued, true) {
            // Nobody listens only when the worker is gone.
            let _ = self.0.outbox.send(self.clone());
        }
    }

    /// Leaves the outbox; answers what is to be sent, if anything.
    pub(crate) fn take_up(&self) -> Option<Report> {
        let mut pending = self.pending();
        pending.is_queued = false;
        if pending.progress.is_none() && pending.lines.is_empty() {
            return None;
        }
        Some(Report {
            id: self.0.id,
            token: self.0.token,
            progress: pending.progress.clone(),
            lines_before: pending.lines_before,
            lines: pending.lines.iter().cloned().collect(),
        })
    }

    /// The store has seen this report: what is newer stays. May be called twice for one report.
    pub(crate) fn sent(&self, report: &Report) {
        let mut pending = self.pending();
        if pending.progress == report.progress {
            pending.progress = None;
        }
        let seen = report.lines_before + report.lines.len() as u64;
        while pending.lines_before < seen && pending.pop() {}
    }

    /// Stands in the outbox again: its report did not reach the store.
    pub(crate) fn again(&self) {
        self.change(|_| {});
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // Nothing in there panics half-way.
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Reporter {
    /// Nothing of what is told: it may be private (promise P12).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").field("job_id", &self.0.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reporter() -> (Reporter, mpsc::UnboundedReceiver<Reporter>) {
        let (outbox, sent) = mpsc::unbounded_channel();
        (Reporter::new(JobId::new(), ClaimToken::random(), outbox), sent)
    }

    #[test]
    fn what_is_told_while_a_report_is_out_goes_with_the_next() {
        let (reporter, mut outbox) = reporter();
        reporter.log("one\ntwo");
        reporter.progress(Progress::new(10, ""));
        assert!(outbox.try_recv().is_ok() && outbox.try_recv().is_err(), "queued once");
        let first = reporter.take_up().unwrap();
        assert_eq!((first.lines_before, first.lines.len()), (0, 2));
        reporter.log("three");
        reporter.progress(Progress::new(20, ""));
        reporter.sent(&first);
        reporter.sent(&first);
        let second = reporter.take_up().unwrap();
        assert_eq!((second.lines_before, second.lines.as_slice()), (2, &["three".to_owned()][..]));
        assert_eq!(second.progress, Some(Progress::new(20, "")));
        reporter.sent(&second);
        assert_eq!(reporter.take_up(), None);
    }

    #[test]
    fn a_flood_keeps_its_end() {
        let (reporter, _outbox) = reporter();
        for n in 0..LOG_LINES_MAX + 7 {
            reporter.log(&n.to_string());
        }
        let report = reporter.take_up().unwrap();
        assert_eq!((report.lines_before, report.lines.len()), (7, LOG_LINES_MAX));
        assert_eq!(report.lines[0], "7");
        let long = "x".repeat(1024 * 1024);
        for _ in 0..LOG_LINES_MAX {
            reporter.log(&long);
        }
        let report = reporter.take_up().unwrap();
        let bytes: usize = report.lines.iter().map(String::capacity).sum();
        assert!(bytes <= LOG_MAX_BYTES, "{bytes}");
        assert_eq!(report.lines_before + report.lines.len() as u64, 207);
    }
}
