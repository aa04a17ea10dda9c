//! The worker engine: takes jobs from a queue and runs them.
//!
//! One request does everything: it reports the attempts that ended since the last one and claims jobs
//! for the slots that are free now (`worker/cycle.rs`), and some more where jobs are very short
//! (`worker/cycle/ahead.rs`). At most two requests are out (`worker/cycle/flight.rs`). Attempts that come together are begun
//! by one task (`worker/starts.rs`), and each that does not end at once gets one of its own (`worker/run.rs`). Leases are renewed from a thread of their own, so that a handler that blocks the
//! runtime does not lose its lease (`worker/renew.rs`). Every worker also does the store's housekeeping;
//! there is no leader (`worker/maintain.rs`).

mod attempts;
mod cycle;
mod leases;
mod maintain;
mod panics;
mod presence;
mod renew;
mod reopen;
mod reports;
mod rescue;
mod run;
mod selection;
mod slots;
mod starts;
mod stop;
mod waiting;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use selection::QueueSelection;
pub use stop::{RunningWorker, StopReport, WorkerStatus};

use crate::handler::{DynExecutor, FunctionExecutor, Handler, States};
use crate::{Executor, InvalidLimitKey, Job, Kind, LimitKey, LimitKeys, Queue, WorkerId};

/// The most jobs that one worker may run at a time.
pub const CONCURRENCY_MAX: usize = 100_000;
/// The shortest lease a worker accepts: below, one slow round trip would lose jobs.
pub const LEASE_MIN: Duration = Duration::from_millis(500);
/// The longest lease a worker accepts: above, the jobs of a dead worker would be gone for days.
pub const LEASE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Runs jobs: say what it can run and start it.
///
/// ```
/// use queue_core::{Fail, Job, NewJob, Queue, Worker};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Greet {
///     name: String,
/// }
///
/// impl Job for Greet {
///     const KIND: &'static str = "greet";
/// }
///
/// async fn greet(job: Greet) -> Result<String, Fail> {
///     Ok(format!("hello, {}", job.name))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let queue = Queue::memory();
/// let worker = Worker::new(&queue).concurrency(8).handle::<Greet, _>(greet).start()?;
///
/// let id = queue.enqueue(NewJob::of(&Greet { name: "you".into() })?).await?.id;
/// let record = queue.wait_finished(id, std::time::Duration::from_secs(5)).await?.unwrap();
/// assert_eq!(record.result.unwrap().decode::<String>()?, "hello, you");
///
/// worker.drain(std::time::Duration::from_secs(5)).await;
/// # Ok(())
/// # }
/// ```
#[must_use = "a worker does nothing until it is started"]
pub struct Worker {
    queue: Queue,
    id: WorkerId,
    selection: QueueSelection,
    concurrency: usize,
    lease: Duration,
    cancel_grace: Duration,
    routes: BTreeMap<Kind, Route>,
    limits: HashMap<Kind, LimitKeys>,
    states: States,
    /// What handlers of functions ask for.
    needs: Vec<(Kind, Missing)>,
    mistake: Option<StartError>,
}

/// Names a type of state that a handler asks for and that is not there.
type Missing = fn(&States) -> Option<&'static str>;

/// How the jobs of one kind are run.
struct Route {
    executor: Arc<dyn DynExecutor>,
    /// The most jobs of the kind at a time in this worker; `None` for no limit but the worker's.
    concurrency: Option<usize>,
    /// The limit keys that its jobs need here beside their own.
    limits: LimitKeys,
}

