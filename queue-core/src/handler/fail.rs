//! How a handler says that it did not succeed.

use std::fmt;
use std::time::Duration;

use crate::duration::whole_millis;
use crate::retry::WAIT_MAX;
use crate::{ErrorKind, JobError, LimitKeys};

/// The longest time for which [`Fail::throttled`] keeps its job waiting and limit keys closed, 24 h:
/// what a provider sends as Retry-After may be anything, and must not stop everyone for ever.
pub const THROTTLE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Why an attempt did not complete, and what becomes of its job.
///
/// Any error converts into a failure that retries with the job's backoff, so `?` does the usual
/// thing. Deliberately not an [`Error`](std::error::Error) itself; that is what makes the
/// conversion possible.
#[derive(Debug, Clone, PartialEq)]
pub struct Fail {
    pub(crate) then: Then,
    pub(crate) error: JobError,
    /// The limit keys that a throttled job closes; `None` for those of its kind on this worker.
    pub(crate) limits: Option<LimitKeys>,
}

/// What becomes of the job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Then {
    Retry,
    RetryIn(Duration),
    Dead,
    Snooze(Duration),
    Throttled(Duration),
}

/// A delay as stores keep it, which ends while somebody remembers it.
fn wait(delay: Duration) -> Duration {
    whole_millis(delay.min(WAIT_MAX))
}

impl Fail {
    fn new(then: Then, message: impl fmt::Display) -> Self {
        let error = JobError::new(ErrorKind::Failed, message.to_string());
        Self { then, error, limits: None }
    }

    /// Failed; runs again after the job's backoff, while attempts are left.
    #[must_use]
    pub fn retry(message: impl fmt::Display) -> Self {
        Self::new(Then::Retry, message)
    }

    /// Failed; runs again after `delay`, while attempts are left. Like a backoff, it is a year at most;
    /// parts of a millisecond count as one.
    #[must_use]
    pub fn retry_in(delay: Duration, message: impl fmt::Display) -> Self {
        Self::new(Then::RetryIn(wait(delay)), message)
    }

    /// Failed for good: no retry can help.
    #[must_use]
    pub fn dead(message: impl fmt::Display) -> Self {
        Self::new(Then::Dead, message)
    }

    /// Not now: runs again after `delay`, a year at most, and keeps its attempt.
    #[must_use]
    pub fn snooze(delay: Duration) -> Self {
        Self::new(Then::Snooze(wait(delay)), "")
    }

    /// Turned away by what the job depends on (HTTP 429 or 503 with Retry-After): runs again after
    /// `delay` and keeps its attempt. Until then no job starts, on any worker, that needs one of
    /// the limit keys of the job's kind on this worker ([`Worker::limits`](crate::Worker::limits)),
    /// or those named with [`Fail::closing`]. A delay above [`THROTTLE_MAX`] counts as that long.
    #[must_use]
    pub fn throttled(delay: Duration) -> Self {
        Self::new(Then::Throttled(wait(delay)), "")
    }

    /// Says which limit keys are closed instead; means something for [`Fail::throttled`] only.
    #[must_use]
    pub fn closing(mut self, limits: LimitKeys) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Says what kind of failure it was. [`ErrorKind::Internal`] is one that no circuit breaker
    /// counts.
    #[must_use]
    pub fn kind(mut self, kind: ErrorKind) -> Self {
        self.error.kind = kind;
        self
    }
}

impl<E: std::error::Error> From<E> for Fail {
    fn from(error: E) -> Self {
        Self::retry(chain(&error))
    }
}

/// The error types that a handler may return: [`Fail`], and all that turn into a boxed error,
/// which are std errors, `anyhow::Error`, `String` and `&str`.
pub trait IntoFail {
    /// What becomes of the job.
    fn into_fail(self) -> Fail;
}

impl IntoFail for Fail {
    fn into_fail(self) -> Fail {
        self
    }
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> IntoFail for E {
    fn into_fail(self) -> Fail {
        let boxed: Box<dyn std::error::Error + Send + Sync> = self.into();
        Fail::retry(chain(boxed.as_ref()))
    }
}

/// The error and all its sources, as `outer: inner: innermost`.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::num::ParseIntError);

    #[test]
    fn any_error_retries_and_keeps_its_sources() {
        let fail: Fail = Outer("x".parse::<u8>().unwrap_err()).into();
        assert_eq!(fail.then, Then::Retry);
        assert_eq!(fail.error.message, "outer: invalid digit found in string");
        assert_eq!("plain text".into_fail().error.message, "plain text");
        assert_eq!(Fail::dead("no").into_fail().then, Then::Dead);
    }

    #[test]
    fn no_delay_outlives_everybody_and_none_is_lost() {
        assert_eq!(Fail::retry_in(Duration::MAX, "no").then, Then::RetryIn(WAIT_MAX));
        assert_eq!(Fail::snooze(Duration::MAX).then, Then::Snooze(WAIT_MAX));
        let (half, ms) = (Duration::from_micros(500), Duration::from_millis(1));
        assert_eq!(Fail::retry_in(half, "no").then, Then::RetryIn(ms));
        assert_eq!(Fail::snooze(half).then, Then::Snooze(ms));
        assert_eq!(Fail::throttled(half).then, Then::Throttled(ms));
    }
}
