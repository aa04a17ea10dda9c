//! The folder of one attempt: where the program works and leaves its result.

mod home;
mod sweep;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Stat, fstat, statat};
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::events::{self, Ends};
pub(crate) use home::try_folder;
use home::{Home, Place};
pub(crate) use sweep::sweep;

const WORK: &str = "work";
const EVENTS: &str = "events";

/// A folder that only this user can enter; removed with everything in it when it is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    /// `None` once its removal is under way.
    dir: Option<TempDir>,
    /// What it lies in, which goes with the last of its folders.
    home: Arc<Home>,
    /// Where the program starts, unless the configuration says otherwise.
    pub(super) work: PathBuf,
    /// Where the program may leave its result. Outside of `work`, so that a file that happens to
    /// have this name is not taken for one. No two attempts have the same.
    pub(super) result: PathBuf,
    /// The named pipe through which it may tell how far it is.
    pub(super) events: PathBuf,
    /// Our ends of it; `None` while an attempt has them.
    pub(super) ends: Option<Ends>,
    /// Held open, so that what is in it need not be looked for from the root.
    open: File,
    /// The folder, `work` and `events` as they were made, and when that was.
    new: [State; 3],
    made_at: Instant,
    /// Whether the attempt that has the folder cannot change anything without changing times.
    is_aged: bool,
    /// How many attempts have had this folder.
    uses: u64,
}

/// What changes with anything that is done to a file or folder, but for reading it.
#[derive(Debug, Clone, Copy)]
struct State(Stat);

impl State {
    /// Of a folder, `work` and `events`.
    fn all(folder: &File) -> io::Result<[Self; 3]> {
        let of = |name| statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        Ok([Self(fstat(folder)?), Self(of(WORK)?), Self(of(EVENTS)?)])
    }

    /// Whether the time of its last change is told finer than in seconds.
    fn is_fine(&self) -> bool {
        self.0.st_ctime_nsec != 0
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let of = |state: &Self| {
            let Self(stat) = state;
            let changed = (stat.st_ctime, stat.st_ctime_nsec);
            (stat.st_dev, stat.st_ino, changed, stat.st_mode, stat.st_nlink, stat.st_size)
        };
        of(self) == of(other)
    }
}

/// Systems note times to some milliseconds, unless they only note seconds: what is done to a folder
/// that is older than this changes its time.
const AGED: Duration = Duration::from_millis(100);

impl Folder {
    /// Blocks.
    ///
    /// # Errors
    /// The system's reason why it cannot be made.
    fn create_in(home: Arc<Home>) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("attempt-").tempdir_in(home.path())?;
        let (work, events) = (dir.path().join(WORK), dir.path().join(EVENTS));
        std::fs::create_dir(&work)?;
        events::make(&events)?;
        let ends = Ends::open(&events)?;
        let open = File::open(dir.path())?;
        Ok(Self {
            new: State::all(&open)?,
            open,
            result: dir.path().join("result-0"),
            dir: Some(dir),
            home,
            work,
            events,
            ends: Some(ends),
            made_at: Instant::now(),
            is_aged: false,
            uses: 0,
        })
    }

    /// Prepares it for the next attempt.
    fn renew(&mut self) {
        self.is_aged = self.made_at.elapsed() > AGED && self.new.iter().all(State::is_fine);
        self.uses += 1;
        self.result.set_file_name(format!("result-{}", self.uses));
    }

    /// Whether it is as it was made: nobody could tell it from a new one, and there is no result.
    pub(super) fn is_untouched(&self) -> bool {
        let is_same = State::all(&self.open).is_ok_and(|now| now == self.new);
        is_same && self.ends.is_some() && (self.is_aged || self.has_nothing_new())
    }

    /// Whether nothing was added.
    fn has_nothing_new(&self) -> bool {
        let holds = |path: &Path, names: &[&str]| {
            let entries = std::fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            entries.is_ok_and(|entries| {
                let is_known = |name: &OsStr| names.iter().any(|known| name == *known);
                entries.len() == names.len() && entries.iter().all(|e| is_known(&e.file_name()))
            })
        };
        let Some(dir) = &self.dir else { return false };
        holds(&self.work, &[]) && holds(dir.path(), &[WORK, EVENTS])
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
pub(crate) struct Folders {
    kept: Mutex<Vec<(Instant, Folder)>>,
    place: Arc<Place>,
}

impl Folders {
    /// One that was kept, or a new one.
    ///
    /// # Errors
    /// The system's reason why it cannot be made.
    pub(super) async fn get(&self) -> io::Result<Folder> {
        if let Some(folder) = self.take() {
            return Ok(folder);
        }
        let place = Arc::clone(&self.place);
        blocking(move || place.make()).await.flatten()
    }

    /// One that was kept, if there is any.
    fn take(&self) -> Option<Folder> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, mut folder) = kept.pop()?;
        if at.elapsed() > KEPT_AGE_MAX {
            // So are all that lie below it.
            kept.clear();
            return None;
        }
        folder.renew();
        Some(folder)
    }

    /// Keeps an untouched folder of an attempt of which nothing is left.
    pub(super) fn give_back(&self, folder: Folder) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX {
            kept.push((Instant::now(), folder));
        }
    }
}

