//! A job's head as it is read: whole, or known to be broken.

use std::time::Duration;

use queue_core::{ClaimToken, DeadReason, Hold, JobId, JobState, Retention, Timestamp};
use rusqlite::Row;
use rusqlite::types::Type;

use crate::rows::{hold_of, number, reason_of, sixteen, state_of, time, whole};

/// The columns of a head, which come first in a SELECT.
macro_rules! head_columns {
    () => {
        "job.job, job.id, job.lane, job.state, job.position, job.due_ms, job.enqueued_ms, \
         job.failures, job.stalls, job.snoozes, job.max_attempts, job.max_stalls, job.expires_ms, \
         job.keep_completed_s, job.keep_dead_s, octet_length(job.key), job.hold_ms, job.holds_key, \
         job.claim, job.cancel_requested, job.settled_by, job.shelf, job.finished_ms, \
         job.expiry_ms, job.elapsed_ms, job.dead_reason"
    };
}
pub(crate) use head_columns;

/// How many columns a head has.
pub(crate) const HEAD_COLUMNS: usize = 26;

/// The columns that a claim needs of a ready job. What else there is of it is NULL or without
/// meaning for a claim, and if it is not, a CHECK says so when the job is moved.
macro_rules! ready_columns {
    () => {
        "job.job, job.id, job.position, job.due_ms, job.enqueued_ms, job.failures, job.stalls, \
         job.max_attempts, job.max_stalls, job.expires_ms, job.keep_completed_s, \
         job.keep_dead_s, job.hold_ms"
    };
}
pub(crate) use ready_columns;

/// How many columns [`ready_columns`] are.
pub(crate) const READY_COLUMNS: usize = 13;

/// The columns that the end of an attempt needs of a running job, likewise.
macro_rules! running_columns {
    () => {
        "job, lane, state, due_ms, enqueued_ms, failures, stalls, snoozes, max_attempts, \
         keep_completed_s, keep_dead_s, hold_ms, holds_key, claim, cancel_requested, settled_by"
    };
}
pub(crate) use running_columns;

/// The latest time that a column may hold ([`Timestamp::MAX`]).
pub(crate) const MS_MAX: i64 = (1 << 48) - 1;
/// The longest time that a record or a key is kept ([`queue_core::RETENTION_MAX`]).
const KEEP_MAX_S: i64 = u32::MAX as i64;
const KEY_MAX_BYTES: i64 = queue_core::IDEMPOTENCY_KEY_MAX_BYTES as i64;

/// What changes about a job, and what decides how it may change. See the table `job`.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) job: i64,
    pub(crate) id: JobId,
    pub(crate) lane: i64,
    pub(crate) state: JobState,
    pub(crate) due_at: Timestamp,
    pub(crate) enqueued_at: Timestamp,
    pub(crate) failures: u16,
    pub(crate) stalls: u8,
    pub(crate) snoozes: u32,
    pub(crate) max_attempts: u16,
    pub(crate) max_stalls: u8,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) retention: Retention,
    pub(crate) has_key: bool,
    pub(crate) hold: Hold,
    pub(crate) holds_key: bool,
    pub(crate) claim: Option<i64>,
    pub(crate) cancel_requested: bool,
    pub(crate) settled_by: Option<ClaimToken>,
    pub(crate) shelf: Option<i64>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) elapsed: Option<Duration>,
    pub(crate) dead_reason: Option<DeadReason>,
}

/// A job whose head breaks a rule of its table, or that cannot be read for another reason.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) job: i64,
    /// Its id, if that is one.
    pub(crate) id: Option<JobId>,
    pub(crate) lane: i64,
    /// The number of its state, which may be that of none.
    pub(crate) state: i64,
    pub(crate) claim: Option<i64>,
    pub(crate) shelf: Option<i64>,
    /// What is wrong, without the bytes.
    pub(crate) reason: String,
}

