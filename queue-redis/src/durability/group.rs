//! Group commit: enqueues that come together are confirmed together.
//!
//! `WAIT` and `WAITAOF` cover what was written before *on the same connection*, and let it wait.
//! So durable enqueues have connections of their own, one per runtime and durability: while one
//! group is being confirmed, the next one gathers.

mod session;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use queue_core::{Durability, Error};
use redis::Value;
use tokio::runtime::{Handle, Id};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::connect::Link;
use crate::errors::{Diagnosis, Reaction, of_repeat};
use crate::store::{Call, Repeat, TRY_FOR, pause};
use session::Session;

/// The most enqueues that are confirmed together, and the most bytes that they have, unless one
/// has more: so many that all are written and answered well within the time of one answer.
const GROUP_MAX: usize = 256;
const GROUP_MAX_BYTES: usize = 16 * 1024 * 1024;

/// The groups of one backend.
#[derive(Debug)]
pub(crate) struct Groups {
    link: Arc<Link>,
    confirm_within: Duration,
    tasks: Mutex<HashMap<(Id, Durability), mpsc::UnboundedSender<Ask>>>,
}

/// An enqueue that waits for its confirmation.
struct Ask {
    call: Call,
    bytes: usize,
    repeat: Repeat,
    answer: oneshot::Sender<Answer>,
    /// Whether the jobs may be in the store by now.
    may_have_applied: bool,
    /// What servers have answered, the one that confirms last. One that comes after a fail-over may
    /// not have what the one before has said: what that is worth, only the caller can tell.
    replies: Vec<Value>,
}

/// The answers to a call and its repeats, the confirmed one last, and what that survives.
type Answer = Result<(Vec<Value>, Durability), Error>;

impl Groups {
    pub(crate) fn new(link: Arc<Link>, confirm_within: Duration) -> Self {
        Self { link, confirm_within, tasks: Mutex::default() }
    }

    /// Makes an enqueue, and answers when it survives what was asked for.
    ///
    /// # Errors
    /// [`Error::Unsupported`] before anything is written; [`Error::Unavailable`] if it was not
    /// confirmed in time.
    ///
    /// # Cancel safety
    /// A dropped call may or may not have taken effect.
    pub(crate) async fn make(&self, call: Call, repeat: Repeat, durability: Durability) -> Answer {
        let bytes = call.bytes();
        let (answer, answered) = oneshot::channel();
        let ask = Ask { call, bytes, repeat, answer, may_have_applied: false, replies: Vec::new() };
        self.ask(durability, ask);
        let lost = || Error::Unavailable("the runtime of this call has ended".to_owned());
        answered.await.unwrap_or_else(|_| Err(lost()))
    }

    fn ask(&self, durability: Durability, ask: Ask) {
        // The map is whole between any two statements.
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Handle::current().id(), durability);
        let ask = match tasks.get(&key) {
            Some(task) => match task.send(ask) {
                Ok(()) => return,
                // Gone with a runtime that had the same id.
                Err(refused) => refused.0,
            },
            None => ask,
        };
        tasks.retain(|_, task| !task.is_closed());
        let (sender, asks) = mpsc::unbounded_channel();
        // Cannot fail: the receiver is here.
        let _ = sender.send(ask);
        tasks.insert(key, sender);
        let session = Session::new(self.link.clone(), self.confirm_within);
        tokio::spawn(run(session, durability, asks));
    }
}

/// Runs until the backend is gone.
async fn run(mut session: Session, durability: Durability, mut asks: mpsc::UnboundedReceiver<Ask>) {
    let mut held = None;
    loop {
        let Some(first) = (match held.take() {
            Some(ask) => Some(ask),
            None => asks.recv().await,
        }) else {
            return;
        };
        let mut bytes = first.bytes;
        let mut group = vec![first];
        while group.len() < GROUP_MAX {
            let Ok(ask) = asks.try_recv() else { break };
            bytes += ask.bytes;
            if bytes > GROUP_MAX_BYTES {
                held = Some(ask);
                break;
            }
            group.push(ask);
        }
        commit(&mut session, durability, group).await;
    }
}

