//! `workerd enqueue`.

use std::path::PathBuf;
use std::time::Duration;

use clap::ArgGroup;
use queue::{Enqueued, Error, Hold, JobId, Kind, LimitKey, NewJob, Queue};
use serde_json::{Value, json};

use super::fields::{Conflicting, conflict_text, hold};
use super::{Common, batch, payload};
use crate::config::duration;
use crate::exit::{Exit, Failure, Outcome};

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("what").required(true).args(["kind", "batch"]))]
pub(super) struct Args {
    /// What the job is; selects the executor that runs it
    kind: Option<Kind>,

    /// What the job carries, as JSON [default: {}]
    #[arg(long, value_name = "JSON", conflicts_with_all = ["payload_file", "batch"])]
    payload: Option<String>,

    /// A file with what the job carries, as JSON; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "batch")]
    payload_file: Option<PathBuf>,

    /// The queue it waits in [default: default]
    #[arg(long, value_name = "NAME", conflicts_with = "batch")]
    queue: Option<String>,

    /// 0 (first) to 9 (last) [default: 5]
    #[arg(long, value_name = "LEVEL", conflicts_with = "batch",
          value_parser = clap::value_parser!(u8).range(..=9))]
    priority: Option<u8>,

    /// What it needs to run, such as tenant:acme; can be given several times
    #[arg(long, value_name = "KEY", conflicts_with = "batch")]
    limit: Vec<LimitKey>,

    /// Run no sooner than so long from now, such as 30s or 2h
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "batch")]
    delay: Option<Duration>,

    /// Makes repeated enqueues of the same work one job
    #[arg(long, value_name = "KEY", conflicts_with = "batch")]
    idempotency_key: Option<String>,

    /// What happens if a job with this id or key is there already [default: existing]
    #[arg(long, value_name = "WHAT", conflicts_with = "batch")]
    on_conflict: Option<Conflicting>,

    /// How long it keeps its key: live (until it is completed), kept (as long as its record is),
    /// or for at least a time such as 10m [default: kept]
    #[arg(long, value_parser = hold, requires = "idempotency_key", conflicts_with = "batch")]
    hold: Option<Hold>,

    /// How many failed attempts make it dead [default: 10]
    #[arg(long, value_name = "COUNT", conflicts_with = "batch")]
    max_attempts: Option<u16>,

    /// The time one attempt may take [default: 15m]
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "batch")]
    timeout: Option<Duration>,

    /// An id of your own, a UUID; the same id enqueued twice is one job
    #[arg(long, conflicts_with = "batch")]
    id: Option<JobId>,

    /// A file with a job in JSON per line; - for standard input. The fields: kind, payload, and
    /// if wanted queue, priority, limits, delay_ms, run_at, idempotency_key, on_conflict, hold,
    /// durability, max_attempts, timeout_ms, expires_at, headers, id
    #[arg(long, value_name = "FILE")]
    batch: Option<PathBuf>,
}

/// # Errors
/// Why the job, or which jobs, are not in the queue.
pub(super) async fn execute(common: &Common, args: Args) -> Outcome {
    if let Some(file) = &args.batch {
        return batch::execute(common, file).await;
    }
    let Some(kind) = args.kind.clone() else {
        return Err(Failure::usage("name the job's kind, or a file with --batch"));
    };
    let job = new_job(kind, args)?;
    let queue = common.connect_to_write().await?;
    let enqueued = enqueue(&queue, job).await?;
    common.answer(&document(&enqueued), || {
        let Enqueued { id, state, duplicate, replaced, .. } = enqueued;
        let was_there = if duplicate { ", was there before" } else { "" };
        let replaced = replaced.map(|id| format!(", in the place of {id}")).unwrap_or_default();
        format!("{id} ({state}{was_there}{replaced})\n")
    })?;
    Ok(Exit::Done)
}

/// What programs are told of a job that is in the store.
pub(super) fn document(enqueued: &Enqueued) -> Value {
    json!({
        "id": enqueued.id,
        "state": enqueued.state,
        "duplicate": enqueued.duplicate,
        "replaced": enqueued.replaced,
        "durability": enqueued.durability.to_string(),
    })
}

fn new_job(kind: Kind, args: Args) -> Result<NewJob, Failure> {
    let text = match (args.payload, args.payload_file) {
        (Some(text), _) => text,
        (None, Some(file)) => payload::read(&file)?,
        (None, None) => "{}".to_owned(),
    };
    let mut job = NewJob::new(kind, payload::json(&text).map_err(Failure::usage)?);
    if let Some(queue) = args.queue {
        job = job.queue(queue);
    }
    if let Some(priority) = args.priority {
        job = job.priority(priority);
    }
    for key in args.limit {
        job = job.limit(key.as_str());
    }
    if let Some(delay) = args.delay {
        job = job.delay(delay);
    }
    if let Some(key) = args.idempotency_key {
        job = job.idempotency_key(key);
    }
    if let Some(conflicting) = args.on_conflict {
        job = job.on_conflict(conflicting.into());
    }
    if let Some(hold) = args.hold {
        job = job.hold(hold);
    }
    if let Some(attempts) = args.max_attempts {
        job = job.max_attempts(attempts);
    }
    if let Some(timeout) = args.timeout {
        job = job.timeout(timeout);
    }
    if let Some(id) = args.id {
        job = job.id(id);
    }
    Ok(job)
}

/// After a lost reply the job may be there: its id is told, which makes repeating it safe.
async fn enqueue(queue: &Queue, job: NewJob) -> Result<Enqueued, Failure> {
    let id = job.job_id();
    queue.enqueue(job).await.map_err(|error| {
        if let Error::Conflict { existing, reason } = error {
            let message =
                format!("conflicts with existing job {existing}: {}", conflict_text(reason));
            return Failure::new(Exit::Conflict, message).detail("existing", existing.to_string());
        }
        let is_unknown = matches!(error, Error::Unavailable(_));
        let failure = Failure::from(error);
        if !is_unknown {
            return failure;
        }
        let advice = format!("whether the job is queued is not known; repeat it with --id {id}");
        failure.advice(advice).detail("id", id.to_string())
    })
}
