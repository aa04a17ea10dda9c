//! The reasons for which jobs wait.

use crate::Blocked;

/// Why jobs wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// It is not their time yet.
    Scheduled,
    /// Their queue is paused.
    Paused,
    /// No live worker takes them.
    Unroutable,
    /// As many run as a key allows.
    Limit,
    /// A key's rate is used up.
    Rate,
    /// A key's breaker is open, or waits for its probe.
    Breaker,
    /// A provider asked for a pause.
    Throttled,
    /// Nothing but a free slot.
    Slot,
}

impl Reason {
    /// Every reason, in the order in which it has to be over.
    pub const ALL: [Self; 8] = [
        Self::Scheduled,
        Self::Paused,
        Self::Unroutable,
        Self::Throttled,
        Self::Breaker,
        Self::Limit,
        Self::Rate,
        Self::Slot,
    ];

    /// The reason's name in APIs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Paused => "paused",
            Self::Unroutable => "unroutable",
            Self::Limit => "limit",
            Self::Rate => "rate",
            Self::Breaker => "breaker",
            Self::Throttled => "throttled",
            Self::Slot => "slot",
        }
    }

    pub(super) fn of(blocked: &Blocked) -> Self {
        match blocked {
            Blocked::Closed { .. } => Self::Throttled,
            Blocked::Open { .. } | Blocked::Probing { .. } => Self::Breaker,
            Blocked::Full { .. } => Self::Limit,
            Blocked::Rate { .. } => Self::Rate,
        }
    }

    /// Its place in that order.
    pub(super) fn order(self) -> usize {
        Self::ALL.iter().position(|reason| *reason == self).unwrap_or(Self::ALL.len())
    }
}
