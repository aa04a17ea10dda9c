//! `workerd dead redrive`.

use std::time::Duration;

use queue::{Fingerprint, JobId, JobState, Queue, Redrive, RedriveStop, Redriven};
use serde_json::json;

use crate::cli::Common;
use crate::cli::fields::{rate, share};
use crate::cli::filter::Filter;
use crate::cli::job::change::retried;
use crate::cli::many::{Fate, Fates, Found, find};
use crate::config::duration;
use crate::display::jobs;
use crate::exit::{Exit, Failure, Outcome};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The jobs' ids
    #[arg(conflicts_with_all = [
        "all", "queue", "kind", "error", "dry_run", "rate", "max_failures", "patience",
    ])]
    ids: Vec<JobId>,

    /// All dead jobs, or those that the options name
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    filter: Filter,

    /// Only jobs whose last error has this fingerprint, as dead ls --errors shows it
    #[arg(long, value_name = "FINGERPRINT")]
    error: Option<Fingerprint>,

    /// Only say how many there are
    #[arg(long)]
    dry_run: bool,

    /// At most so many jobs a second, such as 20/s
    #[arg(long, value_parser = rate)]
    rate: Option<u32>,

    /// Stop once more than this share of them have failed again, such as 20%, judged from the
    /// tenth outcome on and at the end, however few they are; with it, at most 100 are under way
    /// at a time, and it ends when all of them have ended
    #[arg(long, value_name = "SHARE", value_parser = share)]
    max_failures: Option<f64>,

    /// With --max-failures: give up after so long without any of them running or ending, as when
    /// no worker runs their kinds; 60s if not given
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "max_failures")]
    patience: Option<Duration>,

    /// Keep the counts of failures, stalls and snoozes: one more attempt instead of all
    #[arg(long)]
    keep_counts: bool,
}

impl Args {
    /// Makes sure that it is said which jobs are meant.
    ///
    /// # Errors
    /// If it is not.
    pub(super) fn verify(&self) -> Result<(), Failure> {
        let Self { ids, all, filter: Filter { queue, kind }, error, dry_run, .. } = self;
        let is_named = !ids.is_empty() || queue.is_some() || kind.is_some() || error.is_some();
        if is_named || *all || *dry_run {
            return Ok(());
        }
        let failure = Failure::usage("which dead jobs should run again?");
        Err(failure.advice("name ids, --queue, --kind or --error, or say --all"))
    }
}

/// # Errors
/// Why it was not done.
pub(super) async fn execute(common: &Common, queue: &Queue, args: &Args) -> Outcome {
    if !args.ids.is_empty() {
        return named(common, queue, args).await;
    }
    let redrive = Redrive {
        queue: args.filter.queue.clone(),
        kind: args.filter.kind.clone(),
        error: args.error,
        dry_run: args.dry_run,
        keep_counts: args.keep_counts,
        rate_per_sec: args.rate,
        max_failure_share: args.max_failures,
        patience: args.patience,
    };
    let redriven = queue.redrive(&redrive).await?;
    tell(common, &redriven, args)?;
    Ok(match redriven.stopped {
        None => Exit::Done,
        Some(RedriveStop::NoOutcomes) => Exit::TimedOut,
        Some(_) => Exit::Failed,
    })
}

async fn named(common: &Common, queue: &Queue, args: &Args) -> Outcome {
    let mut fates = Fates::new(common);
    for &id in &args.ids {
        let fate = match find(queue, id).await? {
            Found::Job(record) if record.state == JobState::Dead => {
                retried(queue, &record, args.keep_counts).await?
            }
            Found::Job(record) => {
                Some(Fate::refused("not_dead", format!("is not dead: it is {}", record.state)))
            }
            Found::Quarantined(_) => Some(Fate::refused("not_dead", "is quarantined")),
            Found::Nothing => None,
        };
        fates.tell(id, fate)?;
    }
    fates.end()
}

fn tell(common: &Common, redriven: &Redriven, args: &Args) -> Result<(), Failure> {
    let Redriven { matched, ready, skipped, completed, failed, stopped, .. } = *redriven;
    let stopped = stopped.map(|stop| match stop {
        RedriveStop::TooManyFailures => ("too_many_failures", "too many of them failed again"),
        RedriveStop::NoOutcomes => {
            ("no_outcomes", "none of them ran or ended for the time of --patience")
        }
        _ => ("unknown", "for a reason that this program does not know"),
    });
    let document = json!({
        "matched": matched,
        "dry_run": args.dry_run,
        "ready": ready,
        "skipped": skipped,
        "completed": args.max_failures.map(|_| completed),
        "failed": args.max_failures.map(|_| failed),
        "stopped": stopped.map(|(name, _)| name),
    });
    common.answer(&document, || {
        if args.dry_run {
            return format!("would run again: {}\n", jobs(matched));
        }
        let mut text = format!("ready again: {ready} of {}", jobs(matched));
        if skipped > 0 {
            text += &format!("; not touched: {skipped}, expired, key taken or no longer dead");
        }
        if args.max_failures.is_some() {
            text += &format!("; completed: {completed}; failed again: {failed}");
        }
        if let Some((_, why)) = stopped {
            text += &format!("; stopped: {why}");
        }
        text + "\n"
    })
}
