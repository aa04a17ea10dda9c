//! What the store must have so that the promises hold.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use queue_core::backend::CheckFinding;
use queue_core::{Clock, Error, SystemClock, Timestamp};
use rusqlite::Connection;

use crate::Durability;
use crate::errors::Fault;
use crate::open::{FileSystem, Room, beside, file_system};
use crate::rows::time;

/// A file up to this size (64 MiB) is read through by a check.
const QUICK_CHECK_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// A write-ahead log of this size (256 MiB) is not being emptied.
const WAL_MAX_BYTES: u64 = 256 * 1024 * 1024;
/// Less free space than this (1 GiB) is worth a word.
const FREE_MIN_BYTES: u64 = 1024 * 1024 * 1024;

/// A store's clock that is ahead of the machine's by more than this will not be met soon.
const CLOCK_AHEAD_MAX: Duration = Duration::from_secs(60);

/// The writing connection's `PRAGMA synchronous`.
pub(super) fn synchronous(conn: &Connection) -> Result<i64, Fault> {
    Ok(conn.pragma_query_value(None, "synchronous", |row| row.get(0))?)
}

/// What is checked.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) path: PathBuf,
    pub(super) room: Room,
    pub(super) durability: Durability,
    /// The writing connection's setting.
    pub(super) synchronous: i64,
}

/// The finding about a file that is not there any more.
pub(super) fn moved(error: &Error) -> CheckFinding {
    let remedy = "start this process again; what it has acknowledged is in the file that was moved";
    CheckFinding::bad("file", error.to_string(), remedy)
}

pub(super) fn check(conn: &Connection, checked: &Checked) -> Result<Vec<CheckFinding>, Fault> {
    let Checked { path, room, durability, synchronous } = checked;
    let directory = path.parent().unwrap_or(Path::new("."));
    Ok(vec![
        CheckFinding::good("sqlite version", rusqlite::version()),
        CheckFinding::good("file", path.display().to_string()),
        permissions(path),
        journal_mode(conn)?,
        check_durability(*durability, *synchronous),
        check_file_system(file_system(directory), *durability),
        clock(conn, path, SystemClock.now())?,
        integrity(conn, path)?,
        wal_size(path),
        free_space(room),
        reserve(room),
    ])
}

/// Jobs carry whatever the producers put into them.
fn permissions(path: &Path) -> CheckFinding {
    const NAME: &str = "permissions";
    let files = ["", "-wal", "-shm"].map(|suffix| beside(path, suffix));
    let modes = files.iter().filter_map(|file| Some(std::fs::metadata(file).ok()?.mode() & 0o777));
    let mode = modes.fold(0, |all, mode| all | mode);
    let found = format!("mode {mode:o}");
    if mode & 0o077 == 0 {
        return CheckFinding::good(NAME, found);
    }
    let remedy = format!("others can read the jobs or change them: chmod 600 {}*", path.display());
    CheckFinding::warning(NAME, found, remedy)
}

