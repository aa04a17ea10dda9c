//! A bar that grows while the jobs are worked on.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use queue::{JobId, JobRecord, JobState, Queue};

use crate::exit::Failure;

/// How often the store is asked how far it is.
const INTERVAL: Duration = Duration::from_millis(100);

/// How long nothing at all may happen before the rest is given up.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// The jobs as they were last seen, in the order in which they were enqueued.
#[derive(Debug, Default)]
pub(super) struct Seen(pub(super) Vec<(JobId, Option<JobRecord>)>);

impl Seen {
    pub(super) fn new(ids: impl IntoIterator<Item = JobId>) -> Self {
        Self(ids.into_iter().map(|id| (id, None)).collect())
    }

    /// The jobs that are not known to have finished.
    pub(super) fn unfinished(&self) -> Vec<JobId> {
        let rest = self.0.iter().filter(|(_, record)| !is_finished(record.as_ref()));
        rest.map(|(id, _)| *id).collect()
    }

    /// Looks at what has not finished; `true` if something has happened to it. What is finished
    /// is kept here, since the store forgets it soon.
    async fn look(&mut self, queue: &Queue) -> Result<bool, Failure> {
        let records = queue.get_all(&self.unfinished()).await?;
        let rest = self.0.iter_mut().filter(|(_, record)| !is_finished(record.as_ref()));
        let mut has_changed = false;
        for ((_, seen), record) in rest.zip(records) {
            let Some(record) = record else { continue };
            let life = |r: &JobRecord| (r.state, r.failures, r.snoozes, r.stalls);
            has_changed |= seen.as_ref().is_none_or(|seen| life(seen) != life(&record));
            *seen = Some(record);
        }
        Ok(has_changed)
    }

    /// Waits until all are finished, or until nothing has happened for too long.
    ///
    /// # Errors
    /// Why the store could not be asked.
    ///
    /// # Cancel safety
    /// What was seen until then stays.
    pub(super) async fn watch(&mut self, queue: &Queue, show: bool) -> Result<(), Failure> {
        let bar = bar(self.0.len() as u64, show);
        let mut changed = Instant::now();
        loop {
            if self.look(queue).await? {
                changed = Instant::now();
            }
            let count = |states: &[JobState]| {
                let is = |r: &JobRecord| states.contains(&r.state);
                self.0.iter().filter(|(_, record)| record.as_ref().is_some_and(is)).count()
            };
            let running = count(&[JobState::Running]);
            let waiting = count(&[JobState::Scheduled, JobState::Retrying]);
            let unfinished = self.unfinished().len();
            bar.set_position((self.0.len() - unfinished) as u64);
            bar.set_message(format!("{running} running, {waiting} waiting for their time"));
            if unfinished == 0 || changed.elapsed() >= STALLED_AFTER {
                bar.finish_and_clear();
                return Ok(());
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

fn is_finished(record: Option<&JobRecord>) -> bool {
    record.is_some_and(|record| record.state.is_finished())
}

fn bar(jobs: u64, show: bool) -> ProgressBar {
    if !show || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(jobs);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} jobs  {msg}") {
        bar.set_style(style);
    }
    bar
}
