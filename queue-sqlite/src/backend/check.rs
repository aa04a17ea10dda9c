//! What the store must have so that the promises hold.

use std::path::{Path, PathBuf};

use queue_core::backend::CheckFinding;
use rusqlite::Connection;

use crate::Durability;
use crate::errors::Fault;
use crate::open::{FileSystem, Room, file_system};

/// A file up to this size (64 MiB) is read through by a check.
const QUICK_CHECK_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// A write-ahead log of this size (256 MiB) is not being emptied.
const WAL_MAX_BYTES: u64 = 256 * 1024 * 1024;
/// Less free space than this (1 GiB) is worth a word.
const FREE_MIN_BYTES: u64 = 1024 * 1024 * 1024;

/// The writing connection's `PRAGMA synchronous`.
pub(super) fn synchronous(conn: &Connection) -> Result<i64, Fault> {
    Ok(conn.pragma_query_value(None, "synchronous", |row| row.get(0))?)
}

pub(super) fn check(
    conn: &Connection,
    path: &Path,
    room: &Room,
    durability: Durability,
    synchronous: i64,
) -> Result<Vec<CheckFinding>, Fault> {
    let directory = path.parent().unwrap_or(Path::new("."));
    Ok(vec![
        CheckFinding::good("sqlite version", rusqlite::version()),
        journal_mode(conn)?,
        check_durability(durability, synchronous),
        check_file_system(directory),
        integrity(conn, path)?,
        wal_size(path),
        free_space(room),
    ])
}

fn journal_mode(conn: &Connection) -> Result<CheckFinding, Fault> {
    const NAME: &str = "journal mode";
    let mode: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    if mode == "wal" {
        return Ok(CheckFinding::good(NAME, mode));
    }
    let remedy = "somebody changed it; open the store again, which switches it back to wal";
    Ok(CheckFinding::bad(NAME, mode, remedy))
}

fn check_durability(durability: Durability, synchronous: i64) -> CheckFinding {
    const NAME: &str = "durability";
    let found = format!("{durability:?}, synchronous = {synchronous}");
    if synchronous < durability.synchronous() {
        return CheckFinding::bad(NAME, found, "the setting was changed; open the store again");
    }
    match durability {
        Durability::Fsync => CheckFinding::good(NAME, found),
        Durability::Memory => CheckFinding::warning(
            NAME,
            found,
            "a loss of power may take back the last commits; use Fsync for jobs that must not be \
             lost then",
        ),
    }
}

fn check_file_system(directory: &Path) -> CheckFinding {
    const NAME: &str = "file system";
    let remedy = "put the file on a local disk";
    match file_system(directory) {
        Ok(FileSystem::Local) => CheckFinding::good(NAME, "local"),
        Ok(FileSystem::Unsure(name)) => CheckFinding::warning(NAME, name, remedy),
        Ok(FileSystem::Unfit(name)) => CheckFinding::bad(NAME, name, remedy),
        Err(error) => CheckFinding::warning(NAME, error.to_string(), remedy),
    }
}

fn integrity(conn: &Connection, path: &Path) -> Result<CheckFinding, Fault> {
    const NAME: &str = "integrity";
    if size_of(path) > QUICK_CHECK_MAX_BYTES {
        return Ok(CheckFinding::good(NAME, "not checked: the file is large; an audit reads it"));
    }
    let found: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found == "ok" {
        return Ok(CheckFinding::good(NAME, found));
    }
    let remedy = "stop all workers, keep a copy of the file and of its -wal, and restore a backup";
    Ok(CheckFinding::bad(NAME, found, remedy))
}

fn wal_size(path: &Path) -> CheckFinding {
    const NAME: &str = "write-ahead log";
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let bytes = size_of(&PathBuf::from(wal));
    let found = format!("{bytes} bytes");
    if bytes <= WAL_MAX_BYTES {
        return CheckFinding::good(NAME, found);
    }
    CheckFinding::warning(NAME, found, "find the process that reads the file without an end")
}

fn free_space(room: &Room) -> CheckFinding {
    const NAME: &str = "free space";
    match room.free_bytes() {
        Some(bytes) if bytes >= FREE_MIN_BYTES => {
            CheckFinding::good(NAME, format!("{bytes} bytes"))
        }
        Some(bytes) => {
            CheckFinding::warning(NAME, format!("{bytes} bytes"), "make room on the disk")
        }
        None => CheckFinding::warning(NAME, "the system does not tell", "watch it yourself"),
    }
}

fn size_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}
