//! [`Queue`]: the handle that services and workers hold.

mod explain;
mod limits;
mod operate;
mod redrive;
mod reset;
mod together;
mod watch;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use reset::Resets;
use together::Together;
use tokio::task::{unconstrained, yield_now};
use tokio::time::{Instant, sleep, timeout_at};

pub use explain::{Backlog, Blocker, Explanation, Position, Reason};
pub use operate::{Cancelled, Pages, Selection};
pub use redrive::{ErrorGroup, Redrive, RedriveStop, Redriven};
pub use watch::JobEvent;

use crate::backend::{CheckFinding, DynBackend, PASS_MAX};
use crate::duration::deadline;
use crate::payload::PAYLOAD_DEFAULT_MAX_BYTES;
use crate::telemetry;
use crate::{
    Backend, CancelOutcome, Durability, EnqueueOutcome, Enqueued, Error, JobId, JobRecord,
    MemoryBackend, NewJob, QueueStats,
};

/// A chunk of a large enqueue is closed once its payloads have this many bytes.
const CHUNK_MAX_BYTES: usize = 8 * 1024 * 1024;
/// No further chunk of a large enqueue is sent while those on their way carry so many bytes.
const UNDER_WAY_MAX_BYTES: usize = 16 * 1024 * 1024;

/// What a look at a job may take that begins when [`Queue::wait_finished`] is at its end.
const LAST_LOOK: Duration = Duration::from_millis(250);

/// A cheap, cloneable handle to a store of jobs. Clones share the connections.
///
/// ```
/// use queue_core::{Kind, NewJob, Payload, Queue};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let queue = Queue::memory();
/// let job = NewJob::new(Kind::new("greet")?, Payload::json("world")?);
/// let enqueued = queue.enqueue(job).await?;
/// let record = queue.get(enqueued.id).await?.expect("just enqueued");
/// assert_eq!(record.state, queue_core::JobState::Ready);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Queue {
    backend: Arc<dyn DynBackend>,
    together: Arc<Together>,
    resets: Arc<Resets>,
    payload_max_bytes: usize,
    durability: Durability,
}

impl Queue {
    /// A handle to `backend`.
    ///
    /// Install the recorder of the `metrics` facade before the first queue is made: the handles of
    /// metrics are resolved once.
    #[must_use]
    pub fn new(backend: impl Backend) -> Self {
        telemetry::describe();
        Self {
            backend: Arc::new(backend),
            together: Arc::default(),
            resets: Arc::default(),
            payload_max_bytes: PAYLOAD_DEFAULT_MAX_BYTES,
            durability: Durability::Memory,
        }
    }

    /// A new store in this process's memory, for tests and for work that may be lost.
    #[must_use]
    pub fn memory() -> Self {
        Self::new(MemoryBackend::new())
    }

    /// Sets the most bytes that a payload may have; at most
    /// [`PAYLOAD_HARD_MAX_BYTES`](crate::payload::PAYLOAD_HARD_MAX_BYTES). Default 256 KiB.
    #[must_use]
    pub fn payload_max_bytes(mut self, bytes: usize) -> Self {
        self.payload_max_bytes = bytes;
        self
    }

    /// Sets what the acknowledgements of this handle's enqueues must survive. A handle is a cheap
    /// clone, so one enqueue can ask for more than the others:
    ///
    /// ```no_run
    /// # async fn example(queue: queue_core::Queue, job: queue_core::NewJob)
    /// #     -> Result<(), queue_core::Error> {
    /// use queue_core::Durability;
    ///
    /// queue.clone().durability(Durability::Fsync).enqueue(job).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A store may give more than it was asked for; [`Enqueued::durability`] says what it gave.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The store behind this handle.
    #[must_use]
    pub fn backend(&self) -> &dyn DynBackend {
        self.backend.as_ref()
    }

