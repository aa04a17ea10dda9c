//! `workerd job wait`.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use queue::{JobEvent, JobId, JobRecord, JobState, Queue};

use super::events::{Events, Heard, state_text};
use super::show;
use crate::cli::Common;
use crate::cli::store::Away;
use crate::config::duration;
use crate::display::escape;
use crate::exit::{Exit, Failure, Outcome};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The job's id
    pub(super) id: JobId,

    /// Wait at most so long, such as 30s or 5m; for ever if not given
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
}

/// How long one call waits for a job; they follow each other without a gap.
const WAIT_STEP: Duration = Duration::from_secs(5);

/// # Errors
/// Why it cannot be waited for.
pub(super) async fn execute(common: &Common, queue: &Queue, args: &Args) -> Outcome {
    let bar = bar(!common.json);
    let record = tokio::select! {
        record = finished(queue, args) => record,
        never = draw(queue, args.id, &bar) => match never {},
    };
    bar.finish_and_clear();
    let record = record?;
    show::show(common, &record)?;
    Ok(match record.state {
        JobState::Completed => Exit::Done,
        state if state.is_finished() => Exit::Failed,
        _ => Exit::TimedOut,
    })
}

async fn finished(queue: &Queue, args: &Args) -> Result<JobRecord, Failure> {
    let end = args.timeout.map(|timeout| Instant::now() + timeout);
    let mut away = Away::default();
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let is_last = left.is_some_and(|left| left <= WAIT_STEP);
        let step = left.map_or(WAIT_STEP, |left| left.min(WAIT_STEP));
        match queue.wait_finished(args.id, step).await {
            Ok(record) => {
                let record = record.ok_or_else(|| Failure::no_such_job(args.id))?;
                if record.state.is_finished() || is_last {
                    return Ok(record);
                }
                away = Away::default();
            }
            // The time is over; that the store did not answer at its end says nothing of the job.
            Err(error) if error.is_retryable() && is_last => {
                return Err(Failure::new(Exit::TimedOut, error));
            }
            Err(error) if error.is_retryable() => away.tell(&error),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Keeps the bar as far as the job is. Whatever goes wrong here is no reason not to wait.
async fn draw(queue: &Queue, id: JobId, bar: &ProgressBar) -> std::convert::Infallible {
    let mut state = String::new();
    let mut events = Events::of(queue.watch(id, u64::MAX));
    while !bar.is_hidden()
        && let Ok(Some(heard)) = events.next().await
    {
        match heard {
            Heard::Event(JobEvent::State { state: now, failures }) => {
                state = state_text(now, failures);
                bar.set_message(state.clone());
            }
            Heard::Event(JobEvent::Progress(progress)) => {
                bar.set_message(format!("{state}  {}", escape(&progress.text)));
                bar.set_position(progress.percent.into());
            }
            _ => {}
        }
    }
    std::future::pending().await
}

fn bar(show: bool) -> ProgressBar {
    if !show || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(100);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent:>3}%  {msg}") {
        bar.set_style(style);
    }
    bar
}
