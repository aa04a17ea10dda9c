//! What operators do with a [`Queue`].

use super::Queue;
use crate::backend::{PASS_MAX, QuarantinedJob, Violation};
use crate::{
    CancelOutcome, DeleteOutcome, Error, JobId, JobState, JobSummary, Kind, ListRequest, Page,
    QueueName, RecoverOutcome, RetryOutcome, RetryRequest,
};

/// Which jobs an operation on many is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Only jobs of this queue.
    pub queue: Option<QueueName>,
    /// Only jobs of this kind.
    pub kind: Option<Kind>,
    /// Jobs in these states.
    pub states: Vec<JobState>,
}

impl Selection {
    /// All jobs in these states.
    #[must_use]
    pub fn of(states: impl IntoIterator<Item = JobState>) -> Self {
        Self { queue: None, kind: None, states: states.into_iter().collect() }
    }

    /// Only jobs of this queue.
    #[must_use]
    pub fn queue(mut self, queue: Option<QueueName>) -> Self {
        self.queue = queue;
        self
    }

    /// Only jobs of this kind.
    #[must_use]
    pub fn kind(mut self, kind: Option<Kind>) -> Self {
        self.kind = kind;
        self
    }

    fn list(&self, state: JobState) -> ListRequest {
        let Self { queue, kind, .. } = self.clone();
        ListRequest { queue, kind, ..ListRequest::new(state) }
    }
}

/// The pages of one listing, one after the other.
#[derive(Debug)]
pub struct Pages {
    queue: Queue,
    request: ListRequest,
    ended: bool,
}

impl Pages {
    /// The next page; `None` after the last one.
    ///
    /// # Errors
    /// Those of [`Queue::list`]. The same page can be asked for again.
    ///
    /// # Cancel safety
    /// Safe to drop and call again.
    pub async fn next(&mut self) -> Result<Option<Page>, Error> {
        if self.ended {
            return Ok(None);
        }
        let page = self.queue.list(&self.request).await?;
        self.request.cursor.clone_from(&page.next);
        self.ended = page.next.is_none();
        Ok(Some(page))
    }
}

impl Queue {
    /// Lists the jobs in a state, a page at a time.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a limit or cursor that makes no sense, and those of every
    /// [`Backend`](crate::Backend) call.
    pub async fn list(&self, request: &ListRequest) -> Result<Page, Error> {
        if !(1..=PASS_MAX).contains(&request.limit) {
            let limit = request.limit;
            return Err(Error::BadRequest(format!(
                "a page of {limit} jobs: it has 1 to {PASS_MAX}"
            )));
        }
        self.backend.list_boxed(request).await
    }

    /// Lists the jobs in a state, all pages.
    #[must_use]
    pub fn pages(&self, request: ListRequest) -> Pages {
        Pages { queue: self.clone(), request, ended: false }
    }

    /// Makes a finished job ready again, with fresh counts of failures, stalls and snoozes.
    ///
    /// # Errors
    /// Those of every [`Backend`](crate::Backend) call.
    ///
    /// # Cancel safety
    /// A dropped call may have taken effect. Calling again is safe unless the job can be finished
    /// again in between; then it would run once more.
    pub async fn retry(&self, id: JobId) -> Result<RetryOutcome, Error> {
        let Some(record) = self.get(id).await? else { return Ok(RetryOutcome::NotFound) };
        let Some(finished_at) = record.finished_at else {
            return Ok(RetryOutcome::Unchanged(record.state));
        };
        let request = RetryRequest { jobs: vec![(id, finished_at)], keep_counts: false };
        let outcomes = self.backend.retry_boxed(&request).await?;
        Ok(outcomes.into_iter().next().unwrap_or(RetryOutcome::NotFound))
    }

    /// Makes many finished jobs ready again, in order. Safe to repeat.
    ///
    /// # Errors
    /// Those of every [`Backend`](crate::Backend) call; some of the jobs may be ready by then.
    pub async fn retry_all(&self, request: &RetryRequest) -> Result<Vec<RetryOutcome>, Error> {
        let mut outcomes = Vec::with_capacity(request.jobs.len());
        for jobs in request.jobs.chunks(PASS_MAX as usize) {
            let request = RetryRequest { jobs: jobs.to_vec(), keep_counts: request.keep_counts };
            outcomes.extend(self.backend.retry_boxed(&request).await?);
        }
        Ok(outcomes)
    }

    /// Deletes a job in whatever state it is, unless it is running.
    ///
    /// # Errors
    /// Those of every [`Backend`](crate::Backend) call.
    pub async fn delete(&self, id: JobId) -> Result<DeleteOutcome, Error> {
        let state = match self.get(id).await {
            Ok(Some(record)) => record.state,
            Ok(None) => return Ok(DeleteOutcome::NotFound),
            Err(Error::Corrupt(_)) => JobState::Quarantined,
            Err(error) => return Err(error),
        };
        let outcomes = self.backend.delete_boxed(&[(id, state)]).await?;
        Ok(outcomes.into_iter().next().unwrap_or(DeleteOutcome::NotFound))
    }

    /// Deletes all selected jobs but running ones, page by page, and says how many. If it is
    /// interrupted, what was deleted stays deleted; call it again.
    ///
    /// # Errors
    /// [`Error::BadRequest`] if the selection names running jobs, and those of every
    /// [`Backend`](crate::Backend) call.
    pub async fn purge(&self, selection: &Selection) -> Result<u64, Error> {
        if selection.states.contains(&JobState::Running) {
            let why = "running jobs cannot be purged: cancel them";
            return Err(Error::BadRequest(why.to_owned()));
        }
        let mut deleted = 0;
        for &state in &selection.states {
            // Deleting moves others to pages that are past: until a sweep finds nothing.
            loop {
                let of_sweep = self.purge_sweep(selection, state).await?;
                deleted += of_sweep;
                if of_sweep == 0 {
                    break;
                }
            }
        }
        Ok(deleted)
    }

