//! Running dead jobs again, with care.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Queue;
use crate::backend::PASS_MAX;
use crate::job::Fingerprint;
use crate::{
    Error, JobId, JobState, JobSummary, Kind, ListRequest, QueueName, RetryOutcome, RetryRequest,
    WatchRequest, Watched,
};

/// With [`Redrive::max_failure_share`]: the most redriven jobs whose outcome is not known yet.
const OUTSTANDING_MAX: usize = 100;

/// With [`Redrive::max_failure_share`]: outcomes that must be known before the share is judged while jobs are
/// left. Fewer are a matter of chance; at the end all of them are judged, however few.
const OUTCOMES_MIN: u64 = 10;

/// The pause between two looks at the outcomes.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// How long a redrive goes on trying when the store is away.
const OUTAGE_MAX: Duration = Duration::from_secs(60);
const OUTAGE_PAUSE: Duration = Duration::from_millis(250);

/// Makes a call again while the store is away, for a while: what was counted would be lost with
/// an error, and a repeat changes nothing more. (A function would have to be given a closure whose
/// future borrows from it, and such a future is not known to be `Send`.)
macro_rules! patiently {
    ($call:expr) => {{
        let give_up_at = Instant::now() + OUTAGE_MAX;
        loop {
            match $call.await {
                Err(error) if error.is_retryable() && Instant::now() < give_up_at => {
                    sleep(OUTAGE_PAUSE).await;
                }
                answer => break answer,
            }
        }
    }};
}

/// Which dead jobs shall run again, and how carefully.
///
/// ```
/// # async fn example(queue: queue_core::Queue) -> Result<(), queue_core::Error> {
/// use queue_core::Redrive;
///
/// let redrive = Redrive { rate_per_sec: Some(20), max_failure_share: Some(0.2), ..Redrive::default() };
/// let redriven = queue.redrive(&redrive).await?;
/// println!("{} of {} run again", redriven.ready, redriven.matched);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Redrive {
    /// Only jobs of this queue.
    pub queue: Option<QueueName>,
    /// Only jobs of this kind.
    pub kind: Option<Kind>,
    /// Only jobs whose last error has this fingerprint.
    pub error: Option<Fingerprint>,
    /// Changes nothing, only counts.
    pub dry_run: bool,
    /// Keeps the counts of failures, stalls and snoozes: each job gets one more attempt only.
    pub keep_counts: bool,
    /// At most so many jobs a second, at least 1; without it, as fast as the store allows.
    pub rate_per_sec: Option<u32>,
    /// Stops once more than this share (0 to 1) of the redriven jobs failed again. It is judged from the
    /// tenth outcome on, and once more when all outcomes are known, however few there are. With it,
    /// at most 100 redriven jobs are under way at any time.
    pub max_failure_share: Option<f64>,
    /// With a failure share: how long to wait while none of the redriven jobs runs or ends before
    /// giving up, as when no worker runs these kinds. Default: 60 s.
    pub patience: Option<Duration>,
}

/// What a [`Redrive`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Redriven {
    /// Dead jobs that were asked for, as far as it came.
    pub matched: u64,
    /// Of these, those that are ready again.
    pub ready: u64,
    /// Of these, those that were not touched: expired, key taken, or no longer dead.
    pub skipped: u64,
    /// With a failure share: redriven jobs that completed.
    pub completed: u64,
    /// With a failure share: redriven jobs that failed again.
    pub failed: u64,
    /// Why it stopped early; `None` if it came to the end. Where too many failed again and that was known
    /// only at the end, it says so, too: all jobs that were asked for have been redriven then.
    pub stopped: Option<RedriveStop>,
}

/// Why a redrive stopped early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedriveStop {
    /// Too many of the redriven jobs failed again.
    TooManyFailures,
    /// None of the redriven jobs ran or ended for the time of the patience.
    NoOutcomes,
}

/// Dead jobs with the same error.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorGroup {
    /// The fingerprint of their last error; `None` for jobs that died without one (expired, or
    /// lost with their workers).
    pub error: Option<Fingerprint>,
    /// One of the messages.
    pub example: String,
    /// How many jobs there are.
    pub jobs: u64,
    /// How many of each queue and kind.
    pub by_kind: BTreeMap<(QueueName, Kind), u64>,
}

