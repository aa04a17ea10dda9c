//! Adopting the orphans of programs, so that what a program leaves behind is known without a look
//! at every process of the machine.
//!
//! Linux gives a process whose parent has ended to the nearest ancestor that has asked for such:
//! to this process, once [`adopt`] was called. A program that has ended has no children any more,
//! so whatever is left of it descends from an adopted child of ours: without such children,
//! nothing is left. They are children of the main thread, even if another thread made the
//! program; that thread's own children come to the main thread when it ends.
//!
//! Who adopts must reap. The main thread must therefore have no children that somebody else waits
//! for, but for the programs themselves: those are known here, by [`spawn`] and [`reap`].

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions, getpid, set_child_subreaper, waitid};

use super::proc::{mark, started};

/// Children of the main thread are looked at and reaped by one thread at a time: the system's
/// list is only whole if none of those in it is reaped while it is read.
static CHILDREN: Mutex<Option<Children>> = Mutex::new(None);

#[derive(Debug)]
struct Children {
    /// The ids of the main thread's children, as text.
    list: File,
    /// The programs that are not reaped yet, and what their processes are known by.
    programs: HashMap<i32, PathBuf>,
}

/// Beside a program that runs long, ended orphans are kept for no longer than this.
const REAP_INTERVAL: Duration = Duration::from_secs(10);

fn children() -> MutexGuard<'static, Option<Children>> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adopts orphans from now on. Only for a process in which nobody but executors starts programs,
/// as all others could not be told from orphans.
///
/// # Errors
/// The system's reason why it cannot be done; then all is as before.
pub(crate) fn adopt() -> io::Result<()> {
    let id = getpid().as_raw_nonzero();
    let list = File::open(format!("/proc/self/task/{id}/children"))?;
    set_child_subreaper(Some(getpid()))?;
    *children() = Some(Children { list, programs: HashMap::new() });
    Ok(())
}

/// Starts a program whose end is told by [`reap`]. `mark` is what its processes are known by.
///
/// Not to be called on the main thread, which would have an unknown child for a moment.
///
/// # Errors
/// The system's reason why it cannot be started.
pub(in super::super) fn spawn(command: &mut Command, mark: &Path) -> io::Result<Child> {
    let program = command.spawn()?;
    if let (Some(children), Ok(id)) = (&mut *children(), i32::try_from(program.id())) {
        children.programs.insert(id, mark.to_owned());
    }
    Ok(program)
}

/// Reaps a program that has ended: all wait for it as long as it has not. If it may have
/// `left_orphans`, those that have ended are reaped as well.
///
/// # Errors
/// The system's reason why its status cannot be had.
pub(in super::super) fn reap(program: &mut Child, left_orphans: bool) -> io::Result<ExitStatus> {
    let mut children = children();
    let status = program.wait();
    if let (Some(children), Ok(id)) = (&mut *children, i32::try_from(program.id())) {
        children.programs.remove(&id);
        if left_orphans {
            let _ = children.orphans();
        }
    }
    status
}

/// Whether nothing is left of a program that has ended and is not reaped: certain if it says so,
/// while `false` may be about orphans of which nobody knows whose they are. `None` if nothing is
/// known.
pub(in super::super) fn is_nothing_left(program: Pid) -> Option<bool> {
    let children = children();
    let children = children.as_ref()?;
    let orphans = children.orphans().ok()?;
    if orphans.is_empty() {
        return Some(true);
    }
    let since = started(program)?;
    let is_of_others = |orphan: Pid| {
        // Whoever is older cannot be its descendant.
        started(orphan).is_some_and(|started| started < since)
            || mark(orphan).is_some_and(|mark| children.is_of_another(&mark, program))
    };
    Some(orphans.into_iter().all(is_of_others))
}

/// Reaps orphans that end, now and then and for ever.
pub(in super::super) async fn reap_orphans() -> std::convert::Infallible {
    loop {
        tokio::time::sleep(REAP_INTERVAL).await;
        if let Some(children) = &*children() {
            let _ = children.orphans();
        }
    }
}

impl Children {
    /// The orphans that have not ended; those that have are reaped.
    fn orphans(&self) -> io::Result<Vec<Pid>> {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        loop {
            let mut living = Vec::new();
            let orphans = self.read()?;
            for orphan in &orphans {
                if waitid(WaitId::Pid(*orphan), look)?.is_none() {
                    living.push(*orphan);
                }
            }
            // One that has ended since the list was read has handed its children on to us.
            if living.len() == orphans.len() {
                return Ok(living);
            }
        }
    }

    fn is_of_another(&self, mark: &Path, program: Pid) -> bool {
        let program = program.as_raw_nonzero().get();
        self.programs.iter().any(|(id, known)| *id != program && known == mark)
    }

    /// The children that are no programs of ours.
    fn read(&self) -> io::Result<Vec<Pid>> {
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.list.read_at(&mut buffer, text.len() as u64)? {
                0 => break,
                count => text.extend_from_slice(&buffer[..count]),
            }
        }
        let ids = text.split(u8::is_ascii_whitespace).filter(|id| !id.is_empty());
        let ids = ids.map(|id| std::str::from_utf8(id).ok().and_then(|id| id.parse().ok()));
        let ids: Option<Vec<i32>> = ids.collect();
        let ids = ids.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        let orphans = ids.into_iter().filter(|id| !self.programs.contains_key(id));
        Ok(orphans.filter_map(Pid::from_raw).collect())
    }
}
