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
/// A log of more than this (8 MiB) is worth emptying before its time where space is short.
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
    /// [`free_on_disk`], or what a test puts in its place.
    free: fn(&Path) -> Option<u64>,
}

impl Room {
    /// The room beside the file at `path`.
    pub(crate) fn new(path: &Path, max_bytes: Option<u64>) -> Self {
        Self {
            directory: path.parent().unwrap_or(Path::new(".")).to_owned(),
            log: beside(path, "-wal"),
            reserve: Reserve::of(path),
            max_bytes,
            free: free_on_disk,
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
        (self.free)(&self.directory)
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
            tracing::warn!(
                event = "reserve_used",
                "the disk is full; the space that was kept for finishing jobs is used"
            );
        }
        released
    }
}

fn free_on_disk(directory: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(directory).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What a directory's disk has left, in a file there: the tests' disks are never full.
    const TOLD: &str = "free";
    const FILE: &str = "queue.db";

    impl Room {
        /// The same on a disk that has so many bytes left.
        pub(crate) fn on_disk_with(&self, free: u64) -> Self {
            let told = |directory: &Path| {
                std::fs::read_to_string(directory.join(TOLD)).ok()?.parse::<u64>().ok()
            };
            std::fs::write(self.directory.join(TOLD), free.to_string()).unwrap();
            Self { free: told, ..self.clone() }
        }

        pub(crate) fn take_reserve(&self, bytes: u64) {
            self.reserve.make(u64::MAX);
            let file = std::fs::File::options().write(true).open(beside(&self.file(), "-reserve"));
            file.unwrap().set_len(bytes).unwrap();
        }

        fn file(&self) -> PathBuf {
            self.directory.join(FILE)
        }

        fn grow_log(&self, bytes: u64) {
            std::fs::File::create(&self.log).unwrap().set_len(bytes).unwrap();
        }
    }

    fn room() -> (tempfile::TempDir, Room, Connection) {
        let directory = tempfile::tempdir().unwrap();
        let room = Room::new(&directory.path().join(FILE), None);
        (directory, room, Connection::open_in_memory().unwrap())
    }

    /// Gives the file so many bytes that are free for new rows.
    fn free_pages(conn: &Connection) -> u64 {
        conn.execute_batch("CREATE TABLE t (b); INSERT INTO t VALUES (zeroblob(12000000))")
            .and_then(|()| conn.execute_batch("DELETE FROM t"))
            .unwrap();
        free_in_file(conn).unwrap()
    }

    /// The check passes with this much on the disk, and not with a byte less.
    fn assert_needs(room: &Room, free: u64, check: impl Fn(&Room) -> Result<(), Fault>) {
        assert!(check(&room.on_disk_with(free)).is_ok(), "{free} bytes");
        let refused = check(&room.on_disk_with(free - 1)).map_err(Error::from);
        assert!(matches!(refused, Err(Error::StoreFull(_))), "{refused:?} with less than {free}");
    }

    #[test]
    fn jobs_come_in_while_the_whole_reserve_is_there() {
        let (_directory, room, conn) = room();
        let needed = 2 * (100_000 + 3 * JOB_BYTES);
        let check = |room: &Room| room.check_new(&conn, 3, 100_000);
        assert_needs(&room, RESERVE_BYTES + needed, check);
        room.take_reserve(RESERVE_BYTES);
        assert_needs(&room, needed, check);
        // What stands in the log has still to be written into the file.
        room.grow_log(5000);
        assert_needs(&room, needed + 5000, check);
    }

    #[test]
    fn free_pages_count_for_a_half_of_what_jobs_need() {
        let (_directory, room, conn) = room();
        let in_file = free_pages(&conn);
        assert!(in_file > RESERVE_BYTES / 2 && in_file < RESERVE_BYTES);
        let check = |room: &Room| room.check_new(&conn, 1, 1000);
        assert_needs(&room, RESERVE_BYTES / 2 + 2 * (1000 + JOB_BYTES), check);
        let more = 2 * RESERVE_BYTES;
        let check = |room: &Room| room.check_new(&conn, 0, more);
        assert_needs(&room, RESERVE_BYTES / 2 + 2 * more, check);
        conn.execute_batch("VACUUM").unwrap();
        assert_needs(&room, RESERVE_BYTES + 2 * more, check);
    }

    #[test]
    fn jobs_are_taken_while_half_of_the_reserve_is_there() {
        let (_directory, room, conn) = room();
        let check = |room: &Room| room.check_claim(&conn);
        assert_needs(&room, RESERVE_BYTES / 2, check);
        // Nobody counts on the disk as long as the reserve is there.
        room.take_reserve(RESERVE_BYTES / 2);
        room.grow_log(RESERVE_BYTES);
        assert!(check(&room.on_disk_with(0)).is_ok());
        room.take_reserve(RESERVE_BYTES / 2 - 512 * 1024);
        assert!(check(&room.on_disk_with(0)).is_err());
        room.release_reserve();
        room.grow_log(0);
        free_pages(&conn);
        assert_needs(&room, RESERVE_BYTES / 4, check);
    }

    #[test]
    fn large_results_are_kept_while_a_quarter_of_the_reserve_is_there() {
        let (_directory, room, _conn) = room();
        let empty = room.on_disk_with(0);
        assert!(empty.check_results(RESULTS_SMALL_BYTES).is_ok());
        let large = RESULTS_SMALL_BYTES + 1;
        assert!(empty.check_results(large).is_err());
        assert_needs(&room, RESERVE_BYTES / 4 + 2 * large, |room| room.check_results(large));
        room.take_reserve(RESERVE_BYTES / 2);
        room.grow_log(RESERVE_BYTES);
        assert!(room.on_disk_with(0).check_results(large).is_ok());
    }

    #[test]
    fn where_the_system_does_not_tell_nothing_is_refused() {
        let (_directory, room, conn) = room();
        let room = Room { free: |_| None, ..room };
        assert!(room.check_new(&conn, 100, u64::MAX).is_ok());
        assert!(room.check_claim(&conn).is_ok());
        assert!(room.check_results(u64::MAX).is_ok());
    }

    #[test]
    fn a_large_log_is_emptied_when_space_is_wanted() {
        let (_directory, room, _conn) = room();
        room.grow_log(LOG_LARGE_BYTES + 1);
        assert!(room.on_disk_with(u64::MAX).is_tight(), "the reserve is not there");
        room.take_reserve(RESERVE_BYTES);
        let enough = RESERVE_BYTES * 3 + LOG_LARGE_BYTES + 1;
        assert!(!room.on_disk_with(enough).is_tight());
        assert!(room.on_disk_with(enough - 1).is_tight());
        room.grow_log(LOG_LARGE_BYTES);
        assert!(!room.on_disk_with(0).is_tight());
    }
}
