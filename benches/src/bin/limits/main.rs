//! Limits under fire: worker processes that are killed while a limit holds, tenants of very
//! different size, a provider that turns everybody away. Each scene starts a store of its own in a
//! temporary folder, prints what it measured, and fails if a promise does not hold.
//!
//! ```text
//! cargo build --release -p queue-benches
//! target/release/limits --store redis siege --seconds 120
//! target/release/limits --store sqlite fair
//! target/release/limits --store redis throttled
//! ```

mod fair;
mod history;
mod holders;
mod siege;
mod throttled;
mod worker;

use std::path::Path;

use anyhow::ensure;
use clap::{Parser, Subcommand, ValueEnum};
use queue::{Connect, LimitSettings, LimitTarget, Queue};
use queue_benches::redis_server::Redis;

#[derive(Debug, Parser)]
struct Arguments {
    /// The store.
    #[arg(long, value_enum, default_value = "redis")]
    store: StoreKind,
    #[command(subcommand)]
    scene: SceneKind,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StoreKind {
    Redis,
    Sqlite,
}

#[derive(Debug, Subcommand)]
enum SceneKind {
    /// Worker processes share a limit and a rate, and one of them is killed every little while:
    /// never more run at once than may, no window sees more starts than it may, and places do not
    /// stay empty while jobs wait.
    Siege(siege::Options),
    /// Thousands of tenants with backlogs of very different size: how long does a small one wait?
    Fair(fair::Options),
    /// A provider turns everybody away: what does that cost its jobs, and those of another one?
    Throttled(throttled::Options),
    /// A worker process of the siege; started by it.
    #[command(hide = true)]
    Worker(worker::Options),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let SceneKind::Worker(options) = &arguments.scene {
        return worker::run(options).await;
    }
    let folder = tempfile::tempdir()?;
    let (_redis, url) = match arguments.store {
        StoreKind::Redis => {
            let redis = Redis::start(folder.path())?;
            let url = redis.url();
            (Some(redis), url)
        }
        StoreKind::Sqlite => (None, format!("sqlite:{}", folder.path().join("q.db").display())),
    };
    let scene = Scene { queue: Queue::connect(&url).await?, url, folder: folder.path() };
    match &arguments.scene {
        SceneKind::Siege(options) => scene.siege(options).await?,
        SceneKind::Fair(options) => scene.fair(options).await?,
        SceneKind::Throttled(options) => scene.throttled(options).await?,
        SceneKind::Worker(_) => {}
    }
    let violations = scene.queue.audit().await?;
    ensure!(violations.is_empty(), "the audit found {violations:?}");
    println!("audit: nothing found");
    Ok(())
}

struct Scene<'a> {
    queue: Queue,
    url: String,
    folder: &'a Path,
}

impl Scene<'_> {
    async fn limit(&self, target: &str, settings: &LimitSettings) -> anyhow::Result<()> {
        self.queue.set_limit(&LimitTarget::new(target)?, settings).await?;
        Ok(())
    }
}

/// The value below which the share `part` of these sorted values lies.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
}
