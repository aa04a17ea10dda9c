//! The processes of an attempt, also those that have left its process group.
//!
//! `timeout`, `set -m` and `setsid` make groups and sessions of their own, and a process whose
//! parent has ended belongs to nobody. What stays with them is the environment: the path of the
//! attempt's result file, which no other attempt has. So a process belongs to an attempt if it is
//! in its group, carries this path, or descends from one that does. Only a process that is an
//! orphan *and* has replaced its environment cannot be found.
//!
//! Needs `/proc` as Linux has it. Elsewhere nothing is found, and the process group is all.
//!
//! To look for them takes a look at every process of the machine. A daemon that adopts [`orphans`]
//! knows without it that nothing is left, as is usual.

#[cfg(target_os = "linux")]
mod orphans;
#[cfg(target_os = "linux")]
mod proc;

#[cfg(target_os = "linux")]
pub(crate) use orphans::adopt;
#[cfg(target_os = "linux")]
pub(super) use orphans::{is_nothing_left, reap, reap_orphans, spawn};
#[cfg(target_os = "linux")]
pub(super) use proc::{Attempt, Process, marks, members};

/// What a system without `/proc` knows of an attempt.
#[cfg(not(target_os = "linux"))]
mod nothing {
    use std::io;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, ExitStatus};

    use rustix::process::{Pid, Signal};

    #[derive(Debug, Clone)]
    pub(in super::super) struct Attempt {
        pub(in super::super) leader: Pid,
        #[expect(dead_code, reason = "only /proc tells what a process has in its environment")]
        pub(in super::super) mark: PathBuf,
    }

    #[derive(Debug, Clone, Copy)]
    pub(in super::super) struct Process {
        pub(in super::super) in_group: bool,
    }

    impl Process {
        pub(in super::super) fn signal(&self, _: Signal) {}
    }

    pub(in super::super) fn members(_: &Attempt, _: &[Process]) -> Vec<Process> {
        Vec::new()
    }

    pub(in super::super) fn marks() -> Vec<PathBuf> {
        Vec::new()
    }

    pub(crate) fn adopt() -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(in super::super) fn spawn(command: &mut Command, _: &Path) -> io::Result<Child> {
        command.spawn()
    }

    pub(in super::super) fn reap(program: &mut Child, _: bool) -> io::Result<ExitStatus> {
        program.wait()
    }

    pub(in super::super) fn is_nothing_left(_: Pid) -> Option<bool> {
        None
    }

    pub(in super::super) async fn reap_orphans() -> std::convert::Infallible {
        std::future::pending().await
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) use nothing::adopt;
#[cfg(not(target_os = "linux"))]
pub(super) use nothing::{
    Attempt, Process, is_nothing_left, marks, members, reap, reap_orphans, spawn,
};
