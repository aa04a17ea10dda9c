//! The state machine of a job, as data: [`TRANSITIONS`] is the only list of legal moves. The
//! memory backend checks each of its moves against it, and `docs/state-machine.md` is compared
//! with it by a test.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Waits for its time.
    Scheduled,
    /// May run as soon as a worker has a free slot for it.
    Ready,
    /// A worker holds its lease.
    Running,
    /// Failed at least once and waits for its next attempt.
    Retrying,
    /// Done. Kept until its retention is over.
    Completed,
    /// Will not run again unless an operator says so. Kept until its retention is over.
    Dead,
    /// Called off. Kept until its retention is over.
    Cancelled,
    /// Cannot be decoded; its raw bytes are kept for an operator.
    Quarantined,
}

impl JobState {
    /// Every state, in the order of a job's life.
    pub const ALL: [Self; 8] = [
        Self::Scheduled,
        Self::Ready,
        Self::Running,
        Self::Retrying,
        Self::Completed,
        Self::Dead,
        Self::Cancelled,
        Self::Quarantined,
    ];

    /// The state's name, the same everywhere: API, CLI, metrics and docs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Completed => "completed",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Quarantined => "quarantined",
        }
    }

    /// The state of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Whether the job waits to be run: scheduled, ready or retrying.
    #[must_use]
    pub const fn is_waiting(self) -> bool {
        matches!(self, Self::Scheduled | Self::Ready | Self::Retrying)
    }

    /// Whether the job's run is over: completed, dead or cancelled.
    #[must_use]
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Completed | Self::Dead | Self::Cancelled)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a job is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DeadReason {
    /// Its last allowed attempt failed.
    AttemptsExhausted,
    /// Its handler said that no retry can help.
    Failed,
    /// Its lease expired too often: it seems to take its workers down.
    CrashLoop,
    /// It was not started before its `expires_at`.
    Expired,
}

impl DeadReason {
    /// Every reason.
    pub const ALL: [Self; 4] =
        [Self::AttemptsExhausted, Self::Failed, Self::CrashLoop, Self::Expired];

    /// The reason's name: `attempts_exhausted`, `failed`, `crash_loop` or `expired`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::Failed => "failed",
            Self::CrashLoop => "crash_loop",
            Self::Expired => "expired",
        }
    }

    /// The reason of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One legal move, made by the store in one atomic step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// Its number in the docs.
    pub id: &'static str,
    /// What asks for it.
    pub cause: Cause,
    /// The states it starts from; empty for a job that does not exist yet.
    pub from: &'static [JobState],
    /// The states it may lead to; empty for a job that is gone afterwards.
    pub to: &'static [JobState],
    /// What must hold for it to happen.
    pub guard: &'static str,
    /// What happens besides the change of state.
    pub effect: &'static str,
}

/// What asks for a [`Transition`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A producer enqueues.
    Enqueue,
    /// A job's time has come.
    Promote,
    /// A worker claims.
    Claim,
    /// A worker extends its leases.
    Renew,
    /// A worker reports a completed attempt.
    Complete,
    /// A worker reports a failed attempt.
    Fail,
    /// A worker gives a job back.
    Release,
    /// A handler asks to run later without having failed.
    Snooze,
    /// What a handler depends on turned it away.
    Throttle,
    /// A lease ran out.
    Reap,
    /// Somebody asks to cancel.
    Cancel,
    /// A worker reports that it stopped a job on request.
    ConfirmCancel,
    /// A job's `expires_at` passed before it started.
    Expire,
    /// A record's retention is over.
    Retain,
    /// A newer job with the same idempotency key takes its place.
    Replace,
    /// An operator wants a finished job to run again.
    Retry,
    /// An operator deletes it, alone or with a whole queue.
    Delete,
    /// The store cannot read it.
    Quarantine,
    /// The store can read it again.
    Recover,
}

use JobState::{Cancelled, Completed, Dead, Quarantined, Ready, Retrying, Running, Scheduled};

