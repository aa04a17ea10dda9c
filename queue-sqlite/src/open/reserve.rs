//! Space on the disk that is kept for finishing what runs.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::beside;

/// How much is kept (16 MiB): finishing running jobs needs space too, and a full store that could
/// not finish jobs would stay full.
pub(crate) const RESERVE_BYTES: u64 = 16 * 1024 * 1024;
/// The disk must have so much more than the reserve (4 MiB) before it is made, so that it is not
/// made and released by turns.
const MARGIN_BYTES: u64 = 4 * 1024 * 1024;

/// A file beside the database that holds nothing but its place on the disk. All processes that use
/// the database share it.
#[derive(Debug, Clone)]
pub(crate) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// The reserve of the database at `path`.
    pub(super) fn of(path: &Path) -> Self {
        Self { path: beside(path, "-reserve") }
    }

    /// What it takes on the disk now.
    pub(super) fn bytes(&self) -> u64 {
        // In units of 512 bytes, whatever the file system's own.
        std::fs::metadata(&self.path).map_or(0, |file| file.blocks().saturating_mul(512))
    }

    pub(super) fn is_whole(&self) -> bool {
        self.bytes() >= RESERVE_BYTES
    }

    /// Takes the space if the disk has plenty; `free` is what it has.
    pub(super) fn make(&self, free: u64) {
        if self.is_whole() || free < RESERVE_BYTES + MARGIN_BYTES {
            return;
        }
        let mut options = OpenOptions::new();
        let opened = options.write(true).create(true).truncate(false).mode(0o600).open(&self.path);
        if let Err(error) = opened.and_then(|file| occupy(&file)) {
            self.release();
            tracing::warn!(
                event = "reserve_not_made",
                %error,
                "no space is kept for finishing jobs when the disk is full"
            );
        }
    }

    /// Gives the space to whoever needs it first; says whether there was any.
    pub(super) fn release(&self) -> bool {
        let had = self.bytes() > 0;
        match OpenOptions::new().write(true).open(&self.path).and_then(|file| file.set_len(0)) {
            Ok(()) => had,
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    tracing::warn!(
                        event = "reserve_not_released",
                        %error,
                        "the space for finishing jobs cannot be released"
                    );
                }
                false
            }
        }
    }
}

/// Makes the file take its space really.
fn occupy(file: &File) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        match fallocate(file, FallocateFlags::empty(), 0, RESERVE_BYTES) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            done => return Ok(done?),
        }
    }
    let block = [0_u8; 64 * 1024];
    let mut written = 0;
    while written < RESERVE_BYTES {
        std::os::unix::fs::FileExt::write_all_at(file, &block, written)?;
        written += block.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_space_only_from_a_disk_that_has_plenty_and_gives_it_back() {
        let directory = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(&directory.path().join("queue.db"));
        assert!(!reserve.release());
        reserve.make(RESERVE_BYTES + MARGIN_BYTES - 1);
        assert_eq!(reserve.bytes(), 0);
        reserve.make(RESERVE_BYTES + MARGIN_BYTES);
        assert!(reserve.is_whole());
        assert_eq!(std::fs::metadata(&reserve.path).unwrap().mode() & 0o777, 0o600);
        assert!(reserve.release() && !reserve.release());
        assert_eq!(reserve.bytes(), 0);
    }
}
