//! Threads with read-only connections, for calls that change nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use queue_core::Error;
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use crate::errors::Fault;
use crate::open::{Role, connect};
use crate::threads::spawn;

/// Reads that wait before further callers have to wait for a place.
const READS_WAITING_MAX: usize = 64;

type Read = Box<dyn FnOnce(&Connection) + Send>;

/// Callers' end of a thread that reads. It ends when all of these are dropped.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    reads: mpsc::Sender<Read>,
}

impl Reader {
    /// Starts the thread. It closes its connection and drops `ended` when it ends.
    pub(crate) fn start(path: &Path, ended: mpsc::Sender<()>) -> Result<Self, Error> {
        let (reads, mut waiting) = mpsc::channel::<Read>(READS_WAITING_MAX);
        let conn = connect(path, Role::Reader)?;
        spawn("queue-sqlite-reader", move || {
            while let Some(read) = waiting.blocking_recv() {
                read(&conn);
            }
            drop(conn);
            drop(ended);
        })?;
        Ok(Self { reads })
    }

    /// Runs `read` in one read transaction, so that all it sees belongs together.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, receiver) = oneshot::channel();
        let read: Read = Box::new(move |conn| {
            let result = catch_unwind(AssertUnwindSafe(|| in_transaction(conn, read)));
            let panicked = |_| {
                let what = "the SQLite backend panicked during this call, which is a bug";
                Err(Error::Unavailable(what.to_owned()))
            };
            let result = result.map_or_else(panicked, |result| result.map_err(Error::from));
            // A caller that is gone does not want to know.
            let _ = answer.send(result);
        });
        self.reads.send(read).await.map_err(|_| ended())?;
        receiver.await.map_err(|_| ended())?
    }
}

fn in_transaction<T>(
    conn: &Connection,
    read: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    // Rolled back when it is dropped, which is all that a read needs.
    let tx = rusqlite::Transaction::new_unchecked(conn, TransactionBehavior::Deferred)?;
    read(&tx)
}

fn ended() -> Error {
    Error::Unavailable("the reader thread has ended; open the store again".to_owned())
}