/// A head's columns, whatever they hold.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) job: i64,
    pub(crate) id: Option<[u8; 16]>,
    pub(crate) lane: i64,
    pub(crate) state: i64,
    pub(crate) position: Option<i64>,
    pub(crate) due_ms: i64,
    pub(crate) enqueued_ms: i64,
    pub(crate) failures: i64,
    pub(crate) stalls: i64,
    pub(crate) snoozes: i64,
    pub(crate) max_attempts: i64,
    pub(crate) max_stalls: i64,
    pub(crate) expires_ms: Option<i64>,
    pub(crate) keep_completed_s: i64,
    pub(crate) keep_dead_s: i64,
    pub(crate) key_bytes: Option<i64>,
    pub(crate) hold_ms: Option<i64>,
    pub(crate) holds_key: i64,
    pub(crate) claim: Option<i64>,
    pub(crate) cancel_requested: i64,
    /// `None` if it is not a token.
    pub(crate) settled_by: Option<Option<[u8; 16]>>,
    pub(crate) shelf: Option<i64>,
    pub(crate) finished_ms: Option<i64>,
    pub(crate) expiry_ms: Option<i64>,
    pub(crate) elapsed_ms: Option<i64>,
    pub(crate) dead_reason: Option<i64>,
}

impl Raw {
    pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let has_token = row.get_ref(20)?.data_type() != Type::Null;
        Ok(Self {
            job: number(row, 0)?,
            id: sixteen(row, 1)?,
            lane: number(row, 2)?,
            state: number(row, 3)?,
            position: whole(row, 4)?,
            due_ms: number(row, 5)?,
            enqueued_ms: number(row, 6)?,
            failures: number(row, 7)?,
            stalls: number(row, 8)?,
            snoozes: number(row, 9)?,
            max_attempts: number(row, 10)?,
            max_stalls: number(row, 11)?,
            expires_ms: whole(row, 12)?,
            keep_completed_s: number(row, 13)?,
            keep_dead_s: number(row, 14)?,
            key_bytes: whole(row, 15)?,
            hold_ms: whole(row, 16)?,
            holds_key: number(row, 17)?,
            claim: whole(row, 18)?,
            cancel_requested: number(row, 19)?,
            settled_by: if has_token { sixteen(row, 20)?.map(Some) } else { Some(None) },
            shelf: whole(row, 21)?,
            finished_ms: whole(row, 22)?,
            expiry_ms: whole(row, 23)?,
            elapsed_ms: whole(row, 24)?,
            dead_reason: whole(row, 25)?,
        })
    }

    /// What [`ready_columns`] say of a ready job of a lane.
    pub(crate) fn read_ready(row: &Row<'_>, lane: i64) -> rusqlite::Result<Self> {
        Ok(Self {
            job: number(row, 0)?,
            id: sixteen(row, 1)?,
            lane,
            state: 3,
            position: whole(row, 2)?,
            due_ms: number(row, 3)?,
            enqueued_ms: number(row, 4)?,
            failures: number(row, 5)?,
            stalls: number(row, 6)?,
            max_attempts: number(row, 7)?,
            max_stalls: number(row, 8)?,
            expires_ms: whole(row, 9)?,
            keep_completed_s: number(row, 10)?,
            keep_dead_s: number(row, 11)?,
            hold_ms: whole(row, 12)?,
            ..Self::UNREAD
        })
    }

    /// What [`running_columns`], which stand from column `first` on, say of the job of this id;
    /// `None` if it is not running.
    pub(crate) fn read_running(
        row: &Row<'_>,
        first: usize,
        id: JobId,
    ) -> rusqlite::Result<Option<Self>> {
        let at = |offset: usize| first + offset;
        if number(row, at(2))? != 4 {
            return Ok(None);
        }
        let has_token = row.get_ref(at(15))?.data_type() != Type::Null;
        Ok(Some(Self {
            job: number(row, at(0))?,
            id: Some(*id.as_bytes()),
            lane: number(row, at(1))?,
            state: 4,
            position: Some(0),
            due_ms: number(row, at(3))?,
            enqueued_ms: number(row, at(4))?,
            failures: number(row, at(5))?,
            stalls: number(row, at(6))?,
            snoozes: number(row, at(7))?,
            max_attempts: number(row, at(8))?,
            keep_completed_s: number(row, at(9))?,
            keep_dead_s: number(row, at(10))?,
            hold_ms: whole(row, at(11))?,
            holds_key: number(row, at(12))?,
            claim: whole(row, at(13))?,
            cancel_requested: number(row, at(14))?,
            settled_by: if has_token { sixteen(row, at(15))?.map(Some) } else { Some(None) },
            ..Self::UNREAD
        }))
    }

    /// Columns that are not asked for, as they should be.
    const UNREAD: Self = Self {
        job: 0,
        id: None,
        lane: 0,
        state: 0,
        position: None,
        due_ms: 0,
        enqueued_ms: 0,
        failures: 0,
        stalls: 0,
        snoozes: 0,
        max_attempts: 1,
        max_stalls: 1,
        expires_ms: None,
        keep_completed_s: 0,
        keep_dead_s: 0,
        key_bytes: Some(1),
        hold_ms: None,
        holds_key: 0,
        claim: None,
        cancel_requested: 0,
        settled_by: Some(None),
        shelf: None,
        finished_ms: None,
        expiry_ms: None,
        elapsed_ms: None,
        dead_reason: None,
    };

    /// The rule that it breaks, if it breaks one: the CHECKs of the table again, because a row
    /// that breaks one of them cannot be moved, and would stop whoever tries.
    pub(crate) fn flaw(&self) -> Option<&'static str> {
        macro_rules! rule {
            ($column:literal: $holds:expr) => {
                if !$holds {
                    return Some($column);
                }
            };
        }
        let is_time = |ms: i64| (0..=MS_MAX).contains(&ms);
        let finished = (5..=7).contains(&self.state);
        rule!("id": self.id.is_some());
        rule!("state": (1..=7).contains(&self.state));
        rule!("position": self.position.is_some() == (3..=4).contains(&self.state));
        rule!("due_ms": is_time(self.due_ms));
        rule!("enqueued_ms": is_time(self.enqueued_ms));
        rule!("failures": u16::try_from(self.failures).is_ok());
        rule!("failures": self.state != 1 || self.failures == 0);
        rule!("failures": self.state != 2 || self.failures > 0);
        rule!("stalls": u8::try_from(self.stalls).is_ok());
        rule!("snoozes": u32::try_from(self.snoozes).is_ok());
        rule!("max_attempts": (1..=0xffff).contains(&self.max_attempts));
        rule!("max_stalls": (1..=0xff).contains(&self.max_stalls));
        rule!("expires_ms": self.expires_ms.is_none_or(is_time));
        rule!("keep_completed_s": (0..=KEEP_MAX_S).contains(&self.keep_completed_s));
        rule!("keep_dead_s": (0..=KEEP_MAX_S).contains(&self.keep_dead_s));
        rule!("key": self.key_bytes.is_none_or(|bytes| (1..=KEY_MAX_BYTES).contains(&bytes)));
        rule!("hold_ms": self.hold_ms.is_none_or(|ms| (-1..=KEEP_MAX_S * 1000).contains(&ms)));
        rule!("holds_key": (0..=1).contains(&self.holds_key));
        let may_hold_key = self.key_bytes.is_some() && self.state <= 5;
        rule!("holds_key": self.holds_key == 0 || may_hold_key);
        rule!("claim": self.claim.is_some() == (self.state == 4));
        rule!("cancel_requested": (0..=1).contains(&self.cancel_requested));
        rule!("cancel_requested": self.cancel_requested == 0 || self.state == 4);
        rule!("settled_by": self.settled_by.is_some());
        rule!("shelf": self.shelf.is_some() == finished);
        rule!("finished_ms": self.finished_ms.is_some() == finished);
        rule!("finished_ms": self.finished_ms.is_none_or(is_time));
        rule!("expiry_ms": self.expiry_ms.is_some() == finished);
        rule!("expiry_ms": self.expiry_ms.is_none_or(is_time));
        rule!("elapsed_ms": self.elapsed_ms.is_none_or(|ms| ms >= 0 && finished));
        rule!("dead_reason": self.dead_reason.is_some() == (self.state == 6));
        rule!("dead_reason": self.dead_reason.is_none_or(|number| reason_of(number).is_some()));
        None
    }

    /// Whether it is quarantined: in no index, and with an id.
    pub(crate) fn is_aside(&self) -> bool {
        let places = [self.position, self.claim, self.shelf];
        let is_nowhere = places.iter().all(Option::is_none);
        let flags = (self.holds_key, self.cancel_requested);
        self.state == 8 && self.id.is_some() && is_nowhere && flags == (0, 0)
    }

    /// The same as a head. What breaks a rule is as near to it as the types can tell, which is
    /// enough for a quarantined job.
    pub(crate) fn head(&self) -> Head {
        fn fit<T: TryFrom<i64> + Default>(number: i64) -> T {
            T::try_from(number).unwrap_or_default()
        }
        let seconds = |s: i64| Duration::from_secs(fit(s));
        Head {
            job: self.job,
            id: JobId::from_bytes(self.id.unwrap_or_default()),
            lane: self.lane,
            state: state_of(self.state).unwrap_or(JobState::Quarantined),
            due_at: time(self.due_ms),
            enqueued_at: time(self.enqueued_ms),
            failures: fit(self.failures),
            stalls: fit(self.stalls),
            snoozes: fit(self.snoozes),
            max_attempts: fit(self.max_attempts),
            max_stalls: fit(self.max_stalls),
            expires_at: self.expires_ms.map(time),
            retention: Retention {
                completed: seconds(self.keep_completed_s),
                dead: seconds(self.keep_dead_s),
            },
            has_key: self.key_bytes.is_some(),
            hold: hold_of(self.hold_ms),
            holds_key: self.holds_key == 1,
            claim: self.claim,
            cancel_requested: self.cancel_requested == 1,
            settled_by: self.settled_by.flatten().map(ClaimToken::from_bytes),
            shelf: self.shelf,
            finished_at: self.finished_ms.map(time),
            elapsed: self.elapsed_ms.map(|ms| Duration::from_millis(fit(ms))),
            dead_reason: self.dead_reason.and_then(reason_of),
        }
    }

    /// The same as one that breaks a rule.
    pub(crate) fn broken_rule(&self, column: &str) -> Broken {
        self.broken(format!("{column} breaks the rules of its table"))
    }

    pub(crate) fn broken(&self, reason: String) -> Broken {
        Broken {
            job: self.job,
            id: self.id.map(JobId::from_bytes),
            lane: self.lane,
            state: self.state,
            claim: self.claim,
            shelf: self.shelf,
            reason,
        }
    }
}

impl Head {
    /// The head of a row that starts with its columns. That of a quarantined job is read as far
    /// as it goes.
    pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<Result<Self, Broken>> {
        let raw = Raw::read(row)?;
        Ok(match raw.flaw().filter(|_| !raw.is_aside()) {
            None => Ok(raw.head()),
            Some(column) => Err(raw.broken_rule(column)),
        })
    }

    /// The same job as one that cannot be read.
    pub(crate) fn broken(&self, reason: String) -> Broken {
        Broken {
            job: self.job,
            id: Some(self.id),
            lane: self.lane,
            state: crate::rows::state_number(self.state),
            claim: self.claim,
            shelf: self.shelf,
            reason,
        }
    }

    pub(crate) fn settled_by(&self) -> Option<&[u8; 16]> {
        self.settled_by.as_ref().map(ClaimToken::as_bytes)
    }
}
