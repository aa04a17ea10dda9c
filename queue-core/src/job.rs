//! The job: what a producer says ([`NewJob`]), what is stored ([`JobSpec`], [`JobRecord`]) and
//! what a worker gets ([`Lease`]).

mod fingerprint;
mod history;
mod invalid;
mod new;
mod progress;
mod record;
mod spec;
mod summary;

pub use fingerprint::{Fingerprint, InvalidFingerprint};
pub use history::{AttemptEnd, AttemptRecord, HISTORY_ERROR_MAX_BYTES, HISTORY_MAX};
pub use invalid::{Field, InvalidJob};
pub use new::{Due, Job, NewJob, OnConflict};
pub(crate) use progress::shortened;
pub use progress::{
    LOG_LINE_MAX_BYTES, LOG_LINES_MAX, LOG_MAX_BYTES, LogLine, PROGRESS_TEXT_MAX_BYTES, Progress,
};
pub use record::{ERROR_MAX_BYTES, ErrorKind, JobError, JobRecord};
pub use spec::{
    HEADERS_MAX_BYTES, Headers, Hold, JobOptions, JobSpec, Priority, RETENTION_MAX, Retention,
};
pub use summary::{JobSummary, SUMMARY_ERROR_MAX_BYTES};
