//! A program and everything it starts, as one process group that ends with its attempt.
//!
//! The number of a group is the process id of its leader, and the system may give it to somebody
//! else once the leader is reaped and the group is empty. The group is therefore only signalled
//! while its leader is unreaped: the end of the leader is observed without reaping it, then what
//! is left of the group is killed, and only then is the leader reaped.

use std::io;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{self, SignalKind};

/// A running process group. Dropping it kills the whole group.
#[derive(Debug)]
pub(super) struct Group {
    leader: Child,
    id: Pid,
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
    /// Starts the program as the leader of a new group.
    ///
    /// # Errors
    /// The system's reason why it cannot be started.
    pub(super) fn start(command: &mut Command) -> io::Result<(Self, Streams)> {
        let children = unix::signal(SignalKind::child())?;
        let mut leader = command.process_group(0).kill_on_drop(true).spawn()?;
        let streams = Streams {
            stdin: leader.stdin.take(),
            stdout: leader.stdout.take(),
            stderr: leader.stderr.take(),
        };
        let id = leader.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let id = id.ok_or_else(|| io::Error::other("the new process has no id"))?;
        Ok((Self { leader, id, children, reaped: false }, streams))
    }

    /// Waits until the leader has ended, without reaping it.
    ///
    /// # Cancel safety
    /// Safe to drop and call again.
    pub(super) async fn leader_ended(&mut self) {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        loop {
            match rustix::process::waitid(WaitId::Pid(self.id), look) {
                Ok(None) => {}
                // An error means that there is no such child to wait for: it has ended.
                Ok(Some(_)) | Err(_) => return,
            }
            if self.children.recv().await.is_none() {
                return;
            }
        }
    }

    /// Asks the whole group to end.
    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Kills what is left of the group and reaps the leader.
    ///
    /// # Errors
    /// The system's reason why the leader's status cannot be had.
    pub(super) async fn finish(mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        self.reaped = true;
        self.leader.wait().await
    }

    fn signal(&self, signal: Signal) {
        // It can only fail if nothing of the group is left, or nothing that we may signal.
        let _ = rustix::process::kill_process_group(self.id, signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.reaped {
            self.signal(Signal::KILL);
        }
    }
}
