//! What a server must have so that the promises hold.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use queue_core::Error;
use queue_core::backend::{CheckFinding, Verdict};
use redis::{Cmd, Value};

use crate::connect::Link;
use crate::keys::Keys;
use crate::reply::{self, Items};
use crate::store::{self, Call, Repeat};

/// The layout of the data that this program knows.
const SCHEMA: &str = "1";
const CLOCKS_MAY_DIFFER: Duration = Duration::from_secs(5);
/// How far the store's clock may be ahead of its server's before delayed jobs are plainly late.
const AHEAD_MAX: Duration = Duration::from_secs(60);

/// What the server says about itself: the fields of `INFO`.
struct Info(HashMap<String, String>);

impl Info {
    async fn read(link: &Link) -> Result<Self, Error> {
        let text = reply::bytes(plain(link, &["INFO"]).await?)?;
        let text = String::from_utf8_lossy(&text);
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Ok(Self(fields.map(|(k, v)| (k.to_owned(), v.trim().to_owned())).collect()))
    }

    fn field(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// Each finding that says "bad" here makes `connect` refuse.
    fn fitness(&self) -> Vec<CheckFinding> {
        vec![
            version(self.field("redis_version")),
            role(self.field("role")),
            eviction(self.field("maxmemory_policy")),
        ]
    }
}

async fn plain(link: &Link, words: &[&str]) -> Result<Value, Error> {
    let mut cmd = Cmd::new();
    for word in words {
        cmd.arg(word);
    }
    store::one(link, Call::plain(cmd), Repeat::Freely).await
}

fn version(found: &str) -> CheckFinding {
    let major = found.split('.').next().and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(7..) => CheckFinding::good("version", found),
        _ => CheckFinding::bad(
            "version",
            format!("Redis {found}"),
            "use Redis 7.0 or later, or Valkey 7.2 or later",
        ),
    }
}

