//! Runs a program for each job.
//!
//! The contract with the program (arguments, standard input, environment, result, exit codes,
//! how it is stopped) is written down for its authors in this crate's README.

mod attempt;
mod ended;
mod events;
mod folder;
mod group;
mod input;
mod listener;
mod output;
mod pace;
mod result;
mod start;
mod starts;
mod template;
#[cfg(test)]
mod tests;
mod tree;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use queue::{Context, Executor, Fail, LimitKey, LimitKeys, Payload};

use attempt::Attempt;
pub(crate) use folder::{Folders, sweep as sweep_folders, try_folder};
pub(crate) use result::EXIT_DEAD;
use starts::Starts;
pub(crate) use template::Template;
pub(crate) use tree::adopt as adopt_orphans;

/// The program of a kind and the bounds it runs in.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    /// Absolute, so that no search path decides at run time what is executed.
    pub(crate) program: PathBuf,
    /// The arguments after the program's own name.
    pub(crate) arguments: Vec<Template>,
    /// How many run at once in this replica; bounded by the worker's concurrency alone if `None`.
    pub(crate) concurrency: Option<usize>,
    /// The limit keys that its jobs need here beside their own.
    pub(crate) limits: LimitKeys,
    /// The one of them that is its provider's.
    pub(crate) provider: Option<LimitKey>,
    /// The wall time of one attempt; the job's own timeout applies as well.
    pub(crate) timeout: Option<Duration>,
    /// Variables of workerd's own environment that the program sees, beyond [`ALWAYS_PASSED`].
    pub(crate) environment: Vec<String>,
    /// How long the program may go on after TERM before it is killed.
    pub(crate) kill_grace: Duration,
    /// Where the program runs; in a fresh folder per attempt if `None`.
    pub(crate) working_dir: Option<PathBuf>,
    /// The most bytes of a result.
    pub(crate) output_max_bytes: usize,
    /// What standard output is for.
    pub(crate) stdout: Stdout,
    /// How it says that its provider turned it away; it has no way to if `None`.
    pub(crate) throttled: Option<Throttled>,
}

/// What is told of one that [`Command::closes_nothing`].
pub(crate) const CLOSES_NOTHING: &str = "each job is turned away by itself, and the next one starts all the same; add provider = \
     \"NAME\", whose key it closes, or limits";

impl Command {
    /// Whether it says that it was turned away and has no key which that could close.
    pub(crate) fn closes_nothing(&self) -> bool {
        self.throttled.is_some() && self.limits.is_empty()
    }
}

/// How a program says that its provider turned it away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Throttled {
    /// By ending with this code.
    pub(crate) exit_code: i32,
    /// For how long, if it does not say so itself.
    pub(crate) delay: Duration,
}

/// For how long a provider has turned a program away unless somebody says otherwise.
pub(crate) const THROTTLED_DELAY_DEFAULT: Duration = Duration::from_secs(30);

/// The shortest time for which it has: programs without end are not started faster.
pub(crate) const THROTTLED_DELAY_MIN_MS: u64 = 1000;

/// What the program's standard output is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stdout {
    /// The result, unless the program writes a result file.
    Result,
    /// Nothing: for programs that chat.
    Discard,
}

/// How long a program may go on after TERM unless the configuration says otherwise.
pub(crate) const KILL_GRACE_DEFAULT: Duration = Duration::from_secs(5);

/// Variables that every program sees: without them few programs work at all.
pub(crate) const ALWAYS_PASSED: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];

/// The executor of one kind.
#[derive(Debug)]
pub(crate) struct CommandExecutor {
    command: Command,
    starts: Starts,
    folders: Arc<Folders>,
}

impl CommandExecutor {
    /// `folders` are shared by all executors of this process.
    pub(crate) fn new(command: Command, folders: Arc<Folders>) -> Self {
        Self { command, starts: Starts::default(), folders }
    }
}

impl Executor for CommandExecutor {
    async fn run(&self, context: Context) -> Result<Option<Payload>, Fail> {
        let spec = context.spec();
        let attempt = Attempt {
            job: spec.id,
            kind: &spec.kind,
            queue: &spec.queue,
            payload: &spec.payload,
            number: context.attempt(),
            fence: context.fence(),
            remaining: context.remaining(),
            listener: &context,
        };
        attempt::run(self, &attempt, context.cancelled()).await
    }
}
