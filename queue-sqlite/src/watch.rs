//! Wakes waiting workers, whoever committed: one thread looks at the file.
//!
//! A wait says what it is interested in and the thread looks for that, at once and again after
//! every commit: of this process, because the writer says so, and of others, because the system
//! tells of writes to the log, and `PRAGMA data_version` of an idle connection changes with them. What it looks at is what *is*
//! (ready jobs, the first due job, cancel requests), not what happened, so nothing that was
//! committed between a claim and a wait can be missed.

mod bell;
pub(crate) mod look;
mod pace;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use queue_core::{Error, Interest, Wake, WorkerId};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::errors::Fault;
use crate::open::beside;
use crate::threads::spawn;
use bell::{Bell, Heard};
use look::{Asked, FirstDue, Seen};
pub(crate) use look::{SELECT_HAS_READY, has_work};
use pace::Pace;

/// Workers whose last news are remembered. Forgetting costs a needless wake-up.
const WORKERS_TOLD_MAX: usize = 1024;
/// How long writes to the log are heard after the last wait: whoever claims jobs that end at once
/// comes back soon.
const HEARS_ON: Duration = Duration::from_millis(50);

/// Who waits, and what they have been told.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    state: Mutex<State>,
    /// Wakes the thread.
    bell: Bell,
}

#[derive(Debug, Default)]
struct State {
    /// In the order in which they came.
    waiters: BTreeMap<u64, Waiter>,
    next_waiter: u64,
    told: HashMap<WorkerId, Told>,
    /// This process has committed something that a waiter may want to know.
    look: bool,
    closed: bool,
}

#[derive(Debug)]
struct Waiter {
    interest: Arc<Interest>,
    /// The thread has not looked for it yet.
    fresh: bool,
    wake: oneshot::Sender<Wake>,
}

/// What a worker knows, so that it is not woken for it again.
#[derive(Debug, Default)]
struct Told {
    /// The job that is due first of all.
    first_due: Option<FirstDue>,
    /// Cancel requests for its running jobs.
    asked: HashSet<Asked>,
}

impl Watch {
    /// Starts the thread. It closes the connection and drops `ended` when the answer is dropped.
    pub(crate) fn start(
        conn: Connection,
        path: &Path,
        ended: mpsc::Sender<()>,
    ) -> Result<WatchThread, Error> {
        let watch =
            Arc::new(Self { state: Mutex::default(), bell: Bell::new(&beside(path, "-wal")) });
        let watched = Arc::clone(&watch);
        spawn("queue-sqlite-watch", move || {
            watched.run(&conn);
            drop(conn);
            drop(ended);
        })?;
        Ok(WatchThread(watch))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the thread, and all waits with it.
    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waiters.clear();
        self.bell.ring();
    }

    /// Says that something was committed that a waiter may want to know.
    pub(crate) fn look(&self) {
        let mut state = self.lock();
        if !state.waiters.is_empty() {
            state.look = true;
            self.bell.ring();
        }
    }

    /// Notes which job a worker knows to be due first.
    pub(crate) fn learned(&self, worker: &WorkerId, first_due: Option<FirstDue>) {
        self.lock().told(worker).first_due = first_due;
    }

    /// Waits until there may be something to do for `interest`.
    pub(crate) async fn wait(&self, interest: &Interest, timeout: Duration) -> Result<Wake, Error> {
        let mut waiting = self.enter(interest);
        let woken = tokio::time::timeout(timeout, &mut waiting.woken).await;
        // It may have come just when the time was over.
        let woken = woken.unwrap_or_else(|_| Ok(waiting.woken.try_recv().unwrap_or(Wake::Timeout)));
        waiting.heard = true;
        woken.map_err(|_| Error::Unavailable("the store was closed".to_owned()))
    }

