//! A program and everything it starts, which ends with its attempt.
//!
//! The program leads a process group; what has left the group is found as [`tree`] describes. The
//! number of a group is the process id of its leader, and the system may give it to somebody else
//! once the leader is reaped and the group is empty. Group and leader are therefore only signalled
//! while the leader is unreaped: its end is observed without reaping it, then what is left is
//! killed, and only then is the leader reaped.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::ended::{self, Ended};
use super::folder::blocking;
use super::tree::{self, Process};

/// The waits between two looks at what is left after TERM: from the first to the last, doubling.
const LOOK_FIRST: Duration = Duration::from_millis(5);
const LOOK_LAST: Duration = Duration::from_millis(100);

/// How often what is left is looked for and killed: whoever forks meanwhile is found next time.
const KILL_ROUNDS_MAX: usize = 50;
const KILL_ROUND: Duration = Duration::from_millis(2);

/// How often nothing is found although somebody is there of whom it is not known whose he is: a
/// process that becomes another program has no environment for a moment.
const UNCLEAR_ROUNDS_MAX: usize = 5;

/// A running program with its processes. Dropping it kills them all.
#[derive(Debug)]
pub(super) struct Group {
    processes: Processes,
    ended: Ended,
}

/// The program's processes. Dropping this kills them all.
#[derive(Debug)]
struct Processes {
    /// `None` once it is, or will be, reaped: from then on its number is not ours any more.
    leader: Option<Child>,
    attempt: tree::Attempt,
    /// Processes of the attempt that were found so far.
    known: Vec<Process>,
}

/// How a program ended.
#[derive(Debug)]
pub(super) struct End {
    pub(super) status: ExitStatus,
    /// Whether it is certain that it has left nobody behind.
    pub(super) is_clean: bool,
}

/// The other ends of a program's standard streams.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
}

impl Streams {
    fn of(leader: &mut Child) -> io::Result<Self> {
        Ok(Self {
            stdin: leader.stdin.take().map(ChildStdin::from_std).transpose()?,
            stdout: leader.stdout.take().map(ChildStdout::from_std).transpose()?,
            stderr: leader.stderr.take().map(ChildStderr::from_std).transpose()?,
        })
    }
}

impl Group {
    /// Starts the program as the leader of a new group. `mark` is what its environment variable
    /// `WORKERD_RESULT` says, as no other program's does. Not to be called on the main thread
    /// (see [`tree::spawn`]).
    ///
    /// # Errors
    /// The system's reason why it cannot be started.
    pub(super) fn start(command: &mut Command, mark: PathBuf) -> io::Result<(Self, Streams)> {
        ended::keep_statuses()?;
        let leader = tree::spawn(command.process_group(0), &mark)?;
        let id = i32::try_from(leader.id()).ok().and_then(Pid::from_raw);
        let id = id.ok_or_else(|| io::Error::other("the new process has no id"))?;
        let attempt = tree::Attempt { leader: id, mark };
        let mut processes = Processes { leader: Some(leader), attempt, known: Vec::new() };
        // From here on an error kills it.
        let streams = processes.leader.as_mut().map(Streams::of).transpose()?.unwrap_or_default();
        Ok((Self { processes, ended: Ended::of(id)? }, streams))
    }

    /// Waits until the leader has ended, without reaping it.
    ///
    /// # Cancel safety
    /// Safe to drop and call again.
    pub(super) async fn leader_ended(&mut self) {
        self.ended.wait().await;
    }

    /// Asks all processes to end, and waits until they have.
    ///
    /// # Cancel safety
    /// Safe to drop; what was asked to end may still do so.
    pub(super) async fn terminate(&mut self) {
        self.look().await;
        self.processes.signal(Signal::TERM);
        self.leader_ended().await;
        let mut wait = LOOK_FIRST;
        while self.look().await {
            sleep(wait).await;
            wait = (wait * 2).min(LOOK_LAST);
        }
    }

