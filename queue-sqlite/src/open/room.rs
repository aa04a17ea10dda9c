//! Whether there is room for more, and for what.

use std::path::{Path, PathBuf};

use queue_core::Error;
use rusqlite::Connection;

use super::beside;
use super::connection::PAGE_SIZE;
use super::reserve::{RESERVE_BYTES, Reserve};
use crate::errors::Fault;

/// What a job takes beside its payload, generously.
const JOB_BYTES: u64 = 1024;
/// Results that are always taken, together (16 KiB): most jobs have none or a short one.
const RESULTS_SMALL_BYTES: u64 = 16 * 1024;
/// A log of more than this (8 MiB) has grown beside a long reader.
const LOG_LARGE_BYTES: u64 = 8 * 1024 * 1024;

/// The limits of a store's size. The last space is given out by urgency: jobs come in while the
/// whole reserve is there, workers take jobs while half of it is, results are kept while a quarter
/// is; what remains is for what makes room again.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    directory: PathBuf,
    log: PathBuf,
    reserve: Reserve,
    max_bytes: Option<u64>,
}

impl Room {
    /// The room beside the file at `path`.
    pub(crate) fn new(path: &Path, max_bytes: Option<u64>) -> Self {
        Self {
            directory: path.parent().unwrap_or(Path::new(".")).to_owned(),
            log: beside(path, "-wal"),
            reserve: Reserve::of(path),
            max_bytes,
        }
    }

    /// Refuses jobs, with payloads of `bytes` together, that this transaction has written, if they
    /// take the last space.
    pub(crate) fn check_new(&self, conn: &Connection, jobs: u64, bytes: u64) -> Result<(), Fault> {
        if let Some(max) = self.max_bytes {
            let used = pages(conn, "page_count")?.saturating_sub(free_in_file(conn)?);
            if used > max {
                let what = format!("the jobs would take {used} bytes of at most {max}");
                return Err(Error::StoreFull(what).into());
            }
        }
        // Once into the log and once into the file.
        let needed = bytes.saturating_add(jobs.saturating_mul(JOB_BYTES)).saturating_mul(2);
        let Some(spare) = self.spare() else { return Ok(()) };
        let with_file = spare.saturating_add(free_in_file(conn)?);
        if with_file >= RESERVE_BYTES.saturating_add(needed)
            && spare >= (RESERVE_BYTES / 2).saturating_add(needed)
        {
            return Ok(());
        }
        Err(full(spare))
    }

    /// Refuses claims while less than half of the reserve is left: what they start will want to
    /// be finished.
    pub(crate) fn check_claim(&self, conn: &Connection) -> Result<(), Fault> {
        if self.reserve.bytes() >= RESERVE_BYTES / 2 {
            return Ok(());
        }
        let Some(spare) = self.spare() else { return Ok(()) };
        let with_file = spare.saturating_add(free_in_file(conn)?);
        if with_file >= RESERVE_BYTES / 2 && spare >= RESERVE_BYTES / 4 {
            return Ok(());
        }
        Err(full(spare))
    }

    /// Refuses results of `bytes` together if they would take what makes room again.
    pub(crate) fn check_results(&self, bytes: u64) -> Result<(), Fault> {
        if bytes <= RESULTS_SMALL_BYTES || self.reserve.bytes() >= RESERVE_BYTES / 2 {
            return Ok(());
        }
        match self.spare() {
            Some(spare) if spare < (RESERVE_BYTES / 4).saturating_add(bytes.saturating_mul(2)) => {
                Err(full(spare))
            }
            _ => Ok(()),
        }
    }

    /// Whether emptying the log might make room that is wanted.
    pub(crate) fn is_tight(&self) -> bool {
        self.is_short()
            || (self.log_bytes() > LOG_LARGE_BYTES
                && self.spare().is_some_and(|spare| spare < RESERVE_BYTES * 4))
    }

    fn log_bytes(&self) -> u64 {
        std::fs::metadata(&self.log).map_or(0, |file| file.len())
    }

    /// What the disk has, with the reserve, and without what the log may still have to write into
    /// the file; `None` if the system does not tell.
    fn spare(&self) -> Option<u64> {
        let had = self.free_bytes()?.saturating_add(self.reserve.bytes());
        Some(had.saturating_sub(self.log_bytes()))
    }

    /// Bytes that this user may still write to the disk, besides the reserve; `None` if the system
    /// does not tell.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.directory).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Whether the reserve is gone or not complete.
    pub(crate) fn is_short(&self) -> bool {
        !self.reserve.is_whole()
    }

    /// Makes the reserve if there is room for it.
    pub(crate) fn keep_reserve(&self) {
        self.reserve.make(self.free_bytes().unwrap_or(0));
    }

    /// Gives the reserve to a write that found the disk full; says whether that may help.
    pub(crate) fn release_reserve(&self) -> bool {
        let released = self.reserve.release();
        if released {
            tracing::warn!("the disk is full; the space that was kept for finishing jobs is used");
        }
        released
    }
}

fn full(spare: u64) -> Fault {
    Error::StoreFull(format!("the disk has {spare} bytes left for the queue")).into()
}

fn free_in_file(conn: &Connection) -> Result<u64, Fault> {
    pages(conn, "freelist_count")
}

/// A number of pages, in bytes.
fn pages(conn: &Connection, name: &str) -> Result<u64, Fault> {
    let pages: i64 =
        conn.prepare_cached(&format!("PRAGMA {name}"))?.query_row([], |row| row.get(0))?;
    Ok(pages.max(0).unsigned_abs().saturating_mul(PAGE_SIZE.unsigned_abs()))
}
