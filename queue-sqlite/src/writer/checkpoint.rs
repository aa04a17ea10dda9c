//! What was committed goes from the log into the file beside the writer, which would have to copy all of
//! it and to wait for the disk.
//!
//! The log begins again only when a checkpoint has reached its end, which one beside a writer that
//! commits cannot. So the writer makes one of its own when the log has [`CHECKPOINT_PAGES`]: there is
//! little left to do for it. If the thread is just making one, or another process commits, the writer
//! goes on; when the log has [`WAIT_PAGES`] it makes one that keeps everybody from committing. If the
//! thread fails, the writer does it all.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use queue_core::Error;
use rusqlite::Connection;
use tokio::sync::mpsc;

use crate::errors::Fault;
use crate::open::{Patience, Place, Role, connect, with_patience};
use crate::threads::spawn;

/// The writer makes a checkpoint itself when the log has so many pages (16 MiB).
const CHECKPOINT_PAGES: i64 = 4096;
/// The writer waits for others when the log has so many (32 MiB), but not for long: somebody may read an
/// old state of the file for hours. So it does again when it has twice as many, and so on.
const WAIT_PAGES: i64 = 2 * CHECKPOINT_PAGES;
/// The thread is asked for one, as long as the writer makes none, whenever the log has so many more
/// (8 MiB): each waits for the disk, and a page that was written often goes into the file once.
const ASK_PAGES: i64 = 2048;
/// How long the writer waits at most for others who make a checkpoint: until their disk has it. For those
/// who commit or read it waits less ([`Patience::Some`]).
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Does what it can without waiting for anybody.
const CHECKPOINT: &str = "PRAGMA wal_checkpoint(PASSIVE)";
/// Nobody commits meanwhile, so that it reaches the end, nor reads what is in the log at the end, so
/// that whoever commits next begins it again.
const WHOLE_CHECKPOINT: &str = "PRAGMA wal_checkpoint(RESTART)";
/// How many pages the log has. Makes none.
const LOOK: &str = "PRAGMA wal_checkpoint(NOOP)";

/// The writer's end of the thread, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    ask: SyncSender<()>,
    /// How many pages the log had when the thread was asked last.
    asked_at: i64,
    /// How many pages it will have when the writer waits for others.
    wait_at: i64,
    place: Arc<Place>,
    thread: Arc<Thread>,
}

/// What the thread says of itself.
#[derive(Debug, Default)]
struct Thread {
    /// Held while it makes a checkpoint.
    busy: Mutex<()>,
    failed_sync: AtomicBool,
}

impl Checkpoints {
    /// Starts the thread. It closes its connection and drops `ended` when it ends.
    pub(crate) fn start(
        path: &Path,
        place: Arc<Place>,
        ended: mpsc::Sender<()>,
    ) -> Result<Self, Error> {
        let conn = connect(path, Role::Reader)?;
        // A connection finds the log by its path when it first reads.
        pages(&conn).map_err(Fault::from)?;
        let (ask, asked) = sync_channel(1);
        let checkpoints = Self::asking(ask, place);
        let (place, thread) = (Arc::clone(&checkpoints.place), Arc::clone(&checkpoints.thread));
        spawn("queue-sqlite-checkpoint", move || {
            while asked.recv().is_ok() {
                let _busy = thread.busy();
                if place.check().is_ok() && has_failed_sync(make(&conn, CHECKPOINT)) {
                    thread.failed_sync.store(true, Ordering::Relaxed);
                }
            }
            drop(conn);
            drop(ended);
        })?;
        Ok(checkpoints)
    }

    fn asking(ask: SyncSender<()>, place: Arc<Place>) -> Self {
        Self { ask, asked_at: 0, wait_at: WAIT_PAGES, place, thread: Arc::default() }
    }

    /// As if the thread could not sync the file.
    #[cfg(test)]
    pub(super) fn fail(&self) {
        self.thread.failed_sync.store(true, Ordering::Relaxed);
    }

    /// Whether the thread could not sync what it should have: what the file or the log hold is unknown
    /// then. Still tells it when the thread has ended.
    pub(super) fn failed_sync(&self) -> impl Fn() -> bool + use<> {
        let thread = Arc::clone(&self.thread);
        move || thread.failed_sync.load(Ordering::Relaxed)
    }

    /// Sees to it, after commits of this connection, that the log does not grow for ever. Says whether
    /// a sync has failed.
    pub(super) fn committed(&mut self, conn: &mut Connection) -> bool {
        let pages = pages(conn).unwrap_or(CHECKPOINT_PAGES);
        if pages < self.asked_at {
            // It has begun again.
            self.asked_at = 0;
        }
        if pages < WAIT_PAGES {
            self.wait_at = WAIT_PAGES;
        }
        if pages < CHECKPOINT_PAGES {
            if pages - self.asked_at >= ASK_PAGES {
                self.asked_at = pages;
                // It can only fail because it has been asked already.
                let _ = self.ask.try_send(());
            }
            return false;
        }
        if self.place.check().is_err() {
            // The next call says why.
            return false;
        }
        has_failed_sync(if pages < self.wait_at {
            // Should somebody else make one, or the disk be full, the next commit tries again.
            make(conn, CHECKPOINT)
        } else {
            self.wait_at = 2 * pages;
            drop(self.thread.busy());
            with_patience(conn, Patience::Some, make_whole)
        })
    }
}

impl Thread {
    fn busy(&self) -> MutexGuard<'_, ()> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pages(conn: &Connection) -> rusqlite::Result<i64> {
    conn.prepare_cached(LOOK)?.query_row([], |row| row.get(1))
}

