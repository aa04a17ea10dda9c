//! The processes of an attempt, also those that have left its process group.
//!
//! `timeout`, `set -m` and `setsid` make groups and sessions of their own, and a process whose
//! parent has ended belongs to nobody. What stays with them is the environment: the path of the
//! attempt's result file, which no other attempt has. So a process belongs to an attempt if it is
//! in its group, carries this path, or descends from one that does. Only a process that is an
//! orphan *and* has replaced its environment cannot be found.
//!
//! Needs `/proc` as Linux has it. Elsewhere nothing is found, and the process group is all.

#[cfg(target_os = "linux")]
mod proc;

#[cfg(target_os = "linux")]
pub(super) use proc::{Attempt, Process, members};

/// What a system without `/proc` knows of an attempt.
#[cfg(not(target_os = "linux"))]
mod nothing {
    use std::path::PathBuf;

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
}

#[cfg(not(target_os = "linux"))]
pub(super) use nothing::{Attempt, Process, members};
