//! What is wrong with a store.

use crate::JobId;

/// Something in the store that breaks promise P4.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The job it is about, if it is about one.
    pub job: Option<JobId>,
    /// What disagrees with what.
    pub what: String,
    /// Whether it has been put right.
    pub repaired: bool,
}

impl Violation {
    /// A violation about a job.
    #[must_use]
    pub fn of_job(job: JobId, what: impl Into<String>) -> Self {
        Self { job: Some(job), what: what.into(), repaired: false }
    }

    /// A violation about the store.
    #[must_use]
    pub fn of_store(what: impl Into<String>) -> Self {
        Self { job: None, what: what.into(), repaired: false }
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Works, but something is weaker or odder than it should be.
    Warning,
    /// A promise would not hold.
    Bad,
}

/// One line of a start-up check.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckFinding {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it; empty if it is good.
    pub remedy: String,
}

impl CheckFinding {
    /// Something that is as it should be.
    #[must_use]
    pub fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Good, found: found.into(), remedy: String::new() }
    }

    /// Something that is weaker than it should be.
    #[must_use]
    pub fn warning(
        name: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { name, verdict: Verdict::Warning, found: found.into(), remedy: remedy.into() }
    }

    /// Something that breaks a promise.
    #[must_use]
    pub fn bad(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Bad, found: found.into(), remedy: remedy.into() }
    }
}
