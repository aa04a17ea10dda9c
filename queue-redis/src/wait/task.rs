//! The task that waits for one worker.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use queue_core::{Error, WorkerId};
use redis::RedisError;
use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::pop::{Claimed, Follow, Popped, Stage, pop};
use super::standing::{INTERRUPT, Moment, REVOKE};
use super::{Ask, Brought, End, Home, MARGIN, News, Tasks, Token, lock};
use crate::connect::reconnect_pause;
use crate::errors::{Reaction, diagnose};

/// How long one blocking command lasts if nothing happens.
const BLOCK: Duration = Duration::from_secs(60);
/// How long to leave the lists alone after an error that trying again does not mend, such as a
/// list that is none. Whoever waits asks again by itself meanwhile.
const BROKEN_PAUSE: Duration = Duration::from_secs(5);
/// How long a blocking command that is to come back may take before it is told so again: a word may
/// be lost while the server does not take writes.
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// And before its connection is given up, and with it what may stand behind the command.
const GIVE_UP: Duration = Duration::from_secs(3);
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
    /// The calls that wait now, but the one whose claim is under way.
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
    /// Since when it is to come back.
    interrupted: Option<Instant>,
    /// When to tell it so again.
    tell_again: Instant,
    /// The call whose claim stands behind it.
    claiming: Option<Claiming>,
    answer: Pin<Box<dyn Future<Output = Popped> + Send>>,
}

struct Claiming {
    ask: Ask,
    /// It was sent then, or later.
    sent_at: Moment,
    stage: Arc<Stage>,
}

impl Claiming {
    fn new(ask: Ask) -> Self {
        Self { ask, sent_at: Moment::now(), stage: Arc::default() }
    }

