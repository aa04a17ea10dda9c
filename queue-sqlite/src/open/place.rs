//! Whether the file is still the one that was opened.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use queue_core::Error;

/// The file that was opened, by its number on its device: a path can be given to another file, and
/// whoever goes on writing then writes where nobody will ever read.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Found moved once: that does not heal, since connections of different files would share the
    /// files beside it.
    moved: AtomicBool,
}

impl Place {
    /// Remembers which file is at `path` now.
    pub(super) fn of(path: &Path) -> std::io::Result<Self> {
        let file = std::fs::metadata(path)?;
        let (device, inode) = (file.dev(), file.ino());
        Ok(Self { path: path.to_owned(), device, inode, moved: AtomicBool::new(false) })
    }

    /// Refuses, from then on for good, if the path leads to another file or to none.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if !self.moved.load(Ordering::Relaxed) {
            match std::fs::metadata(&self.path) {
                Ok(file) if (file.dev(), file.ino()) == (self.device, self.inode) => return Ok(()),
                Err(error) if !is_gone(&error) => {
                    let path = self.path.display();
                    return Err(Error::Unavailable(format!("{path}: {error}")));
                }
                _ => self.moved.store(true, Ordering::Relaxed),
            }
            tracing::error!(
                event = "file_moved",
                path = %self.path.display(),
                "the file was moved or deleted"
            );
        }
        let path = self.path.display();
        let what = format!("{path}: the file was moved or deleted; start this process again");
        Err(Error::NeedsRestart(what))
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_at_the_same_path_is_refused_for_good() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["queue.db", "backup.db"] {
            std::fs::write(path(name), name).unwrap();
        }
        let place = Place::of(&path("queue.db")).unwrap();
        place.check().unwrap();
        std::fs::rename(path("queue.db"), path("away.db")).unwrap();
        std::fs::rename(path("backup.db"), path("queue.db")).unwrap();
        assert!(matches!(place.check(), Err(Error::NeedsRestart(_))));
        std::fs::rename(path("away.db"), path("queue.db")).unwrap();
        assert!(matches!(place.check(), Err(Error::NeedsRestart(_))));
    }

    /// What cannot be looked at may be there.
    #[test]
    fn a_path_that_cannot_be_followed_just_now_is_asked_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        std::fs::write(&path, "").unwrap();
        let place = Place::of(&path).unwrap();
        let away = directory.path().join("away.db");
        std::fs::rename(&path, &away).unwrap();
        // Too many links are an error that says nothing about the file.
        std::os::unix::fs::symlink(&path, &path).unwrap();
        assert!(matches!(place.check(), Err(Error::Unavailable(_))));
        std::fs::remove_file(&path).unwrap();
        std::fs::rename(&away, &path).unwrap();
        place.check().unwrap();
    }
}