    fn enter(&self, interest: &Interest) -> Waiting<'_> {
        let (wake, woken) = oneshot::channel();
        let mut state = self.lock();
        let waiter = state.next_waiter;
        state.next_waiter += 1;
        if !state.closed {
            let interest = Arc::new(interest.clone());
            state.waiters.insert(waiter, Waiter { interest, fresh: true, wake });
            self.bell.ring();
        }
        Waiting { watch: self, waiter, worker: interest.worker.clone(), woken, heard: false }
    }

    fn run(&self, conn: &Connection) {
        let mut version = None;
        let mut pace = Pace::new(Instant::now());
        while let Some(round) = self.next_round(&mut pace) {
            let looked =
                catch_unwind(AssertUnwindSafe(|| self.look_and_tell(conn, &round, version)));
            let looked = looked.unwrap_or_else(|_| {
                Err(Error::Unavailable("looking for it panicked, which is a bug".to_owned()).into())
            });
            match looked {
                Ok(now) => {
                    pace.looked(Instant::now(), version != Some(now));
                    version = Some(now);
                }
                Err(fault) => {
                    // Nobody is woken, but everybody's wait ends in time.
                    version = None;
                    if pace.failed(Instant::now()) {
                        let error = Error::from(fault);
                        tracing::warn!(
                            event = "watch_failed",
                            %error,
                            "cannot look for work to wake waiting workers"
                        );
                    }
                }
            }
        }
    }

    /// Answers the version that the file had before.
    fn look_and_tell(
        &self,
        conn: &Connection,
        round: &Round,
        version: Option<i64>,
    ) -> Result<i64, Fault> {
        let (now, seen) = look::look(conn, round, version)?;
        if let Some(seen) = seen {
            self.tell(&seen);
        }
        Ok(now)
    }

    /// Waits until it is time to look and answers for whom; `None` at the end.
    fn next_round(&self, pace: &mut Pace) -> Option<Round> {
        loop {
            let mut state = self.lock();
            if state.closed {
                return None;
            }
            if state.waiters.is_empty() {
                drop(state);
                if self.bell.wait(Some(HEARS_ON), false) == Heard::Nothing {
                    self.bell.hear(false);
                    self.bell.wait(None, false);
                }
                pace.quicken(Instant::now());
                continue;
            }
            if !self.bell.hears() {
                // Before the look for whoever has come; and not while the writer may want the lock.
                drop(state);
                self.bell.hear(true);
                continue;
            }
            let now = Instant::now();
            let (held_back, deaf) = (pace.held_back(now), pace.deaf(now));
            let called = state.look || state.waiters.values().any(|waiter| waiter.fresh);
            if held_back.is_zero() && (called || pace.pause(now).is_zero()) {
                return Some(state.round());
            }
            drop(state);
            if !held_back.is_zero() {
                self.bell.wait(Some(held_back), false);
            } else if !deaf.is_zero() {
                self.bell.wait(Some(deaf), false);
            } else if self.bell.wait(Some(pace.pause(now)), true) == Heard::Write {
                pace.quicken(Instant::now());
            }
        }
    }

    /// Wakes those for whom there is something: of the waiters for one queue and kind the one that
    /// waits longest, and whoever has just come.
    fn tell(&self, seen: &Seen) {
        let mut state = self.lock();
        let mut given = HashSet::new();
        for (number, interest, fresh) in &seen.waiters {
            let ready = seen.ready.iter().filter(|pair| seen.has_room(interest, pair));
            let work: Vec<_> = ready.filter(|pair| *fresh || !given.contains(*pair)).collect();
            let told = state.told(&interest.worker);
            let wake = if told.is_asked(seen.asked.get(&interest.worker)) {
                Wake::Cancel
            } else if let Some(pair) = work.first() {
                given.insert((*pair).clone());
                Wake::Work
            } else if told.is_due(seen, interest) {
                Wake::Work
            } else {
                continue;
            };
            if let Some(waiter) = state.waiters.remove(number) {
                if waiter.wake.send(wake).is_err() {
                    state.take_back(&interest.worker);
                }
            } else {
                state.take_back(&interest.worker);
            }
        }
    }
}

/// The thread's owner: it ends with this.
#[derive(Debug)]
pub(crate) struct WatchThread(Arc<Watch>);

