//! Calls of scripts and commands: connection, missing scripts, and trying again.

use std::time::Duration;

use queue_core::Error;
use redis::aio::MultiplexedConnection;
use redis::{Arg, Cmd, Pipeline, RedisError, Value};
use tokio::time::Instant;

use crate::connect::Link;
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
    let mut values = all(link, &[call], repeat).await?;
    Ok(values.pop().unwrap_or(Value::Nil))
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
    let started = Instant::now();
    let mut values: Vec<Option<Value>> = vec![None; calls.len()];
    let mut attempt = 0;
    let mut may_have_applied = false;
    loop {
        let Err(diagnosis) = attempt_all(link, calls, &mut values, started + TRY_FOR).await else {
            return (values, None);
        };
        let pause = pause(attempt);
        let asks_caller = diagnosis.may_have_applied && repeat == Repeat::Never;
        let too_late = started.elapsed() + pause > TRY_FOR;
        if diagnosis.reaction == Reaction::GiveUp || asks_caller || too_late {
            let error = diagnosis.error;
            return (values, Some(if may_have_applied { of_repeat(error) } else { error }));
        }
        may_have_applied |= diagnosis.may_have_applied;
        tracing::debug!(attempt, error = %diagnosis.error, "trying again");
        tokio::time::sleep(pause).await;
        attempt += 1;
    }
}

/// Full jitter: callers that failed together do not come back together.
pub(crate) fn pause(attempt: u32) -> Duration {
    let ceiling = FIRST_PAUSE_MS.saturating_mul(1 << attempt.min(16)).min(PAUSE_MAX_MS);
    Duration::from_millis(fastrand::u64(1..=ceiling))
}

/// Makes the calls that have no value yet; the first error ends the attempt.
async fn attempt_all(
    link: &Link,
    calls: &[Call],
    values: &mut [Option<Value>],
    until: Instant,
) -> Result<(), Diagnosis> {
    let mut shared = link.shared(until).await.map_err(|e| Diagnosis {
        // Nothing was sent.
        may_have_applied: false,
        ..diagnose(&e)
    })?;
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
    let Some(error) = first_error else {
        link.succeeded();
        return Ok(());
    };
    let diagnosis = diagnose(&error);
    if diagnosis.reaction == Reaction::Reconnect {
        link.discard(&shared);
    }
    Err(diagnosis)
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
        let missing = match (&reply, call.script) {
            (Err(error), Some(script)) if is_noscript(error) => Some(script),
            _ => None,
        };
        one_by_one |= missing.is_some();
        if one_by_one {
            reply = call_knowing_script(connection, call, missing).await?;
        }
        answers.push(reply);
    }
    Ok(answers)
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
