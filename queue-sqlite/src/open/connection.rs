//! Connections and their settings, each read back.

use std::path::Path;
use std::time::{Duration, Instant};

use queue_core::Error;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::migrate;
use crate::Durability;
use crate::errors::Fault;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The one that writes.
    Writer(Durability),
    /// One that only reads.
    Reader,
}

/// How long a connection waits for another process's lock before it says that it is busy: so many
/// times one to three milliseconds, about five seconds.
const BUSY_WAITS: i32 = 2500;
const BUSY_WAITS_BRIEF: i32 = 50;
/// How long opening waits for others who open the same file.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// The write-ahead log is cut to this size when it is reset (64 MiB).
const JOURNAL_SIZE_LIMIT: i64 = 64 * 1024 * 1024;
pub(crate) const PAGE_SIZE: i64 = 4096;
const AUTO_VACUUM_INCREMENTAL: i64 = 2;
/// Prepared statements that a connection keeps: more than there are queries.
const STATEMENTS_KEPT: usize = 160;

/// Opens a file that exists.
pub(crate) fn connect(path: &Path, role: Role) -> Result<Connection, Error> {
    // Each connection stays on the thread that it is given to, so SQLite need not lock it.
    // Readers are kept from writing by `query_only`: a connection that is opened read-only does
    // not load the CHECKs, and an audit would not see that one is broken.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags);
    let mut conn = opened.map_err(|error| Error::from(Fault::from(error)))?;
    conn.busy_handler(Some(wait_for_lock as fn(i32) -> bool))
        .map_err(|error| Error::from(Fault::from(error)))?;
    if matches!(role, Role::Writer(_)) {
        inspect(&conn, path).map_err(|fault| explain(fault, path))?;
    }
    configure(&conn, role).map_err(|fault| explain(fault, path))?;
    if matches!(role, Role::Writer(_)) && conn.is_readonly("main").unwrap_or(true) {
        let path = path.display();
        return Err(Error::Refused(format!("{path} cannot be written by this user")));
    }
    Ok(conn)
}

/// Looks whose file it is before anything is set: a file of another application stays as it is.
fn inspect(conn: &Connection, path: &Path) -> Result<(), Fault> {
    // Nor is a log of theirs put into their file when this connection closes.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    migrate::version(conn, path)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok(())
}

/// Before the first use, "not a database" is the user's mistake, not damage.
fn explain(fault: Fault, path: &Path) -> Error {
    if let Fault::Sqlite(error) = &fault
        && error.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase)
    {
        return Error::Refused(format!(
            "{} is not a queue database; name another file, or move this one away",
            path.display()
        ));
    }
    fault.into()
}

/// How long a connection waits for locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Not at all.
    None,
    /// About a tenth of a second.
    Some,
}

/// Runs `work` on a connection that waits less for locks than usual meanwhile.
pub(crate) fn with_patience<T>(
    conn: &mut Connection,
    patience: Patience,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    conn.busy_handler(match patience {
        Patience::None => None,
        Patience::Some => Some(wait_briefly_for_lock as fn(i32) -> bool),
    })?;
    let result = work(conn);
    conn.busy_handler(Some(wait_for_lock as fn(i32) -> bool))?;
    result
}

/// Waits a moment for a lock; says whether to try again.
///
/// SQLite's own waits grow to a tenth of a second. A process that commits without a pause leaves
/// the lock free for microseconds only, and whoever asks so rarely would hardly ever find it free.
fn wait_for_lock(waits: i32) -> bool {
    std::thread::sleep(lock_pause(waits));
    waits < BUSY_WAITS
}

fn wait_briefly_for_lock(waits: i32) -> bool {
    std::thread::sleep(lock_pause(waits));
    waits < BUSY_WAITS_BRIEF
}

fn lock_pause(waits: i32) -> Duration {
    Duration::from_millis(1 + u64::from(waits.unsigned_abs() % 3))
}

