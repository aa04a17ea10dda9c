//! The file and the file system it is on.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use queue_core::Error;

use super::beside;
use crate::Durability;

/// What is known about a kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileSystem {
    /// On this host, as far as is known.
    Local,
    /// Shared between hosts, or without the shared memory and locks that WAL mode needs.
    Unfit(&'static str),
    /// May or may not be fit: a program decides what its operations do.
    Unsure(&'static str),
    /// In memory: a loss of power takes all of it.
    Volatile(&'static str),
}

/// Kinds of file system by the number that `statfs` answers.
const KNOWN: &[(u64, FileSystem)] = &[
    (0x6969, FileSystem::Unfit("NFS")),
    (0x517b, FileSystem::Unfit("SMB")),
    (0xfe53_4d42, FileSystem::Unfit("SMB")),
    (0xff53_4d42, FileSystem::Unfit("CIFS")),
    (0x0102_1997, FileSystem::Unfit("9P")),
    (0x786f_4256, FileSystem::Unfit("VirtualBox shared folder")),
    (0x00c3_6400, FileSystem::Unfit("Ceph")),
    (0x5346_414f, FileSystem::Unfit("AFS")),
    (0x7375_7245, FileSystem::Unfit("Coda")),
    (0x0bd0_0bd0, FileSystem::Unfit("Lustre")),
    (0x4750_4653, FileSystem::Unfit("GPFS")),
    (0x7461_636f, FileSystem::Unfit("OCFS2")),
    (0x0116_1970, FileSystem::Unfit("GFS2")),
    (0x6573_5546, FileSystem::Unsure("FUSE")),
    (0x0102_1994, FileSystem::Volatile("tmpfs")),
    (0x8584_58f6, FileSystem::Volatile("ramfs")),
];

/// The kind of file system of a number that `statfs` answers.
fn kind_of(magic: u64) -> FileSystem {
    // Some architectures answer the number sign-extended.
    let magic = magic & 0xffff_ffff;
    let known = KNOWN.iter().find(|(number, _)| *number == magic);
    known.map_or(FileSystem::Local, |(_, kind)| *kind)
}

/// The file system that `path` is on. Only Linux tells; elsewhere it counts as local.
pub(crate) fn file_system(path: &Path) -> std::io::Result<FileSystem> {
    #[cfg(target_os = "linux")]
    {
        let found = rustix::fs::statfs(path)?;
        // A bit pattern, signed or not by architecture.
        Ok(kind_of(found.f_type as u64))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        Ok(FileSystem::Local)
    }
}

/// Checks that the file can hold a queue and creates it if it is not there; answers its path
/// without links.
pub(super) fn prepare(path: &Path, durability: Durability) -> Result<PathBuf, Error> {
    // What counts is where a link leads.
    let target = fs::canonicalize(path);
    let path = target.as_deref().unwrap_or(path);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let at = |error: &std::io::Error| refused(directory, error);
    if !fs::metadata(directory).map_err(|error| at(&error))?.is_dir() {
        return Err(Error::Refused(format!("{} is not a directory", directory.display())));
    }
    let kind = file_system(directory).map_err(|error| at(&error))?;
    check_file_system(directory, kind, durability)?;
    check_leftovers(path)?;
    // The owner only: jobs carry whatever the producers put into them.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => check_existing(path)?,
        Err(error) => return Err(refused(path, &error)),
    }
    fs::canonicalize(path).map_err(|error| refused(path, &error))
}

/// Refuses to begin a new file beside the log of an old one. Jobs may be in the log, and processes
/// that still have the old file open would share its lock table with the new one's.
fn check_leftovers(path: &Path) -> Result<(), Error> {
    // The file comes before its log, so whoever sees a log and then no file sees a leftover, even
    // while others create the file.
    let left = ["-wal", "-shm"].map(|suffix| beside(path, suffix));
    let Some(left) = left.iter().find(|path| path.exists()) else { return Ok(()) };
    if path.exists() {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "{} is missing but {} is there: the file was moved or deleted; stop all processes that \
         use it and put it back, or delete the files beside it too",
        path.display(),
        left.display()
    )))
}

fn check_file_system(
    directory: &Path,
    kind: FileSystem,
    durability: Durability,
) -> Result<(), Error> {
    match kind {
        FileSystem::Local => Ok(()),
        FileSystem::Volatile(name) => {
            if durability == Durability::Fsync {
                tracing::warn!(
                    event = "file_system_volatile",
                    directory = %directory.display(),
                    file_system = name,
                    "this file system is in memory: a loss of power takes all jobs",
                );
            }
            Ok(())
        }
        FileSystem::Unsure(name) => {
            tracing::warn!(
                event = "file_system_unsure",
                directory = %directory.display(),
                file_system = name,
                "whether locks and shared memory work here cannot be told; prefer a local disk",
            );
            Ok(())
        }
        FileSystem::Unfit(name) => Err(Error::Refused(format!(
            "{} is on a network file system ({name}), where SQLite's locks cannot be trusted; put \
             the file on a local disk, or use a Redis store to share a queue between hosts",
            directory.display()
        ))),
    }
}

fn check_existing(path: &Path) -> Result<(), Error> {
    let file = fs::metadata(path).map_err(|error| refused(path, &error))?;
    let is = |what: &str| Err(Error::Refused(format!("{} {what}", path.display())));
    if !file.is_file() {
        return is("is not a regular file");
    }
    if file.permissions().readonly() {
        return is("is read-only; make it writable for this user (chmod u+w)");
    }
    if file.nlink() > 1 {
        return is("has several hard links, and SQLite cannot protect a file that is opened by \
                   different names; remove the other names");
    }
    Ok(())
}

pub(super) fn refused(path: &Path, error: &std::io::Error) -> Error {
    let remedy = match error.kind() {
        ErrorKind::NotFound => "; create the directory first",
        ErrorKind::PermissionDenied => "; give this user access to it",
        _ => "",
    };
    Error::Refused(format!("{}: {error}{remedy}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_refused_and_local_ones_are_not() {
        let check = |magic| check_file_system(Path::new("/x"), kind_of(magic), Durability::Fsync);
        for magic in [0x6969, 0xff53_4d42, 0xffff_ffff_ff53_4d42, 0x0102_1997, 0x786f_4256] {
            let error = check(magic).unwrap_err();
            assert!(error.to_string().contains("local disk"), "{error}");
        }
        for (magic, name) in [(0xef53, "ext4"), (0x0102_1994, "tmpfs"), (0x6573_5546, "FUSE")] {
            assert!(check(magic).is_ok(), "{name}");
        }
        assert_eq!(kind_of(0x0102_1994), FileSystem::Volatile("tmpfs"));
        assert_eq!(kind_of(0x8584_58f6), FileSystem::Volatile("ramfs"));
    }
}
