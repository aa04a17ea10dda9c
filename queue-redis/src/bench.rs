//! What the project's own benches measure by itself.

use queue_core::JobSpec;

use crate::record::{pack_job, unpack_job};

/// A record as the store keeps it, of a job that came at the beginning of time.
#[must_use]
pub fn record(spec: &JobSpec) -> Vec<u8> {
    pack_job(spec, true, 0).record
}

/// Puts a job into its stored form; answers its bytes.
#[must_use]
pub fn pack(spec: &JobSpec) -> usize {
    pack_job(spec, true, 0).bytes()
}

/// Decodes a record; answers its job.
///
/// # Errors
/// What is wrong with the bytes.
pub fn unpack(of: &JobSpec, record: Vec<u8>) -> Result<JobSpec, String> {
    unpack_job(of.id, record, Vec::new()).map(|job| job.spec)
}
