//! Waiting for work without polling.
//!
//! Whoever makes work leaves one token in the list `wake:<queue>/<kind>`, if none is there, and a
//! claim that leaves work behind leaves the next: one worker is woken at a time, and it wakes the
//! next. Each worker blocks on the lists of its interest and on one of its own, on a connection of
//! its own. A token that was taken and is not wanted any more is passed on.
//!
//! Behind the blocking command the worker may send its claim, a *standing* one: the server makes it
//! as soon as the command ends, and both answers come at once ([`standing`]).
//!
//! A worker that adds a limit key to a kind, and has found it without room, cannot run new jobs of
//! that kind, but others may: it blocks on `wake:<queue>/<kind>@<key>` instead, where whoever gives
//! the key room leaves a token, until a claim finds that it has room.

mod pop;
mod standing;
mod task;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use queue_core::{ClaimRequest, Error, Interest, Wake, WorkerId};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

pub(crate) use self::standing::Brought;
use self::standing::{INTERRUPT, REVOKE, Standing};
use crate::connect::Link;
use crate::epoch::Known;
use crate::keys::Keys;
use crate::scripts;
use crate::store::{self, Call, Repeat};

/// What the answer to a blocking command may take beyond its time before the connection counts as
/// dead.
const MARGIN: Duration = Duration::from_secs(5);

/// The waiting workers of one backend: a task each, made when it waits first.
#[derive(Debug)]
pub(crate) struct Waiters {
    home: Arc<Home>,
    tasks: Arc<Tasks>,
}

/// By `<queue>/<kind>`, the key that a worker adds to it and has found without room.
type Shut = BTreeMap<String, String>;

type Tasks = Mutex<HashMap<WorkerId, mpsc::UnboundedSender<Ask>>>;

/// Where tokens come from and go back to.
#[derive(Debug)]
struct Home {
    link: Arc<Link>,
    keys: Arc<Keys>,
    /// What standing claims are made from.
    epoch: Arc<Known>,
    /// Of workers that wait now and then.
    shut: Mutex<HashMap<WorkerId, Shut>>,
}

/// One call of `wait`.
#[derive(Debug)]
struct Ask {
    /// Where it wants to hear of work: `<queue>/<kind>`, or that with "@" and a key behind it.
    lists: BTreeSet<String>,
    until: Instant,
    /// The claim to be made for it, while that is not sent.
    standing: Option<Standing>,
    answer: oneshot::Sender<End>,
}

/// How a wait ends.
#[derive(Debug)]
struct End {
    token: Token,
    /// What the standing claim has brought, if it was made.
    brought: Option<Result<Brought, Error>>,
}

impl Waiters {
    pub(crate) fn new(link: Arc<Link>, keys: Arc<Keys>, epoch: Arc<Known>) -> Self {
        let home = Home { link, keys, epoch, shut: Mutex::default() };
        Self { home: Arc::new(home), tasks: Arc::default() }
    }

    /// Notes what a claim has found without room, of what it has asked for. What has room again is
    /// told to the next worker that waits for that.
    pub(crate) fn note_shut(&self, request: &ClaimRequest, shut: Vec<(String, String)>) {
        let mut all = lock(&self.home.shut);
        if shut.is_empty() && !all.contains_key(&request.worker) {
            return;
        }
        let of_worker = all.entry(request.worker.clone()).or_default();
        let mut before = Shut::new();
        for queue in &request.queues {
            for of in &request.kinds {
                before.extend(of_worker.remove_entry(&format!("{queue}/{}", of.kind)));
            }
        }
        of_worker.extend(shut);
        before.retain(|pair, key| of_worker.get(pair) != Some(key));
        if of_worker.is_empty() {
            all.remove(&request.worker);
        }
        for (pair, key) in before {
            drop(Token::of(&self.home, News::Work(format!("{pair}@{key}"))));
        }
    }

    /// What a worker's lists are called behind `wake:`.
    fn lists(&self, interest: &Interest) -> BTreeSet<String> {
        let all = lock(&self.home.shut);
        let of_worker = all.get(&interest.worker);
        let mut lists = BTreeSet::new();
        for queue in &interest.queues {
            for of in &interest.kinds {
                let pair = format!("{queue}/{}", of.kind);
                let key = of_worker.and_then(|shut| shut.get(&pair));
                let key = key.filter(|key| of.limits.iter().any(|own| own.as_str() == *key));
                lists.insert(match key {
                    Some(key) => format!("{pair}@{key}"),
                    None => pair,
                });
            }
        }
        lists
    }

    /// Waits for work or a cancel request, at most `timeout`.
    ///
    /// # Cancel safety
    /// A wake-up that was meant for a dropped call goes to the next one, or to another worker.
    pub(crate) async fn wait(&self, interest: &Interest, timeout: Duration) -> Wake {
        let until = until(timeout);
        let answered = self.ask(interest, until, None);
        match timeout_at(until, answered).await {
            Ok(Ok(end)) => end.token.take(),
            Err(_) => Wake::Timeout,
            // The task is gone, with its runtime: the next call makes another.
            Ok(Err(_)) => {
                sleep_until(until).await;
                Wake::Timeout
            }
        }
    }

