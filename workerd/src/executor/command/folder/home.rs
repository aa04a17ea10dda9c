//! The folder of a daemon, in which its attempts have theirs.
//!
//! It holds a file that is locked as long as the daemon lives, and gets its name once that is so:
//! others know by the lock what a daemon that was killed has left ([`super::sweep`]). The lock is the
//! daemon's alone, programs do not inherit it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::Folder;
use crate::executor::command::events;

/// What the names of these folders begin with, and what stands before that while one is made.
pub(super) const PREFIX: &str = "workerd-";
const UNFINISHED: &str = ".";

/// The file that is locked.
pub(super) const LOCK: &str = "lock";

/// Removed when it is dropped, unless something could not be removed from it.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    /// None where files cannot be locked: nobody takes the folder for abandoned then.
    lock: Option<File>,
}

impl Home {
    /// Blocks.
    ///
    /// # Errors
    /// The system's reason why it cannot be made.
    fn create() -> io::Result<Self> {
        let made = tempfile::Builder::new().prefix(&format!("{UNFINISHED}{PREFIX}")).tempdir()?;
        let lock = locked(&made.path().join(LOCK))?;
        let name = made.path().file_name().unwrap_or_default().to_string_lossy();
        let path = made.path().with_file_name(name.trim_start_matches(UNFINISHED));
        fs::rename(made.path(), &path)?;
        let _ = made.keep();
        Ok(Self { path, lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let is_left = |entry: io::Result<fs::DirEntry>| !entry.is_ok_and(|e| e.file_name() == LOCK);
        // What is left in it shall be found once the lock is free.
        if fs::read_dir(&self.path).is_ok_and(|entries| !entries.into_iter().any(is_left)) {
            let _ = self.lock.take().map(|_| fs::remove_file(self.path.join(LOCK)));
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// A new file with a lock, or none where there are no locks.
fn locked(path: &Path) -> io::Result<Option<File>> {
    let file = File::create_new(path)?;
    if file.try_lock().is_ok() {
        return Ok(Some(file));
    }
    fs::remove_file(path)?;
    Ok(None)
}

/// Makes a folder and a pipe in it and removes both, to see whether that is possible; blocks.
///
/// # Errors
/// The system's reason why it is not.
pub(crate) fn try_folder() -> io::Result<()> {
    let home = Home::create()?;
    let pipe = home.path().join("events");
    events::make(&pipe)?;
    fs::remove_file(pipe)
}

/// Where folders are made: in the daemon's own, which is made for the first of them.
#[derive(Debug, Default)]
pub(super) struct Place(Mutex<Option<Arc<Home>>>);

impl Place {
    /// Makes a folder; blocks. Whoever cleans up may have removed the daemon's own.
    ///
    /// # Errors
    /// The system's reason why it cannot be made.
    pub(super) fn make(&self) -> io::Result<Folder> {
        let home = self.home()?;
        match Folder::create_in(Arc::clone(&home)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget(&home);
                Folder::create_in(self.home()?)
            }
            made => made,
        }
    }

    fn home(&self) -> io::Result<Arc<Home>> {
        let mut home = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*home {
            Some(home) => Ok(Arc::clone(home)),
            None => Ok(Arc::clone(home.insert(Arc::new(Home::create()?)))),
        }
    }

    fn forget(&self, old: &Arc<Home>) {
        let mut home = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        home.take_if(|home| Arc::ptr_eq(home, old));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_home_goes_with_the_last_of_its_folders() {
        let place = Place::default();
        let (one, other) = (place.make().unwrap(), place.make().unwrap());
        let home = one.work.ancestors().nth(2).unwrap().to_owned();
        assert!(other.work.starts_with(&home) && home.join(LOCK).exists());
        drop((place, one));
        assert!(home.exists());
        drop(other);
        // They are removed aside.
        while home.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_home_that_was_cleaned_away_is_made_again() {
        let place = Place::default();
        let first = place.make().unwrap();
        let home = first.work.ancestors().nth(2).unwrap().to_owned();
        fs::remove_dir_all(&home).unwrap();
        assert!(!place.make().unwrap().work.starts_with(&home));
    }

    #[test]
    fn a_home_with_something_in_it_stays_for_whoever_sweeps() {
        let place = Place::default();
        let home = place.home().unwrap().path().to_owned();
        fs::write(home.join("left"), "").unwrap();
        drop(place);
        assert!(home.join(LOCK).exists());
        fs::remove_dir_all(home).unwrap();
    }
}