impl Drop for Folder {
    /// Removing may take long: it is done aside where there is an aside.
    fn drop(&mut self) {
        let Some(dir) = self.dir.take() else { return };
        let home = Arc::clone(&self.home);
        let removal = move || {
            remove(dir);
            drop(home);
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(removal)),
            Err(_) => removal(),
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
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn folder() -> Folder {
        Place::default().make().unwrap()
    }

    #[tokio::test]
    async fn an_untouched_folder_is_used_again_with_another_place_for_the_result() {
        let folders = Folders::default();
        let folder = folder();
        let (work, result) = (folder.work.clone(), folder.result.clone());
        assert!(folder.is_untouched());
        folders.give_back(folder);
        let folder = folders.take().unwrap();
        assert_eq!(folder.work, work);
        assert_ne!(folder.result, result);
        assert!(folders.take().is_none());
        folders.give_back(folder);
        assert_ne!(folders.take().unwrap().result, result);
    }

    /// What programs do.
    const TOUCHES: [fn(&Folder); 9] = [
        |folder| fs::write(folder.work.join("file"), "").unwrap(),
        |folder| fs::write(&folder.result, "").unwrap(),
        |folder| fs::write(folder.result.with_extension("new"), "").unwrap(),
        |folder| fs::set_permissions(&folder.work, fs::Permissions::from_mode(0o777)).unwrap(),
        |folder| fs::set_permissions(&folder.events, fs::Permissions::from_mode(0o644)).unwrap(),
        |folder| fs::remove_dir(&folder.work).unwrap(),
        |folder| fs::rename(&folder.events, folder.work.join("events")).unwrap(),
        |folder| {
            fs::remove_file(&folder.events).unwrap();
            fs::write(&folder.events, "").unwrap();
        },
        |folder| {
            fs::rename(&folder.work, folder.result.with_extension("old")).unwrap();
            fs::create_dir(&folder.work).unwrap();
        },
    ];

    /// Things that leave nothing but another time.
    const TRACELESS: [fn(&Folder); 2] = [
        |folder| {
            fs::write(folder.work.join("file"), "").unwrap();
            fs::remove_file(folder.work.join("file")).unwrap();
        },
        |folder| {
            fs::write(&folder.result, "").unwrap();
            fs::remove_file(&folder.result).unwrap();
        },
    ];

    #[tokio::test]
    async fn a_folder_in_which_anything_was_done_is_known() {
        for touch in TOUCHES {
            let folder = folder();
            touch(&folder);
            assert!(!folder.is_untouched());
        }
        // One whose pipe nobody could empty.
        let mut folder = folder();
        folder.ends = None;
        assert!(!folder.is_untouched());
    }

    #[tokio::test]
    async fn what_is_done_to_an_older_folder_shows_in_its_times() {
        for touch in TOUCHES.into_iter().chain(TRACELESS) {
            let mut folder = folder();
            let other = tempfile::tempdir().unwrap();
            let changed = |path: &Path| {
                let metadata = fs::metadata(path).unwrap();
                (metadata.ctime(), metadata.ctime_nsec())
            };
            // Until the clock of the files has gone on.
            let last = [
                folder.work.parent().unwrap().to_owned(),
                folder.work.clone(),
                folder.events.clone(),
            ];
            let last = last.iter().map(|path| changed(path)).max();
            while Some(changed(other.path())) <= last {
                fs::write(other.path().join("file"), "").unwrap();
                fs::remove_file(other.path().join("file")).unwrap();
            }
            folder.is_aged = true;
            assert!(folder.is_untouched());
            touch(&folder);
            assert!(!folder.is_untouched());
        }
    }

    #[tokio::test]
    async fn a_folder_is_older_only_if_time_has_passed_that_its_times_can_tell() {
        let mut folder = folder();
        folder.renew();
        assert!(!folder.is_aged);
        folder.made_at = folder.made_at.checked_sub(2 * AGED).unwrap();
        folder.new.iter_mut().for_each(|state| state.0.st_ctime_nsec = 1);
        folder.renew();
        assert!(folder.is_aged);
        folder.new[1].0.st_ctime_nsec = 0;
        folder.renew();
        assert!(!folder.is_aged);
    }

    #[tokio::test]
    async fn few_folders_are_kept() {
        let folders = Folders::default();
        let many: Vec<Folder> = (0..=KEPT_MAX).map(|_| folder()).collect();
        for folder in many {
            folders.give_back(folder);
        }
        assert_eq!(std::iter::from_fn(|| folders.take()).count(), KEPT_MAX);
    }
}
