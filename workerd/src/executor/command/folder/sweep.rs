//! Removes the folders of daemons that were killed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, open, openat, statat};
use rustix::process::geteuid;

use super::home::{LOCK, PREFIX};
use crate::executor::command::tree;

/// Removes what daemons of this user have left where temporary folders are; blocks. A folder in which a
/// program of a killed daemon still works is left for the next time (on Linux, which tells).
pub(crate) fn sweep() {
    sweep_in(&std::env::temp_dir(), tree::marks);
}

fn sweep_in(place: &Path, marks: impl FnOnce() -> Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(place) else { return };
    let is_named_so = |entry: &fs::DirEntry| {
        entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX))
    };
    let named_so = entries.filter_map(Result::ok).filter(is_named_so);
    let abandoned = named_so.filter_map(|entry| {
        let lock = abandoned(&entry.path())?;
        Some((entry.file_name(), entry.path(), lock))
    });
    let abandoned: Vec<_> = abandoned.collect();
    if abandoned.is_empty() {
        return;
    }
    // Behind the locks: whose daemon has ended starts no more programs.
    let marks = marks();
    let (mut removed, mut used) = (0, 0);
    for (name, path, _lock) in abandoned {
        if marks.iter().any(|mark| mark.components().any(|c| c.as_os_str() == name)) {
            used += 1;
            continue;
        }
        match remove(&path) {
            Ok(()) => removed += 1,
            Err(error) => {
                tracing::warn!(event = "folder_left_behind", path = %path.display(), %error);
            }
        }
    }
    if removed + used > 0 {
        tracing::info!(event = "folders_swept", removed, used, "of daemons that were killed");
    }
}

/// The lock of a folder whose daemon has ended; it is held until it is dropped. Links are not followed.
fn abandoned(path: &Path) -> Option<File> {
    let is_own = |stat: &Stat| stat.st_uid == geteuid().as_raw();
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let folder = open(path, flags | OFlags::DIRECTORY, Mode::empty()).ok()?;
    let lock = openat(&folder, LOCK, flags | OFlags::RDWR, Mode::empty()).ok()?;
    let (of_folder, of_lock) = (fstat(&folder).ok()?, fstat(&lock).ok()?);
    let is_file = FileType::from_raw_mode(of_lock.st_mode) == FileType::RegularFile;
    if !is_own(&of_folder) || !is_own(&of_lock) || !is_file {
        return None;
    }
    let lock = File::from(lock);
    lock.try_lock().ok()?;
    // Somebody else may have swept it in between.
    let is_there = statat(&folder, LOCK, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(is_same_as(&of_lock))
        && statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(is_same_as(&of_folder));
    is_there.then_some(lock)
}

fn is_same_as(one: &Stat) -> impl Fn(Stat) -> bool {
    let (device, number) = (one.st_dev, one.st_ino);
    move |other| (other.st_dev, other.st_ino) == (device, number)
}

/// The lock goes last: what could not be removed is found again by it.
fn remove(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false if entry.file_name() == LOCK => {}
            false => fs::remove_file(entry.path())?,
        }
    }
    fs::remove_file(path.join(LOCK))?;
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Folders as daemons would have them.
    fn folders(names: &[&str]) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        for name in names {
            fs::create_dir_all(place.path().join(name).join("attempt-1/work")).unwrap();
            fs::write(place.path().join(name).join(LOCK), "").unwrap();
        }
        place
    }

    #[test]
    fn only_what_a_dead_daemon_has_left_is_removed() {
        let (left, alive, used) = ("workerd-left", "workerd-alive", "workerd-used");
        let (other, lockless, fifo) = ("other-left", "workerd-lockless", "workerd-no-file");
        let place = folders(&[left, alive, used, other, lockless, fifo]);
        let at = |name: &str| place.path().join(name);
        let lock = File::open(at(alive).join(LOCK)).unwrap();
        lock.try_lock().unwrap();
        fs::remove_file(at(lockless).join(LOCK)).unwrap();
        fs::remove_file(at(fifo).join(LOCK)).unwrap();
        fs::create_dir(at(fifo).join(LOCK)).unwrap();
        fs::write(at("workerd-file"), "").unwrap();
        let mark = at(used).join("attempt-1/result-0");

        sweep_in(place.path(), || vec![mark]);
        assert!(!at(left).exists());
        for name in [alive, used, other, lockless, fifo] {
            assert!(at(name).join("attempt-1/work").exists(), "{name}");
        }
        assert!(at("workerd-file").exists());
        drop(lock);
        sweep_in(place.path(), Vec::new);
        assert!(!at(alive).exists() && !at(used).exists());
    }

    #[test]
    fn links_are_not_followed() {
        let elsewhere = folders(&["workerd-target"]);
        let target = elsewhere.path().join("workerd-target");
        let place = folders(&["workerd-left", "workerd-linked-lock"]);
        let at = |name: &str| place.path().join(name);
        symlink(&target, at("workerd-link")).unwrap();
        symlink(&target, at("workerd-left").join("attempt-1/link")).unwrap();
        symlink(&target, at("workerd-left").join("link")).unwrap();
        fs::remove_file(at("workerd-linked-lock").join(LOCK)).unwrap();
        symlink(target.join(LOCK), at("workerd-linked-lock").join(LOCK)).unwrap();

        sweep_in(place.path(), Vec::new);
        assert!(!at("workerd-left").exists());
        assert!(at("workerd-linked-lock").exists() && at("workerd-link").is_symlink());
        assert!(target.join("attempt-1/work").exists() && target.join(LOCK).exists());
    }
}
