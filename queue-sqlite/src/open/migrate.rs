//! Brings the tables of a file to this version.

use std::path::Path;

use queue_core::{Error, Namespace};
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::errors::Fault;

/// Marks a file as a queue database: "jobq".
const APPLICATION_ID: i64 = 0x6a6f_6271;

/// Every change of the tables, in order; number n takes a file from version n − 1 to n.
const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/0001_jobs.sql"),
    include_str!("../../migrations/0002_fewer_writes.sql"),
];

pub(crate) const INSERT_STORE: &str = "INSERT INTO store (one, namespace, clock_ms, turn, fence, duplicates, queue_limits, starts) \
     VALUES (1, ?1, 0, 0, 0, 0, 0, '')";

/// Makes the tables of an empty file, or brings an older queue database up to date, in one
/// transaction. Several processes may do it at once.
pub(super) fn migrate(
    conn: &mut Connection,
    path: &Path,
    namespace: &Namespace,
) -> Result<(), Error> {
    if version(conn, path)? == MIGRATIONS.len() {
        // Nothing to write: the lock may be somebody else's.
        return Ok(check_namespace(conn, path, namespace)?);
    }
    Ok(migrate_in_transaction(conn, path, namespace)?)
}

fn migrate_in_transaction(
    conn: &mut Connection,
    path: &Path,
    namespace: &Namespace,
) -> Result<(), Fault> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version = version_in_transaction(&tx, path)?;
    for (number, migration) in (1..).zip(MIGRATIONS).skip(version) {
        tx.execute_batch(migration)?;
        tx.pragma_update(None, "user_version", number)?;
    }
    if version == 0 {
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.execute(INSERT_STORE, [namespace.as_str()])?;
    }
    check_namespace(&tx, path, namespace)?;
    Ok(tx.commit()?)
}

/// The version of a queue database, 0 for an empty file. Refuses files of others.
pub(super) fn version(conn: &Connection, path: &Path) -> Result<usize, Fault> {
    // All of it at one moment: another process may be making the tables.
    let tx = Transaction::new_unchecked(conn, TransactionBehavior::Deferred)?;
    version_in_transaction(&tx, path)
}

fn version_in_transaction(conn: &Connection, path: &Path) -> Result<usize, Fault> {
    let pragma = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    let path = path.display();
    if application != APPLICATION_ID {
        let tables: i64 =
            conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if application == 0 && version == 0 && tables == 0 {
            return Ok(0);
        }
        return Err(Error::Refused(format!(
            "{path} is not a queue database but that of another application; name another file"
        ))
        .into());
    }
    match usize::try_from(version) {
        Ok(known) if (1..=MIGRATIONS.len()).contains(&known) => Ok(known),
        _ => Err(Error::Refused(format!(
            "{path} has version {version} and this program knows versions up to {}; update this \
             program",
            MIGRATIONS.len()
        ))
        .into()),
    }
}

fn check_namespace(conn: &Connection, path: &Path, namespace: &Namespace) -> Result<(), Fault> {
    let found: String =
        conn.query_row("SELECT namespace FROM store WHERE one = 1", [], |row| row.get(0))?;
    if found == namespace.as_str() {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "{} holds the namespace {found:?}, not {namespace:?}; name another file",
        path.display()
    ))
    .into())
}