/// Says whether somebody else is making one.
fn make(conn: &Connection, checkpoint: &str) -> rusqlite::Result<bool> {
    // There are no numbers of pages then.
    conn.prepare_cached(checkpoint)?.query_row([], |row| Ok(row.get::<_, i64>(1)? < 0))
}

/// SQLite waits for writers and readers, but not for who makes a checkpoint.
fn make_whole(conn: &Connection) -> rusqlite::Result<bool> {
    let give_up = Instant::now() + WAIT_MAX;
    loop {
        let is_busy = make(conn, WHOLE_CHECKPOINT)?;
        if !is_busy || Instant::now() >= give_up {
            return Ok(is_busy);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a checkpoint ended with a failed sync.
pub(super) fn has_failed_sync<T>(checkpoint: rusqlite::Result<T>) -> bool {
    let Err(error) = checkpoint else { return false };
    tracing::debug!(%error, "the write-ahead log was not written into the file");
    Fault::from(error).is_failed_sync()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;
    use crate::SqliteOptions;
    use crate::open::{Opened, beside, prepare};

    /// What a page takes in the log.
    const FRAME_BYTES: i64 = 4096 + 24;

    fn opened() -> (TempDir, PathBuf, Arc<Place>, Connection) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let Opened { path, place, conn, .. } = prepare(&path, &SqliteOptions::default()).unwrap();
        // What is looked at here does not depend on it.
        conn.pragma_update(None, "synchronous", 1).unwrap();
        (directory, path, place, conn)
    }

    /// Commits until the log has got about so many pages.
    fn write(conn: &mut Connection, checkpoints: &mut Checkpoints, pages: i64) {
        for _ in 0..pages / 64 {
            let body = "INSERT INTO body (codec, options, payload) VALUES (0, x'', zeroblob(?1))";
            conn.execute(body, [64 * 4096]).unwrap();
            assert!(!checkpoints.committed(conn));
        }
    }

    fn bytes(path: &Path) -> i64 {
        std::fs::metadata(path).unwrap().len().try_into().unwrap()
    }

    #[test]
    fn the_log_goes_into_the_file_before_the_writer_has_to_see_to_it() {
        let (_directory, path, place, mut conn) = opened();
        let (ending, mut ended) = mpsc::channel(1);
        let mut checkpoints = Checkpoints::start(&path, place, ending).unwrap();
        write(&mut conn, &mut checkpoints, ASK_PAGES + 256);
        let begun = Instant::now();
        while bytes(&path) < ASK_PAGES * 4096 / 2 {
            assert!(begun.elapsed() < Duration::from_secs(20), "{}", bytes(&path));
            std::thread::yield_now();
        }
        drop(checkpoints);
        assert_eq!(ended.blocking_recv(), None);
    }

    #[test]
    fn the_log_begins_again_although_the_writer_never_rests() {
        let (_directory, path, place, mut conn) = opened();
        let mut checkpoints = Checkpoints::start(&path, place, mpsc::channel(1).0).unwrap();
        write(&mut conn, &mut checkpoints, 8 * CHECKPOINT_PAGES);
        let log = bytes(&beside(&path, "-wal"));
        assert!(log < (WAIT_PAGES + ASK_PAGES) * FRAME_BYTES, "{log}");
    }

    #[test]
    fn without_the_thread_the_writer_does_it_all() {
        let (_directory, path, place, mut conn) = opened();
        let mut checkpoints = Checkpoints::asking(sync_channel(1).0, place);
        write(&mut conn, &mut checkpoints, 3 * CHECKPOINT_PAGES);
        let log = bytes(&beside(&path, "-wal"));
        assert!(log < (CHECKPOINT_PAGES + ASK_PAGES) * FRAME_BYTES, "{log}");
    }

    /// Two of them keep each other's checkpoints from the end.
    #[test]
    fn the_log_begins_again_although_two_writers_never_rest() {
        let (_directory, path, place, conn) = opened();
        // The log goes with the last connection.
        let last = connect(&path, Role::Reader).unwrap();
        pages(&last).unwrap();
        std::thread::scope(|scope| {
            let write = |mut conn: Connection| {
                let ended = mpsc::channel(1).0;
                let started = Checkpoints::start(&path, Arc::clone(&place), ended);
                let mut checkpoints = started.unwrap();
                scope.spawn(move || write(&mut conn, &mut checkpoints, 6 * CHECKPOINT_PAGES));
            };
            let other = connect(&path, Role::Writer(crate::Durability::Memory)).unwrap();
            write(other);
            write(conn);
        });
        let log = bytes(&beside(&path, "-wal"));
        // One that waits in vain is tried again when the log has grown.
        assert!(log < 3 * WAIT_PAGES * FRAME_BYTES, "{log}");
    }

    /// Whoever waited for a reader at each commit would wait for hours.
    #[test]
    fn a_reader_that_does_not_end_is_waited_for_now_and_then_only() {
        let (_directory, path, place, mut conn) = opened();
        let mut checkpoints = Checkpoints::start(&path, place, mpsc::channel(1).0).unwrap();
        let reader = Connection::open(&path).unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM store").unwrap();
        write(&mut conn, &mut checkpoints, WAIT_PAGES + CHECKPOINT_PAGES / 2);
        assert!(checkpoints.wait_at >= 2 * WAIT_PAGES, "{checkpoints:?}");
        reader.execute_batch("COMMIT").unwrap();
        let log = bytes(&beside(&path, "-wal"));
        write(&mut conn, &mut checkpoints, WAIT_PAGES);
        assert!(bytes(&beside(&path, "-wal")) < log + ASK_PAGES * FRAME_BYTES, "it begins again");
    }
}
