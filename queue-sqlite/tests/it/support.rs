//! Stores in a directory of their own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use queue_core::conformance::Harness;
use queue_core::{
    Backend, ClaimRequest, ClaimToken, Durability, Interest, JobState, Kind, KindLimits, KindSlots,
    Lease, NewJob, Outcome, Payload, QueueName, SettleRequest, Settlement, Timestamp, WorkerId,
};
use queue_sqlite::{SqliteBackend, SqliteOptions};
use tempfile::TempDir;

/// Opens stores for the conformance suite.
#[derive(Debug)]
pub(crate) struct SqliteHarness {
    directory: TempDir,
    stores: AtomicU32,
}

impl SqliteHarness {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), stores: AtomicU32::new(0) }
    }

    pub(crate) fn fresh_path(&self) -> PathBuf {
        let number = self.stores.fetch_add(1, Ordering::Relaxed);
        self.directory.path().join(format!("queue-{number}.db"))
    }
}

pub(crate) fn open(path: &Path) -> SqliteBackend {
    SqliteBackend::open(path, SqliteOptions::default()).unwrap()
}

/// A store that does not wait for the disk.
pub(crate) fn fast(path: &Path) -> SqliteBackend {
    let options = SqliteOptions::default().durability(queue_sqlite::Durability::Memory);
    SqliteBackend::open(path, options).unwrap()
}

/// A connection beside the backend, as somebody with the command line tool would have it.
pub(crate) fn beside(path: &Path) -> rusqlite::Connection {
    let conn = rusqlite::Connection::open(path).unwrap();
    conn.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    conn
}

/// Writes the store's clock, which never goes back: a time in the future stops it there.
pub(crate) fn set_clock(path: &Path, now: Timestamp) {
    let ms = i64::try_from(now.as_ms()).unwrap();
    assert_eq!(beside(path).execute("UPDATE store SET clock_ms = ?1", [ms]).unwrap(), 1);
}

impl Harness for SqliteHarness {
    type Backend = SqliteBackend;

    async fn fresh(&self, now: Timestamp) -> SqliteBackend {
        let backend = open(&self.fresh_path());
        // There are many stores, and none of them fills the disk.
        std::fs::remove_file(format!("{}-reserve", backend.path().display())).unwrap();
        set_clock(backend.path(), now);
        backend
    }

    async fn reconnect(&self, backend: &SqliteBackend) -> Option<SqliteBackend> {
        Some(open(backend.path()))
    }

    async fn set_clock(&self, backend: &SqliteBackend, now: Timestamp) {
        set_clock(backend.path(), now);
    }
}

/// What the tests ask for.
pub(crate) const STORED: Durability = Durability::Fsync;

pub(crate) fn kind() -> Kind {
    Kind::new("k").unwrap()
}

pub(crate) fn job(payload: impl Into<String>) -> NewJob {
    NewJob::new(kind(), Payload::raw(payload.into()))
}

/// A claim of up to `max` jobs of the kind and queue that [`job`] has.
pub(crate) fn request(max: u32) -> ClaimRequest {
    ClaimRequest {
        token: ClaimToken::random(),
        worker: WorkerId::new("w").unwrap(),
        queues: vec![QueueName::default()],
        kinds: vec![KindSlots::new(kind(), max)],
        max,
        round_jobs: 0,
        lease: Duration::from_secs(30),
    }
}

pub(crate) fn interest() -> Interest {
    Interest {
        worker: WorkerId::new("w").unwrap(),
        queues: vec![QueueName::default()],
        kinds: vec![KindLimits::new(kind())],
    }
}

/// Completes jobs.
pub(crate) fn completion(leases: &[Lease]) -> SettleRequest {
    let completed = |lease: &Lease| Settlement {
        id: lease.spec.id,
        token: lease.token,
        outcome: Outcome::Completed { result: None },
        elapsed: Duration::from_millis(1),
    };
    SettleRequest { settlements: leases.iter().map(completed).collect(), claim: None }
}

/// How many jobs are in a state.
pub(crate) async fn count(backend: &SqliteBackend, state: JobState) -> u64 {
    let stats = backend.stats().await.unwrap();
    stats.iter().filter_map(|row| row.jobs.get(&state)).sum()
}

pub(crate) async fn assert_sound(backend: &SqliteBackend) {
    assert_eq!(backend.audit(false).await.unwrap(), []);
}
