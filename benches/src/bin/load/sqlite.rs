//! Bulk and drain on a SQLite file, beside loops by hand that insert, and take and delete, a hundred
//! rows a transaction.

use std::path::Path;
use std::time::Instant;

use queue::{Connect as _, ConnectOptions, Durability, Queue};
use queue_benches::own_cpu::own_cpu;
use queue_benches::results::Results;
use rusqlite::Connection;

use super::Settings;
use super::drain::drain;
use super::store::jobs;

const ROWS: usize = 100;

pub(crate) async fn run(settings: &Settings, results: &mut Results) -> anyhow::Result<()> {
    for (durability, synchronous) in [(Durability::Memory, "NORMAL"), (Durability::Fsync, "FULL")] {
        let name = format!("sqlite {durability}");
        by_hand(settings, &name, synchronous, results)?;
        measured(settings, &name, durability, results).await?;
        for what in ["bulk", "drain"] {
            results.add_ratio(
                &format!("{name}, {what} / by hand"),
                &format!("{name}, {what}"),
                &format!("{name}, {what} by hand"),
            );
        }
    }
    Ok(())
}

async fn measured(
    settings: &Settings,
    name: &str,
    durability: Durability,
    results: &mut Results,
) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite:{}", folder.path().join("queue.db").display());
    let options = ConnectOptions::default().durability(durability);
    let queue = Queue::connect_with(&url, options).await?;
    let each = |total: f64| total / settings.jobs as f64;
    let jobs = jobs(settings.jobs, settings.payload_bytes, false)?;
    let (used, started) = (own_cpu(), Instant::now());
    queue.enqueue_all(jobs).await?;
    let (took, cpu) = (started.elapsed().as_secs_f64(), (own_cpu() - used).as_secs_f64());
    results.add(&format!("{name}, bulk"), "jobs/s", 1.0 / each(took));
    results.add(&format!("{name}, bulk, CPU"), "us/job", each(cpu * 1e6));
    let used = own_cpu();
    let took = drain(&queue, settings.jobs, settings).await?.as_secs_f64();
    let cpu = (own_cpu() - used).as_secs_f64();
    results.add(&format!("{name}, drain"), "jobs/s", 1.0 / each(took));
    results.add(&format!("{name}, drain, CPU"), "us/job", each(cpu * 1e6));
    Ok(())
}

fn by_hand(
    settings: &Settings,
    name: &str,
    synchronous: &str,
    results: &mut Results,
) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut connection = open(&folder.path().join("hand.db"), synchronous)?;
    let payload = vec![b'x'; settings.payload_bytes];
    let started = Instant::now();
    for first in (0..settings.jobs).step_by(ROWS) {
        let transaction = connection.transaction()?;
        let mut insert = transaction.prepare_cached(
            "INSERT INTO job (id, queue, kind, state, due_ms, payload) VALUES (?, ?, ?, 0, ?, ?)",
        )?;
        for number in first..(first + ROWS).min(settings.jobs) {
            let id = (number as u128).to_be_bytes();
            insert.execute((id, "default", "load.nothing", number as i64, &payload))?;
        }
        drop(insert);
        transaction.commit()?;
    }
    let rate = |started: Instant| settings.jobs as f64 / started.elapsed().as_secs_f64();
    results.add(&format!("{name}, bulk by hand"), "jobs/s", rate(started));
    let started = Instant::now();
    let mut taken = 0;
    while taken < settings.jobs {
        let transaction = connection.transaction()?;
        let mut take = transaction.prepare_cached(
            "DELETE FROM job WHERE rowid IN (SELECT rowid FROM job ORDER BY rowid LIMIT ?)
             RETURNING id, payload",
        )?;
        let mut rows = take.query([ROWS as i64])?;
        while let Some(row) = rows.next()? {
            let (_, _): (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?);
            taken += 1;
        }
        drop(rows);
        drop(take);
        transaction.commit()?;
    }
    results.add(&format!("{name}, drain by hand"), "jobs/s", rate(started));
    Ok(())
}

fn open(path: &Path, synchronous: &str) -> anyhow::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.execute_batch(
        "CREATE TABLE job (id BLOB NOT NULL UNIQUE, queue TEXT, kind TEXT, state INTEGER,
                           due_ms INTEGER, payload BLOB)",
    )?;
    Ok(connection)
}
