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
mod memory;
mod name;
pub mod payload;
mod queue;
mod retry;
pub mod state;
pub mod telemetry;
pub mod worker;

pub use backend::{
    Backend, CancelOutcome, Claim, ClaimRequest, EnqueueOutcome, Enqueued, Interest, KindSlots,
    Lease, Maintained, Outcome, QueueStats, RenewRequest, Renewal, SettleReply, SettleRequest,
    Settled, Settlement, Wake,
};
pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use error::{ConflictReason, Error};
pub use handler::{CancelReason, Context, Executor, Fail, FromContext, Handler, IntoFail, State};
pub use id::{
    ClaimToken, IDEMPOTENCY_KEY_MAX_BYTES, IdempotencyKey, InvalidId, InvalidIdempotencyKey, JobId,
};
pub use job::{
    Due, ERROR_MAX_BYTES, ErrorKind, Field, HEADERS_MAX_BYTES, Headers, InvalidJob, Job, JobError,
    JobOptions, JobRecord, JobSpec, NewJob, OnConflict, Priority, RETENTION_MAX, Retention,
};
pub use memory::MemoryBackend;
pub use name::{InvalidName, Kind, NAME_MAX_BYTES, Namespace, QueueName, WorkerId};
pub use payload::{Codec, CodecError, Payload};
pub use queue::Queue;
pub use retry::Backoff;
pub use state::{DeadReason, JobState};
pub use worker::{QueueSelection, RunningWorker, StartError, StopReport, Worker, WorkerStatus};
