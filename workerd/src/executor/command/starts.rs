//! What becomes of jobs whose program cannot be started.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use queue::Fail;

/// How long a job is put off: from the first to the last, doubling with each failure in a row.
const PUT_OFF_FIRST: Duration = Duration::from_secs(1);
const PUT_OFF_LAST: Duration = Duration::from_secs(30);

/// At most one message in this time: a queue of jobs fails as one.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How starting the program of one kind has gone lately.
///
/// A full disk, too many open files or a program that is gone are no fault of a job: it keeps its
/// attempt and is put off, and for longer and longer, so that a replica in trouble leaves the jobs
/// to the others.
#[derive(Debug, Default)]
pub(super) struct Starts(Mutex<Lately>);

#[derive(Debug, Default)]
struct Lately {
    /// Failures since the last success.
    failures: u32,
    logged: Option<Instant>,
    /// Failures that were not logged since.
    silent: u32,
}

impl Starts {
    /// Puts the job off and says why in the log.
    pub(super) fn failed(&self, what: &str, error: &io::Error) -> Fail {
        let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let delay = put_off(lately.failures);
        lately.failures = lately.failures.saturating_add(1);
        if lately.logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            let silent = std::mem::take(&mut lately.silent);
            lately.logged = Some(Instant::now());
            tracing::warn!(
                event = "attempt_not_started",
                what,
                %error,
                put_off_sec = delay.as_secs_f64(),
                not_logged = silent
            );
        } else {
            lately.silent += 1;
        }
        Fail::snooze(delay)
    }

    pub(super) fn succeeded(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).failures = 0;
    }
}

/// How long, after so many failures.
fn put_off(failures: u32) -> Duration {
    PUT_OFF_FIRST.saturating_mul(1 << failures.min(16)).min(PUT_OFF_LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_put_off_for_longer_and_longer_until_a_start_succeeds() {
        let starts = Starts::default();
        let error = io::Error::from(io::ErrorKind::StorageFull);
        let fail = || starts.failed("cannot start", &error);
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(fail(), Fail::snooze(Duration::from_secs(seconds)));
        }
        starts.succeeded();
        assert_eq!(fail(), Fail::snooze(Duration::from_secs(1)));
        assert_eq!(put_off(u32::MAX), PUT_OFF_LAST);
    }
}
