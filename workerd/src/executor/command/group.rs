//! A program and everything it starts, which ends with its attempt.
//!
//! The program leads a process group; what has left the group is found as [`tree`] describes. The
//! number of a group is the process id of its leader, and the system may give it to somebody else
//! once the leader is reaped and the group is empty. Group and leader are therefore only signalled
//! while the leader is unreaped: its end is observed without reaping it, then what is left is
//! killed, and only then is the leader reaped.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{self, SignalKind};
use tokio::time::sleep;

use super::folder::blocking;
use super::tree::{self, Process};

/// The waits between two looks at what is left after TERM: from the first to the last, doubling.
const LOOK_FIRST: Duration = Duration::from_millis(5);
const LOOK_LAST: Duration = Duration::from_millis(100);

/// How often what is left is looked for and killed: whoever forks meanwhile is found next time.
const KILL_ROUNDS_MAX: usize = 50;
const KILL_ROUND: Duration = Duration::from_millis(2);

/// A running program with its processes. Dropping it kills them all.
#[derive(Debug)]
pub(super) struct Group {
    leader: Child,
    attempt: tree::Attempt,
    /// Processes of the attempt that were found so far.
    known: Vec<Process>,
    /// Hears of every child of this process that ends; made before the leader was started, so
    /// that no end is missed.
    children: unix::Signal,
    /// Whether the leader may have been reaped: from then on the number is not ours any more.
    reaped: bool,
}

/// The other ends of a program's standard streams.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
}

impl Group {
    /// Starts the program as the leader of a new group. `mark` is what its environment variable
    /// `WORKERD_RESULT` says, as no other program's does.
    ///
    /// # Errors
    /// The system's reason why it cannot be started.
    pub(super) fn start(command: &mut Command, mark: PathBuf) -> io::Result<(Self, Streams)> {
        let children = unix::signal(SignalKind::child())?;
        let mut leader = command.process_group(0).kill_on_drop(true).spawn()?;
        let streams = Streams {
            stdin: leader.stdin.take(),
            stdout: leader.stdout.take(),
            stderr: leader.stderr.take(),
        };
        let id = leader.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let id = id.ok_or_else(|| io::Error::other("the new process has no id"))?;
        let attempt = tree::Attempt { leader: id, mark };
        Ok((Self { leader, attempt, known: Vec::new(), children, reaped: false }, streams))
    }

    /// Waits until the leader has ended, without reaping it.
    ///
    /// # Cancel safety
    /// Safe to drop and call again.
    pub(super) async fn leader_ended(&mut self) {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        loop {
            match rustix::process::waitid(WaitId::Pid(self.attempt.leader), look) {
                Ok(None) => {}
                // An error means that there is no such child to wait for: it has ended.
                Ok(Some(_)) | Err(_) => return,
            }
            if self.children.recv().await.is_none() {
                return;
            }
        }
    }

    /// Asks all processes to end, and waits until they have.
    ///
    /// # Cancel safety
    /// Safe to drop; what was asked to end may still do so.
    pub(super) async fn terminate(&mut self) {
        self.look().await;
        self.signal(Signal::TERM);
        self.leader_ended().await;
        let mut wait = LOOK_FIRST;
        while !self.look().await.is_empty() {
            sleep(wait).await;
            wait = (wait * 2).min(LOOK_LAST);
        }
    }

    /// Kills what is left and reaps the leader.
    ///
    /// # Errors
    /// The system's reason why the leader's status cannot be had.
    pub(super) async fn finish(mut self) -> io::Result<ExitStatus> {
        for _ in 0..KILL_ROUNDS_MAX {
            let is_left = !self.look().await.is_empty();
            self.signal(Signal::KILL);
            if !is_left {
                break;
            }
            sleep(KILL_ROUND).await;
        }
        self.reaped = true;
        self.leader.wait().await
    }

    /// The processes that have not ended, and remembers them.
    async fn look(&mut self) -> &[Process] {
        let (attempt, known) = (self.attempt.clone(), self.known.clone());
        let found = blocking(move || Ok(tree::members(&attempt, &known))).await;
        self.known = found.unwrap_or_default();
        &self.known
    }

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
}

impl Drop for Group {
    /// Nobody can wait here, neither for the threads of the runtime nor for a grace.
    fn drop(&mut self) {
        if !self.reaped {
            self.known = tree::members(&self.attempt, &self.known);
            self.signal(Signal::KILL);
        }
    }
}