    /// Waits as [`Self::wait`] does, with a claim behind the wait until `revoked` ends.
    ///
    /// # Errors
    /// The claim may have been made.
    ///
    /// # Cancel safety
    /// As [`Self::wait`]; a claim is taken back, and jobs that it has got are given back.
    pub(crate) async fn wait_and_claim(
        &self,
        interest: &Interest,
        request: &ClaimRequest,
        revoked: oneshot::Receiver<()>,
        timeout: Duration,
    ) -> Result<(Wake, Option<Brought>), Error> {
        let until = until(timeout);
        let standing = Standing::new(request.clone(), revoked);
        // The task answers when the time is over: only the server knows whether it has claimed.
        match self.ask(interest, until, Some(standing)).await {
            Ok(End { token, brought }) => {
                let brought = brought.transpose()?;
                Ok((token.take(), brought))
            }
            Err(_) => {
                sleep_until(until).await;
                Ok((Wake::Timeout, None))
            }
        }
    }

    /// Ends the wait of a worker whose task may stand still, and revokes the claim behind it.
    ///
    /// # Errors
    /// The claim may still be made.
    pub(crate) async fn revoke(&self, worker: &WorkerId) -> Result<(), Error> {
        let call = self.home.words(worker, &[REVOKE, INTERRUPT]);
        store::one(&self.home.link, call, Repeat::Freely).await.map(drop)
    }

    fn ask(
        &self,
        interest: &Interest,
        until: Instant,
        standing: Option<Standing>,
    ) -> oneshot::Receiver<End> {
        let (answer, answered) = oneshot::channel();
        let ask = Ask { lists: self.lists(interest), until, standing, answer };
        self.tell_task(&interest.worker, ask);
        answered
    }

    fn tell_task(&self, worker: &WorkerId, ask: Ask) {
        let mut tasks = lock(&self.tasks);
        let ask = match tasks.get(worker) {
            Some(task) => match task.send(ask) {
                Ok(()) => return,
                Err(refused) => refused.0,
            },
            None => ask,
        };
        let (sender, asks) = mpsc::unbounded_channel();
        // Cannot fail: the receiver is here.
        let _ = sender.send(ask);
        tasks.insert(worker.clone(), sender);
        let tasks = Arc::downgrade(&self.tasks);
        tokio::spawn(task::run(self.home.clone(), worker.clone(), asks, tasks));
    }
}

/// A wait is a hint: nobody needs one that outlasts the day.
fn until(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(Duration::from_secs(24 * 3600))
}

fn lock<T>(map: &Mutex<HashMap<WorkerId, T>>) -> MutexGuard<'_, HashMap<WorkerId, T>> {
    // The map is whole between any two statements.
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A wake-up on its way to the worker. Dropped on the way, it is passed on.
#[derive(Debug)]
struct Token {
    home: Arc<Home>,
    /// `None` if there is nothing to tell, or it has arrived.
    news: Option<News>,
}

#[derive(Debug)]
enum News {
    /// There may be jobs of this `<queue>/<kind>`, for those of this list.
    Work(String),
    /// One of this worker's jobs may have been asked to stop.
    Cancel(WorkerId),
}

impl Token {
    fn of(home: &Arc<Home>, news: News) -> Self {
        Self { home: home.clone(), news: Some(news) }
    }

    /// That the wait has ended.
    fn nothing(home: &Arc<Home>) -> Self {
        Self { home: home.clone(), news: None }
    }

    /// The wake-up has arrived.
    fn take(mut self) -> Wake {
        match self.news.take() {
            Some(News::Work(_)) => Wake::Work,
            Some(News::Cancel(_)) => Wake::Cancel,
            None => Wake::Timeout,
        }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let (Some(news), Ok(runtime)) = (self.news.take(), Handle::try_current()) else { return };
        let home = self.home.clone();
        runtime.spawn(async move { home.pass_on(news).await });
    }
}

impl Home {
    async fn pass_on(&self, news: News) {
        match news {
            News::Work(pair) => {
                let mut cmd = scripts::pass_on.call(&self.keys, 1, pair.len());
                cmd.arg(pair);
                self.try_call(Call::script(&scripts::pass_on, cmd)).await;
            }
            News::Cancel(worker) => self.tell(&worker, &["c"]).await,
        }
    }

    /// Leaves words in a worker's own list, which reads the last one first. The list goes by itself
    /// if nobody reads it.
    async fn tell(&self, worker: &WorkerId, words: &[&str]) {
        self.try_call(self.words(worker, words)).await;
    }

    fn words(&self, worker: &WorkerId, words: &[&str]) -> Call {
        let mut cmd = scripts::tell.call(&self.keys, 1 + words.len(), 64);
        cmd.arg(worker.as_str()).arg(words);
        Call::script(&scripts::tell, cmd)
    }

    async fn try_call(&self, call: Call) {
        // Only a hint: who misses it asks again within a second.
        if let Err(error) = store::one(&self.link, call, Repeat::Freely).await {
            tracing::debug!(%error, "a wake-up was lost");
        }
    }
}
