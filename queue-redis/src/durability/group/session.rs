//! The connection of one group after the other.

use std::sync::Arc;
use std::time::Duration;

use queue_core::{Durability, Error};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, Value};
use tokio::time::{Instant, timeout, timeout_at};

use crate::connect::Link;
use crate::durability::{Confirmation, plan};
use crate::errors::{Diagnosis, Reaction, diagnose};
use crate::info::Facts;
use crate::store::{Call, send_knowing_scripts};

/// How long to believe what the server said about its settings. Somebody may change them.
const BELIEVE_FOR: Duration = Duration::from_secs(5);

pub(super) struct Session {
    link: Arc<Link>,
    confirm_within: Duration,
    open: Option<Open>,
}

struct Open {
    connection: MultiplexedConnection,
    facts: Facts,
    asked_at: Instant,
}

impl Session {
    pub(super) fn new(link: Arc<Link>, confirm_within: Duration) -> Self {
        Self { link, confirm_within, open: None }
    }

    /// Connects, and says how the server confirms. A refusal is never one of an old answer.
    pub(super) async fn prepare(
        &mut self,
        durability: Durability,
        until: Instant,
    ) -> Result<Confirmation, Diagnosis> {
        if let Some(open) = self.open.as_ref().filter(|open| open.asked_at.elapsed() < BELIEVE_FOR)
            && let Ok(confirmation) = plan(durability, &open.facts)
        {
            return Ok(confirmation);
        }
        let connection = match self.open.take() {
            Some(open) => Ok(open.connection),
            None => timeout_at(until, self.link.own()).await.unwrap_or_else(|_| Err(timed_out())),
        };
        let asked = async {
            let mut connection = connection?;
            let asked_at = Instant::now();
            let question = Facts::ask();
            let answers = connection.send_packed_commands(&question, 0, question.len());
            let answers =
                timeout(self.link.answer_within(), answers).await.map_err(|_| timed_out())??;
            Ok(Open { connection, facts: Facts::read(answers), asked_at })
        };
        // Nothing was written yet.
        let open =
            asked.await.map_err(|e| Diagnosis { may_have_applied: false, ..diagnose(&e) })?;
        let planned = plan(durability, &open.facts);
        self.open = Some(open);
        let confirmation = planned.map_err(|error| Diagnosis {
            reaction: Reaction::GiveUp,
            error,
            may_have_applied: false,
        })?;
        // A user who may not wait learns it before anything is written.
        if let Some(question) = question(confirmation, 0, 1) {
            let allowed = self.ask(&question).await;
            allowed.map_err(|diagnosis| Diagnosis { may_have_applied: false, ..diagnosis })?;
        }
        Ok(confirmation)
    }

    /// Makes the calls, and answers for each.
    ///
    /// # Errors
    /// The connection broke: any of them may have taken effect.
    pub(super) async fn send(
        &mut self,
        calls: &[&Call],
    ) -> Result<Vec<Result<Value, Diagnosis>>, Diagnosis> {
        let limit = self.link.answer_within();
        let replies = self.within(limit, async |c| send_knowing_scripts(c, calls).await).await?;
        self.link.succeeded();
        let replies: Vec<_> = replies.into_iter().map(|r| r.map_err(|e| diagnose(&e))).collect();
        let is_over = |diagnosis: &Diagnosis| diagnosis.reaction == Reaction::Reconnect;
        if replies.iter().any(|reply| reply.as_ref().is_err_and(is_over)) {
            self.open = None;
        }
        Ok(replies)
    }

    /// Waits until what was written survives what was asked for; answers what it survives, or that
    /// it took too long.
    ///
    /// # Errors
    /// The connection broke: nobody knows.
    pub(super) async fn confirm(
        &mut self,
        confirmation: Confirmation,
    ) -> Result<Result<Durability, Error>, Diagnosis> {
        let wanted = match confirmation {
            Confirmation::Replicated(replicas) => replicas,
            Confirmation::Answer | Confirmation::Flushed => 1,
        };
        let limit_ms = self.confirm_within.as_millis().max(1); // 0 is for ever
        let Some(question) = question(confirmation, wanted, limit_ms) else {
            return Ok(Ok(Durability::Fsync));
        };
        let reply = self.ask(&question).await?;
        let too_late = |got| too_late(confirmation, got, self.confirm_within);
        Ok(read(confirmation, &reply).map_err(too_late))
    }

