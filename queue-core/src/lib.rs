//! The vocabulary and the rules of a distributed job queue.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod backend;
mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
mod duration;
mod error;
mod handler;
mod id;
mod job;
mod limit;
mod memory;
mod name;
pub mod payload;
mod queue;
mod retry;
pub mod state;
pub mod telemetry;
pub mod worker;

pub use backend::{
    Backend, CancelOutcome, Claim, ClaimRequest, Cursor, DeleteOutcome, Durability, EnqueueOutcome,
    Enqueued, Interest, KindLimits, KindSlots, LaneSummary, Lanes, Lease, ListRequest, LiveWorker,
    Maintained, Outcome, Page, Place, Placement, QueueStats, RecoverOutcome, RenewRequest, Renewal,
    Report, Reported, RetryOutcome, RetryRequest, SettleReply, SettleRequest, Settled, Settlement,
    Wake, WatchRequest, Watched, Woken, WorkerInfo, WorkerKind,
};
pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use error::{ConflictReason, Error};
pub use handler::{
    CancelReason, Context, Executor, Fail, FromContext, Handler, IntoFail, State, States,
    THROTTLE_MAX,
};
pub use id::{
    ClaimToken, IDEMPOTENCY_KEY_MAX_BYTES, IdempotencyKey, InvalidId, InvalidIdempotencyKey, JobId,
};
pub use job::{
    AttemptEnd, AttemptRecord, Due, ERROR_MAX_BYTES, ErrorKind, Field, Fingerprint,
    HEADERS_MAX_BYTES, HISTORY_ERROR_MAX_BYTES, HISTORY_MAX, Headers, Hold, InvalidFingerprint,
    InvalidJob, Job, JobError, JobOptions, JobRecord, JobSpec, JobSummary, LOG_LINE_MAX_BYTES,
    LOG_LINES_MAX, LOG_MAX_BYTES, LogLine, NewJob, OnConflict, PROGRESS_TEXT_MAX_BYTES, Priority,
    Progress, RETENTION_MAX, Retention, SUMMARY_ERROR_MAX_BYTES,
};
pub use limit::{
    Adaptive, AdaptiveState, Blocked, Breaker, BreakerPhase, BreakerState, COOLDOWN_GROWTH_MAX,
    DRIFT_LOOKS_MAX, Ending, FORGOTTEN_AFTER, HOLDERS_SHOWN_MAX, InvalidLimit, InvalidLimitKey,
    KeyRoom, LIMIT_FAILURES_MAX, LIMIT_KEY_MAX_BYTES, LIMIT_KEYS_MAX, LIMIT_TIME_MAX, LimitKey,
    LimitKeys, LimitSettings, LimitState, LimitStatus, LimitTarget, OpenState, QUEUE_CLASS, Rate,
    Room, Rooms, SpanStarts, StartRate, WEIGHT_MAX, given_at_most, is_turn_over,
};
pub use memory::MemoryBackend;
pub use name::{InvalidName, Kind, NAME_MAX_BYTES, Namespace, QueueName, WorkerId};
pub use payload::{Codec, CodecError, Payload};
pub use queue::{
    Backlog, Blocker, Cancelled, ErrorGroup, Explanation, JobEvent, Pages, Position, Queue, Reason,
    Redrive, RedriveStop, Redriven, Selection,
};
pub use retry::Backoff;
pub use state::{DeadReason, JobState};
pub use worker::{QueueSelection, RunningWorker, StartError, StopReport, Worker, WorkerStatus};
