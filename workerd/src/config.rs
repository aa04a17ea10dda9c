//! What workerd is told to do: defaults, then the file, then the environment, then flags.
//!
//! A file is read into a tree that knows its lines ([`raw`]) and turned once into the types below
//! ([`resolve`]), which the rest of workerd works with. All that is wrong is reported together.

mod environment;
mod executors;
mod layers;
pub(crate) mod limits;
mod queues;
mod raw;
mod resolve;
mod secret;
#[cfg(test)]
mod tests;
mod value;
mod view;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use queue::{Durability, Kind, Namespace};

use crate::executor::command::Command;
pub(crate) use environment::unknown_variables;
pub(crate) use executors::{find_in_path, longest_kill_grace};
pub(crate) use layers::{Layers, Setting};
pub(crate) use limits::Limits;
pub(crate) use queues::Queues;
pub(crate) use secret::StoreUrl;
pub(crate) use value::{DURATION_MAX, durability, duration};
pub(crate) use view::View;

/// Everything `workerd run` needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) store: Store,
    pub(crate) worker: Worker,
    /// What keys, classes of keys and queues allow; what the store has for others stays.
    pub(crate) limits: Limits,
    /// What runs the jobs of each kind.
    pub(crate) executors: BTreeMap<Kind, Command>,
    /// Where metrics and health are served; nowhere if `None`.
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) log: Log,
}

/// Where the jobs are.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    /// `None` if nobody said.
    pub(crate) url: Option<StoreUrl>,
    pub(crate) namespace: Namespace,
    /// What an acknowledged job survives; what the store does by itself if `None`.
    pub(crate) durability: Option<Durability>,
}

#[derive(Debug, Clone)]
pub(crate) struct Worker {
    pub(crate) concurrency: usize,
    pub(crate) lease: Duration,
    pub(crate) shutdown_grace: Duration,
    pub(crate) queues: Queues,
}

#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub(crate) format: LogFormat,
    /// As the `tracing_subscriber` crate's `EnvFilter` reads it: `info`, or `info,workerd=debug`.
    pub(crate) level: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// All that is wrong with a configuration.
#[derive(Debug)]
pub(crate) struct Problems(Vec<Problem>);

/// One thing that is wrong, where it is, and what to do.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    /// `workerd.toml:12: worker.lease`, `the environment variable WORKERD_LEASE` or `--lease`.
    place: String,
    message: String,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for Problem { place, message } in &self.0 {
            write!(f, "{separator}{place}: {message}")?;
            separator = "\n";
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl Config {
    /// Reads the file, if one is named, and puts the other layers over it.
    ///
    /// # Errors
    /// All that is wrong, in the order of the file.
    pub(crate) fn load(file: Option<&Path>, layers: &Layers) -> Result<Self, Problems> {
        let (name, text) = read(file)?;
        // Relative programs are looked for beside the file that names them.
        let folder = file.and_then(Path::parent).unwrap_or(Path::new(""));
        resolve::config(&raw::Source::new(&name, &text), folder, layers)
    }

    /// Like [`Self::load`], for commands that need nothing but the store: the rest of the file is
    /// not looked at.
    ///
    /// # Errors
    /// All that is wrong, in the order of the file.
    pub(crate) fn load_store(file: Option<&Path>, layers: &Layers) -> Result<Store, Problems> {
        let (name, text) = read(file)?;
        resolve::store(&raw::Source::new(&name, &text), layers)
    }
}

/// The file's name and text; both empty if none is named.
fn read(file: Option<&Path>) -> Result<(String, String), Problems> {
    let Some(path) = file else { return Ok(Default::default()) };
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((name, text)),
        Err(error) => {
            let message = format!("cannot be read: {error}; name the file with -c");
            Err(Problems(vec![Problem { place: name, message }]))
        }
    }
}