    async fn purge_sweep(&self, selection: &Selection, state: JobState) -> Result<u64, Error> {
        let mut deleted = 0;
        let mut pages = self.pages(selection.list(state));
        while let Some(page) = pages.next().await? {
            let ids = page.jobs.iter().map(|job| job.id).chain(page.quarantined);
            let jobs: Vec<_> = ids.map(|id| (id, state)).collect();
            let outcomes = self.backend.delete_boxed(&jobs).await?;
            let is_deleted = |outcome: &&DeleteOutcome| **outcome == DeleteOutcome::Deleted;
            deleted += outcomes.iter().filter(is_deleted).count() as u64;
        }
        Ok(deleted)
    }

    /// Cancels all selected jobs, page by page: waiting ones at once, running ones are asked to
    /// stop. Says how many of each. If it is interrupted, call it again.
    ///
    /// # Errors
    /// Those of every [`Backend`](crate::Backend) call.
    pub async fn cancel_all(&self, selection: &Selection) -> Result<Cancelled, Error> {
        let mut cancelled = Cancelled::default();
        for &state in &selection.states {
            loop {
                let of_sweep = self.cancel_sweep(selection, state).await?;
                cancelled.cancelled += of_sweep.cancelled;
                cancelled.requested = cancelled.requested.max(of_sweep.requested);
                if of_sweep.cancelled == 0 {
                    break;
                }
            }
        }
        Ok(cancelled)
    }

    async fn cancel_sweep(
        &self,
        selection: &Selection,
        state: JobState,
    ) -> Result<Cancelled, Error> {
        let mut cancelled = Cancelled::default();
        let mut pages = self.pages(selection.list(state));
        while let Some(page) = pages.next().await? {
            let ids: Vec<JobId> = page.jobs.iter().map(|job| job.id).collect();
            for outcome in self.backend.cancel_boxed(&ids).await? {
                match outcome {
                    CancelOutcome::Cancelled => cancelled.cancelled += 1,
                    CancelOutcome::Requested => cancelled.requested += 1,
                    CancelOutcome::AlreadyFinished(_) | CancelOutcome::NotFound => {}
                }
            }
        }
        Ok(cancelled)
    }

    /// Lists jobs of all selected states, up to `max`.
    ///
    /// # Errors
    /// Those of [`Queue::list`].
    pub async fn select(
        &self,
        selection: &Selection,
        max: usize,
    ) -> Result<Vec<JobSummary>, Error> {
        let mut jobs = Vec::new();
        for &state in &selection.states {
            let mut pages = self.pages(selection.list(state));
            while jobs.len() < max
                && let Some(page) = pages.next().await?
            {
                jobs.extend(page.jobs);
            }
        }
        jobs.truncate(max);
        Ok(jobs)
    }

    /// Pauses a queue: its jobs wait, running ones go on. Answers whether that was a change.
    ///
    /// # Errors
    /// Those of every [`Backend`](crate::Backend) call.
    pub async fn pause(&self, queue: &QueueName) -> Result<bool, Error> {
        self.backend.set_paused_boxed(queue, true).await
    }

    /// Ends a pause. Answers whether that was a change.
    ///
    /// # Errors
    /// Those of every [`Backend`](crate::Backend) call.
    pub async fn resume(&self, queue: &QueueName) -> Result<bool, Error> {
        self.backend.set_paused_boxed(queue, false).await
    }

    /// The paused queues, in the order of their names.
    ///
    /// # Errors
    /// Those of every [`Backend`](crate::Backend) call.
    pub async fn paused(&self) -> Result<Vec<QueueName>, Error> {
        self.backend.paused_boxed().await
    }

    /// What the store holds of a quarantined job; `None` if it is not quarantined.
    ///
    /// # Errors
    /// Those of every [`Backend`](crate::Backend) call.
    pub async fn quarantined(&self, id: JobId) -> Result<Option<QuarantinedJob>, Error> {
        Ok(self.backend.quarantined_boxed(&[id]).await?.into_iter().next().flatten())
    }

    /// Takes a job out of quarantine if this program can read it.
    ///
    /// # Errors
    /// Those of every [`Backend`](crate::Backend) call.
    pub async fn recover(&self, id: JobId) -> Result<RecoverOutcome, Error> {
        let outcomes = self.backend.recover_boxed(&[id]).await?;
        Ok(outcomes.into_iter().next().unwrap_or(RecoverOutcome::NotFound))
    }

    /// Compares every index and counter of the store with its records and lists what disagrees.
    /// Reads the whole store.
    ///
    /// # Errors
    /// Those of every [`Backend`](crate::Backend) call.
    pub async fn audit(&self) -> Result<Vec<Violation>, Error> {
        self.backend.audit_boxed(false).await
    }

    /// As [`Queue::audit`], and puts right what can be without losing a job; the answer says what
    /// has been ([`Violation::repaired`]).
    ///
    /// # Errors
    /// Those of every [`Backend`](crate::Backend) call.
    pub async fn repair(&self) -> Result<Vec<Violation>, Error> {
        self.backend.audit_boxed(true).await
    }
}

/// What [`Queue::cancel_all`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cancelled {
    /// Jobs that waited and are cancelled.
    pub cancelled: u64,
    /// Running jobs that were asked to stop.
    pub requested: u64,
}
