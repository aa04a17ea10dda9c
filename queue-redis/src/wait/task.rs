//! The task that waits for one worker.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use queue_core::WorkerId;
use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Ask, Home, News, Tasks, Token, lock};
use crate::connect::reconnect_pause;
use crate::errors::{Reaction, diagnose};
use crate::reply;

/// How long one blocking command lasts if nothing happens.
const BLOCK: Duration = Duration::from_secs(60);
/// What its answer may take beyond that before the connection counts as dead.
const MARGIN: Duration = Duration::from_secs(5);
/// How long to leave the lists alone after an error that trying again does not mend, such as a
/// list that is none. Whoever waits asks again by itself meanwhile.
const BROKEN_PAUSE: Duration = Duration::from_secs(5);
/// How long the task stays after the last wait, for the next one to find everything in place.
const LINGER: Duration = Duration::from_secs(5);

/// Runs until nobody has waited for a while, or the backend is gone.
pub(super) async fn run(
    home: Arc<Home>,
    worker: WorkerId,
    asks: UnboundedReceiver<Ask>,
    tasks: Weak<Tasks>,
) {
    let list = home.keys.wake_worker(worker.as_str());
    let idle_at = Instant::now() + LINGER;
    let mut task = Task {
        home,
        worker,
        list,
        asks,
        tasks,
        waiting: Vec::new(),
        cancel_pending: false,
        blocked: None,
        connection: None,
        failures: 0,
        broken: false,
        idle_at,
    };
    while task.step().await {}
}

struct Task {
    home: Arc<Home>,
    worker: WorkerId,
    /// The worker's own list.
    list: String,
    asks: UnboundedReceiver<Ask>,
    tasks: Weak<Tasks>,
    /// The calls that wait now.
    waiting: Vec<Ask>,
    /// A cancel request was heard while nobody waited.
    cancel_pending: bool,
    /// The blocking command that is under way. It is never dropped before its answer: the answer
    /// may be a token.
    blocked: Option<Blocked>,
    /// The connection, while no command is under way.
    connection: Option<MultiplexedConnection>,
    /// Blocking commands that failed in a row.
    failures: u64,
    /// The last of them was one that trying again does not mend.
    broken: bool,
    /// When the task ends if nobody waits until then.
    idle_at: Instant,
}

struct Blocked {
    lists: BTreeSet<String>,
    /// Whether it was asked to come back.
    interrupted: bool,
    answer: Pin<Box<dyn Future<Output = Answer> + Send>>,
}

struct Answer {
    connection: Option<MultiplexedConnection>,
    popped: Result<Option<(String, Vec<u8>)>, RedisError>,
}

enum Event {
    Asked(Option<Ask>),
    Answered(Answer),
    Idle,
}

impl Task {
    /// Waits for the next event; says whether to go on.
    async fn step(&mut self) -> bool {
        self.waiting.retain(|ask| !ask.answer.is_closed());
        if self.blocked.is_none() && !self.waiting.is_empty() {
            self.block();
        }
        match self.next_event().await {
            Event::Asked(Some(ask)) => self.admit(ask),
            Event::Asked(None) => {
                self.leave_with_backend().await;
                return false;
            }
            Event::Answered(answer) => self.answered(answer),
            Event::Idle => return !self.leave_if_idle(),
        }
        true
    }

