//! The command line: what can be asked, one file per group of commands.

mod audit;
mod batch;
mod check;
mod config;
mod dead;
mod enqueue;
mod fields;
mod filter;
mod job;
mod limit;
mod many;
mod payload;
mod queues;
mod run;
mod store;
mod workers;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use queue::Worker;
use serde::Serialize;

use crate::config::{Layers, Setting};
use crate::demo;
use crate::display::{escape_json, print, print_bytes};
use crate::exit::{EXIT_CODES, Exit, Failure, Outcome};

/// Runs the jobs of a queue with the programs that its configuration names, and speaks to the
/// queue from the command line.
#[derive(Debug, Parser)]
#[command(name = "workerd", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of all commands")]
pub(crate) struct Common {
    /// The configuration file
    #[arg(short, long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// The store: sqlite:FILE, redis://HOST:PORT or rediss://HOST:PORT; the environment variable
    /// WORKERD_URL keeps a password out of the process list
    #[arg(long, global = true)]
    url: Option<String>,

    /// Keeps the queues of different applications apart in one store [env: WORKERD_NAMESPACE]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,

    /// What an acknowledged job survives: memory, fsync or replicas:N [env: WORKERD_DURABILITY]
    #[arg(long, global = true, value_name = "WHAT")]
    durability: Option<String>,

    /// Answers with one JSON document, also for errors (on standard error)
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run jobs until a signal ends it: the first lets running jobs finish, the second does not
    Run(run::Args),
    /// Show it all at work on the files of a folder, in a queue of its own
    Demo(demo::Args),
    /// Put a job, or many from a file, into the queue
    Enqueue(enqueue::Args),
    /// List, look at, follow and change jobs
    #[command(subcommand)]
    Job(job::Command),
    /// Count, explain, pause, resume and purge queues
    #[command(subcommand)]
    Queue(queues::Command),
    /// Look at dead jobs, run them again or delete them
    #[command(subcommand)]
    Dead(dead::Command),
    /// Limit what providers and tenants have running, how often jobs start, and what is let in
    #[command(subcommand)]
    Limit(limit::Command),
    /// See who is there to run jobs
    #[command(subcommand)]
    Worker(workers::Command),
    /// Check the configuration, and that the store keeps what the queue promises
    Check,
    /// Compare every index of the store with its jobs; reads the whole store
    Audit(audit::Args),
    /// Show the effective configuration, secrets hidden
    Config,
    /// Print a script that completes commands in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Cli {
    /// What the command line of this process asks for.
    ///
    /// # Errors
    /// What is wrong with it, or the help that it asks for.
    pub(crate) fn of_process() -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(with_values(std::env::args_os()))?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }

    /// Does what was asked and tells why if it could not. `customize` adds handlers to the worker
    /// of `run`; without it, the configuration must have some.
    pub(crate) async fn execute(self, customize: Option<impl FnOnce(Worker) -> Worker>) -> Exit {
        match self.command.execute(&self.common, customize).await {
            Ok(exit) => exit,
            Err(failure) => {
                self.common.report(&failure);
                failure.exit
            }
        }
    }
}

/// Lets what follows an option be its value also if it begins like a negative number, such as `-5s`:
/// whoever reads the value says what is possible. (Else it would be an option that nobody knows.)
fn with_values(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    let mut are_options = true;
    for argument in arguments {
        are_options &= argument != "--";
        match joined.last_mut() {
            Some(option) if are_options && is_bare_option(option) && is_negative(&argument) => {
                option.push("=");
                option.push(argument);
            }
            _ => joined.push(argument),
        }
    }
    joined
}

/// `--delay`, but not `--delay=5s`.
fn is_bare_option(text: &OsStr) -> bool {
    let bytes = text.as_encoded_bytes();
    bytes.starts_with(b"--") && !bytes.contains(&b'=')
}

fn is_negative(text: &OsStr) -> bool {
    matches!(text.as_encoded_bytes(), [b'-', b'0'..=b'9' | b'.', ..])
}

impl Command {
    async fn execute(
        self,
        common: &Common,
        customize: Option<impl FnOnce(Worker) -> Worker>,
    ) -> Outcome {
        match self {
            Self::Run(args) => run::execute(common, &args, customize).await,
            Self::Demo(args) => demo::execute(common, args).await,
            Self::Enqueue(args) => enqueue::execute(common, args).await,
            Self::Job(command) => job::execute(common, command).await,
            Self::Queue(command) => queues::execute(common, command).await,
            Self::Dead(command) => dead::execute(common, command).await,
            Self::Limit(command) => limit::execute(common, command).await,
            Self::Worker(command) => workers::execute(common, &command).await,
            Self::Check => check::check(common).await,
            Self::Audit(args) => audit::execute(common, &args).await,
            Self::Config => config::execute(common),
            Self::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "workerd", &mut script);
                print(&String::from_utf8_lossy(&script))?;
                Ok(Exit::Done)
            }
        }
    }
}

impl Common {
    /// The environment and the flags.
    pub(crate) fn layers(&self) -> Layers {
        self.flags_over(Layers::of_environment(|name| std::env::var_os(name)))
    }

    /// The flags over other layers.
    pub(crate) fn flags_over(&self, layers: Layers) -> Layers {
        layers
            .flag(Setting::Url, self.url.as_deref())
            .flag(Setting::Namespace, self.namespace.as_deref())
            .flag(Setting::Durability, self.durability.as_deref())
    }

    /// Shows an answer: `document` to programs, `text` to people.
    ///
    /// # Errors
    /// If the document has no JSON form or cannot be written.
    pub(crate) fn answer(
        &self,
        document: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        self.tell(document, text).map(|_| ())
    }

    /// As [`Self::answer`], for one answer of many; says whether somebody still reads.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub(crate) fn tell(
        &self,
        document: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<bool, Failure> {
        if !self.json {
            return print_bytes(text().as_bytes());
        }
        let json = serde_json::to_string(document).map_err(|e| Failure::new(Exit::Failed, e))?;
        print_bytes(format!("{}\n", escape_json(&json)).as_bytes())
    }

    /// Tells on standard error why a command failed.
    pub(crate) fn report(&self, failure: &Failure) {
        failure.report(self.json);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_looks_like_a_negative_number_becomes_a_value() {
        for (given, expected) in [
            ("w enqueue --delay -5s k", "w enqueue --delay=-5s k"),
            ("w --rate -.5 --json -c f", "w --rate=-.5 --json -c f"),
            ("w --batch - --delay=1s -5", "w --batch - --delay=1s -5"),
            ("w -- --delay -5s", "w -- --delay -5s"),
        ] {
            let given = given.split(' ').map(OsString::from);
            assert_eq!(with_values(given).join(OsStr::new(" ")), expected);
        }
    }
}