/// A worker cannot start as it was set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is nothing it could run.
    #[error("the worker has no handler: add one with Worker::handle or Worker::executor")]
    NoHandlers,
    /// Two handlers for one kind.
    #[error("the kind {0} has two handlers; a kind has one")]
    DuplicateKind(Kind),
    /// A job type whose `KIND` is not a kind.
    #[error("a handler cannot be added: {0}")]
    InvalidKind(#[from] crate::InvalidName),
    /// Limit keys of a kind that are none.
    #[error("the limits of {kind} cannot be used: {invalid}")]
    InvalidLimits {
        /// The kind.
        kind: Kind,
        /// What is wrong with them.
        invalid: InvalidLimitKey,
    },
    /// Limit keys for a kind that the worker does not run.
    #[error("limits are named for {0}, which has no handler: add one, or take them out")]
    LimitsWithoutHandler(Kind),
    /// A number out of its range.
    #[error("{what} is {value}: it must be {range}")]
    OutOfRange {
        /// What the number says.
        what: &'static str,
        /// The number.
        value: String,
        /// What it may be.
        range: String,
    },
    /// No queue to take jobs from.
    #[error("the worker has no queue to take jobs from")]
    NoQueues,
    /// A handler asks for a state that the worker was not given.
    #[error("the handler of {kind} asks for State<{state}>: give it one with Worker::state")]
    MissingState {
        /// The handler's kind.
        kind: Kind,
        /// The type of the state.
        state: &'static str,
    },
    /// Started outside of a tokio runtime.
    #[error("a worker must be started inside a tokio runtime")]
    NoRuntime,
    /// Started in a tokio runtime that cannot wait.
    #[error(
        "the tokio runtime of a worker needs its timers: call Builder::enable_time or enable_all"
    )]
    NoTimers,
    /// The operating system refused a thread.
    #[error("cannot start the thread that renews leases: {0}")]
    Thread(String),
}

impl Worker {
    /// A worker of `queue` that takes jobs from the queue `default`, at most 16 at a time, with
    /// leases of 30 s.
    pub fn new(queue: &Queue) -> Self {
        Self {
            queue: queue.clone(),
            id: WorkerId::random(),
            selection: QueueSelection::default(),
            concurrency: 16,
            lease: Duration::from_secs(30),
            cancel_grace: Duration::from_secs(10),
            routes: BTreeMap::new(),
            limits: HashMap::new(),
            states: States::default(),
            needs: Vec::new(),
            mistake: None,
        }
    }

    /// What people see this worker called. Default: a random label.
    pub fn id(mut self, id: WorkerId) -> Self {
        self.id = id;
        self
    }

    /// Which queues it serves, and which first.
    pub fn queues(mut self, selection: QueueSelection) -> Self {
        self.selection = selection;
        self
    }

