//! The folder of one attempt: where the program works and leaves its result.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::runtime::Handle;

use super::events::{self, Ends};

const WORK: &str = "work";
const EVENTS: &str = "events";

/// A folder that only this user can enter; removed with everything in it when it is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    /// `None` once its removal is under way.
    dir: Option<TempDir>,
    /// Where the program starts, unless the configuration says otherwise.
    pub(super) work: PathBuf,
    /// Where the program may leave its result. Outside of `work`, so that a file that happens to
    /// have this name is not taken for one. No two attempts have the same.
    pub(super) result: PathBuf,
    /// The named pipe through which it may tell how far it is.
    pub(super) events: PathBuf,
    /// Our ends of it; `None` while an attempt has them.
    pub(super) ends: Option<Ends>,
    /// `work` and `events` as they were made.
    new: (State, State),
    /// How many attempts have had this folder.
    uses: u64,
}

/// What changes with anything that is done to a file or folder, but for reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    mode: u32,
    changed: (i64, i64),
}

impl State {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(path)?;
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        let (device, inode, mode) = (metadata.dev(), metadata.ino(), metadata.mode());
        Ok(Self { device, inode, mode, changed })
    }
}

impl Folder {
    /// Blocks.
    ///
    /// # Errors
    /// The system's reason why it cannot be made.
    pub(super) fn create() -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("workerd-").tempdir()?;
        let (work, events) = (dir.path().join(WORK), dir.path().join(EVENTS));
        std::fs::create_dir(&work)?;
        events::make(&events)?;
        let ends = Some(Ends::open(&events)?);
        let new = (State::of(&work)?, State::of(&events)?);
        let result = dir.path().join("result-0");
        Ok(Self { dir: Some(dir), work, result, events, ends, new, uses: 0 })
    }

    /// Whether it is as it was made: nobody could tell it from a new one.
    fn is_untouched(&self) -> bool {
        let is_same = |path, state| State::of(path).is_ok_and(|now| now == state);
        // Times are coarse: what came right after the making may not have changed them.
        let holds = |path: &Path, names: &[&str]| {
            let entries = std::fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            entries.is_ok_and(|entries| {
                let is_known = |name: &OsStr| names.iter().any(|known| name == *known);
                entries.len() == names.len() && entries.iter().all(|e| is_known(&e.file_name()))
            })
        };
        let Some(dir) = &self.dir else { return false };
        is_same(&self.work, self.new.0)
            && is_same(&self.events, self.new.1)
            && holds(&self.work, &[])
            && holds(dir.path(), &[WORK, EVENTS])
    }
}

/// How many untouched folders are kept: short programs, for which it matters, give one back about
/// as often as they take one.
const KEPT_MAX: usize = 8;

/// For how long they can be used; others may think that they clean up.
const KEPT_AGE_MAX: Duration = Duration::from_secs(60);

/// Folders in which nothing was done, for later attempts. To make one and to remove it takes longer
/// than all else that is done for a short program.
#[derive(Debug, Default)]
pub(crate) struct Folders(Mutex<Vec<(Instant, Folder)>>);

impl Folders {
    /// One that was kept, if there is any.
    pub(super) fn take(&self) -> Option<Folder> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, mut folder) = kept.pop()?;
        if at.elapsed() > KEPT_AGE_MAX {
            // So are all that lie below it.
            kept.clear();
            return None;
        }
        folder.uses += 1;
        folder.result.set_file_name(format!("result-{}", folder.uses));
        Some(folder)
    }

    /// Keeps the folder of an attempt of which nothing is left, if it was not touched, and removes
    /// it otherwise.
    pub(super) fn give_back(&self, folder: Folder) {
        if folder.ends.is_some() && folder.is_untouched() {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < KEPT_MAX {
                kept.push((Instant::now(), folder));
            }
        }
    }
}

impl Drop for Folder {
    /// Removing may take long: it is done aside where there is an aside.
    fn drop(&mut self) {
        let Some(dir) = self.dir.take() else { return };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || remove(dir))),
            Err(_) => remove(dir),
        }
    }
}

/// Processes that were killed a moment ago may still be writing their last file, which makes the
/// removal of its folder fail: it is tried a few times.
fn remove(dir: TempDir) {
    let path = dir.keep();
    for wait_ms in [10, 50, 250, 1000] {
        if std::fs::remove_dir_all(&path).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(wait_ms));
    }
    if let Err(error) = std::fs::remove_dir_all(&path) {
        tracing::warn!(event = "folder_left_behind", path = %path.display(), %error);
    }
}

/// Runs something that waits for a disk without holding up the runtime.
///
/// # Errors
/// If it panics, or the runtime ends first.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn an_untouched_folder_is_used_again_with_another_place_for_the_result() {
        let folders = Folders::default();
        let folder = Folder::create().unwrap();
        let (work, result) = (folder.work.clone(), folder.result.clone());
        folders.give_back(folder);
        let folder = folders.take().unwrap();
        assert_eq!(folder.work, work);
        assert_ne!(folder.result, result);
        assert!(folders.take().is_none());
        folders.give_back(folder);
        assert_ne!(folders.take().unwrap().result, result);
    }

    #[tokio::test]
    async fn a_folder_in_which_anything_was_done_is_not_used_again() {
        let touches: [fn(&Folder); 7] = [
            |folder| fs::write(folder.work.join("file"), "").unwrap(),
            |folder| fs::write(&folder.result, "").unwrap(),
            |folder| fs::write(folder.result.with_extension("new"), "").unwrap(),
            |folder| fs::set_permissions(&folder.work, fs::Permissions::from_mode(0o777)).unwrap(),
            |folder| fs::remove_dir(&folder.work).unwrap(),
            |folder| fs::rename(&folder.events, folder.work.join("events")).unwrap(),
            |folder| {
                fs::remove_file(&folder.events).unwrap();
                fs::write(&folder.events, "").unwrap();
            },
        ];
        for touch in touches {
            let folders = Folders::default();
            let folder = Folder::create().unwrap();
            touch(&folder);
            folders.give_back(folder);
            assert!(folders.take().is_none());
        }
        // One whose pipe nobody could empty.
        let folders = Folders::default();
        let mut folder = Folder::create().unwrap();
        folder.ends = None;
        folders.give_back(folder);
        assert!(folders.take().is_none());
    }

    #[tokio::test]
    async fn few_folders_are_kept() {
        let folders = Folders::default();
        let many: Vec<Folder> = (0..=KEPT_MAX).map(|_| Folder::create().unwrap()).collect();
        for folder in many {
            folders.give_back(folder);
        }
        assert_eq!(std::iter::from_fn(|| folders.take()).count(), KEPT_MAX);
    }
}
