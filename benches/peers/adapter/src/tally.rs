//! How often each job ran, and when the first and the last did.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

use crate::Work;

/// Counts runs; the handler of each adapter is a call of [`Tally::ran`].
#[derive(Debug, Clone)]
pub struct Tally(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    runs: Vec<AtomicU8>,
    total: AtomicU64,
    first_us: AtomicU64,
    last_us: AtomicU64,
    changed: Notify,
}

impl Tally {
    pub(crate) fn new(jobs: u32) -> Self {
        Self(Arc::new(Inner {
            runs: (0..jobs).map(|_| AtomicU8::new(0)).collect(),
            total: AtomicU64::new(0),
            first_us: AtomicU64::new(u64::MAX),
            last_us: AtomicU64::new(0),
            changed: Notify::new(),
        }))
    }

    /// The handler ran for `work`.
    ///
    /// # Panics
    /// If it is none of the jobs that were enqueued: a queue that invents or garbles jobs is not
    /// worth measuring.
    pub fn ran(&self, work: &Work) {
        let now = now_us();
        let Some(runs) = work.index().and_then(|index| self.0.runs.get(index)) else {
            panic!("a job that nobody enqueued");
        };
        runs.fetch_add(1, Ordering::Relaxed);
        self.0.first_us.fetch_min(now, Ordering::Relaxed);
        self.0.last_us.fetch_max(now, Ordering::Relaxed);
        self.0.total.fetch_add(1, Ordering::Release);
        self.0.changed.notify_one();
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.total.load(Ordering::Acquire)
    }

    /// Waits until the handler has run so often in all. For one waiter at a time.
    pub(crate) async fn reaches(&self, total: u64) {
        while self.total() < total {
            self.0.changed.notified().await;
        }
    }

    /// When the first run started; microseconds since 1970.
    pub(crate) fn first_us(&self) -> u64 {
        self.0.first_us.load(Ordering::Relaxed)
    }

    pub(crate) fn last_us(&self) -> u64 {
        self.0.last_us.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.runs.iter().map(|runs| runs.load(Ordering::Relaxed)).collect()
    }
}

/// Microseconds since 1970: the one clock that processes of all languages share.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
