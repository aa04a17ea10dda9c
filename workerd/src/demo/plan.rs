//! The jobs of the demo, the programs that run them, and how each is meant to end.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use queue::{
    Backoff, EnqueueOutcome, JobId, Kind, LimitKey, LimitKeys, NewJob, Payload, Queue, QueueName,
    Retention,
};
use serde_json::{Value, json};

use super::files;
use crate::config::find_in_path;
use crate::executor::command::{Command, KILL_GRACE_DEFAULT, Stdout, Template};
use crate::exit::{Exit, Failure};

/// Computes a checksum of a file.
pub(super) const FILE_KIND: &str = "demo.checksum";
/// Fails the first time.
const FLAKY_KIND: &str = "demo.flaky";
/// Takes longer than it may.
const SLOW_KIND: &str = "demo.slow";
/// Always fails.
const BROKEN_KIND: &str = "demo.broken";

/// The programs, by kind: alternatives in order, and their arguments. None needs a shell, and all
/// have been on every Unix since long.
const PROGRAMS: [(&str, &[&str], &[&str]); 4] = [
    (FILE_KIND, &["cksum", "wc"], &["{payload.path}"]),
    (FLAKY_KIND, &["test"], &["{job.attempt}", "-ge", "2"]),
    (SLOW_KIND, &["sleep"], &["{payload.seconds}"]),
    (BROKEN_KIND, &["false"], &[]),
];

const SLOW_TIMEOUT: Duration = Duration::from_millis(300);
const DELAY: Duration = Duration::from_secs(1);
const RETRY_WAIT: Duration = Duration::from_millis(200);

/// How long a store that outlives the demo keeps its finished jobs. Long enough to see them, and
/// short enough to wait for their end.
pub(super) const RETENTION_SHARED: Duration = Duration::from_secs(3);
/// The same for a store that goes with the demo.
const RETENTION_OWN: Duration = Duration::from_secs(24 * 3600);

/// What runs each kind. The programs that work on files need the limit key.
///
/// # Errors
/// Which program this machine lacks.
pub(super) fn executors(limit: &LimitKey) -> Result<BTreeMap<Kind, Command>, Failure> {
    let executor = |(kind, programs, arguments): (&str, &[&str], &[&str])| {
        let program = programs.iter().find_map(|name| find_in_path(name)).ok_or_else(|| {
            let names = programs.join(" or ");
            let message = format!("the demo needs the program {names}, which is not in PATH");
            Failure::new(Exit::Failed, message)
        })?;
        let templates: Result<Vec<Template>, String> =
            arguments.iter().map(|text| Template::parse(text)).collect();
        let keys = (kind == FILE_KIND).then(|| limit.clone());
        let command = Command {
            program,
            arguments: templates.map_err(Failure::usage)?,
            concurrency: None,
            limits: LimitKeys::new(keys).map_err(Failure::usage)?,
            provider: None,
            timeout: (kind == SLOW_KIND).then_some(SLOW_TIMEOUT),
            environment: Vec::new(),
            kill_grace: KILL_GRACE_DEFAULT,
            working_dir: None,
            output_max_bytes: queue::payload::RESULT_MAX_BYTES,
            stdout: Stdout::Result,
            throttled: None,
        };
        Ok((kind_of(kind)?, command))
    };
    PROGRAMS.into_iter().map(executor).collect()
}

fn kind_of(name: &str) -> Result<Kind, Failure> {
    Kind::new(name).map_err(Failure::usage)
}

/// What a job is there to show, and how it is meant to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Completes.
    Plain,
    /// Completes, and starts before those that were there before it.
    Urgent,
    /// The same work again: no job of its own.
    Duplicate,
    /// Completes, not before its time.
    Delayed,
    /// Completes at the second attempt.
    Flaky,
    /// Is dead because it took too long.
    Slow,
    /// Is dead because it failed as often as it may.
    Broken,
}

/// The jobs, in the order in which they are enqueued.
#[derive(Debug)]
pub(super) struct Plan(Vec<(Role, NewJob)>);

