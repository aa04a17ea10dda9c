//! From the tree of the file and the layers over it to a [`Config`].

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use toml::de::DeTable;

use super::layers::Setting;
use super::raw::{Found, Source, Table};
use super::value::CONCURRENCY_MAX;
use super::{Config, Layers, Log, LogFormat, Problems, Queues, Store, Worker};
use super::{executors, limits, value};

/// Tables that a later version will know.
const UNSUPPORTED: [&str; 4] = ["providers", "schedules", "telemetry", "tokens"];

/// What is logged unless somebody says otherwise: a line for every attempt that ended, besides
/// what is worth knowing anyhow.
const LEVEL_DEFAULT: &str = "info,queue_core::worker::attempts=debug";

/// Everything. `folder` is where the file stands.
///
/// # Errors
/// All that is wrong, in the order of the file.
pub(super) fn config(
    source: &Source<'_>,
    folder: &Path,
    layers: &Layers,
) -> Result<Config, Problems> {
    let tree = source.parse()?;
    let mut file = Table::new(source, "", tree.get_ref());
    let settings = Settings { source, layers };
    let empty = DeTable::new();
    let config = Config {
        store: settings.store(&mut file, &empty),
        worker: settings.worker(section(&mut file, "worker", &empty)),
        limits: limits::read(
            section(&mut file, "limits", &empty),
            section(&mut file, "queues", &empty),
        ),
        executors: executors::read(section(&mut file, "executors", &empty), folder),
        listen: settings.http(section(&mut file, "http", &empty)),
        log: settings.log(section(&mut file, "log", &empty)),
    };
    for key in UNSUPPORTED {
        file.unsupported(key);
    }
    file.finish();
    source.finish(Some(config))
}

/// The store alone.
///
/// # Errors
/// All that is wrong with it, in the order of the file.
pub(super) fn store(source: &Source<'_>, layers: &Layers) -> Result<Store, Problems> {
    let tree = source.parse()?;
    let mut file = Table::new(source, "", tree.get_ref());
    let store = Settings { source, layers }.store(&mut file, &DeTable::new());
    source.finish(Some(store))
}

/// A table of the file. A missing one has no keys, but the layers may still have values for them.
fn section<'s, 'a>(
    file: &mut Table<'s, 'a>,
    key: &'static str,
    empty: &'s DeTable<'a>,
) -> Table<'s, 'a> {
    file.table(key).unwrap_or_else(|| Table::new(file.source(), key, empty))
}

/// Asks the file and the layers for one setting after the other.
struct Settings<'s, 'a> {
    source: &'s Source<'a>,
    layers: &'s Layers,
}

impl<'s, 'a> Settings<'s, 'a> {
    /// The strongest value that was given. The weaker ones are checked as well: a mistake in the
    /// file should not wait for the day when the flag is left out.
    fn pick<T, S: AsRef<str>>(
        &self,
        setting: Setting,
        in_file: Option<Found<S>>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let from_file = in_file.and_then(|Found { value, place }| {
            parse(value.as_ref()).map_err(|e| self.source.wrong(&place, e)).ok()
        });
        let from_layers = self.layers.of(setting).filter_map(|given| {
            parse(&given.text).map_err(|e| self.source.wrong_elsewhere(&given.place, e)).ok()
        });
        from_layers.last().or(from_file)
    }

    fn store(&self, file: &mut Table<'s, 'a>, empty: &'s DeTable<'a>) -> Store {
        let namespace = file.string("namespace", "a name such as \"default\"");
        let mut table = section(file, "store", empty);
        let url = table.string("url", "an address such as \"redis://127.0.0.1:6379\"");
        let durability = table.string("durability", "\"memory\", \"fsync\" or \"replicas:1\"");
        table.finish();
        Store {
            url: self.pick(Setting::Url, url, value::store_url),
            namespace: self
                .pick(Setting::Namespace, namespace, value::namespace)
                .unwrap_or_default(),
            durability: self.pick(Setting::Durability, durability, value::durability),
        }
    }

    fn worker(&self, mut table: Table<'_, '_>) -> Worker {
        let concurrency = table.integer("concurrency", "a whole number");
        let duration = "a duration such as \"30s\"";
        let lease = table.string("lease", duration);
        let grace = table.string("shutdown_grace", duration);
        let queues = Queues::read(&mut table);
        table.finish();
        Worker {
            concurrency: self
                .pick(Setting::Concurrency, concurrency, value::count::<CONCURRENCY_MAX>)
                .unwrap_or(16),
            lease: self
                .pick(Setting::Lease, lease, value::duration_from::<500>)
                .unwrap_or(Duration::from_secs(30)),
            shutdown_grace: self
                .pick(Setting::ShutdownGrace, grace, value::duration)
                .unwrap_or(Duration::from_secs(30)),
            queues,
        }
    }

    fn http(&self, mut table: Table<'_, '_>) -> Option<SocketAddr> {
        let form = "an address such as \"127.0.0.1:9464\", or \"off\"";
        let listen = table.string("listen", form);
        table.unsupported("tokens");
        table.finish();
        let default = Some((Ipv4Addr::LOCALHOST, 9464).into());
        self.pick(Setting::Listen, listen, value::listen).unwrap_or(default)
    }

    fn log(&self, mut table: Table<'_, '_>) -> Log {
        let format = table.string("format", "\"text\" or \"json\"");
        let level = table.string("level", "a level such as \"info\"");
        table.finish();
        Log {
            format: self
                .pick(Setting::LogFormat, format, value::log_format)
                .unwrap_or(LogFormat::Text),
            level: self
                .pick(Setting::LogLevel, level, value::log_level)
                .unwrap_or_else(|| LEVEL_DEFAULT.to_owned()),
        }
    }
}
