//! Taking jobs in.

use std::fmt;
use std::time::Duration;

use crate::{ConflictReason, JobId, JobState, LimitKey};

/// What an acknowledged enqueue survives, from less to more within one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// The crash of every client; not necessarily that of the store's machine.
    #[default]
    Memory,
    /// Power loss, as far as the disk keeps what it has flushed.
    Fsync,
    /// The loss of the store's machine: so many replicas have confirmed the write.
    Replicas(u8),
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Fsync => f.write_str("fsync"),
            Self::Replicas(replicas) => write!(f, "replicas:{replicas}"),
        }
    }
}

/// What became of one job of an enqueue.
#[must_use = "the job may have been refused"]
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnqueueOutcome {
    /// It is in the store now, or found the job that was there.
    Done(Enqueued),
    /// It was refused: its id or key belongs to `existing`.
    Conflict {
        /// The job that was there first.
        existing: JobId,
        /// What the two have in common.
        reason: ConflictReason,
    },
    /// It was refused: as many jobs are live as its queue or one of its keys allows
    /// ([`LimitSettings::max_live`](crate::LimitSettings::max_live)). A job that exists already,
    /// or takes the place of one, is not refused for that.
    Full {
        /// What is full, the first of: its queue, its keys in their order.
        limit: LimitKey,
        /// When trying again may help ([`StartRate::retry_after`](crate::StartRate::retry_after)
        /// of its queue).
        retry_after: Duration,
    },
}

/// An acknowledged enqueue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Enqueued {
    /// The job: the new one, or the existing one that has the same id or idempotency key.
    pub id: JobId,
    /// Its state now.
    pub state: JobState,
    /// Whether it was there before.
    pub duplicate: bool,
    /// The waiting job with the same idempotency key that it took the place of, which is
    /// cancelled now ([`OnConflict::Replace`](crate::OnConflict::Replace)). A repeat of the
    /// enqueue answers with a duplicate and does not name it again.
    pub replaced: Option<JobId>,
    /// What the acknowledgement survives: at least what was asked for.
    pub durability: Durability,
}

impl Enqueued {
    /// The job is new.
    #[must_use]
    pub const fn created(id: JobId, state: JobState) -> Self {
        Self { id, state, duplicate: false, replaced: None, durability: Durability::Memory }
    }

    /// The job was there.
    #[must_use]
    pub const fn duplicate(id: JobId, state: JobState) -> Self {
        Self { duplicate: true, ..Self::created(id, state) }
    }

    /// Sets [`Enqueued::replaced`].
    #[must_use]
    pub const fn replacing(mut self, replaced: Option<JobId>) -> Self {
        self.replaced = replaced;
        self
    }

    /// Sets [`Enqueued::durability`].
    #[must_use]
    pub const fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }
}
