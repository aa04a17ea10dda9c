//! What is checked and set before the first use of a file, and how connections to it are made.

mod connection;
mod file;
mod migrate;
mod place;
mod reserve;
mod room;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use queue_core::{Error, Namespace};

pub(crate) use connection::{Patience, Role, connect, with_patience};
pub(crate) use file::{FileSystem, file_system};
pub(crate) use place::Place;
pub(crate) use room::Room;

use crate::SqliteOptions;

/// The oldest SQLite without the bug that corrupts a file when a write meets the reset of the
/// write-ahead log (sqlite.org/wal.html#walresetbug).
const SQLITE_VERSION_MIN: i32 = 3_051_003;

/// One file is prepared at a time in this process: closing any descriptor of a database drops the
/// locks that other connections of the process hold on it, so the only descriptor that is opened
/// outside of SQLite, to create the file, must be gone before another connection comes.
static PREPARING: Mutex<()> = Mutex::new(());

/// Creates or checks the file of a namespace, and brings its tables to this version.
///
/// Answers the file and the connection that may write.
pub(crate) fn prepare(path: &Path, options: &SqliteOptions) -> Result<Opened, Error> {
    check_library(rusqlite::version_number())?;
    let path = path_of_namespace(path, &options.namespace)?;
    let _alone = PREPARING.lock().unwrap_or_else(PoisonError::into_inner);
    let path = file::prepare(&path, options.durability)?;
    let place = Place::of(&path).map_err(|error| file::refused(&path, &error))?;
    let mut conn = connect(&path, Role::Writer(options.durability))?;
    migrate::migrate(&mut conn, &path, &options.namespace)?;
    place.check()?;
    let room = Room::new(&path, options.max_bytes);
    room.keep_reserve();
    Ok(Opened { path, place: Arc::new(place), room, conn })
}

/// A file that is ready for use.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Absolute and without links.
    pub(crate) path: PathBuf,
    pub(crate) place: Arc<Place>,
    pub(crate) room: Room,
    /// The connection that may write.
    pub(crate) conn: rusqlite::Connection,
}

/// The path of a file that stands beside a database.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    PathBuf::from(path)
}

/// Refuses a library that would break the file.
fn check_library(version: i32) -> Result<(), Error> {
    if version >= SQLITE_VERSION_MIN {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "SQLite {} is linked, which can corrupt a file in WAL mode; build with SQLite 3.51.3 or \
         later, for instance with the `bundled` feature of rusqlite",
        rusqlite::version()
    )))
}

/// Every namespace has a file of its own: their writers do not wait for each other, no query can
/// forget to say whose jobs it means, and dropping a namespace is deleting a file.
pub(crate) fn path_of_namespace(path: &Path, namespace: &Namespace) -> Result<PathBuf, Error> {
    let Some(name) = path.file_name().filter(|_| !path.is_dir()) else {
        return Err(Error::Refused(format!(
            "{} is a directory; name a file in it, such as {}",
            path.display(),
            path.join("queue.db").display()
        )));
    };
    if *namespace == Namespace::default() {
        return Ok(path.to_owned());
    }
    let mut name = name.to_owned();
    name.push(".");
    name.push(namespace.as_str());
    Ok(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_library_is_refused_and_the_linked_one_is_not_old() {
        assert!(check_library(3_051_002).is_err());
        assert!(check_library(rusqlite::version_number()).is_ok());
    }

    #[test]
    fn each_namespace_has_a_file_of_its_own() {
        let of = |name| path_of_namespace(Path::new("a/queue.db"), &Namespace::new(name).unwrap());
        assert_eq!(of("default").unwrap(), Path::new("a/queue.db"));
        assert_eq!(of("shop").unwrap(), Path::new("a/queue.db.shop"));
    }
}
