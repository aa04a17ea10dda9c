//! What `INFO` tells.

use queue_core::backend::CheckFinding;

use crate::info::{Info, Version};

/// Each finding that says "bad" here makes `connect` refuse.
pub(super) fn fitness(info: &Info) -> Vec<CheckFinding> {
    vec![version(info.field("redis_version")), role(info), eviction(info.field("maxmemory_policy"))]
}

/// How the server is just now.
pub(super) fn condition(info: &Info) -> Vec<CheckFinding> {
    vec![loading(info), security(info), cluster(info), memory(info), clients(info)]
}

pub(super) fn is_loading(info: &Info) -> bool {
    info.field("loading") == "1"
}

fn version(found: &str) -> CheckFinding {
    if Version::parse(found) >= Version(7, 0, 0) {
        return CheckFinding::good("version", found);
    }
    CheckFinding::bad(
        "version",
        format!("Redis {found}"),
        "use Redis 7.0 or later, or Valkey 7.2 or later",
    )
}

pub(super) fn is_replica(info: &Info) -> bool {
    info.field("role") == "slave"
}

fn role(info: &Info) -> CheckFinding {
    const NAME: &str = "role";
    match info.field("role") {
        found @ "master" => CheckFinding::good(NAME, found),
        "" if info.field("redis_mode") == "sentinel" => CheckFinding::bad(
            NAME,
            "sentinel",
            "a Sentinel holds no data and is not asked for the master: connect to the master, by an \
             address that follows it",
        ),
        "" => {
            CheckFinding::bad(NAME, "unknown", "connect to a Redis or Valkey server that tells it")
        }
        found => CheckFinding::bad(NAME, found, "connect to the master: a replica takes no jobs"),
    }
}

fn eviction(found: &str) -> CheckFinding {
    match found {
        "noeviction" => CheckFinding::good("eviction policy", found),
        _ => CheckFinding::bad(
            "eviction policy",
            found,
            "set maxmemory-policy to noeviction: any other lets Redis drop jobs",
        ),
    }
}

fn loading(info: &Info) -> CheckFinding {
    if !is_loading(info) {
        return CheckFinding::good("loading", "done");
    }
    let (percent, seconds) = (info.field("loading_loaded_perc"), info.field("loading_eta_seconds"));
    CheckFinding::bad(
        "loading",
        format!("the server is loading its data: {percent} %, {seconds} s left"),
        "wait until it has; the other checks need it",
    )
}

/// Bugs that let a client who may run scripts, or block, run code in the server.
fn security(info: &Info) -> CheckFinding {
    let known = if info.is_valkey() {
        of_valkey(Version::parse(info.field("valkey_version")))
    } else {
        of_redis(info.version())
    };
    if known.is_empty() {
        return CheckFinding::good("security", "no dangerous bug of this version is known here");
    }
    CheckFinding::warning(
        "security",
        format!("this version has {}, unless its packager has mended it", known.join(", ")),
        "upgrade, and let nobody reach the server whom you would not let run programs on it",
    )
}

const LUA: &str = "CVE-2025-49844 (use after free in Lua)";
const UNBLOCKING: &str = "CVE-2026-23479 (use after free when a client is unblocked)";

fn of_redis(version: Version) -> Vec<&'static str> {
    let mended = match version {
        Version(7, 2, patch) => patch >= 11,
        Version(7, 4, patch) => patch >= 6,
        Version(8, 0, patch) => patch >= 4,
        // Between lines there are no releases; 7.0 has ended without the fix.
        later => later >= Version(8, 2, 2),
    };
    let mut known = Vec::new();
    if !mended {
        known.push(LUA);
    }
    if (Version(7, 2, 0)..Version(8, 6, 3)).contains(&version) {
        known.push(UNBLOCKING);
    }
    known
}

fn of_valkey(version: Version) -> Vec<&'static str> {
    let mended = match version {
        Version(7, 2, patch) => patch >= 11,
        Version(8, 0, patch) => patch >= 6,
        later => later >= Version(8, 1, 4),
    };
    if mended { Vec::new() } else { vec![LUA] }
}

fn cluster(info: &Info) -> CheckFinding {
    match info.field("cluster_enabled") {
        "1" => CheckFinding::warning(
            "cluster",
            "this is a node of a cluster",
            "calls work as long as this node serves the slot of the namespace: its keys share the \
             hash tag, and nobody follows them when they move",
        ),
        _ => CheckFinding::good("cluster", "a single server"),
    }
}

