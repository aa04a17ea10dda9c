//! The blocking command, and the claim that may stand behind it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, Value};
use tokio::time::timeout;

use super::{Home, MARGIN};
use crate::errors::{Reaction, diagnose, is_noscript};
use crate::reply;
use crate::scripts;

/// What has come of a blocking command.
pub(super) struct Popped {
    /// To be used again.
    pub(super) connection: Option<MultiplexedConnection>,
    /// The first word of the first list that had one; `None` if its time was over.
    pub(super) word: Result<Option<(String, Vec<u8>)>, RedisError>,
    pub(super) claimed: Claimed,
}

/// What has come of the claim behind it.
pub(super) enum Claimed {
    /// There was none, or it was revoked or refused.
    No,
    /// Its answer.
    Yes(Value),
    /// Nobody knows.
    InDoubt(RedisError),
}

/// A claim that is to be sent behind a blocking command.
pub(super) struct Follow<'a> {
    pub(super) cmd: Cmd,
    pub(super) stage: &'a Stage,
}

/// Whether a claim is out: it can be taken back without the server's help before, not after.
#[derive(Debug, Default)]
pub(super) struct Stage(AtomicU8);

impl Stage {
    const SENT: u8 = 1;
    const TAKEN_BACK: u8 = 2;

    fn send(&self) -> bool {
        self.leave_for(Self::SENT)
    }

    /// Whether it will never be sent.
    pub(super) fn take_back(&self) -> bool {
        self.leave_for(Self::TAKEN_BACK)
    }

    fn leave_for(&self, next: u8) -> bool {
        self.0.compare_exchange(0, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Takes the first word of the first list that has one, for which it waits `block_for`.
pub(super) async fn pop(
    home: &Home,
    connection: Option<MultiplexedConnection>,
    lists: &[String],
    block_for: Duration,
    follow: Option<Follow<'_>>,
) -> Popped {
    let mut connection = match connection {
        Some(connection) => connection,
        None => match home.link.own().await {
            Ok(connection) => connection,
            Err(error) => {
                return Popped { connection: None, word: Err(error), claimed: Claimed::No };
            }
        },
    };
    // Zero would be for ever.
    let seconds = block_for.as_millis().max(1) as f64 / 1000.0;
    let mut pipeline = Pipeline::with_capacity(2);
    pipeline.cmd("BLPOP").arg(lists).arg(seconds);
    let follow = follow.filter(|follow| follow.stage.send());
    let follows = follow.is_some();
    if let Some(follow) = follow {
        pipeline.add_command(follow.cmd);
    }
    let sent = connection.send_packed_commands(&pipeline, 0, 1 + usize::from(follows));
    let mut replies = match timeout(block_for + MARGIN, sent).await {
        Ok(Ok(replies)) => replies.into_iter(),
        Ok(Err(error)) => return lost(error, follows),
        Err(_) => return lost(std::io::Error::from(std::io::ErrorKind::TimedOut).into(), follows),
    };
    let word = replies.next().unwrap_or(Value::Nil).extract_error();
    let claimed = match replies.next().map(Value::extract_error) {
        None | Some(Ok(Value::Nil)) => Claimed::No,
        Some(Ok(reply)) => Claimed::Yes(reply),
        Some(Err(error)) => refused(&mut connection, error).await,
    };
    // Such as UNBLOCKED: the server may have become a replica.
    let reaction = word.as_ref().err().map(|error| diagnose(error).reaction);
    let connection = Some(connection).filter(|_| reaction != Some(Reaction::Reconnect));
    Popped { connection, word: word.map(as_word), claimed }
}

fn lost(error: RedisError, follows: bool) -> Popped {
    let claimed = if follows { Claimed::InDoubt(error.clone()) } else { Claimed::No };
    Popped { connection: None, word: Err(error), claimed }
}

/// What an error says of the claim. A server that does not know the script learns it for the next.
async fn refused(connection: &mut MultiplexedConnection, error: RedisError) -> Claimed {
    if is_noscript(&error) {
        // If this fails so will the next claim, and whoever waits claims by himself.
        let load = scripts::standing_claim.load();
        let _ = timeout(MARGIN, connection.send_packed_command(&load)).await;
        return Claimed::No;
    }
    tracing::debug!(%error, "a standing claim was refused");
    if diagnose(&error).may_have_applied { Claimed::InDoubt(error) } else { Claimed::No }
}

fn as_word(reply: Value) -> Option<(String, Vec<u8>)> {
    let mut items = reply::array(reply).ok()?.into_iter();
    let list = String::from_utf8(reply::bytes(items.next()?).ok()?).ok()?;
    Some((list, reply::bytes(items.next()?).ok()?))
}
