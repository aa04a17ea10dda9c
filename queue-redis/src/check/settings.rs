//! What only the server's settings tell.

use queue_core::Durability;
use queue_core::backend::CheckFinding;
use queue_core::payload::PAYLOAD_HARD_MAX_BYTES;

use super::config_get;
use crate::connect::Link;
use crate::durability::plan;
use crate::info::{Facts, Info};

/// The slowest that a replica may be before the master counts it as gone.
const LAG_MAX_S: u64 = 10;

pub(super) async fn findings(link: &Link, info: &Info, facts: &Facts) -> Vec<CheckFinding> {
    let save = config_get(link, "save").await;
    let timeout = config_get(link, "timeout").await;
    let bulk = config_get(link, "proto-max-bulk-len").await;
    let lag = config_get(link, "min-replicas-max-lag").await;
    let mut findings = vec![persistence(facts, save.as_deref()), durability(facts)];
    findings.extend(replicas(info, lag.as_deref()));
    if timeout.is_none() && bulk.is_none() {
        findings.push(CheckFinding::warning(
            "settings",
            "unknown: this user may not CONFIG GET",
            "allow +config|get, or make sure that timeout is 0 and proto-max-bulk-len is at least \
             16 MiB",
        ));
    }
    findings.extend(timeout.map(|seconds| idle_timeout(&seconds)));
    findings.extend(bulk.map(|bytes| bulk_length(&bytes)));
    findings
}

fn persistence(facts: &Facts, save: Option<&str>) -> CheckFinding {
    const NAME: &str = "persistence";
    if facts.aof {
        return match facts.appendfsync.as_deref() {
            Some("always") => CheckFinding::good(NAME, "append-only file, synced at every write"),
            Some("no") => CheckFinding::warning(
                NAME,
                "append-only file, synced when the system likes to",
                "power loss can lose about 30 s of jobs; set appendfsync to everysec or always",
            ),
            _ => CheckFinding::good(
                NAME,
                "append-only file; power loss can lose the last 2 s unless appendfsync is always",
            ),
        };
    }
    match save {
        Some("") => CheckFinding::warning(
            NAME,
            "none: a restart of Redis loses every job",
            "set appendonly to yes",
        ),
        Some(rules) => CheckFinding::warning(
            NAME,
            format!("snapshots only ({rules}): a crash loses all jobs since the last one"),
            "set appendonly to yes",
        ),
        None => CheckFinding::warning(
            NAME,
            "no append-only file; CONFIG is not allowed, so snapshots are unknown",
            "set appendonly to yes, or find out what this service keeps",
        ),
    }
}

/// What an enqueue can ask for here.
fn durability(facts: &Facts) -> CheckFinding {
    let mut levels = vec!["memory".to_owned()];
    if plan(Durability::Fsync, facts).is_ok() {
        levels.push("fsync".to_owned());
    }
    if facts.replicas > 0 {
        levels.push(format!("replicas:{}", facts.replicas));
    }
    let found = format!("an enqueue can ask for {}", levels.join(", "));
    if facts.waitaof_is_broken() {
        return CheckFinding::warning(
            "durability",
            format!("{found}; WAITAOF of this version answers too early and is not used"),
            "upgrade to 7.4.3 or later, or set appendfsync to always",
        );
    }
    CheckFinding::good("durability", found)
}

/// A master that has lost its replicas and does not know that one of them took its place goes on
/// taking jobs, which are gone when it finds out.
fn replicas(info: &Info, lag_s: Option<&str>) -> Option<CheckFinding> {
    const NAME: &str = "replicas";
    const REMEDY: &str = "set min-replicas-to-write to 1 or more and min-replicas-max-lag to 10 or \
                          less, or a master that was replaced goes on taking jobs that are lost";
    let connected = info.number("connected_slaves");
    let lag_s = lag_s.and_then(|lag| lag.parse::<u64>().ok());
    // The field is there if both settings are.
    match (connected, info.has("min_slaves_good_slaves"), lag_s) {
        (0, _, _) => None,
        (_, true, Some(lag)) if lag > LAG_MAX_S => Some(CheckFinding::warning(
            NAME,
            format!("{connected}, and min-replicas-max-lag is {lag} s"),
            REMEDY,
        )),
        (_, true, _) => Some(CheckFinding::good(NAME, connected.to_string())),
        (_, false, _) => Some(CheckFinding::warning(
            NAME,
            format!("{connected}, and writes go on without them"),
            REMEDY,
        )),
    }
}

fn idle_timeout(seconds: &str) -> CheckFinding {
    match seconds {
        "0" => CheckFinding::good("timeout", "0: idle connections stay"),
        _ => CheckFinding::warning(
            "timeout",
            format!("the server closes connections that are idle for {seconds} s"),
            "set timeout to 0: waiting workers have to connect again and again",
        ),
    }
}

fn bulk_length(bytes: &str) -> CheckFinding {
    const NAME: &str = "proto-max-bulk-len";
    // A record is a payload and some options.
    let needed = 2 * PAYLOAD_HARD_MAX_BYTES;
    match bytes.parse::<usize>() {
        Ok(limit) if limit < needed => CheckFinding::warning(
            NAME,
            format!("{limit} bytes: the server hangs up on larger payloads"),
            format!("set it to {needed} or more, or keep payloads below it"),
        ),
        _ => CheckFinding::good(NAME, format!("{bytes} bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::Version;
    use queue_core::backend::Verdict;

    #[test]
    fn durability_names_what_can_be_asked_for() {
        let mut facts = Facts { version: Version(7, 0, 15), aof: true, ..Facts::default() };
        assert_eq!(durability(&facts).found, "an enqueue can ask for memory");
        facts.replicas = 2;
        assert_eq!(durability(&facts).found, "an enqueue can ask for memory, replicas:2");
        facts.version = Version(7, 2, 5);
        assert_eq!(durability(&facts).found, "an enqueue can ask for memory, fsync, replicas:2");
        facts.version = Version(7, 4, 1);
        let broken = durability(&facts);
        assert_eq!(broken.verdict, Verdict::Warning);
        assert!(broken.found.starts_with("an enqueue can ask for memory, replicas:2; WAITAOF"));
    }
}
