//! A bar that grows while the jobs are worked on.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use queue::{JobState, Queue};

use crate::exit::Failure;

/// How often the store is asked how far it is.
const INTERVAL: Duration = Duration::from_millis(50);

/// Waits until `jobs` jobs are finished, at most `time_max`; `false` if they are not by then. The
/// queue holds nothing else.
///
/// # Errors
/// Why the store could not be asked.
pub(super) async fn watch(
    queue: &Queue,
    jobs: usize,
    time_max: Duration,
    show: bool,
) -> Result<bool, Failure> {
    let bar = bar(jobs as u64, show);
    let deadline = Instant::now() + time_max;
    loop {
        let count = |state: JobState, counts: &[queue::QueueStats]| -> u64 {
            counts.iter().filter_map(|row| row.jobs.get(&state)).sum()
        };
        let stats = queue.stats().await?;
        let finished: u64 =
            JobState::ALL.iter().filter(|s| s.is_finished()).map(|s| count(*s, &stats)).sum();
        let (running, waiting) = (
            count(JobState::Running, &stats),
            count(JobState::Scheduled, &stats) + count(JobState::Retrying, &stats),
        );
        bar.set_position(finished);
        bar.set_message(format!("{running} running, {waiting} waiting for their time"));
        if finished >= jobs as u64 || Instant::now() >= deadline {
            bar.finish_and_clear();
            return Ok(finished >= jobs as u64);
        }
        tokio::time::sleep(INTERVAL).await;
    }
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
