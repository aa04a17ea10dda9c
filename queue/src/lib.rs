//! A distributed job queue. Services embed this crate to enqueue jobs and to run them; the store
//! behind it is Redis in production, and a SQLite file or memory as the embedded default. The
//! difference is one URL.
//!
//! ```
//! use queue::{Connect, Fail, Job, NewJob, Queue, Worker};
//! use serde::{Deserialize, Serialize};
//! use std::time::Duration;
//!
//! #[derive(Serialize, Deserialize)]
//! struct SendEmail {
//!     to: String,
//! }
//!
//! impl Job for SendEmail {
//!     const KIND: &'static str = "email.send";
//! }
//!
//! async fn send(job: SendEmail) -> Result<String, Fail> {
//!     Ok(format!("sent to {}", job.to))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // "sqlite:queue.db" or "redis://127.0.0.1:6379" for jobs that survive the process:
//! let queue = Queue::connect("memory://").await?;
//!
//! let job = NewJob::of(&SendEmail { to: "ada@example.org".into() })?
//!     .idempotency_key("welcome-ada")
//!     .priority(2);
//! let id = queue.enqueue(job).await?.id;
//!
//! // Here or in another process:
//! let worker = Worker::new(&queue).concurrency(16).handle::<SendEmail, _>(send).start()?;
//! let record = queue.wait_finished(id, Duration::from_secs(5)).await?.expect("it exists");
//! assert_eq!(record.result.unwrap().decode::<String>()?, "sent to ada@example.org");
//! worker.drain(Duration::from_secs(30)).await;
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! A job whose enqueue was acknowledged runs at least once, also when workers are killed: a job is
//! leased, not taken, and what a worker that lost its lease still reports changes nothing. Make
//! handlers safe to repeat, or use [`Context::fence`] downstream.

mod connect;

pub use connect::{Connect, ConnectOptions};
pub use queue_core::*;

/// The programs in the guides compile.
#[cfg(doctest)]
#[doc = include_str!("../../docs/limits.md")]
struct Guides;
