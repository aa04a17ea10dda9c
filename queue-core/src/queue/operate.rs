//! What operators do with a [`Queue`].

use std::collections::HashSet;

use super::Queue;
use crate::backend::{PASS_MAX, QuarantinedJob, Violation};
use crate::{
    CancelOutcome, DeleteOutcome, Error, JobId, JobState, JobSummary, Kind, ListRequest, Page,
    QueueName, RecoverOutcome, RetryOutcome, RetryRequest, Timestamp,
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

    /// The states in the order in which jobs pass through them, so that a job that moves on during
    /// a sweep is met again.
    fn in_order(&self) -> impl Iterator<Item = JobState> {
        use JobState::{
            Cancelled, Completed, Dead, Quarantined, Ready, Retrying, Running, Scheduled,
        };
        [Scheduled, Retrying, Ready, Running, Completed, Dead, Cancelled, Quarantined]
            .into_iter()
            .filter(|state| self.states.contains(state))
    }

    fn list(&self, state: JobState) -> ListRequest {
        let Self { queue, kind, .. } = self.clone();
        ListRequest { queue, kind, ..ListRequest::new(state) }
    }
}

/// An operation on all jobs that are there when it begins.
#[derive(Debug, Default)]
struct Sweep {
    began_at: Option<Timestamp>,
}

impl Sweep {
    /// The jobs of a page that were enqueued before it began.
    fn ids_of<'p>(&mut self, page: &'p Page) -> impl Iterator<Item = JobId> + use<'p> {
        let began_at = *self.began_at.get_or_insert(page.now);
        page.jobs.iter().filter(move |job| job.enqueued_at <= began_at).map(|job| job.id)
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

    /// Makes a finished job ready again, with fresh counts of failures, stalls and snoozes. It is
    /// not refused for a queue or key that is full ([`LimitSettings::max_live`](crate::LimitSettings::max_live)).
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

    /// Deletes all selected jobs that are in the store now, page by page, and says how many. Jobs
    /// that are enqueued meanwhile stay, but for those of its first milliseconds. If it is interrupted,
    /// what was deleted stays deleted; call it again.
    ///
    /// # Errors
    /// [`Error::BadRequest`] if the selection names running jobs, or quarantined ones of a queue or
    /// kind, which cannot be known; and those of every [`Backend`](crate::Backend) call.
    pub async fn purge(&self, selection: &Selection) -> Result<u64, Error> {
        let names = |state| selection.states.contains(&state);
        if names(JobState::Running) {
            let why = "running jobs cannot be purged: cancel them";
            return Err(Error::BadRequest(why.to_owned()));
        }
        if names(JobState::Quarantined) && (selection.queue.is_some() || selection.kind.is_some()) {
            let why = "the queue and kind of quarantined jobs may be unknown: purge all, or delete \
                       them by their ids";
            return Err(Error::BadRequest(why.to_owned()));
        }
        let mut sweep = Sweep::default();
        let mut deleted = 0;
        loop {
            let mut of_sweep = 0;
            for state in selection.in_order() {
                let mut pages = self.pages(selection.list(state));
                while let Some(page) = pages.next().await? {
                    let ids = sweep.ids_of(&page).chain(page.quarantined.iter().copied());
                    let jobs: Vec<_> = ids.map(|id| (id, state)).collect();
                    let outcomes = self.backend.delete_boxed(&jobs).await?;
                    let is_deleted = |outcome: &&DeleteOutcome| **outcome == DeleteOutcome::Deleted;
                    of_sweep += outcomes.iter().filter(is_deleted).count() as u64;
                }
            }
            deleted += of_sweep;
            // Deleting moves others to pages that are past, and jobs move between states: until a
            // sweep finds nothing.
            if of_sweep == 0 {
                return Ok(deleted);
            }
        }
    }

    /// Cancels all selected jobs that are in the store now, page by page: waiting ones at once,
    /// running ones are asked to stop. Says how many of each. Jobs that are enqueued meanwhile
    /// stay, but for those of its first milliseconds. If it is interrupted, call it again.
    ///
    /// Of each queue [`FINISHED_MAX`](crate::backend::FINISHED_MAX) cancelled records are kept;
    /// beyond that the oldest are dropped. Completed records, and the idempotency keys that these
    /// hold ([`Hold::Kept`](crate::Hold::Kept)), stay whatever is cancelled.
    ///
    /// # Errors
    /// Those of every [`Backend`](crate::Backend) call.
    pub async fn cancel_all(&self, selection: &Selection) -> Result<Cancelled, Error> {
        let mut sweep = Sweep::default();
        let mut done = Cancelled::default();
        let mut requested = HashSet::new();
        loop {
            let before = (done.cancelled, requested.len());
            for state in selection.in_order() {
                let mut pages = self.pages(selection.list(state));
                while let Some(page) = pages.next().await? {
                    let ids: Vec<JobId> = sweep.ids_of(&page).collect();
                    for (id, outcome) in ids.iter().zip(self.backend.cancel_boxed(&ids).await?) {
                        match outcome {
                            CancelOutcome::Cancelled => done.cancelled += 1,
                            CancelOutcome::Requested => drop(requested.insert(*id)),
                            CancelOutcome::AlreadyFinished(_) | CancelOutcome::NotFound => {}
                        }
                    }
                }
            }
            done.requested = requested.len() as u64;
            // A job may have moved to a state that was swept before it came: until a sweep finds
            // nothing.
            if (done.cancelled, requested.len()) == before {
                return Ok(done);
            }
        }
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
