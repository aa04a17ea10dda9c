//! The results, as JSON and as a table.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use crate::contestants::{Contestant, Missing, Store};
use crate::redis_server::Redis;
use crate::scenarios::Settings;

/// One contestant and what was measured of it: every value of every round.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    #[serde(flatten)]
    pub(crate) contestant: Contestant,
    pub(crate) concurrency: usize,
    /// Other concurrencies, and jobs/s that one process drained at them.
    tried: Vec<(usize, f64)>,
    pub(crate) values: BTreeMap<String, Vec<f64>>,
    pub(crate) notes: Vec<String>,
}

impl Measured {
    pub(crate) fn new(
        contestant: Contestant,
        concurrency: usize,
        tried: Vec<(usize, f64)>,
    ) -> Self {
        Self { contestant, concurrency, tried, values: BTreeMap::new(), notes: Vec::new() }
    }

    pub(crate) fn push(&mut self, name: &str, value: f64) {
        self.values.entry(name.to_owned()).or_default().push(value);
    }

    /// Runs one scenario and notes why it failed, if it did.
    pub(crate) fn attempt(
        &mut self,
        what: &str,
        scenario: impl FnOnce(&mut Self) -> anyhow::Result<()>,
    ) {
        if let Err(error) = scenario(self) {
            self.note(format!("{what}: {error:#}"));
        }
    }

    pub(crate) fn note(&mut self, note: String) {
        eprintln!("{}: {note}", self.contestant.name);
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn cell(&self, name: &str, per: f64, decimals: usize) -> String {
        self.values.get(name).map_or_else(|| "–".to_owned(), |all| spread(all, per, decimals))
    }

    fn total(&self, name: &str) -> f64 {
        self.values.get(name).map(|all| all.iter().sum()).unwrap_or_default()
    }
}

/// The whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    date: String,
    cpus: usize,
    redis_version: String,
    payload_bytes: u32,
    rounds: usize,
    /// Of the last minute, before each round.
    load_average: Vec<f64>,
    settings: Settings,
    pub(crate) reference: BTreeMap<String, Vec<f64>>,
    pub(crate) peers: Vec<Measured>,
    missing: Vec<Missing>,
}

impl Report {
    pub(crate) fn new(
        settings: &Settings,
        rounds: usize,
        missing: Vec<Missing>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let redis_version = Redis::start(folder.path(), false)?.version()?;
        let date = std::process::Command::new("date").args(["-u", "+%F"]).output()?.stdout;
        Ok(Self {
            date: String::from_utf8(date)?.trim().to_owned(),
            cpus: std::thread::available_parallelism()?.get(),
            redis_version,
            payload_bytes: 100,
            rounds,
            load_average: Vec::new(),
            settings: settings.clone(),
            reference: BTreeMap::new(),
            peers: Vec::new(),
            missing,
        })
    }

    /// Takes down how busy the machine was before a round.
    pub(crate) fn round(&mut self) -> anyhow::Result<()> {
        let load = std::fs::read_to_string("/proc/loadavg")?;
        self.load_average.push(load.split(' ').next().context("no load average")?.parse()?);
        Ok(())
    }

    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let json = serde_json::to_string_pretty(self)?;
        std::fs::write(path, json + "\n").with_context(|| format!("cannot write {path:?}"))
    }

    pub(crate) fn print(&self, rounds: usize) {
        println!(
            "Redis {}, {} CPUs, {} jobs, {rounds} of {} rounds: median (least–most)",
            self.redis_version, self.cpus, self.settings.jobs, self.rounds
        );
        self.print_store(Store::Redis, REDIS_COLUMNS);
        println!("\nbare Redis in the same run:");
        for (name, values) in &self.reference {
            let decimals = if name.ends_with("_ms") { 3 } else { 0 };
            println!("  {name:<20} {}", spread(values, 1.0, decimals));
        }
        self.print_store(Store::Sqlite, SQLITE_COLUMNS);
        for peer in &self.peers {
            for note in &peer.notes {
                println!("{}: {note}", peer.contestant.name);
            }
        }
        for Missing { name, reason } in &self.missing {
            println!("missing: {name}: {reason}");
        }
    }

    fn print_store(&self, store: Store, columns: &[Column]) {
        let mut rows = vec![vec!["peer".to_owned()]];
        rows[0].extend(columns.iter().map(|column| column.title.to_owned()));
        rows[0].push("missing/doubled".to_owned());
        for peer in self.peers.iter().filter(|peer| peer.contestant.store == store) {
            let Contestant { name, version, .. } = &peer.contestant;
            let mut row = vec![format!("{name} {version} ×{}", peer.concurrency)];
            row.extend(columns.iter().map(|c| peer.cell(c.value, c.per, c.decimals)));
            row.push(format!("{}/{}", peer.total("missing_jobs"), peer.total("doubled_jobs")));
            rows.push(row);
        }
        println!();
        print_rows(&rows);
    }
}