/// Where the jobs of one run are.
#[derive(Debug)]
pub(super) struct Place {
    /// A queue of this run's own.
    pub(super) queue: QueueName,
    /// A limit of this run's own.
    pub(super) limit: LimitKey,
    /// What it allows: how many checksums may run at once.
    pub(super) most_at_once: u32,
    /// Whether the store outlives the demo.
    pub(super) is_shared: bool,
}

impl Plan {
    /// # Errors
    /// If there is no file to work on.
    pub(super) fn make(folder: &Path, max_files: usize, place: &Place) -> Result<Self, Failure> {
        let folder = std::path::absolute(folder).map_err(Failure::usage)?;
        if !folder.is_dir() {
            return Err(Failure::usage(format!("{} is not a folder", folder.display())));
        }
        let files = files::below(&folder, max_files);
        let Some(first) = files.first() else {
            let message = format!("there is no file to work on in {}", folder.display());
            return Err(Failure::usage(message).advice("name another folder with --dir"));
        };
        let job = |kind: &str, payload: &Value| place.job(kind, payload);
        let wait = || Backoff::Fixed(RETRY_WAIT);
        // A file that has vanished meanwhile does not come back.
        let on_file = |path: &str| -> Result<NewJob, Failure> {
            Ok(job(FILE_KIND, &json!({ "path": path }))?.max_attempts(2).backoff(wait()))
        };
        // Keys count in the whole namespace, which runs at the same time share.
        let key = format!("the-same-work-{}", place.queue);
        let mut jobs = vec![(Role::Plain, on_file(first)?.idempotency_key(&key))];
        for file in &files[1..] {
            jobs.push((Role::Plain, on_file(file)?));
        }
        jobs.push((Role::Duplicate, on_file(first)?.idempotency_key(&key)));
        jobs.push((Role::Delayed, on_file(first)?.delay(DELAY)));
        jobs.push((Role::Urgent, on_file(first)?.priority(0)));
        jobs.push((Role::Plain, on_file(first)?.priority(9)));
        jobs.push((Role::Flaky, job(FLAKY_KIND, &json!({}))?.backoff(wait())));
        let seconds = json!({ "seconds": 60 });
        jobs.push((Role::Slow, job(SLOW_KIND, &seconds)?.max_attempts(1)));
        jobs.push((Role::Broken, job(BROKEN_KIND, &json!({}))?.max_attempts(2).backoff(wait())));
        Ok(Self(jobs))
    }

    /// # Errors
    /// Why the store did not take them.
    pub(super) async fn enqueue(self, queue: &Queue) -> Result<EnqueuedPlan, Failure> {
        let (roles, jobs): (Vec<Role>, Vec<NewJob>) = self.0.into_iter().unzip();
        let outcomes = queue.enqueue_all(jobs).await?;
        Ok(EnqueuedPlan(roles.into_iter().zip(outcomes).collect()))
    }

    /// The ids that the jobs have or would have.
    pub(super) fn ids(&self) -> Vec<JobId> {
        self.0.iter().map(|(_, job)| job.job_id()).collect()
    }
}

impl Place {
    fn job(&self, kind: &str, payload: &Value) -> Result<NewJob, Failure> {
        let payload = Payload::json(payload).map_err(Failure::usage)?;
        let time = if self.is_shared { RETENTION_SHARED } else { RETENTION_OWN };
        let retention = Retention { completed: time, dead: time };
        Ok(NewJob::new(kind_of(kind)?, payload).retention(retention).queue(&self.queue))
    }
}

/// What the store answered for each job.
#[derive(Debug)]
pub(super) struct EnqueuedPlan(Vec<(Role, EnqueueOutcome)>);

impl EnqueuedPlan {
    pub(super) fn outcomes(&self) -> impl Iterator<Item = &(Role, EnqueueOutcome)> {
        self.0.iter()
    }

    /// The jobs that were made.
    pub(super) fn created(&self) -> impl Iterator<Item = (Role, JobId)> {
        self.0.iter().filter_map(|(role, outcome)| match outcome {
            EnqueueOutcome::Done(enqueued) if !enqueued.duplicate => Some((*role, enqueued.id)),
            _ => None,
        })
    }
}
