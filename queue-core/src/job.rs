//! The job: what a producer says ([`NewJob`]), what is stored ([`JobSpec`], [`JobRecord`]) and
//! what a worker gets ([`Lease`]).

mod invalid;
mod new;
mod record;
mod spec;

pub use invalid::{Field, InvalidJob};
pub use new::{Due, Job, NewJob, OnConflict};
pub use record::{ERROR_MAX_BYTES, ErrorKind, JobError, JobRecord};
pub use spec::{
    HEADERS_MAX_BYTES, Headers, JobOptions, JobSpec, Priority, RETENTION_MAX, Retention,
};
