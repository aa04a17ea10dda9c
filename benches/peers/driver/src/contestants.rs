//! Who takes part.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// One queue with one set of settings.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    pub(crate) settings: String,
    pub(crate) store: Store,
    #[serde(skip)]
    pub(crate) ours: bool,
    #[serde(skip)]
    pub(crate) command: Vec<String>,
    #[serde(skip)]
    pub(crate) variant: &'static str,
    /// Whether it has a call that enqueues many jobs.
    #[serde(skip)]
    pub(crate) bulk: bool,
    /// It cannot drain more than so many ready jobs.
    pub(crate) jobs_max: Option<u32>,
    #[serde(skip)]
    pub(crate) concurrencies: &'static [usize],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Store {
    Redis,
    Sqlite,
}

/// One that should have taken part.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Missing {
    pub(crate) name: &'static str,
    pub(crate) reason: String,
}

struct Entry {
    name: &'static str,
    adapter: Adapter,
    variant: &'static str,
    store: Store,
    jobs_max: Option<u32>,
    concurrencies: &'static [usize],
}

#[derive(Clone, Copy)]
enum Adapter {
    Rust(&'static str),
    Node(&'static str),
    Python(&'static str),
}

const USUAL: &[usize] = &[50, 100, 200];
/// Its promotion of due jobs unpacks all of them at once, and Lua's stack ends at about 8 000.
const APALIS_REDIS_MAX: Option<u32> = Some(7000);

const fn redis(name: &'static str, adapter: Adapter, variant: &'static str) -> Entry {
    Entry { name, adapter, variant, store: Store::Redis, jobs_max: None, concurrencies: USUAL }
}

const fn sqlite(name: &'static str, adapter: Adapter, variant: &'static str) -> Entry {
    Entry { name, adapter, variant, store: Store::Sqlite, jobs_max: None, concurrencies: USUAL }
}

const OURS: Adapter = Adapter::Rust("peer-ours");
const APALIS_REDIS: Adapter = Adapter::Rust("peer-apalis-redis");
const APALIS_SQLITE: Adapter = Adapter::Rust("peer-apalis-sqlite");

/// The first of ours in each store is the one that alternates with every peer.
const ENTRIES: &[Entry] = &[
    redis("ours", OURS, "drop"),
    redis("ours, kept", OURS, "default"),
    redis("BullMQ", Adapter::Node("bullmq.mjs"), "default"),
    redis("BullMQ for Rust", Adapter::Rust("peer-bullmq-rust"), "default"),
    redis("bee-queue", Adapter::Node("bee-queue.mjs"), "default"),
    Entry { jobs_max: APALIS_REDIS_MAX, ..redis("apalis-redis", APALIS_REDIS, "default") },
    Entry { jobs_max: APALIS_REDIS_MAX, ..redis("apalis-redis, light", APALIS_REDIS, "light") },
    redis("oxana", Adapter::Rust("peer-oxana"), "default"),
    // Threads that one interpreter lock lets run in turn: more of them only wait.
    Entry {
        concurrencies: &[4, 16, 50],
        ..redis("mayu", Adapter::Python("mayu_adapter.py"), "default")
    },
    sqlite("ours, fsync", OURS, "drop"),
    sqlite("ours, memory", OURS, "memory"),
    sqlite("ours, fsync, kept", OURS, "default"),
    Entry { concurrencies: &[1], ..sqlite("plainjob", Adapter::Node("plainjob.mjs"), "default") },
    sqlite("apalis-sqlite", APALIS_SQLITE, "default"),
    sqlite("apalis-sqlite, normal", APALIS_SQLITE, "normal"),
];

#[derive(Deserialize)]
struct About {
    version: String,
    settings: BTreeMap<String, String>,
}

/// Those whose adapter runs, and those whose does not.
pub(crate) fn present(build: &Path, only: &[String]) -> (Vec<Contestant>, Vec<Missing>) {
    let mut contestants = Vec::new();
    let mut missing = Vec::new();
    for entry in ENTRIES {
        let ours = matches!(entry.adapter, Adapter::Rust("peer-ours"));
        let wanted = |part: &String| entry.name.to_lowercase().contains(&part.to_lowercase());
        if !ours && !only.is_empty() && !only.iter().any(wanted) {
            continue;
        }
        let command = entry.adapter.command(build);
        match about(&command) {
            Ok(about) => contestants.push(Contestant {
                name: entry.name,
                version: about.version,
                settings: about.settings.get(entry.variant).cloned().unwrap_or_default(),
                store: entry.store,
                ours,
                command,
                variant: entry.variant,
                bulk: !matches!(entry.adapter, Adapter::Python(_)),
                jobs_max: entry.jobs_max,
                concurrencies: entry.concurrencies,
            }),
            Err(error) => {
                let why = build.join("why").join(entry.adapter.file());
                let reason = std::fs::read_to_string(why).unwrap_or_else(|_| error.to_string());
                missing.push(Missing { name: entry.name, reason: reason.trim().to_owned() });
            }
        }
    }
    (contestants, missing)
}

impl Adapter {
    fn file(self) -> &'static str {
        match self {
            Self::Rust(file) | Self::Node(file) | Self::Python(file) => file,
        }
    }

    fn command(self, build: &Path) -> Vec<String> {
        let path = |parts: &str| build.join(parts).display().to_string();
        match self {
            Self::Rust(file) => vec![path(&format!("bin/{file}"))],
            Self::Node(file) => vec!["node".to_owned(), path(&format!("node/{file}"))],
            Self::Python(file) => {
                vec![path("python/bin/python"), path(&format!("python/{file}"))]
            }
        }
    }
}

fn about(command: &[String]) -> anyhow::Result<About> {
    let [program, arguments @ ..] = command else { anyhow::bail!("no command") };
    let output = Command::new(program).args(arguments).arg("about").output()?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let line = stderr.lines().find(|line| line.contains("rror")).unwrap_or("it does not run");
        anyhow::bail!("{}", line.trim());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
