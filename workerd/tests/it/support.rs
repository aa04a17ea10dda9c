//! Stores, daemons and jobs for the tests. Everything ends with the value that stands for it.

mod daemon;
mod gate;
mod redis;

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use queue::{Connect, Job, JobId, JobRecord, JobState, Kind, NewJob, Payload, Queue};
use serde_json::Value;

pub(crate) use daemon::Daemon;
pub(crate) use gate::{Gate, executor, soon};
pub(crate) use redis::Redis;

/// How long anything may take before the test has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// The built program, without anything from the environment of the test.
pub(crate) fn workerd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_workerd"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WORKERD_") {
            command.env_remove(name);
        }
    }
    command
}

/// What a finished command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// Standard output as the one document it is.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Standard output as the documents it is, one a line.
    pub(crate) fn documents(&self) -> Vec<Value> {
        let document =
            |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        self.out.lines().map(document).collect()
    }

    /// Standard error as the one document it is.
    pub(crate) fn error(&self) -> Value {
        serde_json::from_str(&self.err).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

pub(crate) fn said(command: &mut Command) -> Said {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
}

/// Runs a command on a store, for programs.
pub(crate) fn ask(store: &Store, arguments: &[&str]) -> Said {
    said(workerd().arg("--json").args(arguments).env("WORKERD_URL", store.url()))
}

/// Runs a command on a store, for people.
pub(crate) fn ask_plainly(store: &Store, arguments: &[&str]) -> Said {
    said(workerd().args(arguments).env("WORKERD_URL", store.url()))
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Whether a terminal would show all of it and obey none of it.
pub(crate) fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || !(c.is_control() || c == '\u{202e}'))
}

/// A store of a test's own.
pub(crate) enum Store {
    Sqlite(tempfile::TempDir),
    Redis(Redis),
}

impl Store {
    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    pub(crate) fn redis() -> Self {
        Self::Redis(Redis::start())
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Sqlite(folder) => format!("sqlite:{}", folder.path().join("queue.db").display()),
            Self::Redis(redis) => redis.url(),
        }
    }

    /// The keys that stay, if it is a store of keys.
    pub(crate) fn lasting_keys(&self) -> Vec<String> {
        match self {
            Self::Sqlite(_) => Vec::new(),
            Self::Redis(redis) => redis.lasting_keys(),
        }
    }

    pub(crate) async fn connect(&self) -> Queue {
        Queue::connect(&self.url()).await.unwrap()
    }
}

/// Runs a test on every store that survives its processes.
macro_rules! on_every_store {
    ($($test:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(crate::support::Store::sqlite()).await;
            })*
        }
        mod on_redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(crate::support::Store::redis()).await;
            })*
        }
    };
}
pub(crate) use on_every_store;

/// A job of `kind` with a JSON payload.
pub(crate) fn job(kind: &str, payload: &Value) -> NewJob {
    NewJob::new(Kind::new(kind).unwrap(), Payload::json(payload).unwrap())
}

/// Looks again and again until `look` finds what it looks for.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} does not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until a job is in a state.
pub(crate) async fn until_state(queue: &Queue, id: JobId, state: JobState) -> JobRecord {
    let what = format!("job {id} {state}");
    until(&what, async || queue.get(id).await.unwrap().filter(|r| r.state == state)).await
}

/// Waits until a job is finished.
pub(crate) async fn until_finished(queue: &Queue, id: JobId) -> JobRecord {
    let record = queue.wait_finished(id, PATIENCE).await.unwrap().unwrap();
    assert!(record.state.is_finished(), "job {id} is {} still", record.state);
    record
}

/// Writes a configuration file for a store.
pub(crate) fn write_config(folder: &Path, text: &str) -> std::path::PathBuf {
    let path = folder.join("workerd.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// A job type for workers inside the tests.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Hostile;

impl Job for Hostile {
    const KIND: &'static str = "hostile";
}
