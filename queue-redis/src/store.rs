//! Calls of scripts and commands: connection, missing scripts, and trying again.

use std::time::Duration;

use queue_core::Error;
use redis::aio::MultiplexedConnection;
use redis::{Arg, Cmd, Pipeline, RedisError, Value};
use tokio::time::Instant;

use crate::connect::{Link, Shared};
use crate::errors::{Diagnosis, Reaction, diagnose, is_noscript, of_repeat};
use crate::scripts::Source;

/// How long a call tries again before it answers with its last error. An attempt that is under
/// way then is not cut off; it has its own time limit.
pub(crate) const TRY_FOR: Duration = Duration::from_millis(2500);
/// The first pause is up to this long; each further one up to twice as long as the one before.
const FIRST_PAUSE_MS: u64 = 25;
const PAUSE_MAX_MS: u64 = 800;

/// A command, and the script that it calls, if it calls one.
pub(crate) struct Call {
    pub(crate) cmd: Cmd,
    pub(crate) script: Option<&'static Source>,
}

impl Call {
    pub(crate) fn script(script: &'static Source, cmd: Cmd) -> Self {
        Self { cmd, script: Some(script) }
    }

    pub(crate) fn plain(cmd: Cmd) -> Self {
        Self { cmd, script: None }
    }

    /// About how many bytes it sends.
    pub(crate) fn bytes(&self) -> usize {
        let length = |argument| match argument {
            Arg::Simple(bytes) => <[u8]>::len(bytes),
            _ => 0,
        };
        self.cmd.args_iter().map(length).sum()
    }
}

/// Whether a call whose outcome is unknown may be sent again without asking the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    Freely,
    /// A repeat would be answered differently from the first call.
    Never,
}

/// Makes one call.
///
/// # Cancel safety
/// A dropped call may or may not have taken effect.
pub(crate) async fn one(link: &Link, call: Call, repeat: Repeat) -> Result<Value, Error> {
    let mut tries = Tries::new(repeat);
    loop {
        match attempt(link, &call, tries.until()).await {
            Ok(value) => return Ok(value),
            Err(diagnosis) => tries.pause_after(diagnosis).await?,
        }
    }
}

/// Makes one call that nothing depends on: once, and neither the caller nor the link learns how it went.
///
/// # Cancel safety
/// As [`one`].
pub(crate) async fn once(link: &Link, cmd: &Cmd) -> Option<Value> {
    let mut shared = shared(link, Instant::now() + TRY_FOR).await.ok()?;
    shared.connection.send_packed_command(cmd).await.and_then(Value::extract_error).ok()
}

/// Makes several calls in one round trip, each atomic by itself, in order.
pub(crate) async fn all(link: &Link, calls: &[Call], repeat: Repeat) -> Result<Vec<Value>, Error> {
    let (values, error) = each(link, calls, repeat).await;
    error.map_or_else(|| Ok(values.into_iter().flatten().collect()), Err)
}

/// As [`all`], with the values of the calls that worked beside the error of one that did not.
/// Only calls that failed are made again.
pub(crate) async fn each(
    link: &Link,
    calls: &[Call],
    repeat: Repeat,
) -> (Vec<Option<Value>>, Option<Error>) {
    let mut tries = Tries::new(repeat);
    let mut values: Vec<Option<Value>> = vec![None; calls.len()];
    loop {
        let Err(diagnosis) = attempt_all(link, calls, &mut values, tries.until()).await else {
            return (values, None);
        };
        if let Err(error) = tries.pause_after(diagnosis).await {
            return (values, Some(error));
        }
    }
}

/// How often a call was tried, and whether it may be tried again.
struct Tries {
    repeat: Repeat,
    started: Instant,
    failed: u32,
    may_have_applied: bool,
}

impl Tries {
    fn new(repeat: Repeat) -> Self {
        Self { repeat, started: Instant::now(), failed: 0, may_have_applied: false }
    }

    /// When a try comes too late.
    fn until(&self) -> Instant {
        self.started + TRY_FOR
    }

    /// Waits for the next try.
    ///
    /// # Errors
    /// What the caller is told if there is none.
    async fn pause_after(&mut self, diagnosis: Diagnosis) -> Result<(), Error> {
        let pause = pause(self.failed);
        let asks_caller = diagnosis.may_have_applied && self.repeat == Repeat::Never;
        let too_late = self.started.elapsed() + pause > TRY_FOR;
        if diagnosis.reaction == Reaction::GiveUp || asks_caller || too_late {
            let error = diagnosis.error;
            return Err(if self.may_have_applied { of_repeat(error) } else { error });
        }
        self.may_have_applied |= diagnosis.may_have_applied;
        tracing::debug!(attempt = self.failed, error = %diagnosis.error, "trying again");
        tokio::time::sleep(pause).await;
        self.failed += 1;
        Ok(())
    }
}

