//! What was committed goes from the log into the file beside the writer, which would have to wait for
//! the disk twice.
//!
//! As long as the writer commits, a checkpoint of another connection cannot reach the log's end, and
//! only from there the log begins again. So the writer makes one of its own when the log has
//! [`CHECKPOINT_PAGES`]: there is little left to do for it. If the thread is just making one, the writer
//! goes on, and waits for it when the log has [`WAIT_PAGES`]. If the thread fails, the writer does it
//! all.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use queue_core::Error;
use rusqlite::Connection;
use tokio::sync::mpsc;

use crate::errors::Fault;
use crate::open::{Role, connect};
use crate::threads::spawn;

/// The writer makes a checkpoint itself when the log has so many pages (16 MiB).
const CHECKPOINT_PAGES: i64 = 4096;
/// The writer waits for the one that the thread makes when the log has so many (32 MiB).
const WAIT_PAGES: i64 = 2 * CHECKPOINT_PAGES;
/// The thread is asked for one whenever the log has so many more (8 MiB): each time waits for the disk
/// twice, and a page that was written often goes into the file once.
const ASK_PAGES: i64 = 2048;

const CHECKPOINT: &str = "PRAGMA wal_checkpoint(PASSIVE)";
/// How many pages the log has. Makes none.
const LOOK: &str = "PRAGMA wal_checkpoint(NOOP)";

/// The writer's end of the thread, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    ask: SyncSender<()>,
    /// How many pages the log had when the thread was asked last.
    asked_at: i64,
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
    pub(crate) fn start(path: &Path, ended: mpsc::Sender<()>) -> Result<Self, Error> {
        let conn = connect(path, Role::Reader)?;
        let (ask, asked) = sync_channel(1);
        let checkpoints = Self::asking(ask);
        let thread = Arc::clone(&checkpoints.thread);
        spawn("queue-sqlite-checkpoint", move || {
            while asked.recv().is_ok() {
                let _busy = thread.busy();
                if checkpoint(&conn) {
                    thread.failed_sync.store(true, Ordering::Relaxed);
                }
            }
            drop(conn);
            drop(ended);
        })?;
        Ok(checkpoints)
    }

    fn asking(ask: SyncSender<()>) -> Self {
        Self { ask, asked_at: 0, thread: Arc::default() }
    }

    /// Sees to it, after commits of this connection, that the log does not grow for ever. Says whether
    /// a sync has failed: what the log holds is unknown then.
    pub(super) fn committed(&mut self, conn: &Connection) -> bool {
        let look = || conn.prepare_cached(LOOK)?.query_row([], |row| row.get(1));
        let pages: i64 = look().unwrap_or(CHECKPOINT_PAGES);
        if pages < self.asked_at {
            // It has begun again.
            self.asked_at = 0;
        }
        let mut failed_sync = self.thread.failed_sync.load(Ordering::Relaxed);
        if pages >= CHECKPOINT_PAGES {
            if pages >= WAIT_PAGES {
                drop(self.thread.busy());
            }
            // Should another process make one, or the disk be full, the next commit tries again.
            failed_sync |= checkpoint(conn);
        } else if pages - self.asked_at >= ASK_PAGES {
            self.asked_at = pages;
            // It can only fail because it has been asked already.
            let _ = self.ask.try_send(());
        }
        failed_sync
    }
}

impl Thread {
    fn busy(&self) -> MutexGuard<'_, ()> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what it can without waiting for anybody; says whether a sync has failed.
fn checkpoint(conn: &Connection) -> bool {
    let made = || conn.prepare_cached(CHECKPOINT)?.query_row([], |_| Ok(()));
    let Err(error) = made() else { return false };
    tracing::debug!(%error, "the write-ahead log was not written into the file");
    Fault::from(error).is_failed_sync()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    use tempfile::TempDir;

    use super::*;
    use crate::SqliteOptions;
    use crate::open::{Opened, beside, prepare};

    /// What a page takes in the log.
    const FRAME_BYTES: i64 = 4096 + 24;

    fn opened() -> (TempDir, PathBuf, Connection) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let Opened { path, conn, .. } = prepare(&path, &SqliteOptions::default()).unwrap();
        // What is looked at here does not depend on it.
        conn.pragma_update(None, "synchronous", 1).unwrap();
        (directory, path, conn)
    }

    /// Commits until the log has got about so many pages.
    fn write(conn: &Connection, checkpoints: &mut Checkpoints, pages: i64) {
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
        let (_directory, path, conn) = opened();
        let (ending, mut ended) = mpsc::channel(1);
        let mut checkpoints = Checkpoints::start(&path, ending).unwrap();
        write(&conn, &mut checkpoints, ASK_PAGES + 256);
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
        let (_directory, path, conn) = opened();
        let mut checkpoints = Checkpoints::start(&path, mpsc::channel(1).0).unwrap();
        write(&conn, &mut checkpoints, 8 * CHECKPOINT_PAGES);
        let log = bytes(&beside(&path, "-wal"));
        assert!(log < (WAIT_PAGES + ASK_PAGES) * FRAME_BYTES, "{log}");
    }

    #[test]
    fn without_the_thread_the_writer_does_it_all() {
        let (_directory, path, conn) = opened();
        let mut checkpoints = Checkpoints::asking(sync_channel(1).0);
        write(&conn, &mut checkpoints, 3 * CHECKPOINT_PAGES);
        let log = bytes(&beside(&path, "-wal"));
        assert!(log < (CHECKPOINT_PAGES + ASK_PAGES) * FRAME_BYTES, "{log}");
    }

    #[test]
    fn a_sync_that_the_thread_could_not_make_is_told() {
        let (_directory, _path, conn) = opened();
        let mut checkpoints = Checkpoints::asking(sync_channel(1).0);
        assert!(!checkpoints.committed(&conn));
        checkpoints.thread.failed_sync.store(true, Ordering::Relaxed);
        assert!(checkpoints.committed(&conn));
    }
}