impl Queue {
    /// Groups dead jobs by their last error, most frequent first. Reads all that match.
    ///
    /// # Errors
    /// Those of [`Queue::list`].
    pub async fn dead_errors(
        &self,
        queue: Option<&QueueName>,
        kind: Option<&Kind>,
    ) -> Result<Vec<ErrorGroup>, Error> {
        let mut groups: BTreeMap<Option<Fingerprint>, ErrorGroup> = BTreeMap::new();
        let mut pages = self.pages(dead(queue, kind));
        while let Some(page) = pages.next().await? {
            for job in page.jobs {
                let error = job.last_error.as_ref().map(Fingerprint::of);
                let group = groups.entry(error).or_insert_with(|| ErrorGroup {
                    error,
                    example: job.last_error.map(|error| error.message).unwrap_or_default(),
                    jobs: 0,
                    by_kind: BTreeMap::new(),
                });
                group.jobs += 1;
                *group.by_kind.entry((job.queue, job.kind)).or_default() += 1;
            }
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.jobs));
        Ok(groups)
    }

    /// Runs dead jobs again. Each is made ready at most once, also if it dies again meanwhile. None
    /// is refused for a queue or key that is full ([`LimitSettings::max_live`](crate::LimitSettings::max_live)).
    ///
    /// # Errors
    /// [`Error::BadRequest`] if the share is not 0 to 1 or the rate is 0; those of every
    /// [`Backend`](crate::Backend) call; jobs that were made ready by then stay so.
    ///
    /// # Cancel safety
    /// Safe to drop: it stops where it is.
    pub async fn redrive(&self, redrive: &Redrive) -> Result<Redriven, Error> {
        redrive.validate()?;
        let mut run = Run {
            queue: self,
            redrive,
            done: Redriven::default(),
            redriven: HashSet::new(),
            outstanding: Vec::new(),
            next_at: Instant::now(),
        };
        // Retried jobs leave the listing and move others to pages that are past: until a sweep
        // finds nothing new.
        while run.sweep().await? {}
        if run.done.stopped.is_some() {
            return Ok(run.done);
        }
        if redrive.max_failure_share.is_some() {
            run.settle_down(0).await?;
            if run.outstanding.is_empty() && run.failures_exceed_share(1) {
                run.done.stopped = Some(RedriveStop::TooManyFailures);
            }
        }
        Ok(run.done)
    }
}

impl Redrive {
    /// What would be no brake at all is a mistake.
    fn validate(&self) -> Result<(), Error> {
        let refuse = |reason: String| Err(Error::BadRequest(reason));
        match (self.max_failure_share, self.rate_per_sec) {
            (Some(share), _) if !(0.0..=1.0).contains(&share) => {
                refuse(format!("the share of failures is {share}: it must be 0 to 1"))
            }
            (_, Some(0)) => refuse("the rate is 0 a second: it must be at least 1".to_owned()),
            _ => Ok(()),
        }
    }
}

fn dead(queue: Option<&QueueName>, kind: Option<&Kind>) -> ListRequest {
    ListRequest { queue: queue.cloned(), kind: kind.cloned(), ..ListRequest::new(JobState::Dead) }
}

/// A redrive under way.
struct Run<'a> {
    queue: &'a Queue,
    redrive: &'a Redrive,
    done: Redriven,
    /// Jobs that have had their turn.
    redriven: HashSet<JobId>,
    /// Redriven jobs whose outcome is not known yet, and the failures they started with.
    outstanding: Vec<(JobId, u16)>,
    /// When the rate lets the next job go.
    next_at: Instant,
}