fn role(found: &str) -> CheckFinding {
    match found {
        "master" => CheckFinding::good("role", found),
        _ => CheckFinding::bad("role", found, "connect to the master: a replica takes no jobs"),
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

/// Refuses a server that cannot keep the promises (P11).
///
/// # Errors
/// [`Error::Refused`] with what to do about it.
pub(crate) async fn refuse_unfit(link: &Link) -> Result<(), Error> {
    let fitness = Info::read(link).await?.fitness();
    match fitness.into_iter().find(|finding| finding.verdict == Verdict::Bad) {
        Some(CheckFinding { name, found, remedy, .. }) => {
            Err(Error::Refused(format!("{name} is {found:?}: {remedy}")))
        }
        None => Ok(()),
    }
}

/// Marks a namespace as made by this program, unless it is marked, and answers its epoch: random
/// bytes made with it, so that a store that lost its data can be told from the one it was.
///
/// # Errors
/// [`Error::Refused`] if a newer program has written it.
pub(crate) async fn open_namespace(link: &Link, keys: &Keys) -> Result<Vec<u8>, Error> {
    // Nothing is written where all is there: workers must be able to join a full store.
    if let Some(epoch) = read_marks(link, keys).await? {
        return Ok(epoch);
    }
    let epoch = format!("{:016x}", fastrand::u64(..));
    let mark = |field: &str, value: &str| {
        let mut cmd = redis::cmd("HSETNX");
        cmd.arg(keys.meta()).arg(field).arg(value);
        Call::plain(cmd)
    };
    let calls = [mark("schema", SCHEMA), mark("epoch", &epoch)];
    store::all(link, &calls, Repeat::Freely).await?;
    // Another program may have marked it in between: what is there counts.
    let epoch = read_marks(link, keys).await?;
    epoch.ok_or_else(|| Error::Unavailable("the namespace was emptied while opened".to_owned()))
}

/// The epoch of a namespace that is marked.
async fn read_marks(link: &Link, keys: &Keys) -> Result<Option<Vec<u8>>, Error> {
    let mut fields = Items::of(plain(link, &["HMGET", keys.meta(), "schema", "epoch"]).await?)?;
    let (schema, epoch) = (fields.bytes()?, fields.bytes()?);
    if !schema.is_empty() && schema != SCHEMA.as_bytes() {
        let schema = String::from_utf8_lossy(&schema);
        return Err(Error::Refused(format!(
            "the namespace has schema {schema} and this program knows {SCHEMA}: upgrade it"
        )));
    }
    Ok((!schema.is_empty() && !epoch.is_empty()).then_some(epoch))
}

/// Everything worth knowing before work starts.
pub(crate) async fn run(link: &Link, keys: &Keys) -> Result<Vec<CheckFinding>, Error> {
    let info = Info::read(link).await?;
    let mut findings = info.fitness();
    findings.push(persistence(link, &info).await);
    findings.push(memory(&info));
    let server_time = server_time(link).await?;
    findings.push(clock(server_time));
    findings.push(store_clock(server_time, latest_used(link, keys).await?, keys.meta()));
    findings.push(match open_namespace(link, keys).await {
        Ok(_) => CheckFinding::good("schema", SCHEMA),
        Err(Error::Refused(found)) => CheckFinding::bad("schema", found, "upgrade this program"),
        Err(other) => return Err(other),
    });
    Ok(findings)
}

/// A setting of the server; `None` where `CONFIG` is not allowed, as managed services have it.
async fn setting(link: &Link, name: &str) -> Option<String> {
    let reply = plain(link, &["CONFIG", "GET", name]).await.ok()?;
    let value = reply::array(reply).ok()?.into_iter().nth(1)?;
    String::from_utf8(reply::bytes(value).ok()?).ok()
}

async fn persistence(link: &Link, info: &Info) -> CheckFinding {
    const NAME: &str = "persistence";
    if info.field("aof_enabled") == "1" {
        return match setting(link, "appendfsync").await.as_deref() {
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
    match setting(link, "save").await.as_deref() {
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

fn memory(info: &Info) -> CheckFinding {
    let number = |name| info.field(name).parse::<u64>().unwrap_or(0);
    let (used, limit) = (number("used_memory"), number("maxmemory"));
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

/// The server's clock, since 1970.
async fn server_time(link: &Link) -> Result<Duration, Error> {
    let mut parts = Items::of(plain(link, &["TIME"]).await?)?;
    let seconds = decimal(&parts.bytes()?);
    Ok(Duration::from_secs(seconds) + Duration::from_micros(decimal(&parts.bytes()?)))
}

/// The latest time that the store has used, since 1970; it never goes back behind it.
async fn latest_used(link: &Link, keys: &Keys) -> Result<Duration, Error> {
    let latest = reply::bytes(plain(link, &["HGET", keys.meta(), "clock_ms"]).await?)?;
    Ok(Duration::from_millis(decimal(&latest)))
}

fn decimal(bytes: &[u8]) -> u64 {
    String::from_utf8_lossy(bytes).parse().unwrap_or(0)
}

fn clock(server: Duration) -> CheckFinding {
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let apart = ours.abs_diff(server);
    if apart <= CLOCKS_MAY_DIFFER {
        CheckFinding::good("clock", "within 5 s of this machine's")
    } else {
        CheckFinding::warning(
            "clock",
            format!("{} s apart from this machine's", apart.as_secs()),
            "times that people give are taken by the server's clock; set up NTP on both",
        )
    }
}

/// The server's clock was once ahead, or has been set back: the store's time stands still until
/// the server's reaches it.
fn store_clock(server: Duration, store: Duration, meta: &str) -> CheckFinding {
    const NAME: &str = "store clock";
    let ahead = store.saturating_sub(server);
    let found = format!(
        "{} s ahead of the server's: until that has caught up no delayed job comes due, no lease \
         ends and no record is dropped",
        ahead.as_secs()
    );
    if ahead > AHEAD_MAX {
        CheckFinding::bad(
            NAME,
            found,
            format!(
                "set the server's clock right if it is wrong (NTP); if it is right, stop every \
                 worker and producer, run HDEL {meta} clock_ms, and start them again: what was \
                 given a time by the wrong clock keeps it"
            ),
        )
    } else if ahead > CLOCKS_MAY_DIFFER {
        CheckFinding::warning(NAME, found, "it passes by itself; set up NTP on the server")
    } else {
        CheckFinding::good(NAME, "in step with the server's")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_replicas_and_evicting_servers_are_bad() {
        let bad = |finding: &CheckFinding| finding.verdict == Verdict::Bad;
        for (found, expected) in
            [("7.0.15", false), ("8.2.1", false), ("10.0.0", false), ("6.2.14", true), ("", true)]
        {
            assert_eq!(bad(&version(found)), expected, "{found}");
        }
        assert!(bad(&role("slave")) && !bad(&role("master")));
        assert!(bad(&eviction("allkeys-lru")) && bad(&eviction("volatile-ttl")));
        assert!(!bad(&eviction("noeviction")));
    }

    #[test]
    fn a_store_whose_clock_is_ahead_is_late() {
        let server = Duration::from_secs(1_000_000);
        for (ahead_ms, expected) in [
            (0, Verdict::Good),
            (5_000, Verdict::Good),
            (5_001, Verdict::Warning),
            (60_000, Verdict::Warning),
            (60_001, Verdict::Bad),
        ] {
            let finding = store_clock(server, server + Duration::from_millis(ahead_ms), "m");
            assert_eq!(finding.verdict, expected, "{ahead_ms} ms");
        }
        assert_eq!(store_clock(server, Duration::ZERO, "m").verdict, Verdict::Good);
        let bad = store_clock(server, server * 2, "{shop/0}:meta");
        assert!(bad.found.starts_with("1000000 s ahead"), "{}", bad.found);
        assert!(bad.remedy.contains("HDEL {shop/0}:meta clock_ms"), "{}", bad.remedy);
    }
}
