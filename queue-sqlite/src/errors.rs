//! What an error of SQLite means to the caller, in one table.

use std::fs::File;

use queue_core::Error;
use rusqlite::ErrorCode;
use rusqlite::ffi;

/// An error inside this crate: SQLite's, or one that is already in the caller's terms.
#[derive(Debug)]
pub(crate) enum Fault {
    Sqlite(rusqlite::Error),
    Told(Error),
    /// What is remembered of a claim is not what the file says.
    Misremembered,
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Told(error)
    }
}

impl Fault {
    /// Somebody else holds the lock that a transaction needs: trying again may help.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self.code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
    }

    /// A sync of the file failed. What the operating system shows of the file may differ from
    /// what is on the disk from now on, so nothing may be acknowledged any more.
    pub(crate) fn is_failed_sync(&self) -> bool {
        let Self::Sqlite(rusqlite::Error::SqliteFailure(error, _)) = self else { return false };
        matches!(
            error.extended_code,
            ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC | ffi::SQLITE_IOERR_CLOSE
        )
    }

    /// Something was not as it was taken to be, such as a row that broke a rule of its table: the
    /// call is to look at everything first.
    pub(crate) fn asks_for_care(&self) -> bool {
        matches!(self, Self::Misremembered) || self.code() == Some(ErrorCode::ConstraintViolation)
    }

    /// A write found the disk full.
    pub(crate) fn is_full(&self) -> bool {
        let Self::Sqlite(rusqlite::Error::SqliteFailure(error, _)) = self else { return false };
        error.code == ErrorCode::DiskFull || error.extended_code == ffi::SQLITE_IOERR_SHMSIZE
    }

    fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Sqlite(error) => error.sqlite_error_code(),
            Self::Told(_) | Self::Misremembered => None,
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Told(error) => error,
            Fault::Sqlite(error) => translate(&error),
            Fault::Misremembered => {
                Self::Corrupt("jobs of a claim are not where they were".to_owned())
            }
        }
    }
}

/// The table. Messages of SQLite name tables, columns and rules, never stored values.
fn translate(error: &rusqlite::Error) -> Error {
    let text = error.to_string();
    if let rusqlite::Error::SqliteFailure(failure, _) = error
        && failure.extended_code == ffi::SQLITE_IOERR_SHMSIZE
    {
        return Error::StoreFull(text);
    }
    let Some(failure) = error.sqlite_error() else {
        // A value in a row that is not what this program writes.
        return Error::Corrupt(text);
    };
    match failure.code {
        ErrorCode::DiskFull => Error::StoreFull(text),
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::FileLockingProtocolFailed => {
            Error::Unavailable(format!("{text}; another process holds the file's lock"))
        }
        ErrorCode::CannotOpen => cannot_open(&text, File::open("/dev/null").err().as_ref()),
        ErrorCode::ReadOnly
        | ErrorCode::PermissionDenied
        | ErrorCode::AuthorizationForStatementDenied => no_access(&text),
        ErrorCode::DatabaseCorrupt
        | ErrorCode::NotADatabase
        | ErrorCode::ConstraintViolation
        | ErrorCode::TypeMismatch => Error::Corrupt(text),
        // A statement that does not fit the tables, such as for a missing one: the file is not
        // what this program wrote.
        ErrorCode::Unknown if failure.extended_code == ffi::SQLITE_ERROR => Error::Corrupt(text),
        // Trouble of the system or of this program, which says nothing about the data.
        _ => Error::Unavailable(text),
    }
}

/// SQLite does not say why it cannot open a file; `probe` is why another one cannot be opened.
fn cannot_open(text: &str, probe: Option<&std::io::Error>) -> Error {
    let Some(errno) = probe.and_then(rustix::io::Errno::from_io_error) else {
        return no_access(text);
    };
    if matches!(errno, rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) {
        let what = format!("{text}: too many open files; raise the limit (ulimit -n)");
        return Error::Unavailable(what);
    }
    no_access(text)
}

fn no_access(text: &str) -> Error {
    Error::Refused(format!(
        "{text}; give this user read and write access to the file and to its directory"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: i32) -> Error {
        Fault::from(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)).into()
    }

    #[test]
    fn every_class_of_error_tells_the_caller_what_helps() {
        assert!(matches!(of(ffi::SQLITE_FULL), Error::StoreFull(_)));
        assert!(matches!(of(ffi::SQLITE_IOERR_SHMSIZE), Error::StoreFull(_)));
        for code in [ffi::SQLITE_BUSY, ffi::SQLITE_BUSY_SNAPSHOT, ffi::SQLITE_LOCKED] {
            assert!(matches!(of(code), Error::Unavailable(_)));
        }
        for code in [ffi::SQLITE_IOERR, ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_NOMEM] {
            assert!(matches!(of(code), Error::Unavailable(_)));
        }
        for code in [ffi::SQLITE_READONLY, ffi::SQLITE_PERM, ffi::SQLITE_CANTOPEN, ffi::SQLITE_AUTH]
        {
            assert!(matches!(of(code), Error::Refused(_)));
        }
        for code in [
            ffi::SQLITE_CORRUPT,
            ffi::SQLITE_CORRUPT_INDEX,
            ffi::SQLITE_NOTADB,
            ffi::SQLITE_CONSTRAINT_CHECK,
            ffi::SQLITE_ERROR,
        ] {
            assert!(matches!(of(code), Error::Corrupt(_)));
        }
        // Also codes that SQLite does not have yet.
        for code in [ffi::SQLITE_SCHEMA, ffi::SQLITE_ABORT, ffi::SQLITE_MISUSE, 90] {
            assert!(matches!(of(code), Error::Unavailable(_)), "{code}: {:?}", of(code));
        }
    }

    #[test]
    fn too_many_open_files_are_not_taken_for_missing_permissions() {
        let of = |errno: rustix::io::Errno| cannot_open("x", Some(&std::io::Error::from(errno)));
        for errno in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE] {
            let error = of(errno);
            assert!(matches!(&error, Error::Unavailable(why) if why.contains("ulimit")), "{error}");
        }
        assert!(matches!(of(rustix::io::Errno::ACCESS), Error::Refused(_)));
        assert!(matches!(cannot_open("x", None), Error::Refused(_)));
    }

    #[test]
    fn a_failed_sync_is_told_from_other_failures() {
        let fault = |code| Fault::from(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        assert!(fault(ffi::SQLITE_IOERR_FSYNC).is_failed_sync());
        assert!(!fault(ffi::SQLITE_IOERR_WRITE).is_failed_sync());
        assert!(fault(ffi::SQLITE_BUSY_SNAPSHOT).is_busy());
    }
}