/// Full jitter: callers that failed together do not come back together.
pub(crate) fn pause(attempt: u32) -> Duration {
    let ceiling = FIRST_PAUSE_MS.saturating_mul(1 << attempt.min(16)).min(PAUSE_MAX_MS);
    Duration::from_millis(fastrand::u64(1..=ceiling))
}

/// Makes the call once. Most calls come here: without the lists that several need.
async fn attempt(link: &Link, call: &Call, until: Instant) -> Result<Value, Diagnosis> {
    let mut shared = shared(link, until).await?;
    let connection = &mut shared.connection;
    let mut answer = connection.send_packed_command(&call.cmd).await.and_then(Value::extract_error);
    if let missing @ Some(_) = missing_script(call, &answer) {
        answer = call_knowing_script(connection, call, missing).await.and_then(|answer| answer);
    }
    answer.inspect(|_| link.succeeded()).map_err(|error| failed(link, &shared, &error))
}

/// Makes the calls that have no value yet; the first error ends the attempt.
async fn attempt_all(
    link: &Link,
    calls: &[Call],
    values: &mut [Option<Value>],
    until: Instant,
) -> Result<(), Diagnosis> {
    let mut shared = shared(link, until).await?;
    let places: Vec<usize> = (0..calls.len()).filter(|at| values[*at].is_none()).collect();
    let open: Vec<&Call> = places.iter().map(|at| &calls[*at]).collect();
    let mut first_error = None;
    match send_knowing_scripts(&mut shared.connection, &open).await {
        Ok(replies) => {
            for (at, reply) in places.into_iter().zip(replies) {
                match reply {
                    Ok(reply) => values[at] = Some(reply),
                    Err(error) => first_error = first_error.or(Some(error)),
                }
            }
        }
        Err(error) => first_error = Some(error),
    }
    match first_error {
        Some(error) => Err(failed(link, &shared, &error)),
        None => {
            link.succeeded();
            Ok(())
        }
    }
}

async fn shared(link: &Link, until: Instant) -> Result<Shared, Diagnosis> {
    // Nothing was sent.
    let nothing_sent = |e| Diagnosis { may_have_applied: false, ..diagnose(&e) };
    link.shared(until).await.map_err(nothing_sent)
}

fn failed(link: &Link, shared: &Shared, error: &RedisError) -> Diagnosis {
    let diagnosis = diagnose(error);
    if diagnosis.reaction == Reaction::Reconnect {
        link.discard(shared, error);
    }
    diagnosis
}

/// Sends the calls, and answers for each. From the first whose script the server does not know,
/// they are sent again, one by one: what comes after it must see its effect. All of them are safe
/// to repeat.
///
/// # Errors
/// The connection broke.
pub(crate) async fn send_knowing_scripts(
    connection: &mut MultiplexedConnection,
    calls: &[&Call],
) -> Result<Vec<Result<Value, RedisError>>, RedisError> {
    let replies = send(connection, calls).await?;
    let mut one_by_one = false;
    let mut answers = Vec::with_capacity(calls.len());
    for (call, reply) in calls.iter().zip(replies) {
        let mut reply = reply.extract_error();
        let missing = missing_script(call, &reply);
        one_by_one |= missing.is_some();
        if one_by_one {
            reply = call_knowing_script(connection, call, missing).await?;
        }
        answers.push(reply);
    }
    Ok(answers)
}

/// The script that the server does not know, if that was the answer.
fn missing_script(call: &Call, reply: &Result<Value, RedisError>) -> Option<&'static Source> {
    call.script.filter(|_| reply.as_ref().is_err_and(is_noscript))
}

async fn call_knowing_script(
    connection: &mut MultiplexedConnection,
    call: &Call,
    missing: Option<&Source>,
) -> Result<Result<Value, RedisError>, RedisError> {
    if let Some(script) = missing {
        tracing::debug!(script = script.name, "the server does not know the script");
        let loaded = connection.send_packed_command(&script.load()).await?.extract_error();
        if loaded.is_err() {
            return Ok(loaded);
        }
    }
    Ok(connection.send_packed_command(&call.cmd).await?.extract_error())
}

async fn send(
    connection: &mut MultiplexedConnection,
    calls: &[&Call],
) -> Result<Vec<Value>, RedisError> {
    if let [call] = calls {
        return Ok(vec![connection.send_packed_command(&call.cmd).await?]);
    }
    let mut pipeline = Pipeline::with_capacity(calls.len());
    for call in calls {
        pipeline.add_command(call.cmd.clone());
    }
    connection.send_packed_commands(&pipeline, 0, calls.len()).await
}