    /// Kills what is left and reaps the leader.
    ///
    /// # Errors
    /// The system's reason why the leader's status cannot be had.
    pub(super) async fn finish(mut self) -> io::Result<End> {
        let is_clean = self.is_over();
        if !is_clean {
            self.kill().await;
        }
        self.leader_ended().await;
        let leader = self.processes.leader.take();
        let status = leader.map(|mut leader| tree::reap(&mut leader, !is_clean));
        let status = status.unwrap_or_else(|| Err(io::Error::other("it is reaped")))?;
        Ok(End { status, is_clean })
    }

    async fn kill(&mut self) {
        let mut unclear = 0;
        for _ in 0..KILL_ROUNDS_MAX {
            let is_left = self.look().await;
            self.processes.signal(Signal::KILL);
            if !is_left {
                unclear += 1;
                if unclear == UNCLEAR_ROUNDS_MAX || self.is_nothing_left() != Some(false) {
                    return;
                }
            }
            sleep(KILL_ROUND).await;
        }
    }

    /// Whether it is certain that the leader has ended and has left nothing behind.
    fn is_over(&mut self) -> bool {
        self.is_nothing_left() == Some(true)
    }

    /// As [`tree::is_nothing_left`]; nothing is known as long as the leader has not ended.
    fn is_nothing_left(&mut self) -> Option<bool> {
        if self.ended.is_ended() {
            tree::is_nothing_left(self.processes.attempt.leader)
        } else {
            None
        }
    }

    /// Whether there are processes that have not ended; remembers them.
    async fn look(&mut self) -> bool {
        if self.is_over() {
            self.processes.known.clear();
            return false;
        }
        let (attempt, known) = (self.processes.attempt.clone(), self.processes.known.clone());
        let found = blocking(move || tree::members(&attempt, &known)).await;
        self.processes.known = found.unwrap_or_default();
        !self.processes.known.is_empty()
    }
}

impl Processes {
    /// Signals all processes, each once: a second TERM ends many a program in the middle of what
    /// it does at the first.
    fn signal(&self, signal: Signal) {
        let leader = self.attempt.leader;
        // It can only fail if nothing is left, or nothing that we may signal.
        let _ = rustix::process::kill_process_group(leader, signal);
        for process in self.known.iter().filter(|process| !process.in_group) {
            process.signal(signal);
        }
        // Found above as well where there is a /proc; KILL must not depend on that.
        let has_left = rustix::process::getpgid(Some(leader)).is_ok_and(|group| group != leader);
        if has_left && (signal == Signal::KILL || self.known.is_empty()) {
            let _ = rustix::process::kill_process(leader, signal);
        }
    }

    /// Kills what there is, and answers whether there was anything.
    fn kill(&mut self) -> bool {
        self.known = tree::members(&self.attempt, &self.known);
        self.signal(Signal::KILL);
        !self.known.is_empty()
    }

    /// Sees those that were killed to their end, and reaps the leader.
    fn finish(mut self, mut leader: Child) {
        for _ in 0..KILL_ROUNDS_MAX {
            if !self.kill() {
                break;
            }
            std::thread::sleep(KILL_ROUND);
        }
        // Not waited for while it is reaped, which holds up all others.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let _ = rustix::process::waitid(WaitId::Pid(self.attempt.leader), look);
        let _ = tree::reap(&mut leader, true);
    }
}

impl Drop for Processes {
    /// Nobody can wait here, neither for the threads of the runtime nor for a grace: what is there
    /// is killed at once, and the rest is done aside where there is an aside.
    fn drop(&mut self) {
        let Some(leader) = self.leader.take() else { return };
        self.kill();
        let known = std::mem::take(&mut self.known);
        let killed = Self { leader: None, attempt: self.attempt.clone(), known };
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn_blocking(move || killed.finish(leader)));
        }
    }
}