struct Column {
    title: &'static str,
    value: &'static str,
    per: f64,
    decimals: usize,
}

const fn rate(title: &'static str, value: &'static str) -> Column {
    Column { title, value, per: 1000.0, decimals: 1 }
}

const fn plain(title: &'static str, value: &'static str, decimals: usize) -> Column {
    Column { title, value, per: 1.0, decimals }
}

const REDIS_COLUMNS: &[Column] = &[
    rate("one k/s", "enqueue_one_per_s"),
    rate("64 k/s", "enqueue_many_per_s"),
    rate("bulk k/s", "enqueue_bulk_per_s"),
    rate("drain 1 k/s", "drain_1_per_s"),
    rate("drain 2 k/s", "drain_2_per_s"),
    plain("enqueue µs", "redis_cpu_us_per_enqueued_bulk", 1),
    plain("drain µs", "redis_cpu_us_per_drained_1", 1),
    plain("commands", "redis_commands_per_drained_1", 2),
    plain("worker µs", "worker_cpu_us_per_drained_1", 1),
    plain("bytes", "bytes_per_queued_job", 0),
    plain("p50 ms", "pick_up_p50_ms", 2),
    plain("p99 ms", "pick_up_p99_ms", 2),
];

const SQLITE_COLUMNS: &[Column] = &[
    rate("one k/s", "enqueue_one_per_s"),
    rate("bulk k/s", "enqueue_bulk_per_s"),
    rate("drain 1 k/s", "drain_1_per_s"),
    rate("drain 2 k/s", "drain_2_per_s"),
    plain("worker µs", "worker_cpu_us_per_drained_1", 1),
    plain("p50 ms", "pick_up_p50_ms", 2),
    plain("p99 ms", "pick_up_p99_ms", 2),
];

fn spread(values: &[f64], per: f64, decimals: usize) -> String {
    let mut sorted: Vec<f64> = values.iter().map(|value| value / per).collect();
    sorted.sort_by(f64::total_cmp);
    match (sorted.first(), median(&sorted), sorted.last()) {
        (Some(least), Some(median), Some(most)) => {
            format!("{median:.decimals$} ({least:.decimals$}–{most:.decimals$})")
        }
        _ => "–".to_owned(),
    }
}

fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        return sorted.get(middle).copied();
    }
    Some((sorted.get(middle.checked_sub(1)?)? + sorted.get(middle)?) / 2.0)
}

/// A Markdown table, aligned.
fn print_rows(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).filter_map(width).collect();
    for (index, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        println!("| {} |", cells.collect::<Vec<_>>().join(" | "));
        if index == 0 {
            let rules: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
            println!("| {} |", rules.join(" | "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn a_spread_names_the_median_and_both_ends() {
        assert_eq!(spread(&[3000.0, 1000.0, 2000.0], 1000.0, 1), "2.0 (1.0–3.0)");
        assert_eq!(spread(&[1.0, 2.0], 1.0, 1), "1.5 (1.0–2.0)");
        assert_eq!(spread(&[], 1.0, 0), "–");
    }
}