/// Every legal move. The table in `docs/state-machine.md` is this one.
pub const TRANSITIONS: &[Transition] = &[
    Transition {
        id: "T1",
        cause: Cause::Enqueue,
        from: &[],
        to: &[Scheduled, Ready],
        guard: "id unused, idempotency key free",
        effect: "record, index, key and counters are written",
    },
    Transition {
        id: "T3",
        cause: Cause::Promote,
        from: &[Scheduled, Retrying],
        to: &[Ready],
        guard: "due",
        effect: "joins the tail of its lane",
    },
    Transition {
        id: "T4",
        cause: Cause::Claim,
        from: &[Ready],
        to: &[Running],
        guard: "the queue is not paused, the worker runs this kind and has a free slot",
        effect: "token, fence and lease are set",
    },
    Transition {
        id: "T5",
        cause: Cause::Renew,
        from: &[Running],
        to: &[Running],
        guard: "token matches",
        effect: "the lease of the whole claim ends at the later of its end and now + lease",
    },
    Transition {
        id: "T6",
        cause: Cause::Complete,
        from: &[Running],
        to: &[Completed],
        guard: "token matches",
        effect: "result is kept, retention starts, idempotency key is freed if its hold is live",
    },
    Transition {
        id: "T7",
        cause: Cause::Fail,
        from: &[Running],
        to: &[Retrying],
        guard: "token matches, error retryable, attempts left, no cancel request",
        effect: "failures + 1, error is kept, due time is set",
    },
    Transition {
        id: "T8",
        cause: Cause::Fail,
        from: &[Running],
        to: &[Dead],
        guard: "token matches; error not retryable or no attempts left",
        effect: "failures + 1, error is kept, idempotency key is freed",
    },
    Transition {
        id: "T9",
        cause: Cause::Release,
        from: &[Running],
        to: &[Ready],
        guard: "token matches, no cancel request",
        effect: "attempt is refunded, goes to the head of its lane",
    },
    Transition {
        id: "T10",
        cause: Cause::Snooze,
        from: &[Running],
        to: &[Scheduled, Retrying],
        guard: "token matches, no cancel request",
        effect: "attempt is refunded, snoozes + 1, due time is set",
    },
    Transition {
        id: "T10",
        cause: Cause::Throttle,
        from: &[Running],
        to: &[Scheduled, Retrying],
        guard: "token matches, no cancel request",
        effect: "attempt is refunded, snoozes + 1, due time is set",
    },
    Transition {
        id: "T11",
        cause: Cause::Reap,
        from: &[Running],
        to: &[Ready, Dead, Cancelled],
        guard: "the lease is over and its token still holds the job",
        effect: "stalls + 1, attempt is refunded; dead at the limit, cancelled if that was asked",
    },
    Transition {
        id: "T12",
        cause: Cause::Cancel,
        from: &[Running],
        to: &[Running],
        guard: "",
        effect: "the request is noted and shown to the worker",
    },
    Transition {
        id: "T13",
        cause: Cause::Cancel,
        from: &[Scheduled, Ready, Retrying],
        to: &[Cancelled],
        guard: "",
        effect: "idempotency key is freed",
    },
    Transition {
        id: "T14",
        cause: Cause::ConfirmCancel,
        from: &[Running],
        to: &[Cancelled],
        guard: "token matches, cancel requested",
        effect: "idempotency key is freed",
    },
    Transition {
        id: "T15",
        cause: Cause::Retry,
        from: &[Completed, Dead, Cancelled],
        to: &[Ready],
        guard: "finished at the named time, idempotency key free or its own, not expired",
        effect: "counts start from 0 unless asked otherwise, joins the tail of its lane",
    },
    Transition {
        id: "T16",
        cause: Cause::Retain,
        from: &[Completed, Dead, Cancelled],
        to: &[],
        guard: "retention is over",
        effect: "record and everything that belongs to it are gone",
    },
    Transition {
        id: "T16",
        cause: Cause::Delete,
        from: &[Scheduled, Ready, Retrying, Completed, Dead, Cancelled, Quarantined],
        to: &[],
        guard: "in the named state",
        effect: "record and everything that belongs to it are gone, idempotency key is freed",
    },
    Transition {
        id: "T17",
        cause: Cause::Quarantine,
        from: &[Scheduled, Ready, Running, Retrying, Completed, Dead, Cancelled],
        to: &[Quarantined],
        guard: "cannot be decoded",
        effect: "the raw bytes are kept, indexes are cleaned",
    },
    Transition {
        id: "T17",
        cause: Cause::Recover,
        from: &[Quarantined],
        to: &[Ready, Completed, Dead, Cancelled],
        guard: "can be decoded",
        effect: "back to its finished state if it has one, else the tail of its lane",
    },
    Transition {
        id: "T18",
        cause: Cause::Expire,
        from: &[Ready],
        to: &[Dead],
        guard: "a claim finds it after its expires_at",
        effect: "idempotency key is freed",
    },
    Transition {
        id: "T19",
        cause: Cause::Replace,
        from: &[Scheduled, Ready, Retrying],
        to: &[Cancelled],
        guard: "an enqueue with its idempotency key asks for it",
        effect: "the new job has the idempotency key",
    },
];