    async fn ask(&mut self, cmd: &Cmd) -> Result<Value, Diagnosis> {
        let limit = self.confirm_within + self.link.answer_within();
        let ask = async |connection: &mut MultiplexedConnection| {
            connection.send_packed_command(cmd).await.and_then(Value::extract_error)
        };
        self.within(limit, ask).await
    }

    /// Uses the connection, and gives it up if that fails or takes longer than `limit`.
    async fn within<T>(
        &mut self,
        limit: Duration,
        using: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, Diagnosis> {
        let mut used = Err(timed_out());
        if let Some(open) = &mut self.open {
            let answer = timeout(limit, using(&mut open.connection)).await;
            used = answer.unwrap_or_else(|_| Err(timed_out()));
        }
        used.map_err(|error| {
            self.open = None;
            // It had answered the call before: whatever is wrong now, the jobs may be there.
            Diagnosis { may_have_applied: true, ..diagnose(&error) }
        })
    }
}

/// What a confirmation reached; how many confirmed if they are too few.
fn read(confirmation: Confirmation, reply: &Value) -> Result<Durability, u64> {
    let number = |value: &Value| match value {
        Value::Int(number) => u64::try_from(*number).unwrap_or(0),
        _ => 0,
    };
    match (confirmation, reply) {
        (Confirmation::Replicated(wanted), count) => match number(count) {
            count if count >= u64::from(wanted) => {
                Ok(Durability::Replicas(u8::try_from(count).unwrap_or(u8::MAX)))
            }
            too_few => Err(too_few),
        },
        (Confirmation::Flushed, Value::Array(counts)) => match counts.first().map(number) {
            Some(1..) => Ok(Durability::Fsync),
            _ => Err(0),
        },
        (Confirmation::Flushed, _) => Err(0),
        (Confirmation::Answer, _) => Ok(Durability::Fsync),
    }
}

fn too_late(confirmation: Confirmation, got: u64, limit: Duration) -> Error {
    let why = match confirmation {
        Confirmation::Replicated(wanted) => format!("{got} of {wanted} replicas have confirmed"),
        _ => "the server has not flushed its append-only file".to_owned(),
    };
    Error::Unavailable(format!(
        "{why} within {limit:?}; the jobs are in the store, and enqueueing them again waits again"
    ))
}

/// Waits for `wanted` copies of what was written before, at most `limit_ms`; nothing where the
/// answer to the write says it all.
fn question(confirmation: Confirmation, wanted: u8, limit_ms: u128) -> Option<Cmd> {
    let mut cmd = Cmd::new();
    match confirmation {
        Confirmation::Answer => return None,
        Confirmation::Flushed => cmd.arg("WAITAOF").arg(wanted).arg(0).arg(limit_ms.to_string()),
        Confirmation::Replicated(_) => cmd.arg("WAIT").arg(wanted).arg(limit_ms.to_string()),
    };
    Some(cmd)
}

fn timed_out() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_checked() {
        let pair = |local| Value::Array(vec![Value::Int(local), Value::Int(0)]);
        let two = Confirmation::Replicated(2);
        assert_eq!(read(two, &Value::Int(1)), Err(1));
        assert_eq!(read(two, &Value::Int(2)), Ok(Durability::Replicas(2)));
        assert_eq!(read(two, &Value::Int(3)), Ok(Durability::Replicas(3)));
        assert_eq!(read(two, &Value::Int(300)), Ok(Durability::Replicas(255)));
        assert_eq!(read(two, &Value::Nil), Err(0));
        assert_eq!(read(Confirmation::Flushed, &pair(1)), Ok(Durability::Fsync));
        assert_eq!(read(Confirmation::Flushed, &pair(0)), Err(0));
        assert_eq!(read(Confirmation::Flushed, &Value::Nil), Err(0));
    }
}
