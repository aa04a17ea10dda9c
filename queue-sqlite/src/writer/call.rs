//! One call that waits for the writer, whatever it answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use queue_core::Error;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Answer;
use crate::errors::Fault;
use crate::session::Session;

/// A call without the type of its answer.
pub(super) trait Pending: Send {
    /// How many jobs it touches, about.
    fn jobs(&self) -> usize;

    /// Whether its commit must be synced to the disk.
    fn is_synced(&self) -> bool;

    /// Whether it is a part of a bulk, which lets others go first.
    fn is_bulk(&self) -> bool;

    /// Whether nobody waits for its answer any more.
    fn is_abandoned(&self) -> bool;

    /// Runs it as one step of the transaction, after which it can be undone alone if `is_apart`. What it
    /// answers is kept until the commit.
    fn run(&mut self, session: &mut Session<'_>, is_apart: bool) -> Result<(), Fault>;

    /// Tells the caller, after the commit, what the last run answered.
    fn finish(self: Box<Self>);

    /// Tells the caller that it did not take effect.
    fn fail(self: Box<Self>, error: Error);
}

/// A call of one type.
pub(super) struct Call<T, F> {
    jobs: usize,
    is_synced: bool,
    /// Its place among those of bulks, if it is a part of one.
    bulk: Option<OwnedSemaphorePermit>,
    joins: bool,
    work: F,
    outcome: Option<T>,
    answer: oneshot::Sender<Result<T, Error>>,
    /// Set when this call fails.
    failed: Arc<AtomicBool>,
    /// The call before, if this one must not run without it.
    before: Option<Arc<AtomicBool>>,
}

impl<T: Send + 'static, F> Call<T, F>
where
    F: FnMut(&mut Session<'_>) -> Result<T, Fault> + Send + 'static,
{
    pub(super) fn new(jobs: usize, work: F) -> (Box<Self>, Answer<T>) {
        let (answer, receiver) = oneshot::channel();
        let call = Self {
            jobs,
            is_synced: false,
            bulk: None,
            joins: false,
            work,
            outcome: None,
            answer,
            failed: Arc::default(),
            before: None,
        };
        (Box::new(call), receiver)
    }

    /// Makes this a part of a bulk, which has this place until it has been answered.
    pub(super) fn of_bulk(mut self: Box<Self>, place: OwnedSemaphorePermit) -> Box<Self> {
        self.bulk = Some(place);
        self
    }

    /// Makes this a call that goes on from what such calls before it have left in memory, and leaves it
    /// there: it reads rows that jobs share by the session only.
    pub(super) fn joining(mut self: Box<Self>) -> Box<Self> {
        self.joins = true;
        self
    }

    /// Makes this a call whose commit is synced to the disk.
    pub(super) fn synced(mut self: Box<Self>) -> Box<Self> {
        self.is_synced = true;
        self
    }

    /// Makes this a call that is not run if `first`, which is sent before it, fails.
    pub(super) fn after<U, G>(mut self: Box<Self>, first: &Call<U, G>) -> Box<Self> {
        self.before = Some(Arc::clone(&first.failed));
        self
    }
}

impl<T: Send + 'static, F> Pending for Call<T, F>
where
    F: FnMut(&mut Session<'_>) -> Result<T, Fault> + Send + 'static,
{
    fn jobs(&self) -> usize {
        self.jobs
    }

    fn is_synced(&self) -> bool {
        self.is_synced
    }

    fn is_bulk(&self) -> bool {
        self.bulk.is_some()
    }

    fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    fn run(&mut self, session: &mut Session<'_>, is_apart: bool) -> Result<(), Fault> {
        if self.before.as_ref().is_some_and(|failed| failed.load(Ordering::Relaxed)) {
            let what = "the call before it failed".to_owned();
            return Err(Error::Unavailable(what).into());
        }
        if !self.joins {
            session.write_out()?;
        }
        session.start_step();
        self.outcome = Some((self.work)(session)?);
        if self.joins && !is_apart {
            session.leave_step();
            return Ok(());
        }
        session.end_step()
    }

    fn finish(self: Box<Self>) {
        let lost = || Err(Error::Unavailable("the call was not run".to_owned()));
        // A caller that is gone does not want to know.
        let _ = self.answer.send(self.outcome.map_or_else(lost, Ok));
    }

    fn fail(self: Box<Self>, error: Error) {
        self.failed.store(true, Ordering::Relaxed);
        let _ = self.answer.send(Err(error));
    }
}
