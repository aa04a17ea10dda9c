//! The jobs of the demo, the programs that run them, and how each is meant to end.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use queue::{Backoff, EnqueueOutcome, JobId, JobRecord, Kind, NewJob, Payload, Queue, Retention};
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

/// What the job that comes twice is known by.
const KEY: &str = "the-same-work";

/// How long the records are kept in a store that outlives the demo.
const RETENTION: Duration = Duration::from_secs(600);

/// # Errors
/// Which program this machine lacks.
pub(super) fn executors() -> Result<BTreeMap<Kind, Command>, Failure> {
    let executor = |(kind, programs, arguments): (&str, &[&str], &[&str])| {
        let program = programs.iter().find_map(|name| find_in_path(name)).ok_or_else(|| {
            let names = programs.join(" or ");
            let message = format!("the demo needs the program {names}, which is not in PATH");
            Failure::new(Exit::Failed, message)
        })?;
        let templates: Result<Vec<Template>, String> =
            arguments.iter().map(|text| Template::parse(text)).collect();
        let command = Command {
            program,
            arguments: templates.map_err(Failure::usage)?,
            concurrency: None,
            timeout: (kind == SLOW_KIND).then_some(SLOW_TIMEOUT),
            environment: Vec::new(),
            kill_grace: KILL_GRACE_DEFAULT,
            working_dir: None,
            output_max_bytes: queue::payload::RESULT_MAX_BYTES,
            stdout: Stdout::Result,
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

impl Plan {
    /// # Errors
    /// If there is no file to work on.
    pub(super) fn make(folder: &Path, max_files: usize) -> Result<Self, Failure> {
        let folder = std::path::absolute(folder).map_err(Failure::usage)?;
        if !folder.is_dir() {
            return Err(Failure::usage(format!("{} is not a folder", folder.display())));
        }
        let files = files::below(&folder, max_files);
        let Some(first) = files.first() else {
            let message = format!("there is no file to work on in {}", folder.display());
            return Err(Failure::usage(message).advice("name another folder with --dir"));
        };
        let on_file = |path: &str| job(FILE_KIND, &json!({ "path": path }));
        let mut jobs = vec![(Role::Plain, on_file(first)?.idempotency_key(KEY))];
        for file in &files[1..] {
            jobs.push((Role::Plain, on_file(file)?));
        }
        jobs.push((Role::Duplicate, on_file(first)?.idempotency_key(KEY)));
        jobs.push((Role::Delayed, on_file(first)?.delay(DELAY)));
        // Comes after all the others, and starts before them.
        jobs.push((Role::Plain, on_file(first)?.priority(0)));
        jobs.push((Role::Plain, on_file(first)?.priority(9)));
        let wait = Backoff::Fixed(RETRY_WAIT);
        jobs.push((Role::Flaky, job(FLAKY_KIND, &json!({}))?.backoff(wait.clone())));
        let seconds = json!({ "seconds": 60 });
        jobs.push((Role::Slow, job(SLOW_KIND, &seconds)?.max_attempts(1)));
        jobs.push((Role::Broken, job(BROKEN_KIND, &json!({}))?.max_attempts(2).backoff(wait)));
        Ok(Self(jobs))
    }

    /// # Errors
    /// Why the store did not take them.
    pub(super) async fn enqueue(self, queue: &Queue) -> Result<EnqueuedPlan, Failure> {
        let (roles, jobs): (Vec<Role>, Vec<NewJob>) = self.0.into_iter().unzip();
        let outcomes = queue.enqueue_all(jobs).await?;
        Ok(EnqueuedPlan(roles.into_iter().zip(outcomes).collect()))
    }
}

fn job(kind: &str, payload: &Value) -> Result<NewJob, Failure> {
    let payload = Payload::json(payload).map_err(Failure::usage)?;
    let retention = Retention { completed: RETENTION, dead: RETENTION };
    Ok(NewJob::new(kind_of(kind)?, payload).retention(retention))
}

/// What the store answered for each job.
#[derive(Debug)]
pub(super) struct EnqueuedPlan(Vec<(Role, EnqueueOutcome)>);

impl EnqueuedPlan {
    pub(super) fn outcomes(&self) -> impl Iterator<Item = &(Role, EnqueueOutcome)> {
        self.0.iter()
    }

    /// The ids of the jobs that were made.
    fn ids(&self) -> Vec<(Role, JobId)> {
        let created = self.0.iter().filter_map(|(role, outcome)| match outcome {
            EnqueueOutcome::Done(enqueued) if !enqueued.duplicate => Some((*role, enqueued.id)),
            _ => None,
        });
        created.collect()
    }

    /// How many jobs were made.
    pub(super) fn jobs(&self) -> usize {
        self.ids().len()
    }

    /// What became of each job that was made.
    ///
    /// # Errors
    /// Why the store could not be asked.
    pub(super) async fn read(
        &self,
        queue: &Queue,
    ) -> Result<Vec<(Role, JobId, Option<JobRecord>)>, Failure> {
        let ids = self.ids();
        let records = queue.get_all(&ids.iter().map(|(_, id)| *id).collect::<Vec<_>>()).await?;
        let all = ids.into_iter().zip(records);
        Ok(all.map(|((role, id), record)| (role, id, record)).collect())
    }
}
