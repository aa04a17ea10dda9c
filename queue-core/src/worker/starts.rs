//! Starts attempts, without a task for each where they take no time.
//!
//! Many jobs come in one answer of the store. A task for each has the runtime wake its other threads
//! again and again, for work that is done before they are awake; and threads that share such jobs
//! make each other slower. So attempts that come together are begun by one task, the *starter*, one
//! after the other. One that ends at once has cost no task; one that waits for something goes on in a
//! task of its own.
//!
//! Nobody is to notice but by the speed. A starter that has a good deal left calls another one, for
//! which the runtime wakes a thread if one is free. If a handler blocks the starter's thread, the
//! thread that renews leases gives tasks to the attempts behind it. Where attempts do not end at
//! once, the next ones get tasks from the beginning.

use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::panics::caught_now;

/// How long a starter goes on before it lets other tasks have its thread. An attempt that takes as
/// long by itself does not end at once.
const TURN: Duration = Duration::from_micros(50);

/// Another starter is called if what is left would take one as long as this: to wake a thread takes
/// a good part of it.
const WORTH_ANOTHER: Duration = Duration::from_micros(250);

/// So many attempts get tasks of their own after one that did not end at once.
const APART: u32 = 64;

/// How often somebody looks whether a starter is stuck, while attempts wait for one.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

type Attempt = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Attempts on their way to their first poll.
#[derive(Debug)]
pub(super) struct Starts {
    runtime: Handle,
    line: Mutex<Line>,
    /// How many of the next attempts get tasks of their own.
    apart: AtomicU32,
    is_watched: AtomicBool,
    watch: Notify,
}

/// Attempts that no starter has taken yet, in their order.
#[derive(Default)]
struct Line {
    attempts: VecDeque<Attempt>,
    /// How many starters have taken, ever.
    taken: u64,
    /// A starter was called that has taken none yet.
    is_starter_coming: bool,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("attempts", &self.attempts.len()).finish_non_exhaustive()
    }
}

impl Starts {
    /// Starts in tasks of the current runtime.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            runtime: Handle::current(),
            line: Mutex::default(),
            apart: AtomicU32::new(0),
            is_watched: AtomicBool::new(false),
            watch: Notify::new(),
        })
    }

    /// Takes an attempt, which starts when [`Starts::go`] is called, if not before.
    pub(super) fn add(&self, attempt: impl Future<Output = ()> + Send + 'static) {
        if self.next_is_apart() {
            self.runtime.spawn(attempt);
        } else {
            self.line().attempts.push_back(Box::pin(attempt));
        }
    }

    /// Starts what was added.
    pub(super) fn go(self: &Arc<Self>) {
        let mut line = self.line();
        if line.attempts.len() > 1 {
            self.call_starter(line);
            if !self.is_watched.swap(true, Ordering::SeqCst) {
                self.watch.notify_one();
            }
        } else if let Some(attempt) = line.attempts.pop_front() {
            drop(line);
            self.runtime.spawn(attempt);
        }
    }

    /// One that has not begun yet is enough.
    fn call_starter(self: &Arc<Self>, mut line: MutexGuard<'_, Line>) {
        let is_coming = std::mem::replace(&mut line.is_starter_coming, true);
        drop(line);
        if !is_coming {
            self.runtime.spawn(Arc::clone(self).start());
        }
    }

    /// A starter.
    async fn start(self: Arc<Self>) {
        self.line().is_starter_coming = false;
        while self.take_turn().is_continue() {
            tokio::task::yield_now().await;
        }
    }

    /// Begins attempts for a while; breaks off if there are no more.
    fn take_turn(self: &Arc<Self>) -> ControlFlow<()> {
        let (began_at, mut took, mut begun) = (Instant::now(), Duration::ZERO, 0);
        while took < TURN {
            let Some(attempt) = self.take() else { return ControlFlow::Break(()) };
            if self.next_is_apart() {
                self.runtime.spawn(attempt);
                continue;
            }
            self.begin(attempt);
            begun += 1;
            let before = std::mem::replace(&mut took, began_at.elapsed());
            if took - before >= TURN {
                self.keep_apart();
            }
        }
        let line = self.line();
        if is_worth_another(took, begun, line.attempts.len()) {
            self.call_starter(line);
        }
        ControlFlow::Continue(())
    }

    fn take(&self) -> Option<Attempt> {
        let mut line = self.line();
        let attempt = line.attempts.pop_front()?;
        line.taken += 1;
        Some(attempt)
    }

    /// Polls an attempt. If it does not end, it goes on in a task, which polls it again at once: it
    /// does not matter who is woken before.
    fn begin(&self, mut attempt: Attempt) {
        let poll = || attempt.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        // Handlers' panics are caught in there. One of our own must not take other attempts along.
        if let Ok(Poll::Pending) = caught_now(poll) {
            self.keep_apart();
            self.runtime.spawn(attempt);
        }
    }

    fn keep_apart(&self) {
        self.apart.store(APART, Ordering::Relaxed);
    }

    /// Whether the next attempt gets a task of its own from the beginning.
    fn next_is_apart(&self) -> bool {
        let left = self.apart.load(Ordering::Relaxed);
        if left > 0 {
            // Threads that do so at a time may count one attempt too few, or let one be begun by a
            // starter.
            self.apart.store(left - 1, Ordering::Relaxed);
        }
        left > 0
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Nothing in there panics half-way.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that no attempt waits for a starter that is stuck. For a thread that no handler blocks.
    pub(super) async fn watch_for_ever(&self) {
        loop {
            self.watch.notified().await;
            let mut taken = None;
            while self.is_watched.load(Ordering::SeqCst) {
                tokio::time::sleep(LOOK_INTERVAL).await;
                taken = self.look(taken);
            }
        }
    }

    /// Gives tasks to all attempts in the line if none has left it since the last look. Answers
    /// how many starters have taken by now, if more wait.
    fn look(&self, taken: Option<u64>) -> Option<u64> {
        let mut line = self.line();
        let now_taken = line.taken;
        if taken == Some(now_taken) && !line.attempts.is_empty() {
            let stuck = std::mem::take(&mut line.attempts);
            drop(line);
            self.keep_apart();
            stuck.into_iter().for_each(|attempt| drop(self.runtime.spawn(attempt)));
            return None;
        }
        if line.attempts.is_empty() {
            // Whoever adds to the line has it watched afterwards.
            self.is_watched.store(false, Ordering::SeqCst);
        }
        Some(now_taken)
    }
}