/// The store's clock never goes back: after a wrong time in the future it stands still.
fn clock(conn: &Connection, path: &Path, now: Timestamp) -> Result<CheckFinding, Fault> {
    const NAME: &str = "clock";
    let clock_ms =
        conn.query_row("SELECT clock_ms FROM store WHERE one = 1", [], |row| row.get(0))?;
    let ahead = time(clock_ms).since(now);
    if ahead <= CLOCK_AHEAD_MAX {
        return Ok(CheckFinding::good(NAME, "not ahead of the machine's"));
    }
    let found = format!("{} s ahead of the machine's", ahead.as_secs());
    let remedy = format!(
        "nothing gets due and no lease ends until the machine's clock is there; set that right, or \
         stop all workers and set the store's back, with the leases and retries that were given \
         meanwhile (delayed jobs keep their time): sqlite3 {} 'UPDATE store SET clock_ms = \
         unixepoch() * 1000; UPDATE claim SET claimed_ms = min(claimed_ms, unixepoch() * 1000), \
         until_ms = min(until_ms, unixepoch() * 1000); UPDATE job SET due_ms = min(due_ms, \
         unixepoch() * 1000) WHERE state = 2'",
        path.display()
    );
    Ok(CheckFinding::bad(NAME, found, remedy))
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

fn check_file_system(found: std::io::Result<FileSystem>, durability: Durability) -> CheckFinding {
    const NAME: &str = "file system";
    let remedy = "put the file on a local disk";
    match found {
        Ok(FileSystem::Local) => CheckFinding::good(NAME, "local"),
        Ok(FileSystem::Unsure(name)) => CheckFinding::warning(NAME, name, remedy),
        Ok(FileSystem::Unfit(name)) => CheckFinding::bad(NAME, name, remedy),
        Ok(FileSystem::Volatile(name)) => {
            let found = format!("{name}, in memory: a loss of power takes all jobs");
            match durability {
                Durability::Fsync => CheckFinding::bad(NAME, found, remedy),
                Durability::Memory => CheckFinding::warning(NAME, found, remedy),
            }
        }
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
    let bytes = size_of(&beside(path, "-wal"));
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

fn reserve(room: &Room) -> CheckFinding {
    const NAME: &str = "reserve";
    if room.is_short() {
        let found = "no space is kept for finishing jobs when the disk is full";
        return CheckFinding::warning(NAME, found, "make room on the disk; it is made by itself");
    }
    CheckFinding::good(NAME, "space is kept for finishing jobs")
}

fn size_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

#[cfg(test)]
mod tests {
    use queue_core::backend::Verdict;

    use super::*;

    #[test]
    fn a_file_system_in_memory_does_not_count_as_durable() {
        let verdict = |found, durability| check_file_system(Ok(found), durability).verdict;
        let volatile = FileSystem::Volatile("tmpfs");
        assert_eq!(verdict(volatile, Durability::Fsync), Verdict::Bad);
        assert_eq!(verdict(volatile, Durability::Memory), Verdict::Warning);
        assert_eq!(verdict(FileSystem::Local, Durability::Fsync), Verdict::Good);
    }

    #[test]
    fn a_setting_that_syncs_less_than_was_asked_for_is_bad() {
        let verdict = |durability, synchronous| check_durability(durability, synchronous).verdict;
        assert_eq!(verdict(Durability::Fsync, 2), Verdict::Good);
        assert_eq!(verdict(Durability::Fsync, 1), Verdict::Bad);
        // Synced for a call that asked for it.
        assert_eq!(verdict(Durability::Memory, 2), Verdict::Warning);
        assert_eq!(verdict(Durability::Memory, 1), Verdict::Warning);
        assert_eq!(verdict(Durability::Memory, 0), Verdict::Bad);
    }

    #[test]
    fn a_log_that_nobody_empties_is_told_and_a_large_file_is_not_read_through() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let occupy = |path: &Path, bytes: u64| {
            // Has the size without taking the space.
            std::fs::File::create(path).unwrap().set_len(bytes).unwrap();
        };
        let log = beside(&path, "-wal");
        for (bytes, expected) in
            [(WAL_MAX_BYTES, Verdict::Good), (WAL_MAX_BYTES + 1, Verdict::Warning)]
        {
            occupy(&log, bytes);
            let finding = wal_size(&path);
            assert_eq!(finding.verdict, expected, "{finding:?}");
            assert!(finding.found.contains(&bytes.to_string()), "{finding:?}");
        }
        let conn = Connection::open_in_memory().unwrap();
        for (bytes, read) in [(QUICK_CHECK_MAX_BYTES, true), (QUICK_CHECK_MAX_BYTES + 1, false)] {
            occupy(&path, bytes);
            let finding = integrity(&conn, &path).unwrap();
            assert_eq!((finding.verdict, finding.found == "ok"), (Verdict::Good, read));
        }
    }
}