fn memory(info: &Info) -> CheckFinding {
    let (used, limit) = (info.number("used_memory"), info.number("maxmemory"));
    let found = format!("{used} of {limit} bytes used");
    match limit {
        0 => CheckFinding::good("memory", format!("{used} bytes used, no maxmemory set")),
        limit if used / 9 >= limit / 10 => CheckFinding::warning(
            "memory",
            found,
            "raise maxmemory or drain the queues: a full store refuses new jobs",
        ),
        _ => CheckFinding::good("memory", found),
    }
}

/// Each process has a connection or two, and each waiting worker one.
fn clients(info: &Info) -> CheckFinding {
    let (connected, most) = (info.number("connected_clients"), info.number("maxclients"));
    let found = format!("{connected} of {most} connected");
    match most {
        // A service that does not tell.
        0 => CheckFinding::good("clients", format!("{connected} connected")),
        most if connected.saturating_mul(10) >= most.saturating_mul(8) => CheckFinding::warning(
            "clients",
            found,
            "raise maxclients (and the server's limit of open files): who comes too late is \
             refused",
        ),
        _ => CheckFinding::good("clients", found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use queue_core::backend::Verdict;

    fn parsed(text: &str) -> Info {
        Info::parse(text.as_bytes())
    }

    #[test]
    fn old_servers_replicas_and_evicting_servers_are_bad() {
        let bad = |finding: &CheckFinding| finding.verdict == Verdict::Bad;
        for (found, expected) in
            [("7.0.15", false), ("8.2.1", false), ("10.0.0", false), ("6.2.14", true), ("", true)]
        {
            assert_eq!(bad(&version(found)), expected, "{found}");
        }
        let role = |info: &str| role(&parsed(info));
        assert!(bad(&role("role:slave")) && !bad(&role("role:master")));
        let sentinel = role("redis_mode:sentinel");
        assert!(bad(&sentinel) && sentinel.found == "sentinel", "{sentinel:?}");
        assert_eq!(role("redis_mode:standalone").found, "unknown");
        assert!(bad(&eviction("allkeys-lru")) && bad(&eviction("volatile-ttl")));
        assert!(!bad(&eviction("noeviction")));
    }

    #[test]
    fn versions_with_dangerous_bugs_are_named() {
        let redis = |version: &str| {
            let finding = security(&parsed(&format!("redis_version:{version}")));
            (finding.found.contains("49844"), finding.found.contains("23479"))
        };
        for (version, expected) in [
            ("7.0.15", (true, false)),
            ("7.2.10", (true, true)),
            ("7.2.11", (false, true)),
            ("7.4.5", (true, true)),
            ("8.0.4", (false, true)),
            ("8.2.1", (true, true)),
            ("8.6.2", (false, true)),
            ("8.6.3", (false, false)),
            ("9.0.0", (false, false)),
        ] {
            assert_eq!(redis(version), expected, "{version}");
        }
        let valkey = |version: &str| {
            security(&parsed(&format!("redis_version:7.2.4\r\nvalkey_version:{version}"))).verdict
        };
        for (version, expected) in [
            ("7.2.10", Verdict::Warning),
            ("8.0.6", Verdict::Good),
            ("8.1.3", Verdict::Warning),
            ("8.1.4", Verdict::Good),
            ("9.0.0", Verdict::Good),
        ] {
            assert_eq!(valkey(version), expected, "{version}");
        }
    }

    #[test]
    fn head_room_is_looked_at() {
        let verdict = |text: &str| clients(&parsed(text)).verdict;
        assert_eq!(verdict("connected_clients:79\r\nmaxclients:100"), Verdict::Good);
        assert_eq!(verdict("connected_clients:80\r\nmaxclients:100"), Verdict::Warning);
        assert_eq!(verdict("connected_clients:80"), Verdict::Good);
        let verdict = |text: &str| memory(&parsed(text)).verdict;
        assert_eq!(verdict("used_memory:899\r\nmaxmemory:1000"), Verdict::Good);
        assert_eq!(verdict("used_memory:900\r\nmaxmemory:1000"), Verdict::Warning);
    }
}
