//! What an error of SQLite means to the caller, in one table.

use queue_core::Error;
use rusqlite::ErrorCode;
use rusqlite::ffi;

/// An error inside this crate: SQLite's, or one that is already in the caller's terms.
#[derive(Debug)]
pub(crate) enum Fault {
    Sqlite(rusqlite::Error),
    Told(Error),
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

    fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Sqlite(error) => error.sqlite_error_code(),
            Self::Told(_) => None,
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Told(error) => error,
            Fault::Sqlite(error) => translate(&error),
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
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::StoreFull(text),
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed,
        ) => Error::Unavailable(format!("{text}; another process holds the file's lock")),
        Some(
            ErrorCode::SystemIoFailure | ErrorCode::OutOfMemory | ErrorCode::OperationInterrupted,
        ) => Error::Unavailable(text),
        Some(
            ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::AuthorizationForStatementDenied
            | ErrorCode::CannotOpen,
        ) => Error::Refused(format!(
            "{text}; give this user read and write access to the file and to its directory"
        )),
        // A broken CHECK or a missing table: the file is not what this program wrote.
        _ => Error::Corrupt(text),
    }
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
        for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB, ffi::SQLITE_CONSTRAINT_CHECK] {
            assert!(matches!(of(code), Error::Corrupt(_)));
        }
    }

    #[test]
    fn a_failed_sync_is_told_from_other_failures() {
        let fault = |code| Fault::from(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        assert!(fault(ffi::SQLITE_IOERR_FSYNC).is_failed_sync());
        assert!(!fault(ffi::SQLITE_IOERR_WRITE).is_failed_sync());
        assert!(fault(ffi::SQLITE_BUSY_SNAPSHOT).is_busy());
    }
}
