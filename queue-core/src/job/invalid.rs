//! Why a job cannot be enqueued.

use std::fmt;

/// A part of a job that has a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is the field of its name")]
pub enum Field {
    Kind,
    Queue,
    Payload,
    Result,
    Priority,
    MaxAttempts,
    MaxStalls,
    Timeout,
    Headers,
    Retention,
    IdempotencyKey,
    Hold,
    Limits,
}

impl Field {
    /// The field's name in APIs and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::Queue => "queue",
            Self::Payload => "payload",
            Self::Result => "result",
            Self::Priority => "priority",
            Self::MaxAttempts => "max_attempts",
            Self::MaxStalls => "max_stalls",
            Self::Timeout => "timeout",
            Self::Headers => "headers",
            Self::Retention => "retention",
            Self::IdempotencyKey => "idempotency_key",
            Self::Hold => "hold",
            Self::Limits => "limits",
        }
    }
}

/// A job that breaks a rule. Nothing was written, not even the other jobs of its batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidJob {
    index: Option<usize>,
    field: Field,
    reason: String,
}

impl InvalidJob {
    /// `field` breaks its rule because of `reason`.
    #[must_use]
    pub fn new(field: Field, reason: impl fmt::Display) -> Self {
        Self { index: None, field, reason: reason.to_string() }
    }

    /// Says which job of a batch it is, counted from 0.
    #[must_use]
    pub fn at(mut self, index: usize) -> Self {
        self.index = Some(index);
        self
    }

    /// Which job of a batch it is, counted from 0; `None` outside of batches.
    #[must_use]
    pub fn index(&self) -> Option<usize> {
        self.index
    }

    /// The field that breaks its rule.
    #[must_use]
    pub fn field(&self) -> Field {
        self.field
    }
}

impl fmt::Display for InvalidJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(index) = self.index {
            write!(f, "job {index} of the batch: ")?;
        }
        write!(f, "{}: {}", self.field.as_str(), self.reason)
    }
}

impl std::error::Error for InvalidJob {}
