//! Whether there is room for more jobs.

use std::path::{Path, PathBuf};

use queue_core::Error;
use rusqlite::Connection;

use super::connection::PAGE_SIZE;
use crate::errors::Fault;

/// Space that is not for new jobs (16 MiB): finishing the running ones needs some too, and a full
/// store that could not finish jobs would stay full.
const RESERVE_BYTES: u64 = 16 * 1024 * 1024;
/// What a job takes beside its payload, generously.
const JOB_BYTES: u64 = 1024;

/// The limits of a store's size.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    directory: PathBuf,
    max_bytes: Option<u64>,
}

impl Room {
    /// The room beside the file at `path`.
    pub(crate) fn new(path: &Path, max_bytes: Option<u64>) -> Self {
        Self { directory: path.parent().unwrap_or(Path::new(".")).to_owned(), max_bytes }
    }

    /// Refuses jobs with payloads of `bytes` together if they might take the last space.
    pub(crate) fn check(&self, conn: &Connection, jobs: u64, bytes: u64) -> Result<(), Fault> {
        let needed = bytes.saturating_add(jobs.saturating_mul(JOB_BYTES));
        if let Some(max) = self.max_bytes {
            let used = used_bytes(conn)?;
            if used.saturating_add(needed) > max {
                let what = format!("the jobs take {used} of {max} bytes");
                return Err(Error::StoreFull(what).into());
            }
        }
        match self.free_bytes() {
            Some(free) if free < needed.saturating_add(RESERVE_BYTES) => {
                Err(Error::StoreFull(format!("the disk has {free} bytes left")).into())
            }
            _ => Ok(()),
        }
    }

    /// Bytes that this user may still write to the disk; `None` if the system does not tell.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.directory).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

fn used_bytes(conn: &Connection) -> Result<u64, Fault> {
    let pragma = |name: &str| -> rusqlite::Result<i64> {
        conn.prepare_cached(&format!("PRAGMA {name}"))?.query_row([], |row| row.get(0))
    };
    let pages = pragma("page_count")? - pragma("freelist_count")?;
    Ok(pages.max(0).unsigned_abs() * PAGE_SIZE.unsigned_abs())
}