/// The transition that takes a job from `from` to `to` for `cause`, if that is legal. `None`
/// stands for "does not exist".
#[must_use]
pub fn transition(
    cause: Cause,
    from: Option<JobState>,
    to: Option<JobState>,
) -> Option<&'static Transition> {
    let fits = |list: &[JobState], state: Option<JobState>| match state {
        None => list.is_empty(),
        Some(state) => list.contains(&state),
    };
    TRANSITIONS.iter().find(|t| t.cause == cause && fits(t.from, from) && fits(t.to, to))
}

/// The Mermaid diagram of [`TRANSITIONS`], as it stands in `docs/state-machine.md`.
#[must_use]
pub fn mermaid() -> String {
    let mut text = String::from("stateDiagram-v2\n");
    let name = |state: &JobState| state.as_str().to_owned();
    let nodes = |states: &[JobState]| -> Vec<String> {
        if states.is_empty() { vec!["[*]".to_owned()] } else { states.iter().map(name).collect() }
    };
    for t in TRANSITIONS {
        for from in nodes(t.from) {
            for to in nodes(t.to) {
                let cause = format!("{:?}", t.cause).to_lowercase();
                text.push_str(&format!("    {from} --> {to}: {} {cause}\n", t.id));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_read_back() {
        for state in JobState::ALL {
            assert_eq!(JobState::from_name(state.as_str()), Some(state));
        }
        for reason in DeadReason::ALL {
            assert_eq!(DeadReason::from_name(reason.as_str()), Some(reason));
        }
        assert_eq!(JobState::from_name("leased"), None);
    }

    #[test]
    fn no_worker_moves_a_finished_job() {
        let allowed = [Cause::Retain, Cause::Retry, Cause::Delete, Cause::Quarantine];
        for t in TRANSITIONS {
            if t.from.iter().any(|state| state.is_finished()) {
                assert!(allowed.contains(&t.cause), "{:?}", t.cause);
            }
        }
    }

    #[test]
    fn every_state_can_be_reached_and_left() {
        for state in JobState::ALL {
            assert!(TRANSITIONS.iter().any(|t| t.to.contains(&state)), "{state} not reached");
            assert!(TRANSITIONS.iter().any(|t| t.from.contains(&state)), "{state} not left");
        }
    }

    #[test]
    fn the_document_shows_this_table() {
        let document = include_str!("../../docs/state-machine.md");
        assert!(
            document.contains(&mermaid()),
            "docs/state-machine.md does not hold this diagram:\n{}",
            mermaid()
        );
        for t in TRANSITIONS {
            let row = format!("| {} | {:?} |", t.id, t.cause);
            assert!(document.contains(&row), "no row {row}");
            assert!(document.contains(t.effect), "{}: its effect is not in the document", t.id);
        }
    }
}