    /// Puts a job into the store. Once this answers `Ok`, the job will run at least once. Calls of
    /// many callers at a time travel to the store together.
    ///
    /// After [`Error::Unavailable`] the job may or may not be there; enqueue a clone of the same
    /// [`NewJob`] again: its id makes the two one job.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Conflict`], [`Error::QueueFull`], [`Error::StoreFull`], and those
    /// of every [`Backend`] call.
    ///
    /// # Cancel safety
    /// A dropped call may have taken effect; enqueueing the same `NewJob` again is safe.
    pub async fn enqueue(&self, job: NewJob) -> Result<Enqueued, Error> {
        job.validate(self.payload_max_bytes)?;
        match together::enqueue(self, job).await? {
            EnqueueOutcome::Done(enqueued) => Ok(enqueued),
            EnqueueOutcome::Full { limit, retry_after } => {
                Err(Error::QueueFull { limit, retry_after })
            }
            EnqueueOutcome::Conflict { existing, reason } => {
                Err(Error::Conflict { existing, reason })
            }
        }
    }

    /// Puts many jobs into the store, in order, and answers for each of them. `Ok` does not say that all are
    /// in: a job that conflicts or finds its queue or a key full is refused alone, with an
    /// [`EnqueueOutcome`] that says so.
    ///
    /// The iterator is read in chunks of 500 jobs or 8 MiB, so it may be long; each chunk is checked
    /// whole before any of it is written, and a chunk is one atomic step. Some chunks are on their way
    /// to the store while the next is made ([`Backend::chunks_under_way`]); if the connection breaks
    /// meanwhile, these may arrive in any order. An empty iterator is an empty answer.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the first invalid job by its place in the iterator. On any error
    /// the chunks before the failing one are in the store, and those that were on their way with it may
    /// be: enqueueing the same jobs again is safe, and puts those that are new behind them.
    ///
    /// # Cancel safety
    /// As [`Queue::enqueue`]; so may chunks that were on their way.
    pub async fn enqueue_all(
        &self,
        jobs: impl IntoIterator<Item = NewJob>,
    ) -> Result<Vec<EnqueueOutcome>, Error> {
        let mut jobs = jobs.into_iter().fuse();
        let mut outcomes = Vec::new();
        let mut taken = 0;
        let (mut refused, mut failed) = (None, None);
        let chunks_max = self.backend.bulk_chunks().max(1);
        let (mut under_way, mut bytes_under_way) = (FuturesOrdered::new(), 0);
        loop {
            let may_send = under_way.len() < chunks_max && bytes_under_way < UNDER_WAY_MAX_BYTES;
            let chunk = match may_send && refused.is_none() && failed.is_none() {
                true => self.next_chunk(&mut jobs, taken),
                false => Ok((Vec::new(), 0)),
            };
            let is_sent = match chunk {
                Ok((chunk, _)) if chunk.is_empty() => false,
                Ok((chunk, bytes)) => {
                    taken += chunk.len();
                    bytes_under_way += bytes;
                    // A poll that is out of its budget would let later chunks go first.
                    let send = async move { (self.enqueue_chunk(&chunk).await, bytes) };
                    under_way.push_back(unconstrained(send));
                    true
                }
                Err(invalid) => {
                    refused = Some(invalid);
                    false
                }
            };
            let answer = if is_sent {
                // It is on its way before the next one is made, which others need not wait for.
                let answer = poll_fn(|cx| Poll::Ready(under_way.poll_next_unpin(cx))).await;
                yield_now().await;
                match answer {
                    Poll::Ready(answer) => answer,
                    Poll::Pending => continue,
                }
            } else {
                under_way.next().await
            };
            let Some((answer, bytes)) = answer else {
                return failed.or(refused).map_or(Ok(outcomes), Err);
            };
            bytes_under_way -= bytes;
            match answer {
                Ok(answers) => outcomes.extend(answers),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
    }

    /// The next jobs that travel together, and the bytes of their payloads: bounded in both, checked, and
    /// none at the end. `taken` jobs came before them.
    fn next_chunk(
        &self,
        jobs: &mut impl Iterator<Item = NewJob>,
        taken: usize,
    ) -> Result<(Vec<NewJob>, usize), Error> {
        let mut bytes = 0;
        let at_least = jobs.size_hint().0;
        let mut chunk = Vec::with_capacity(at_least.min(PASS_MAX as usize));
        while chunk.len() < PASS_MAX as usize && bytes < CHUNK_MAX_BYTES {
            let Some(job) = jobs.next() else { break };
            let place = |invalid: crate::InvalidJob| invalid.at(taken + chunk.len());
            job.validate(self.payload_max_bytes).map_err(place)?;
            bytes += job.spec.payload.bytes().len();
            chunk.push(job);
        }
        Ok((chunk, bytes))
    }

    async fn enqueue_chunk(&self, jobs: &[NewJob]) -> Result<Vec<EnqueueOutcome>, Error> {
        let answer = self.backend.enqueue_chunk_boxed(jobs, self.durability).await;
        telemetry::enqueued(jobs, &answer);
        answer
    }

    /// Reads a job; `None` if the store does not know it (any more).
    ///
    /// # Errors
    /// Those of every [`Backend`] call.
    pub async fn get(&self, id: JobId) -> Result<Option<JobRecord>, Error> {
        Ok(self.backend.get_boxed(&[id]).await?.into_iter().next().flatten())
    }

    /// Reads many jobs, in order.
    ///
    /// # Errors
    /// Those of every [`Backend`] call.
    pub async fn get_all(&self, ids: &[JobId]) -> Result<Vec<Option<JobRecord>>, Error> {
        let mut records = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(PASS_MAX as usize) {
            records.extend(self.backend.get_boxed(chunk).await?);
        }
        Ok(records)
    }

    /// Cancels a job that waits; asks the worker of a running one to stop it.
    ///
    /// # Errors
    /// Those of every [`Backend`] call.
    pub async fn cancel(&self, id: JobId) -> Result<CancelOutcome, Error> {
        let outcomes = self.backend.cancel_boxed(&[id]).await?;
        Ok(outcomes.into_iter().next().unwrap_or(CancelOutcome::NotFound))
    }

    /// Waits until a job is finished, at most `timeout`, and answers with its record as it is
    /// then, finished or not; `None` if the store does not know it. It looks every quarter of a second
    /// at the latest: a record that is not kept, or that ten thousand others push out between two looks,
    /// is not found any more. A look that begins as `timeout` ends has another quarter of a second.
    ///
    /// # Errors
    /// Those of every [`Backend`] call; one that a retry can help only at the end of `timeout`, as
    /// [`Error::Unavailable`] if the store has not answered by then.
    ///
    /// # Cancel safety
    /// Safe to drop: it only reads.
    pub async fn wait_finished(
        &self,
        id: JobId,
        timeout: Duration,
    ) -> Result<Option<JobRecord>, Error> {
        let deadline = Instant::from_std(deadline(timeout));
        let mut pause = Duration::from_millis(2);
        loop {
            let look_until = deadline.max(Instant::now() + LAST_LOOK);
            let answer = timeout_at(look_until, self.get(id)).await.unwrap_or_else(|_| {
                Err(Error::Unavailable("it did not answer in the time of the wait".to_owned()))
            });
            let left = deadline.saturating_duration_since(Instant::now());
            let is_open = match &answer {
                Ok(record) => record.as_ref().is_some_and(|record| !record.state.is_finished()),
                Err(error) => error.is_retryable(),
            };
            if !is_open || left.is_zero() {
                return answer;
            }
            sleep(pause.min(left)).await;
            pause = (pause * 2).min(Duration::from_millis(250));
        }
    }

    /// Counts jobs per queue, kind and state.
    ///
    /// # Errors
    /// Those of every [`Backend`] call.
    pub async fn stats(&self) -> Result<Vec<QueueStats>, Error> {
        self.backend.stats_boxed().await
    }

    /// Checks what the store must have so that the promises hold.
    ///
    /// # Errors
    /// Those of every [`Backend`] call.
    pub async fn check(&self) -> Result<Vec<CheckFinding>, Error> {
        self.backend.check_boxed().await
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("payload_max_bytes", &self.payload_max_bytes).finish()
    }
}