/// Makes a group's enqueues and answers all of them.
async fn commit(session: &mut Session, durability: Durability, mut group: Vec<Ask>) {
    let started = Instant::now();
    let until = started + TRY_FOR;
    let mut attempt = 0;
    loop {
        group.retain(|ask| !ask.answer.is_closed());
        if group.is_empty() {
            return;
        }
        let failure = match attempt_all(session, durability, &mut group, until).await {
            Ok(()) => continue,
            Err(failure) => failure,
        };
        let pause = pause(attempt);
        if failure.reaction == Reaction::GiveUp || Instant::now() + pause > until {
            group.into_iter().for_each(|ask| ask.fail(&failure.error));
            return;
        }
        if group.is_empty() {
            return;
        }
        tracing::debug!(attempt, error = %failure.error, "trying again");
        tokio::time::sleep(pause).await;
        attempt += 1;
    }
}

/// Makes the enqueues once and answers those whose answer is final, which leave the group.
///
/// # Errors
/// Why the others should be made again.
async fn attempt_all(
    session: &mut Session,
    durability: Durability,
    group: &mut Vec<Ask>,
    until: Instant,
) -> Result<(), Diagnosis> {
    let confirmation = session.prepare(durability, until).await?;
    let calls: Vec<&Call> = group.iter().map(|ask| &ask.call).collect();
    let replies = match session.send(&calls).await {
        Ok(replies) => replies,
        Err(failure) => return Err(leave_to_callers(group, failure)),
    };
    let (mut written, mut failure) = (Vec::new(), None);
    for (mut ask, reply) in std::mem::take(group).into_iter().zip(replies) {
        match reply {
            Ok(value) => {
                ask.may_have_applied = true;
                ask.replies.push(value);
                written.push(ask);
            }
            Err(diagnosis) if ask.is_over(&diagnosis) => ask.fail(&diagnosis.error),
            Err(diagnosis) => {
                ask.may_have_applied |= diagnosis.may_have_applied;
                failure = failure.or(Some(diagnosis));
                group.push(ask);
            }
        }
    }
    if !written.is_empty() {
        match session.confirm(confirmation).await {
            Ok(reached) => written.into_iter().for_each(|ask| ask.finish(&reached)),
            Err(lost) => {
                // The server that comes next may not have what this one has answered: all is made
                // again there, and confirmed there.
                let lost = leave_to_callers(&mut written, lost);
                group.append(&mut written);
                failure = Some(lost);
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Answers those whose call must not be made again without asking.
fn leave_to_callers(group: &mut Vec<Ask>, failure: Diagnosis) -> Diagnosis {
    for mut ask in std::mem::take(group) {
        ask.may_have_applied |= failure.may_have_applied;
        if ask.is_over(&failure) { ask.fail(&failure.error) } else { group.push(ask) }
    }
    failure
}

impl Ask {
    fn is_over(&self, failure: &Diagnosis) -> bool {
        failure.reaction == Reaction::GiveUp
            || (failure.may_have_applied && self.repeat == Repeat::Never)
    }

    fn fail(self, error: &Error) {
        let error = same(error);
        let error = if self.may_have_applied { of_repeat(error) } else { error };
        // Who asked may have gone.
        let _ = self.answer.send(Err(error));
    }

    fn finish(self, reached: &Result<Durability, Error>) {
        let answer = match reached {
            Ok(durability) => Ok((self.replies, *durability)),
            Err(error) => Err(same(error)),
        };
        let _ = self.answer.send(answer);
    }
}

/// The error once more, for another of the group.
fn same(error: &Error) -> Error {
    match error {
        Error::StoreFull(why) => Error::StoreFull(why.clone()),
        Error::Refused(why) => Error::Refused(why.clone()),
        Error::Corrupt(why) => Error::Corrupt(why.clone()),
        Error::Unsupported(why) => Error::Unsupported(why.clone()),
        Error::Unavailable(why) => Error::Unavailable(why.clone()),
        other => Error::Unavailable(other.to_string()),
    }
}