impl WatchThread {
    pub(crate) fn watch(&self) -> &Arc<Watch> {
        &self.0
    }
}

impl Drop for WatchThread {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// For whom the thread looks.
#[derive(Debug)]
struct Round {
    /// Look for all, not only for those who have just come.
    everybody: bool,
    /// Number, interest, and whether it has just come.
    waiters: Vec<(u64, Arc<Interest>, bool)>,
}

impl State {
    fn round(&mut self) -> Round {
        let everybody = std::mem::take(&mut self.look);
        let waiters = self.waiters.iter_mut().map(|(number, waiter)| {
            (*number, Arc::clone(&waiter.interest), std::mem::take(&mut waiter.fresh))
        });
        Round { everybody, waiters: waiters.collect() }
    }

    fn told(&mut self, worker: &WorkerId) -> &mut Told {
        if self.told.len() >= WORKERS_TOLD_MAX && !self.told.contains_key(worker) {
            self.told.clear();
        }
        self.told.entry(worker.clone()).or_default()
    }

    /// What a worker was told did not reach it: the next look tells it, or another, again.
    fn take_back(&mut self, worker: &WorkerId) {
        self.told.remove(worker);
        self.look = true;
    }
}

impl Told {
    /// Whether there is a request that the worker has not been told of; then it counts as told.
    fn is_asked(&mut self, asked: Option<&HashSet<Asked>>) -> bool {
        let none = HashSet::new();
        let asked = asked.unwrap_or(&none);
        let new = asked.difference(&self.asked).next().is_some();
        self.asked.clone_from(asked);
        new
    }

    /// Whether an earlier job is due first than the worker knows of; then it knows.
    fn is_due(&mut self, seen: &Seen, interest: &Interest) -> bool {
        let Some((first_due, pair)) = &seen.first_due else { return false };
        let known = self.first_due.is_some_and(|known| known <= *first_due);
        if known || !look::wants(interest, pair) {
            return false;
        }
        self.first_due = Some(*first_due);
        true
    }
}

/// A wait that has begun.
struct Waiting<'w> {
    watch: &'w Watch,
    waiter: u64,
    worker: WorkerId,
    woken: oneshot::Receiver<Wake>,
    /// The caller has what was sent.
    heard: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.watch.lock();
        let untold = state.waiters.remove(&self.waiter).is_some();
        if !untold && !self.heard {
            state.take_back(&self.worker);
            self.watch.bell.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(number: usize) -> WorkerId {
        WorkerId::new(format!("w{number}")).unwrap()
    }

    /// Or each is woken again for what it has been told.
    #[test]
    fn what_workers_were_told_is_remembered_of_many_and_not_of_all() {
        let mut state = State::default();
        let due = Some((5, [7; 16]));
        for number in 0..WORKERS_TOLD_MAX {
            state.told(&worker(number)).first_due = due;
        }
        for number in 0..WORKERS_TOLD_MAX {
            assert_eq!(state.told(&worker(number)).first_due, due, "{number}");
        }
        state.told(&worker(WORKERS_TOLD_MAX)).first_due = due;
        assert!(state.told.len() <= WORKERS_TOLD_MAX);
        assert_eq!(state.told(&worker(WORKERS_TOLD_MAX)).first_due, due);
    }

    #[test]
    fn a_wait_for_nothing_makes_no_busy_loop() {
        let watch = Watch::default();
        let interest = Interest {
            worker: worker(1),
            queues: vec![queue_core::QueueName::default()],
            kinds: vec![queue_core::KindLimits::new("k".parse().unwrap())],
        };
        let _waiting = watch.enter(&interest);
        let begun = Instant::now();
        let mut pace = Pace::new(begun);
        for _ in 0..10 {
            assert!(watch.next_round(&mut pace).is_some());
            pace.looked(Instant::now(), false);
        }
        // Two milliseconds are the least between two looks.
        assert!(begun.elapsed() >= Duration::from_millis(18), "{:?}", begun.elapsed());
    }
}
