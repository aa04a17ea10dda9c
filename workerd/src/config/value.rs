//! Texts as the values of settings. Each error says what to write.

use std::net::SocketAddr;
use std::time::Duration;

use queue::{Durability, Namespace};

use super::{LogFormat, StoreUrl};
use crate::display::exact;

/// The most jobs that one replica may run at a time.
pub(super) const CONCURRENCY_MAX: usize = 10_000;

/// The longest duration a setting can have.
pub(crate) const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// `30s`, `1h 30m`, `500ms`.
///
/// # Errors
/// What to write.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|_| {
        format!(
            "{text:?} is not a duration; write numbers with units, such as \"30s\" or \"1h 30m\""
        )
    })?;
    if duration > DURATION_MAX {
        return Err(format!("{text:?} is too long; write at most a year"));
    }
    Ok(duration)
}

/// A duration of at least `MIN_MS`.
pub(super) fn duration_from<const MIN_MS: u64>(text: &str) -> Result<Duration, String> {
    let (duration, min) = (duration(text)?, Duration::from_millis(MIN_MS));
    if duration < min {
        let min = exact(min);
        return Err(format!("{text:?} is too short; write at least \"{min}\""));
    }
    Ok(duration)
}

/// A whole number from 1 to `MAX`.
pub(super) fn count<const MAX: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..) if number <= MAX => Ok(number),
        _ => Err(format!("{text:?} is not possible; write a whole number from 1 to {MAX}")),
    }
}

pub(super) fn namespace(text: &str) -> Result<Namespace, String> {
    Namespace::new(text).map_err(|e| e.to_string())
}

pub(super) fn store_url(text: &str) -> Result<StoreUrl, String> {
    StoreUrl::new(text)
}

/// What an acknowledged enqueue survives.
///
/// # Errors
/// What to write.
pub(crate) fn durability(text: &str) -> Result<Durability, String> {
    let replicas = |text: &str| text.strip_prefix("replicas:")?.parse().ok().filter(|&n| n > 0);
    match text {
        "memory" => Ok(Durability::Memory),
        "fsync" => Ok(Durability::Fsync),
        _ => replicas(text).map(Durability::Replicas).ok_or_else(|| {
            format!("{text:?} is not possible; write \"memory\", \"fsync\" or \"replicas:1\"")
        }),
    }
}

/// Where to listen; `None` for `off`. There are no tokens yet, so nobody but this machine may
/// call (promise P11).
pub(super) fn listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    let address: SocketAddr = text.parse().map_err(|_| {
        format!("{text:?} is not an address; write one such as \"127.0.0.1:9464\", or \"off\"")
    })?;
    if !address.ip().is_loopback() {
        return Err(format!(
            "{text:?} can be reached from other machines, which needs tokens, and these are not \
             supported in this version; write a loopback address such as \"127.0.0.1:{}\"",
            address.port()
        ));
    }
    Ok(Some(address))
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{text:?} is not possible; write \"text\" or \"json\"")),
    }
}

/// A level for all, or levels by module. Stricter than what would parse: there, a misspelt level
/// is the name of a module.
pub(super) fn log_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |directive: &str| {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        LEVELS.contains(&level.trim())
    };
    let parses = tracing_subscriber::EnvFilter::builder().parse(text).is_ok();
    if parses && text.split(',').all(is_level) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is not a log level; write \"error\", \"warn\", \"info\", \"debug\" or \
         \"trace\", also by module: \"info,queue_core=debug\""
    ))
}