fn configure(conn: &Connection, role: Role) -> Result<(), Fault> {
    conn.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    // Plans must not change with the values that are bound, nor be made again for them.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    set(conn, "mmap_size", 0)?;
    // Savepoints of a group commit are kept in memory, not in a file.
    set(conn, "temp_store", 2)?;
    let Role::Writer(durability) = role else {
        return set(conn, "query_only", 1);
    };
    let pages: i64 = conn.pragma_query_value(None, "page_count", |row| row.get(0))?;
    if pages == 0 {
        // These can be chosen for an empty file only.
        set(conn, "page_size", PAGE_SIZE)?;
        set(conn, "auto_vacuum", AUTO_VACUUM_INCREMENTAL)?;
    }
    use_wal(conn)?;
    set(conn, "synchronous", durability.synchronous())?;
    // `writer/checkpoint.rs` sees to that.
    set(conn, "wal_autocheckpoint", 0)?;
    set(conn, "journal_size_limit", JOURNAL_SIZE_LIMIT)
}

/// Sets a pragma and reads it back: SQLite ignores what it does not like.
fn set(conn: &Connection, name: &str, value: i64) -> Result<(), Fault> {
    conn.pragma_update(None, name, value)?;
    let found: i64 = conn.pragma_query_value(None, name, |row| row.get(0))?;
    if found == value {
        return Ok(());
    }
    let what = format!("SQLite keeps {name} at {found} instead of {value}");
    Err(Error::Refused(what).into())
}

/// Switches the file to a write-ahead log. That takes the whole file for a moment, for which
/// SQLite does not wait by itself.
fn use_wal(conn: &Connection) -> Result<(), Fault> {
    let mode: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    if mode == "wal" {
        return Ok(());
    }
    let give_up = Instant::now() + OPEN_TIMEOUT;
    loop {
        let mode = conn
            .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0));
        match mode.map_err(Fault::from) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Err(fault) if fault.is_busy() && Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(fault) => return Err(fault),
            Ok(mode) => {
                let what = format!("the file cannot use a write-ahead log (it uses {mode})");
                return Err(Error::Refused(what).into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

    use super::*;

    #[test]
    fn the_log_is_switched_to_as_soon_as_nobody_writes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let other = Connection::open(&path).unwrap();
        other
            .execute_batch("CREATE TABLE t (a); BEGIN IMMEDIATE; INSERT INTO t VALUES (1)")
            .unwrap();
        let mut conn = Connection::open(&path).unwrap();
        conn.busy_timeout(Duration::ZERO).unwrap();
        let mut tries = 0;
        // The other one goes on when it has been met.
        let watch = move |context: AuthContext<'_>| {
            let wal = AuthAction::Pragma { pragma_name: "journal_mode", pragma_value: Some("wal") };
            tries += u32::from(context.action == wal);
            if tries == 2 && !other.is_autocommit() {
                other.execute_batch("COMMIT").unwrap();
            }
            Authorization::Allow
        };
        conn.authorizer(Some(watch)).unwrap();
        use_wal(&conn).map_err(Error::from).unwrap();
    }

    #[test]
    fn a_file_that_cannot_have_a_log_is_refused() {
        let conn = Connection::open_in_memory().unwrap();
        let refused = use_wal(&conn).map_err(Error::from);
        assert!(matches!(&refused, Err(Error::Refused(_))), "{refused:?}");
    }

    #[test]
    fn a_lock_is_asked_for_often_and_for_about_five_seconds() {
        let all = 0..=BUSY_WAITS;
        let pauses: Vec<u128> = all.map(|waits| lock_pause(waits).as_millis()).collect();
        assert!(pauses.iter().all(|ms| (1..=3).contains(ms)));
        assert!((4500..5500).contains(&pauses.iter().sum::<u128>()));
        assert!(wait_for_lock(BUSY_WAITS - 1) && !wait_for_lock(BUSY_WAITS));
    }
}
