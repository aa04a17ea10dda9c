//! The thread that owns the only writing connection, and commits in groups.
//!
//! SQLite has one writer at a time, and with `synchronous = FULL` a commit waits for the disk.
//! So everything that is waiting is done in one transaction and answered after its one commit: many
//! callers share one sync, and nobody waits for company. The chunks of bulks come last, and more than one
//! only as long as nobody else waits. If a call fails, all are undone and run again,
//! each in a savepoint of its own.

mod call;
mod checkpoint;
mod group;
mod line;

use std::sync::Arc;

use queue_core::Error;
use rusqlite::Connection;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::task::unconstrained;

use crate::errors::Fault;
use crate::session::Session;
use crate::threads::spawn;
use call::{Call, Pending};
pub(crate) use checkpoint::Checkpoints;
pub(crate) use group::Outside;

/// Calls that wait for the writer before further callers have to wait for a place, beside those of the next
/// group.
const CALLS_WAITING_MAX: usize = 1024;
/// So many of them may be chunks of bulks: others never stand behind bulks for a place.
const CHUNKS_WAITING_MAX: usize = 256;

/// Callers' end of the writer thread. The thread ends when all of these are dropped, after it has
/// done what was waiting.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    calls: mpsc::Sender<Box<dyn Pending>>,
    bulks: Arc<Bulks>,
}

/// Where the chunks of bulks wait before they stand in line.
#[derive(Debug)]
struct Bulks {
    /// One after the other, in the order in which they were first polled.
    turn: Mutex<()>,
    places: Arc<Semaphore>,
}

/// What sort of enqueue a call is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sort {
    /// Its commit is synced to the disk, whatever the others are.
    pub(crate) is_synced: bool,
    /// It is a part of a bulk, which lets others go first.
    pub(crate) is_bulk: bool,
}

/// An answer that will be there after a commit.
pub(crate) type Answer<T> = oneshot::Receiver<Result<T, Error>>;

impl Writer {
    /// Starts the thread. At its end it waits until nobody can send to `others`, so that its
    /// connection is the last and can tidy up the file, closes that, and drops `ended`.
    pub(crate) fn start(
        mut conn: Connection,
        outside: Outside,
        mut checkpoints: Checkpoints,
        mut others: mpsc::Receiver<()>,
        ended: mpsc::Sender<()>,
    ) -> Result<Self, Error> {
        let (calls, waiting) = mpsc::channel(CALLS_WAITING_MAX);
        spawn("queue-sqlite-writer", move || {
            let failed_sync = group::run(&mut conn, waiting, &outside, &mut checkpoints);
            let thread_failed_sync = checkpoints.failed_sync();
            drop(checkpoints);
            while others.blocking_recv().is_some() {}
            group::close(conn, failed_sync || thread_failed_sync());
            drop(ended);
        })?;
        let places = Arc::new(Semaphore::new(CHUNKS_WAITING_MAX));
        Ok(Self { calls, bulks: Arc::new(Bulks { turn: Mutex::new(()), places }) })
    }

    /// Runs `work` in a transaction and answers once that is committed.
    ///
    /// `jobs` says how many jobs it touches, so that a group does not grow too large. `work` may
    /// run more than once if a transaction has to be repeated, but takes effect once.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        jobs: usize,
        work: impl FnMut(&mut Session<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        let (call, answer) = Call::new(jobs, work);
        self.send(call, answer).await
    }

    /// Runs an enqueue. It reads rows that jobs share by the session only, so those that follow each other
    /// write these once.
    pub(crate) async fn enqueue<T: Send + 'static>(
        &self,
        jobs: usize,
        sort: Sort,
        work: impl FnMut(&mut Session<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        let Sort { is_synced, is_bulk } = sort;
        let (call, answer) = Call::new(jobs, work);
        let call = call.joining();
        let call = if is_synced { call.synced() } else { call };
        if !is_bulk {
            return self.send(call, answer).await;
        }
        // A poll that is out of its budget would lose its turn.
        unconstrained(async {
            let _turn = self.bulks.turn.lock().await;
            let of_bulks =
                Arc::clone(&self.bulks.places).acquire_owned().await.map_err(|_| ended())?;
            let place = self.calls.reserve().await.map_err(|_| ended())?;
            place.send(call.of_bulk(of_bulks));
            Ok::<_, Error>(())
        })
        .await?;
        answer.await.map_err(|_| ended())?
    }

    async fn send<T>(&self, call: Box<dyn Pending>, answer: Answer<T>) -> Result<T, Error> {
        let place = self.calls.reserve().await.map_err(|_| ended())?;
        place.send(call);
        answer.await.map_err(|_| ended())?
    }

    /// Like [`Writer::run`] for two calls of which the second follows the first, and does nothing
    /// if the first fails.
    pub(crate) async fn run_both<A: Send + 'static, B: Send + 'static>(
        &self,
        jobs: usize,
        first: impl FnMut(&mut Session<'_>) -> Result<A, Fault> + Send + 'static,
        second: impl FnMut(&mut Session<'_>) -> Result<B, Fault> + Send + 'static,
    ) -> Result<(A, Result<B, Error>), Error> {
        let mut places = self.calls.reserve_many(2).await.map_err(|_| ended())?;
        let (first, first_answer) = Call::new(jobs, first);
        let (second, second_answer) = Call::new(jobs, second);
        let second = second.after(&first);
        let calls: [Box<dyn Pending>; 2] = [first, second];
        for (place, call) in places.by_ref().zip(calls) {
            place.send(call);
        }
        let first = first_answer.await.map_err(|_| ended())??;
        let second = second_answer.await.map_err(|_| ended())?;
        Ok((first, second))
    }
}

fn ended() -> Error {
    Error::Unavailable("the writer thread has ended; open the store again".to_owned())
}
