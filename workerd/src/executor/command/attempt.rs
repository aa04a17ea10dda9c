//! One attempt: start the program, see it to its end, and tell what came of it.

use std::process::{self, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use queue::{CancelReason, ERROR_MAX_BYTES, ErrorKind, Fail, JobId, Kind, Payload, QueueName};
use tokio::time::sleep;

use super::events::Events;
use super::group::End;
use super::input::Input;
use super::listener::Listener;
use super::output::{Pipes, Tail};
use super::start::Started;
use super::{ALWAYS_PASSED, Command, CommandExecutor, result, tree};
use crate::display::exact;

/// What the program is told about its job.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    pub(crate) job: JobId,
    pub(crate) kind: &'a Kind,
    pub(crate) queue: &'a QueueName,
    pub(crate) payload: &'a Payload,
    /// From 1.
    pub(crate) number: u16,
    pub(crate) fence: u64,
    /// How much of the job's own time limit is left; the worker watches it.
    pub(crate) remaining: Duration,
    /// Who hears what it says while it runs.
    pub(super) listener: &'a dyn Listener,
}

/// How long the streams are read on after the program's end, in case that processes it left
/// behind hold them open.
const STREAMS_GRACE: Duration = Duration::from_millis(250);

/// Why a program was stopped.
#[derive(Debug, Clone, Copy)]
enum Stop {
    TimedOut,
    Cancelled(CancelReason),
}

/// Runs the program for one attempt; `cancelled` ends when the attempt should stop.
///
/// # Errors
/// What the program's end, or its failure to start, means for the job. An attempt that could not
/// be started is none: the job is put off.
///
/// # Cancel safety
/// Dropping the future kills the program with everything it started.
pub(super) async fn run(
    executor: &CommandExecutor,
    attempt: &Attempt<'_>,
    cancelled: impl Future<Output = CancelReason>,
) -> Result<Option<Payload>, Fail> {
    let CommandExecutor { command, starts, folders } = executor;
    let input = Input::of(command, attempt)?;
    let process = process(command, attempt, input.arguments);
    let started =
        Started::start(process, command.working_dir.is_none(), input.stdin, folders).await;
    let started = started.map_err(|error| error.into_fail(command, starts))?;
    starts.succeeded();
    let Started { mut folder, mut group, streams, input } = started;
    let events = Events::new(folder.ends.take(), attempt.listener);
    let max_bytes = command.output_max_bytes;
    let mut pipes = Pipes::new(streams, input, max_bytes, events, attempt.listener);

    let stop = tokio::select! {
        biased;
        () = group.leader_ended() => None,
        reason = cancelled => Some(Stop::Cancelled(reason)),
        () = time_limit(command.timeout) => Some(Stop::TimedOut),
        never = pipes.serve() => match never {},
        never = tree::reap_orphans() => match never {},
    };
    if stop.is_some() {
        tokio::select! {
            biased;
            () = group.terminate() => {},
            () = sleep(command.kill_grace) => {},
            never = pipes.serve() => match never {},
        }
    } else {
        let _ = tokio::time::timeout(STREAMS_GRACE, pipes.run()).await;
    }
    let end = group.finish().await;
    let _ = tokio::time::timeout(STREAMS_GRACE, pipes.run()).await;
    folder.ends = pipes.finish();

    // Whatever a program says after it was told to stop, it may not have done its work: many end
    // with code 0 on TERM.
    if let Some(stop) = stop {
        return Err(stopped(stop, command, &pipes.errors.tail));
    }
    let End { status, is_clean } =
        end.map_err(|e| Fail::retry(format!("cannot learn the exit status: {e}")))?;
    let is_as_new = is_clean && folder.is_untouched();
    let file = (!is_as_new).then_some(&*folder.result);
    let result = match result::failure(command, status, &pipes) {
        Some(fail) => Err(fail),
        None => result::result(command, file, pipes).await,
    };
    if is_as_new {
        folders.give_back(folder);
    }
    result
}

/// The program as far as it does not depend on the attempt's folder.
fn process(command: &Command, attempt: &Attempt<'_>, arguments: Vec<String>) -> process::Command {
    let time = command.timeout.map_or(attempt.remaining, |t| t.min(attempt.remaining));
    let deadline = SystemTime::now().checked_add(time).unwrap_or(SystemTime::now());
    let deadline_ms = deadline.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut process = process::Command::new(&command.program);
    process.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).env_clear();
    if let Some(folder) = &command.working_dir {
        process.current_dir(folder);
    }
    let passed = ALWAYS_PASSED.iter().copied();
    for name in passed.chain(command.environment.iter().map(String::as_str)) {
        if let Some(value) = std::env::var_os(name) {
            process.env(name, value);
        }
    }
    process
        .env("WORKERD_JOB_ID", attempt.job.to_string())
        .env("WORKERD_KIND", attempt.kind.as_str())
        .env("WORKERD_QUEUE", attempt.queue.as_str())
        .env("WORKERD_ATTEMPT", attempt.number.to_string())
        .env("WORKERD_FENCE", attempt.fence.to_string())
        .env("WORKERD_DEADLINE", deadline_ms.to_string());
    process
}

/// Ends when the kind's own time limit is over.
async fn time_limit(limit: Option<Duration>) {
    match limit {
        Some(limit) => sleep(limit).await,
        None => std::future::pending().await,
    }
}

fn stopped(stop: Stop, command: &Command, errors: &Tail) -> Fail {
    let what = match stop {
        Stop::TimedOut => {
            let limit = exact(command.timeout.unwrap_or_default());
            let what = format!("timed out after {limit}");
            return Fail::retry(result::with_errors(&what, errors)).kind(ErrorKind::TimedOut);
        }
        // The worker, whose limit it was, says so itself.
        Stop::Cancelled(CancelReason::TimedOut) => {
            return Fail::retry(result::last_words(errors, ERROR_MAX_BYTES / 2));
        }
        Stop::Cancelled(CancelReason::Requested) => "stopped because the job was cancelled",
        Stop::Cancelled(CancelReason::LeaseLost) => "stopped because the lease was lost",
        Stop::Cancelled(CancelReason::Shutdown) => "stopped because the worker shuts down",
        Stop::Cancelled(_) => "stopped",
    };
    Fail::retry(result::with_errors(what, errors))
}