    async fn next_event(&mut self) -> Event {
        let answered = async {
            match &mut self.blocked {
                Some(blocked) => blocked.answer.as_mut().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ask = self.asks.recv() => Event::Asked(ask),
            answer = answered => Event::Answered(answer),
            () = sleep_until(self.idle_at) => Event::Idle,
        }
    }

    fn admit(&mut self, ask: Ask) {
        self.idle_at = self.idle_at.max(ask.until + LINGER);
        if std::mem::take(&mut self.cancel_pending) {
            self.deliver(ask, News::Cancel(self.worker.clone()));
            return;
        }
        let covered = self.blocked.as_ref().is_none_or(|b| ask.lists.is_subset(&b.lists));
        self.waiting.push(ask);
        if !covered {
            self.interrupt();
        }
    }

    /// Blocks on the lists of everybody who waits.
    fn block(&mut self) {
        let lists: BTreeSet<String> =
            self.waiting.iter().flat_map(|ask| ask.lists.iter().cloned()).collect();
        let mut names = vec![self.list.clone()];
        names.extend(lists.iter().map(|list| self.home.keys.wake(list)));
        let home = self.home.clone();
        let connection = self.connection.take();
        let (failures, broken) = (self.failures, self.broken);
        let answer = Box::pin(async move {
            if broken {
                sleep(BROKEN_PAUSE).await;
            } else if failures > 0 {
                sleep(reconnect_pause(failures)).await;
            }
            pop(&home, connection, &names).await
        });
        self.blocked = Some(Blocked { lists, interrupted: false, answer });
    }

    /// Makes the blocking command come back, to go out again with another interest.
    fn interrupt(&mut self) {
        let Some(blocked) = self.blocked.as_mut().filter(|blocked| !blocked.interrupted) else {
            return;
        };
        blocked.interrupted = true;
        let (home, worker) = (self.home.clone(), self.worker.clone());
        tokio::spawn(async move { home.tell(&worker, "i").await });
    }

    fn answered(&mut self, answer: Answer) {
        self.blocked = None;
        self.connection = answer.connection;
        match answer.popped {
            Ok(popped) => {
                (self.failures, self.broken) = (0, false);
                if let Some((list, word)) = popped {
                    self.hear(&list, &word);
                }
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                let diagnosis = diagnose(&error);
                let broken = diagnosis.reaction == Reaction::GiveUp;
                if broken && !self.broken {
                    let (worker, error) = (&self.worker, diagnosis.error);
                    tracing::warn!(%worker, %error, "cannot be woken; it looks for work by itself");
                } else {
                    tracing::debug!(error = %diagnosis.error, "waiting failed; trying again");
                }
                self.broken = broken;
            }
        }
    }

    fn hear(&mut self, list: &str, word: &[u8]) {
        if list != self.list {
            let list = self.home.keys.woken_by(list).unwrap_or_default();
            let wants = |ask: &Ask| ask.lists.contains(list) && !ask.answer.is_closed();
            let news = News::Work(list.to_owned());
            match self.waiting.iter().position(wants) {
                Some(at) => {
                    let ask = self.waiting.swap_remove(at);
                    self.deliver(ask, news);
                }
                // Dropped, a token passes itself on.
                None => drop(Token { home: self.home.clone(), news: Some(news) }),
            }
        } else if word == b"c" {
            self.waiting.retain(|ask| !ask.answer.is_closed());
            self.cancel_pending = self.waiting.is_empty();
            for ask in std::mem::take(&mut self.waiting) {
                self.deliver(ask, News::Cancel(self.worker.clone()));
            }
        }
    }

    fn deliver(&self, ask: Ask, news: News) {
        // A token that comes back here is dropped, which passes it on.
        let _ = ask.answer.send(Token { home: self.home.clone(), news: Some(news) });
    }

    /// Ends the task if nothing is under way; says whether it has ended.
    fn leave_if_idle(&mut self) -> bool {
        self.idle_at = Instant::now() + LINGER;
        if self.blocked.is_some() {
            self.interrupt();
            return false;
        }
        let Some(tasks) = self.tasks.upgrade() else { return true };
        // Asks are sent under this lock: none can come between the look and the removal.
        let mut tasks = lock(&tasks);
        if let Ok(ask) = self.asks.try_recv() {
            drop(tasks);
            self.admit(ask);
            return false;
        }
        tasks.remove(&self.worker);
        lock(&self.home.shut).remove(&self.worker);
        true
    }

    /// Nobody can wait any more: takes the blocking command's answer, which may be a token.
    async fn leave_with_backend(&mut self) {
        self.waiting.clear();
        self.interrupt();
        let Some(blocked) = self.blocked.take() else { return };
        let Ok(Answer { popped: Ok(Some((list, _))), .. }) = timeout(MARGIN, blocked.answer).await
        else {
            return;
        };
        if let Some(list) = self.home.keys.woken_by(&list).filter(|_| list != self.list) {
            self.home.pass_on(News::Work(list.to_owned())).await;
        }
    }
}

/// Takes the first word of the first list that has one.
async fn pop(home: &Home, connection: Option<MultiplexedConnection>, lists: &[String]) -> Answer {
    let mut connection = match connection {
        Some(connection) => connection,
        None => match home.link.own().await {
            Ok(connection) => connection,
            Err(error) => return Answer { connection: None, popped: Err(error) },
        },
    };
    let mut cmd = redis::cmd("BLPOP");
    cmd.arg(lists).arg(BLOCK.as_secs());
    match timeout(BLOCK + MARGIN, connection.send_packed_command(&cmd)).await {
        Ok(Ok(reply)) => match reply.extract_error() {
            Ok(reply) => Answer { connection: Some(connection), popped: Ok(word(reply)) },
            Err(error) => {
                // Such as UNBLOCKED: the server may have become a replica.
                let keep = diagnose(&error).reaction != Reaction::Reconnect;
                Answer { connection: keep.then_some(connection), popped: Err(error) }
            }
        },
        Ok(Err(error)) => Answer { connection: None, popped: Err(error) },
        Err(_) => {
            let silent = std::io::Error::from(std::io::ErrorKind::TimedOut);
            Answer { connection: None, popped: Err(silent.into()) }
        }
    }
}

fn word(reply: Value) -> Option<(String, Vec<u8>)> {
    let mut items = reply::array(reply).ok()?.into_iter();
    let list = String::from_utf8(reply::bytes(items.next()?).ok()?).ok()?;
    Some((list, reply::bytes(items.next()?).ok()?))
}
