//! SIGHUP: the configuration is read again. Its limits are written to the store, and its
//! concurrency holds from then on.

use std::collections::BTreeSet;
use std::sync::Arc;

use queue::{LimitTarget, Queue, RunningWorker};
use serde_json::{Map, Value};

use crate::config::{Config, View};
use crate::exit::Failure;
use crate::limits::InForce;
use crate::signals::Hangups;

/// Reads the configuration again at each SIGHUP. `config` is what runs, and `read` reads it.
///
/// # Cancel safety
/// Safe to drop; limits may be written in part.
pub(crate) async fn on_hangup(
    mut hangups: Hangups,
    queue: Queue,
    worker: Arc<RunningWorker>,
    limits: InForce,
    config: Config,
    read: impl Fn() -> Result<Config, Failure>,
) {
    loop {
        hangups.next().await;
        if let Err(failure) = reload(&queue, &worker, &limits, &config, &read).await {
            let error = failure.to_string().replace('\n', "; ");
            let advice = "what is in force stays; correct it and send SIGHUP again";
            tracing::error!(event = "reload_failed", error, advice);
        }
    }
}

async fn reload(
    queue: &Queue,
    worker: &RunningWorker,
    limits: &InForce,
    config: &Config,
    read: impl Fn() -> Result<Config, Failure>,
) -> Result<(), Failure> {
    let again = read()?;
    for setting in kept(config, &again) {
        let advice = "it stays as it was; start this replica again to change it";
        tracing::warn!(event = "setting_not_reloaded", setting, advice);
    }
    let named: BTreeSet<LimitTarget> = again.limits.keys().cloned().collect();
    let (changed, before) = limits.replace(queue, again.limits).await?;
    for limit in before.keys().filter(|target| !named.contains(target)) {
        let advice = "its last settings stay in force; workerd limit rm removes them";
        tracing::warn!(event = "limit_not_named", %limit, advice);
    }
    let concurrency = again.worker.concurrency;
    worker.set_concurrency(concurrency).map_err(Failure::usage)?;
    tracing::info!(event = "reloaded", limits_changed = changed, concurrency);
    Ok(())
}

/// The settings that differ and are only read at the start, as in `worker.lease`.
fn kept(config: &Config, again: &Config) -> BTreeSet<String> {
    let view = |config| serde_json::to_value(View::of(config)).unwrap_or_default();
    let mut kept = BTreeSet::new();
    differing("", &view(config), &view(again), &mut kept);
    // Shown without its password, which may be all that differs.
    if config.store.url != again.store.url {
        kept.insert("store.url".to_owned());
    }
    kept
}

fn differing(path: &str, before: &Value, after: &Value, found: &mut BTreeSet<String>) {
    if before == after || ["limits", "queues", "worker.concurrency"].contains(&path) {
        return;
    }
    let (Value::Object(before), Value::Object(after)) = (before, after) else {
        found.insert(path.to_owned());
        return;
    };
    for name in before.keys().chain(after.keys()) {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let of = |table: &Map<String, Value>| table.get(name).cloned().unwrap_or_default();
        differing(&path, &of(before), &of(after), found);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Layers;

    fn config(text: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(Path::new(&path)), &Layers::default()).unwrap()
    }

    #[test]
    fn a_setting_is_named_as_the_file_has_it() {
        let executor = "[executors.k]\ntype = \"command\"\nargv = [\"sh\"]\n";
        let of = |keys: &str| config(&format!("{executor}{keys}"));
        let openai = of("provider = \"openai\"\nlimits = [\"gpu:a\"]");
        for (after, setting) in [
            (of("provider = \"other\"\nlimits = [\"gpu:a\"]"), "executors.k.provider"),
            (of("limits = [\"gpu:a\"]"), "executors.k.provider"),
            (of("provider = \"openai\"\nlimits = [\"gpu:b\"]"), "executors.k.limits"),
        ] {
            assert_eq!(kept(&openai, &after).into_iter().collect::<Vec<_>>(), [setting]);
        }
    }

    #[test]
    fn what_takes_a_restart_is_named_and_limits_do_not() {
        let before = config(
            "[store]\nurl = \"redis://:old@h\"\n[worker]\nconcurrency = 2\nlease = \"9s\"\n\
             [executors.\"a.b\"]\ntype = \"command\"\nargv = [\"sh\"]\n\
             [limits.\"a:b\"]\nconcurrency = 1\n[queues.q]\nmax_live = 1\n",
        );
        let after = config(
            "[store]\nurl = \"redis://:new@h\"\n[worker]\nconcurrency = 3\n\
             [executors.\"a.b\"]\ntype = \"command\"\nargv = [\"sh\", \"-c\"]\n\
             [executors.c]\ntype = \"command\"\nargv = [\"sh\"]\n\
             [limits.\"a:b\"]\nconcurrency = 2\n",
        );
        let kept: Vec<String> = kept(&before, &after).into_iter().collect();
        assert_eq!(kept, ["executors.a.b.argv", "executors.c", "store.url", "worker.lease"]);
    }
}