    /// The most jobs it runs at a time.
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.concurrency = jobs;
        self
    }

    /// How long the store waits for a sign of life before it gives a job to another worker. The
    /// worker renews at a third of it. 500 ms to 24 h.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long an attempt that was told to stop may take to do so before its future is dropped.
    /// Default 10 s.
    pub fn cancel_grace(mut self, grace: Duration) -> Self {
        self.cancel_grace = grace;
        self
    }

    /// Adds a value that handlers can ask for with [`State<T>`](crate::State).
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.states.insert(value);
        self
    }

    /// Runs the jobs of type `J` with an async function; see [`Handler`]. What it asks for with
    /// [`State<T>`](crate::State) must be given by [`Worker::state`], before or after.
    pub fn handle<J: Job, Arguments: 'static>(
        mut self,
        function: impl Handler<J, Arguments>,
    ) -> Self {
        let missing = missing_of(&function);
        let executor = FunctionExecutor::new(function);
        match Kind::new(J::KIND) {
            Ok(kind) => {
                self.needs.push((kind.clone(), missing));
                self.executor(kind, None, executor)
            }
            Err(invalid) => self.with_mistake(invalid.into()),
        }
    }

    /// Runs the jobs of `kind` with `executor`, at most `concurrency` at a time if it is given.
    pub fn executor(
        mut self,
        kind: Kind,
        concurrency: Option<usize>,
        executor: impl Executor,
    ) -> Self {
        let limits = LimitKeys::NONE;
        let route = Route { executor: Arc::new(executor), concurrency, limits };
        if self.routes.insert(kind.clone(), route).is_some() {
            return self.with_mistake(StartError::DuplicateKind(kind));
        }
        self
    }

    /// Names limit keys that jobs of `kind` need on this worker beside their own, such as the
    /// provider that their handler calls: at most [`LIMIT_KEYS_MAX`](crate::LIMIT_KEYS_MAX), those
    /// of earlier calls included, to which these are added. A handler that answers
    /// [`Fail::throttled`](crate::Fail::throttled) closes them for everyone.
    ///
    /// The kind needs a handler, added before or after.
    pub fn limits<K: AsRef<str>>(
        mut self,
        kind: impl AsRef<str>,
        keys: impl IntoIterator<Item = K>,
    ) -> Self {
        let kind = match Kind::new(kind) {
            Ok(kind) => kind,
            Err(invalid) => return self.with_mistake(invalid.into()),
        };
        let named = self.limits.entry(kind.clone()).or_default();
        let keys: Result<Vec<LimitKey>, _> = keys.into_iter().map(LimitKey::new).collect();
        match keys.and_then(|keys| LimitKeys::new(named.iter().cloned().chain(keys))) {
            Ok(keys) => {
                *named = keys;
                self
            }
            Err(invalid) => self.with_mistake(StartError::InvalidLimits { kind, invalid }),
        }
    }

    fn with_mistake(mut self, mistake: StartError) -> Self {
        self.mistake.get_or_insert(mistake);
        self
    }

    /// Starts to take and run jobs, in tasks of the current tokio runtime (which needs its timers
    /// enabled) and one thread. The worker runs until the answer is stopped or dropped: keep it.
    ///
    /// Adds to the process's panic hook, so that a handler's panic is recorded with its place; the
    /// hook that was there goes on doing what it did.
    ///
    /// # Errors
    /// [`StartError`] says what is wrong with the set-up.
    pub fn start(mut self) -> Result<RunningWorker, StartError> {
        if let Some(mistake) = self.mistake {
            return Err(mistake);
        }
        if self.routes.is_empty() {
            return Err(StartError::NoHandlers);
        }
        if self.selection.is_empty() {
            return Err(StartError::NoQueues);
        }
        for (kind, missing) in &self.needs {
            if let Some(state) = missing(&self.states) {
                return Err(StartError::MissingState { kind: kind.clone(), state });
            }
        }
        for (kind, limits) in std::mem::take(&mut self.limits) {
            match self.routes.get_mut(&kind) {
                Some(route) => route.limits = limits,
                None => return Err(StartError::LimitsWithoutHandler(kind)),
            }
        }
        in_range("concurrency", self.concurrency, 1, CONCURRENCY_MAX)?;
        for route in self.routes.values() {
            let slots = route.concurrency.unwrap_or(1);
            in_range("concurrency of a kind", slots, 1, CONCURRENCY_MAX)?;
        }
        if !(LEASE_MIN..=LEASE_MAX).contains(&self.lease) {
            return Err(StartError::OutOfRange {
                what: "lease",
                value: format!("{:?}", self.lease),
                range: format!("{LEASE_MIN:?} to {LEASE_MAX:?}"),
            });
        }
        tokio::runtime::Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        // Tokio tells it by a panic alone, which each task of the worker would meet.
        let timer = || drop(tokio::time::sleep(Duration::ZERO));
        panics::caught_now(timer).map_err(|_| StartError::NoTimers)?;
        stop::start(self)
    }
}

fn missing_of<J, Arguments, H: Handler<J, Arguments>>(_: &H) -> Missing {
    H::missing
}

fn in_range(what: &'static str, value: usize, min: usize, max: usize) -> Result<(), StartError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let range = format!("{min} to {max}");
    Err(StartError::OutOfRange { what, value: value.to_string(), range })
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("id", &self.id)
            .field("kinds", &self.routes.keys().collect::<Vec<_>>())
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}
