//! The worker daemon of the [`queue`] crate, and its command line.
//!
//! `workerd run` takes jobs from a queue and runs the programs that its configuration names for
//! them. Whoever would rather run Rust functions builds a daemon of their own from this library
//! and keeps everything else, from the configuration to the metrics:
//!
//! ```no_run
//! use queue::{Fail, Job};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct SendEmail {
//!     to: String,
//! }
//!
//! impl Job for SendEmail {
//!     const KIND: &'static str = "email.send";
//! }
//!
//! async fn send(job: SendEmail) -> Result<String, Fail> {
//!     Ok(format!("sent to {}", job.to))
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     workerd::main_with(|worker| worker.handle::<SendEmail, _>(send))
//! }
//! ```
//!
//! The configuration, the contract with the programs, the exit codes and the signals are
//! described in this crate's README.

mod cli;
mod config;
mod daemon;
mod demo;
mod display;
mod executor;
mod exit;
mod http;
mod limits;
mod machine;
mod reload;
mod signals;
mod store_check;
mod telemetry;
mod waits;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use queue::Worker;

use cli::Cli;
use exit::{Exit, Failure};

/// How long the end of the process waits for what blocks a thread, such as a folder that is being
/// removed.
const LAST_THREADS: Duration = Duration::from_secs(5);

/// Does what the command line of this process asks for, and answers with its exit code.
/// `customize` gets the worker of `workerd run` as the configuration has made it, to add handlers
/// and state.
///
/// Reads the arguments, the environment and the signals of the process, and is meant to be all
/// that `main` does.
pub fn main_with(customize: impl FnOnce(Worker) -> Worker) -> ExitCode {
    start(Some(customize))
}

/// What the program `workerd` does: as [`main_with`], without handlers. Its configuration has to
/// name what runs the jobs.
pub fn main() -> ExitCode {
    start(None::<fn(Worker) -> Worker>)
}

fn start(customize: Option<impl FnOnce(Worker) -> Worker>) -> ExitCode {
    let cli = match Cli::of_process() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            cli.common.report(&Failure::new(Exit::Failed, error));
            return Exit::Failed.into();
        }
    };
    let exit = runtime.block_on(cli.execute(customize));
    // Not an abrupt end: tasks are dropped, and with them the programs that still run.
    runtime.shutdown_timeout(LAST_THREADS);
    exit.into()
}

/// Shows the help that was asked for, or what is wrong with the command line.
fn usage(error: &clap::Error) -> ExitCode {
    // Not parsed, so it has to be looked for; what comes after `--` is no option.
    let mut arguments = std::env::args_os().take_while(|argument| argument != "--");
    if error.use_stderr() && arguments.any(|argument| argument == "--json") {
        let text = error.render().to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        Failure::usage(text.trim_end()).report(true);
        return Exit::Usage.into();
    }
    match error.print() {
        _ if error.use_stderr() => Exit::Usage.into(),
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Exit::Failed.into(),
        _ => Exit::Done.into(),
    }
}
