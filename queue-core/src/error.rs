//! What can go wrong between a caller and its store.

use std::time::Duration;

use crate::{InvalidJob, JobId, LimitKey, OnConflict};

/// The error of every queue and backend call.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The call itself is wrong; nothing was changed. The same call fails again.
    #[error(transparent)]
    Invalid(#[from] InvalidJob),

    /// The arguments of the call are wrong; nothing was changed. The same call fails again.
    #[error("the call cannot be made: {0}")]
    BadRequest(String),

    /// The job's id or idempotency key belongs to an existing job with another payload (or to any
    /// existing job, if the enqueue asked to be refused then). Nothing was changed.
    #[error("conflicts with existing job {existing}: {reason}")]
    Conflict {
        /// The job that was there first.
        existing: JobId,
        /// What the two have in common.
        reason: ConflictReason,
    },

    /// As many jobs are live as a queue or a limit key allows. Nothing was changed.
    #[error("{limit} has as many live jobs as it may; try again in {retry_after:?}")]
    QueueFull {
        /// What is full: a limit key of the job, or its queue as `queue:name`.
        limit: LimitKey,
        /// When trying again may help.
        retry_after: Duration,
    },

    /// The store has no room for more data. Nothing was changed; running jobs can still be
    /// settled, and trying again helps once jobs have left the store.
    #[error("the store is full: {0}")]
    StoreFull(String),

    /// The store cannot be reached or did not answer. Whether the call took effect is unknown;
    /// repeating it is safe.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),

    /// This store cannot do what was asked. Nothing was changed.
    #[error("not supported: {0}")]
    Unsupported(String),

    /// The store refuses this client: credentials, permissions, a wrong role or setting. A person
    /// has to act.
    #[error("the store refused the call: {0}")]
    Refused(String),

    /// This process cannot use the store any more, and one that opens it anew may be able to: the
    /// file is not the one that was opened, or what was written to it is unknown. Start it again.
    #[error("the store cannot be used any more: {0}")]
    NeedsRestart(String),

    /// Stored data is not what this program wrote.
    #[error("the store holds data that cannot be read: {0}")]
    Corrupt(String),
}

/// What two conflicting jobs have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConflictReason {
    /// The same id with another kind or payload.
    Id,
    /// The same idempotency key with another kind or payload.
    IdempotencyKey,
    /// The same idempotency key, and the enqueue would have taken the job's place, which it can only
    /// while that waits.
    NotReplaceable,
    /// The same id or idempotency key, and the enqueue asked to be refused then.
    Rejected,
}

impl ConflictReason {
    /// Why a job is refused that has another kind or payload than the holder of its idempotency key.
    #[must_use]
    pub const fn of_key(on_conflict: OnConflict) -> Self {
        match on_conflict {
            OnConflict::Replace => Self::NotReplaceable,
            OnConflict::Existing | OnConflict::Reject => Self::IdempotencyKey,
        }
    }
}

impl std::fmt::Display for ConflictReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Id => "same id, different kind or payload",
            Self::IdempotencyKey => "same idempotency key, different kind or payload",
            Self::NotReplaceable => {
                "same idempotency key, and the job does not wait any more, so it cannot be replaced"
            }
            Self::Rejected => "same id or idempotency key",
        })
    }
}

impl Error {
    /// Whether the same call can succeed later without anybody changing it.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::QueueFull { .. } | Self::StoreFull(_) | Self::Unavailable(_))
    }

    /// Whether it is about the items of the call and not about the store: without the offending
    /// item the same call works.
    pub(crate) const fn is_about_items(&self) -> bool {
        matches!(
            self,
            Self::Invalid(_) | Self::BadRequest(_) | Self::Corrupt(_) | Self::Conflict { .. }
        )
    }
}
