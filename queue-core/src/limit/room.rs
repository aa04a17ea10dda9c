//! How many jobs a limit key lets start, and why no more.

use crate::{JobId, Timestamp};

/// Why a key lets no job start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blocked {
    /// The provider asked for a pause.
    Closed {
        /// The end of the pause.
        until: Timestamp,
    },
    /// The breaker is open.
    Open {
        /// The end of the cool-down.
        until: Timestamp,
    },
    /// The breaker waits for its probe.
    Probing {
        /// The job that runs as the probe.
        probe: JobId,
    },
    /// As many jobs run as may.
    Full {
        /// How many may run: the configured concurrency, or what adapting has made of it.
        allowed: u32,
    },
    /// The rate is used up.
    Rate {
        /// When the next job may start.
        next_at: Timestamp,
    },
}

impl Blocked {
    /// When this is over by time alone; `None` if a job has to end for it.
    #[must_use]
    pub const fn over_at(&self) -> Option<Timestamp> {
        match self {
            Self::Closed { until } | Self::Open { until } => Some(*until),
            Self::Rate { next_at } => Some(*next_at),
            Self::Probing { .. } | Self::Full { .. } => None,
        }
    }
}

/// How many more jobs with a key may start now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Room {
    /// How many; `None` is as many as you like.
    pub jobs: Option<u32>,
    /// Everything that keeps jobs from starting; empty unless `jobs` is 0.
    pub blocked: Vec<Blocked>,
}

impl Room {
    /// Whether at least one job may start.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.jobs != Some(0)
    }

    /// When a job may start by time alone; `None` if one may start now, or has to end first.
    #[must_use]
    pub fn reopens_at(&self) -> Option<Timestamp> {
        let over: Option<Vec<_>> = self.blocked.iter().map(Blocked::over_at).collect();
        over.and_then(|times| times.into_iter().max())
    }

    /// At most so many, because of `blocked` if that is none.
    pub(super) fn limit(&mut self, jobs: u32, blocked: Option<Blocked>) {
        self.jobs = Some(self.jobs.map_or(jobs, |before| before.min(jobs)));
        self.blocked.extend(blocked.filter(|_| jobs == 0));
    }
}
