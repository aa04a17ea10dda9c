//! Reading processes from Linux's `/proc`.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};

/// What the processes of one attempt are known by.
#[derive(Debug, Clone)]
pub(in super::super) struct Attempt {
    /// The leader, which is not reaped: its number is its own.
    pub(in super::super) leader: Pid,
    /// What the environment variable `WORKERD_RESULT` of its processes says.
    pub(in super::super) mark: PathBuf,
}

/// A process, not just a number: numbers are used again.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Process {
    id: Pid,
    /// In clock ticks since the machine was started.
    started: u64,
    /// Whether it was in the leader's process group when it was found.
    pub(in super::super) in_group: bool,
}

/// A line of `/proc/<id>/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: i32,
    group: i32,
    started: u64,
    /// Ended, and only kept for whoever wants to know its exit code.
    ended: bool,
}

impl Process {
    /// Signals this very process and no other. One that has ended is none of our business, nor
    /// one that has become another user's.
    pub(in super::super) fn signal(&self, signal: Signal) {
        // Held first, looked at then: from here on the number cannot change its meaning.
        let Ok(held) = pidfd_open(self.id, PidfdFlags::empty()) else { return };
        if stat(self.id).is_some_and(|stat| stat.started == self.started) {
            let _ = pidfd_send_signal(held, signal);
        }
    }
}

/// The processes of the attempt that have not ended. `known` were found earlier, and belong to it
/// even if nothing shows it any more.
pub(in super::super) fn members(attempt: &Attempt, known: &[Process]) -> Vec<Process> {
    let leader = attempt.leader.as_raw_nonzero().get();
    let Some(Stat { started: since, .. }) = stat(attempt.leader) else { return Vec::new() };
    let processes = own_processes(since);
    let is_root = |id: &i32, stat: &Stat| {
        *id == leader
            || stat.group == leader
            || known.iter().any(|p| p.id.as_raw_nonzero().get() == *id && p.started == stat.started)
    };
    // Whether a process belongs to the attempt, for those whose lineage was looked at.
    let mut belongs: HashMap<i32, bool> = HashMap::new();
    for (id, stat) in &processes {
        let has_mark = || Pid::from_raw(*id).and_then(mark).is_some_and(|m| m == attempt.mark);
        if is_root(id, stat) || has_mark() {
            belongs.insert(*id, true);
        }
    }
    for id in processes.keys() {
        let mut line = Vec::new();
        let mut next = *id;
        let answer = loop {
            if let Some(answer) = belongs.get(&next) {
                break *answer;
            }
            // A parent that is not among them is older than the attempt, or somebody else's.
            let Some(stat) = processes.get(&next) else { break false };
            if line.contains(&next) {
                break false;
            }
            line.push(next);
            next = stat.parent;
        };
        belongs.extend(line.into_iter().map(|id| (id, answer)));
    }
    let is_member = |id: &i32, stat: &Stat| !stat.ended && belongs.get(id) == Some(&true);
    let members = processes.iter().filter(|(id, stat)| is_member(id, stat));
    members
        .filter_map(|(id, stat)| {
            let (in_group, started) = (stat.group == leader, stat.started);
            Some(Process { id: Pid::from_raw(*id)?, started, in_group })
        })
        .collect()
}

/// What [`mark`] tells of all processes of this user.
pub(in super::super) fn marks() -> Vec<PathBuf> {
    own_processes(0).into_keys().filter_map(|id| mark(Pid::from_raw(id)?)).collect()
}

/// This user's processes that are not older than `since`.
fn own_processes(since: u64) -> HashMap<i32, Stat> {
    let user = geteuid().as_raw();
    let Ok(entries) = std::fs::read_dir("/proc") else { return HashMap::new() };
    let processes = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let id: i32 = entry.file_name().to_str()?.parse().ok()?;
        if entry.metadata().ok()?.uid() != user {
            return None;
        }
        let stat = stat(Pid::from_raw(id)?)?;
        (stat.started >= since).then_some((id, stat))
    });
    processes.collect()
}

/// When a process was started, in clock ticks since the machine was.
pub(super) fn started(id: Pid) -> Option<u64> {
    Some(stat(id)?.started)
}

fn stat(id: Pid) -> Option<Stat> {
    parse(&std::fs::read(format!("/proc/{}/stat", id.as_raw_nonzero())).ok()?)
}

/// `id (name) state parent group …`; a name may hold anything, also `)`.
fn parse(line: &[u8]) -> Option<Stat> {
    let end = line.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(line.get(end + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
        ended: matches!(*fields.first()?, "Z" | "X" | "x"),
    })
}

/// What the environment variable `WORKERD_RESULT` of a process says. Nothing for a moment while it
/// becomes another program.
pub(super) fn mark(id: Pid) -> Option<PathBuf> {
    let environment = std::fs::read(format!("/proc/{}/environ", id.as_raw_nonzero())).ok()?;
    let mut variables = environment.split(|byte| *byte == 0);
    let value = variables.find_map(|variable| variable.strip_prefix(b"WORKERD_RESULT="))?;
    Some(OsStr::from_bytes(value).into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_name_cannot_pretend_to_be_more() {
        let line = b"7 (a) Z 1 1) S 3 5 9 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4711 1 1\n";
        let expected = Stat { parent: 3, group: 5, started: 4711, ended: false };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse(b"7 (a) S 3"), None);
    }

    #[test]
    fn a_number_that_is_used_again_is_not_signalled() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let id = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let started = stat(id).unwrap().started;
        Process { id, started: started + 1, in_group: false }.signal(Signal::KILL);
        Process { id, started, in_group: false }.signal(Signal::TERM);
        assert_eq!(child.wait().unwrap().signal(), Some(15));
    }
}
