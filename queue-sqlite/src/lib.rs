//! A [`Backend`](queue_core::Backend) over one SQLite file, for services that do not want to run
//! a store of their own yet. One host, any number of processes.
//!
//! ```no_run
//! # async fn f() -> Result<(), queue_core::Error> {
//! use queue_sqlite::{SqliteBackend, SqliteOptions};
//!
//! let backend = SqliteBackend::open("queue.db", SqliteOptions::default())?;
//! # drop(backend);
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! - `backend`: [`SqliteBackend`] and one file per operation; an operation is a function over a
//!   `Session`, which is one write transaction.
//! - `writer`: the thread that owns the only writing connection and commits in groups.
//! - `reader`: threads with read-only connections, for what changes nothing.
//! - `watch`: the thread that wakes waiting workers, whoever committed.
//! - `open`: what is checked and set before the first use of a file.
//!
//! The tables are described in `migrations/0001_jobs.sql`.

mod backend;
mod errors;
mod open;
mod options;
mod reader;
mod rows;
mod session;
mod threads;
mod watch;
mod writer;

pub use backend::SqliteBackend;
pub use options::{Durability, SqliteOptions};