    /// Waits until nobody wants the claim any more.
    async fn given_up(&mut self) {
        let revoked = async {
            match &mut self.ask.standing {
                Some(standing) => standing.revoked().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = revoked => {}
            () = self.ask.answer.closed() => {}
        }
    }

    fn is_given_up(&self) -> bool {
        let is_revoked = self.ask.standing.as_ref().is_none_or(|standing| standing.is_revoked);
        is_revoked || self.ask.answer.is_closed()
    }
}

enum Event {
    Asked(Option<Ask>),
    Answered(Popped),
    GivenUp,
    Unanswered,
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
            Event::Answered(popped) => self.answered(popped),
            Event::GivenUp => self.revoke(),
            Event::Unanswered => self.insist(),
            Event::Idle => return !self.leave_if_idle(),
        }
        true
    }

    async fn next_event(&mut self) -> Event {
        let blocked = async {
            let Some(blocked) = &mut self.blocked else {
                return std::future::pending().await;
            };
            let is_interrupted = blocked.interrupted.is_some();
            let given_up = async {
                match blocked.claiming.as_mut().filter(|_| !is_interrupted) {
                    Some(claiming) => claiming.given_up().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                popped = blocked.answer.as_mut() => Event::Answered(popped),
                () = given_up => Event::GivenUp,
                () = sleep_until(blocked.tell_again), if is_interrupted => Event::Unanswered,
            }
        };
        tokio::select! {
            ask = self.asks.recv() => Event::Asked(ask),
            event = blocked => event,
            () = sleep_until(self.idle_at) => Event::Idle,
        }
    }

    fn admit(&mut self, ask: Ask) {
        self.idle_at = self.idle_at.max(ask.until + LINGER);
        if std::mem::take(&mut self.cancel_pending) {
            self.deliver(ask, News::Cancel(self.worker.clone()));
            return;
        }
        let covers = |b: &Blocked| ask.standing.is_none() && ask.lists.is_subset(&b.lists);
        let covered = self.blocked.as_ref().is_none_or(covers);
        self.waiting.push(ask);
        if !covered {
            self.interrupt();
        }
    }

    /// Blocks on the lists of everybody who waits, with the first claim that is to stand behind.
    fn block(&mut self) {
        let lists: BTreeSet<String> =
            self.waiting.iter().flat_map(|ask| ask.lists.iter().cloned()).collect();
        let mut names = vec![self.list.clone()];
        names.extend(lists.iter().map(|list| self.home.keys.wake(list)));
        let home = self.home.clone();
        let connection = self.connection.take();
        let (failures, broken) = (self.failures, self.broken);
        let first = self.waiting.iter().position(|ask| ask.standing.is_some());
        let claiming = first.map(|at| Claiming::new(self.waiting.swap_remove(at)));
        let follow = claiming.as_ref().and_then(|claiming| {
            let standing = claiming.ask.standing.as_ref()?;
            Some((standing.cmd(&home), claiming.stage.clone()))
        });
        let until = claiming.as_ref().map(|claiming| claiming.ask.until);
        let answer = Box::pin(async move {
            if broken {
                sleep(BROKEN_PAUSE).await;
            } else if failures > 0 {
                sleep(reconnect_pause(failures)).await;
            }
            // Whoever has left a claim hears from the server when his time is over.
            let left = until.map_or(BLOCK, |until| until.saturating_duration_since(Instant::now()));
            let follow = follow.as_ref().map(|(cmd, stage)| Follow { cmd: cmd.clone(), stage });
            pop(&home, connection, &names, left.min(BLOCK), follow).await
        });
        let tell_again = Instant::now();
        self.blocked = Some(Blocked { lists, interrupted: None, tell_again, claiming, answer });
    }

    /// Makes the blocking command come back, to go out again with another interest.
    fn interrupt(&mut self) {
        let Some(blocked) = self.blocked.as_mut().filter(|b| b.interrupted.is_none()) else {
            return;
        };
        blocked.interrupted = Some(Instant::now());
        self.tell();
    }

    fn tell(&mut self) {
        let Some(blocked) = &mut self.blocked else { return };
        blocked.tell_again = Instant::now() + TELL_AGAIN;
        let words: &[&str] =
            if blocked.claiming.is_some() { &[REVOKE, INTERRUPT] } else { &[INTERRUPT] };
        let (home, worker) = (self.home.clone(), self.worker.clone());
        tokio::spawn(async move { home.tell(&worker, words).await });
    }

    /// The blocking command does not come back. A server that hears that its connection is closed
    /// forgets the command and the claim behind it.
    fn insist(&mut self) {
        let is_over = |b: &mut Blocked| b.interrupted.is_some_and(|at| at.elapsed() >= GIVE_UP);
        let Some(blocked) = self.blocked.take_if(is_over) else { return self.tell() };
        self.failures = self.failures.saturating_add(1);
        if let Some(claiming) = blocked.claiming {
            tracing::debug!(worker = %self.worker, "a claim was left to its connection's end");
            self.go_on_without_claim(claiming);
        }
    }

    /// Ends the wait of somebody who does not want its claim any more; another one goes on.
    fn go_on_without_claim(&mut self, claiming: Claiming) {
        if claiming.is_given_up() {
            self.end(claiming.ask, Token::nothing(&self.home), None);
        } else {
            self.waiting.push(claiming.ask);
        }
    }

    /// Takes the standing claim back.
    fn revoke(&mut self) {
        let not_sent = |claiming: &mut Claiming| claiming.stage.take_back();
        match self.blocked.as_mut().and_then(|blocked| blocked.claiming.take_if(not_sent)) {
            Some(claiming) => self.end(claiming.ask, Token::nothing(&self.home), None),
            None => self.interrupt(),
        }
    }

    fn answered(&mut self, popped: Popped) {
        let claiming = self.blocked.take().and_then(|blocked| blocked.claiming);
        self.connection = popped.connection;
        let heard = self.note_health(popped.word);
        let Some(claiming) = claiming else { return self.hear(heard) };
        let request = claiming.ask.standing.as_ref().map(|standing| standing.request.clone());
        let brought = match (popped.claimed, request) {
            (Claimed::Yes(reply), Some(request)) => {
                Ok(Brought::new(&self.home, request, claiming.sent_at, reply))
            }
            (Claimed::InDoubt(error), _) => Err(diagnose(&error).error),
            _ => {
                // Who goes on waiting may be the one to hear this.
                self.go_on_without_claim(claiming);
                return self.hear(heard);
            }
        };
        let ask = claiming.ask;
        // The claim was made for it: what was heard has led to that.
        let token = match heard {
            Some((list, word)) if list == self.list && word == b"c" => {
                self.cancel();
                self.cancel_pending = false;
                Token::of(&self.home, News::Cancel(self.worker.clone()))
            }
            Some((list, _)) if self.wants(&ask, &list) => {
                let list = self.home.keys.woken_by(&list).unwrap_or_default();
                Token::of(&self.home, News::Work(list.to_owned()))
            }
            heard => {
                self.hear(heard);
                Token::nothing(&self.home)
            }
        };
        self.end(ask, token, Some(brought));
    }

    /// Notes whether the blocking command worked, and answers what it brought.
    fn note_health(
        &mut self,
        word: Result<Option<(String, Vec<u8>)>, RedisError>,
    ) -> Option<(String, Vec<u8>)> {
        let error = match word {
            Ok(word) => {
                (self.failures, self.broken) = (0, false);
                return word;
            }
            Err(error) => error,
        };
        self.failures = self.failures.saturating_add(1);
        let diagnosis = diagnose(&error);
        let broken = diagnosis.reaction == Reaction::GiveUp;
        if broken && !self.broken {
            let (worker, error) = (&self.worker, diagnosis.error);
            tracing::warn!(
                event = "not_woken",
                %worker,
                %error,
                "cannot be woken; it looks for work by itself"
            );
        } else {
            tracing::debug!(error = %diagnosis.error, "waiting failed; trying again");
        }
        self.broken = broken;
        None
    }

    /// Whether a call that waits is one for which this list has words.
    fn wants(&self, ask: &Ask, list: &str) -> bool {
        let list = self.home.keys.woken_by(list);
        list.is_some_and(|list| ask.lists.contains(list)) && !ask.answer.is_closed()
    }

    fn hear(&mut self, heard: Option<(String, Vec<u8>)>) {
        let Some((list, word)) = heard else { return };
        if list != self.list {
            let news = News::Work(self.home.keys.woken_by(&list).unwrap_or_default().to_owned());
            match self.waiting.iter().position(|ask| self.wants(ask, &list)) {
                Some(at) => {
                    let ask = self.waiting.swap_remove(at);
                    self.deliver(ask, news);
                }
                // Dropped, a token passes itself on.
                None => drop(Token::of(&self.home, news)),
            }
        } else if word == b"c" {
            self.cancel();
        }
    }

    /// Tells everybody who waits, or the next one, that there may be a job to cancel.
    fn cancel(&mut self) {
        self.waiting.retain(|ask| !ask.answer.is_closed());
        self.cancel_pending = self.waiting.is_empty();
        for ask in std::mem::take(&mut self.waiting) {
            self.deliver(ask, News::Cancel(self.worker.clone()));
        }
    }

    fn deliver(&self, ask: Ask, news: News) {
        self.end(ask, Token::of(&self.home, news), None);
    }

    fn end(&self, ask: Ask, token: Token, brought: Option<Result<Brought, Error>>) {
        // What comes back here is dropped: a token is passed on, and jobs are given back.
        let _ = ask.answer.send(End { token, brought });
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
        if let Some(claiming) = &blocked.claiming {
            claiming.stage.take_back();
        }
        let Ok(popped) = timeout(MARGIN, blocked.answer).await else { return };
        let ask = blocked.claiming.map(|claiming| (claiming.sent_at, claiming.ask.standing));
        if let (Claimed::Yes(reply), Some((sent_at, Some(standing)))) = (popped.claimed, ask) {
            drop(Brought::new(&self.home, standing.request, sent_at, reply));
        }
        let Ok(Some((list, _))) = popped.word else { return };
        if let Some(list) = self.home.keys.woken_by(&list).filter(|_| list != self.list) {
            self.home.pass_on(News::Work(list.to_owned())).await;
        }
    }
}
