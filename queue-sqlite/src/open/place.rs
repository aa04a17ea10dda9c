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
            tracing::error!(path = %self.path.display(), "the file was moved or deleted");
        }
        let path = self.path.display();
        Err(Error::Refused(format!("{path}: the file was moved or deleted; restart")))
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}