/// Whether so many attempts would keep one starter busy for long, if `begun` of them took so long.
fn is_worth_another(took: Duration, begun: u32, left: usize) -> bool {
    let left = u32::try_from(left).unwrap_or(u32::MAX);
    (took / begun.max(1)).saturating_mul(left) >= WORTH_ANOTHER
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::runtime::Runtime;
    use tokio::sync::oneshot;

    use super::*;

    fn runtime(threads: usize) -> Runtime {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_time()
            .build()
            .unwrap()
    }

    fn starts(runtime: &Runtime) -> Arc<Starts> {
        let _inside = runtime.enter();
        Starts::new()
    }

    /// Starts attempts that tell the task they run in, and end.
    fn go(starts: &Arc<Starts>, attempts: usize) -> mpsc::Receiver<tokio::task::Id> {
        let (tells, told) = mpsc::channel();
        for _ in 0..attempts {
            let tells = tells.clone();
            starts.add(async move { tells.send(tokio::task::id()).unwrap() });
        }
        starts.go();
        told
    }

    fn tasks(told: &mpsc::Receiver<tokio::task::Id>) -> usize {
        told.iter().collect::<std::collections::HashSet<_>>().len()
    }

    #[test]
    fn attempts_that_end_at_once_share_a_task() {
        let runtime = runtime(2);
        let starts = starts(&runtime);
        // A machine that stands still for a moment makes them look slow: again, then.
        while tasks(&go(&starts, 8)) == 8 {
            starts.apart.store(0, Ordering::Relaxed);
        }
    }

    #[test]
    fn one_that_waits_goes_on_in_a_task_and_so_do_the_next_ones() {
        let runtime = runtime(2);
        let starts = starts(&runtime);
        let (wakes, woken) = oneshot::channel::<()>();
        let (ends, ended) = mpsc::channel();
        starts.add(async move {
            woken.await.unwrap();
            ends.send(()).unwrap();
        });
        assert_eq!(go(&starts, 1).iter().count(), 1);
        let told = go(&starts, 8);
        assert_eq!(tasks(&told), 8);
        wakes.send(()).unwrap();
        ended.recv().unwrap();
    }

    #[test]
    fn one_that_panics_takes_no_other_along() {
        let runtime = runtime(1);
        let starts = starts(&runtime);
        starts.add(async { panic!("a bug") });
        assert_eq!(go(&starts, 3).iter().count(), 3);
    }

    #[test]
    fn attempts_behind_one_that_blocks_its_thread_start_on_another() {
        let runtime = runtime(2);
        let starts = starts(&runtime);
        let watch = Arc::clone(&starts);
        let watcher = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let watcher = std::thread::spawn(move || {
            watcher.block_on(async {
                tokio::select! {
                    () = watch.watch_for_ever() => {}
                    _ = stopped => {}
                }
            });
        });
        // Twice: it watches again once it has nothing to watch.
        for _ in 0..2 {
            starts.apart.store(0, Ordering::Relaxed);
            let (unblocks, blocked) = mpsc::channel::<()>();
            starts.add(async move { blocked.recv().unwrap() });
            assert_eq!(go(&starts, 3).iter().count(), 3);
            unblocks.send(()).unwrap();
        }
        stop.send(()).unwrap();
        watcher.join().unwrap();
    }

    #[test]
    fn what_comes_later_does_not_wait_for_a_starter_that_is_stuck() {
        let runtime = runtime(2);
        let starts = starts(&runtime);
        let (begins, begun) = mpsc::channel();
        let (unblocks, blocked) = mpsc::channel::<()>();
        starts.add(async move {
            begins.send(()).unwrap();
            blocked.recv().unwrap();
        });
        let behind = go(&starts, 1);
        begun.recv().unwrap();
        assert_eq!(go(&starts, 2).iter().count(), 2);
        assert_eq!(behind.iter().count(), 1);
        unblocks.send(()).unwrap();
    }

    #[test]
    fn another_starter_is_called_for_much_work_only() {
        let us = Duration::from_micros;
        assert!(!is_worth_another(us(50), 50, 100));
        assert!(is_worth_another(us(50), 5, 100));
        assert!(!is_worth_another(us(50_000), 1, 0));
        assert!(is_worth_another(us(50_000), 1, 1));
    }
}