impl Run<'_> {
    /// Goes through all dead jobs once; says whether to go again.
    async fn sweep(&mut self) -> Result<bool, Error> {
        let Redrive { queue, kind, dry_run, .. } = self.redrive;
        let mut pages = self.queue.pages(dead(queue.as_ref(), kind.as_ref()));
        let mut found = false;
        while let Some(page) = patiently!(pages.next())? {
            let jobs: Vec<_> = page.jobs.into_iter().filter(|job| self.matches(job)).collect();
            self.done.matched += jobs.len() as u64;
            found |= !jobs.is_empty();
            if !dry_run {
                self.jobs(&jobs).await?;
            }
            if self.done.stopped.is_some() {
                return Ok(false);
            }
        }
        Ok(found && !dry_run)
    }

    fn matches(&self, job: &JobSummary) -> bool {
        let error = job.last_error.as_ref().map(Fingerprint::of);
        let is_wanted = self.redrive.error.is_none_or(|wanted| error == Some(wanted));
        is_wanted && !self.redriven.contains(&job.id)
    }

    async fn jobs(&mut self, jobs: &[JobSummary]) -> Result<(), Error> {
        for chunk in jobs.chunks(self.chunk_len()) {
            self.wait_for_turn(chunk.len()).await;
            self.chunk(chunk).await?;
            if self.redrive.max_failure_share.is_some() {
                self.settle_down(OUTSTANDING_MAX - self.chunk_len()).await?;
            }
            if self.done.stopped.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// How many jobs go at once: a tenth of a second's worth, if there is a rate.
    fn chunk_len(&self) -> usize {
        let by_rate = self.redrive.rate_per_sec.map_or(PASS_MAX, |rate| (rate / 10).max(1));
        let most = if self.redrive.max_failure_share.is_some() { 10 } else { PASS_MAX };
        by_rate.min(most) as usize
    }

    async fn wait_for_turn(&mut self, jobs: usize) {
        let Some(rate) = self.redrive.rate_per_sec else { return };
        tokio::time::sleep_until(self.next_at).await;
        let took = Duration::from_secs_f64(jobs as f64 / f64::from(rate));
        self.next_at = Instant::now() + took;
    }

    async fn chunk(&mut self, jobs: &[JobSummary]) -> Result<(), Error> {
        let finished = |job: &JobSummary| Some((job.id, job.finished_at?));
        let request = RetryRequest {
            jobs: jobs.iter().filter_map(finished).collect(),
            keep_counts: self.redrive.keep_counts,
        };
        self.redriven.extend(jobs.iter().map(|job| job.id));
        let outcomes = patiently!(self.queue.retry_all(&request))?;
        for (job, outcome) in jobs.iter().zip(outcomes) {
            if outcome == RetryOutcome::Ready {
                self.done.ready += 1;
                let failures = if self.redrive.keep_counts { job.failures } else { 0 };
                self.outstanding.push((job.id, failures));
            } else {
                self.done.skipped += 1;
            }
        }
        if self.redrive.max_failure_share.is_none() {
            self.outstanding.clear();
        }
        Ok(())
    }

    /// Waits until the outcomes of all but `rest` of the redriven jobs are known, or there is a
    /// reason to stop.
    async fn settle_down(&mut self, rest: usize) -> Result<(), Error> {
        let patience = self.redrive.patience.unwrap_or(Duration::from_secs(60));
        let mut heard_at = Instant::now();
        loop {
            let before = self.outstanding.len();
            let some_run = self.look().await?;
            if self.failures_exceed_share(OUTCOMES_MIN) {
                self.done.stopped = Some(RedriveStop::TooManyFailures);
            }
            if self.outstanding.len() <= rest || self.done.stopped.is_some() {
                return Ok(());
            }
            if some_run || self.outstanding.len() < before {
                heard_at = Instant::now();
            } else if heard_at.elapsed() >= patience {
                self.done.stopped = Some(RedriveStop::NoOutcomes);
                return Ok(());
            }
            sleep(LOOK_PAUSE).await;
        }
    }

    /// Counts what has ended; says whether some of the others run.
    async fn look(&mut self) -> Result<bool, Error> {
        let requests: Vec<_> = self
            .outstanding
            .iter()
            .map(|(id, _)| WatchRequest { id: *id, after_line: u64::MAX })
            .collect();
        let looks = patiently!(self.queue.backend.watch_boxed(&requests))?;
        let runs = |look: &Watched| look.state == JobState::Running;
        let some_run = looks.iter().flatten().any(runs);
        let mut looks = looks.into_iter();
        let (mut completed, mut failed) = (0, 0);
        self.outstanding.retain(|(_, failures)| match outcome(looks.next().flatten(), *failures) {
            Some(true) => {
                completed += 1;
                false
            }
            Some(false) => {
                failed += 1;
                false
            }
            None => true,
        });
        self.done.completed += completed;
        self.done.failed += failed;
        Ok(some_run)
    }

    /// Whether it is too many, if at least so many outcomes are known.
    fn failures_exceed_share(&self, outcomes_min: u64) -> bool {
        let Some(share) = self.redrive.max_failure_share else { return false };
        let Redriven { completed, failed, .. } = self.done;
        let known = completed + failed;
        known >= outcomes_min && failed as f64 > share * known as f64
    }
}

/// Whether a redriven job went well; `None` as long as that is open. A job that is gone had its
/// record dropped when it completed.
fn outcome(look: Option<Watched>, failures: u16) -> Option<bool> {
    let Some(look) = look else { return Some(true) };
    match look.state {
        JobState::Completed | JobState::Cancelled => Some(true),
        JobState::Dead | JobState::Quarantined => Some(false),
        _ if look.failures > failures => Some(false),
        _ => None,
    }
}
