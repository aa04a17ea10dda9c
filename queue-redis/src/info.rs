//! What a server says about itself.

use std::collections::HashMap;

use redis::{Cmd, Pipeline, Value};

/// The fields of `INFO`.
#[derive(Debug, Default)]
pub(crate) struct Info(HashMap<String, String>);

impl Info {
    pub(crate) fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Self(fields.map(|(k, v)| (k.to_owned(), v.trim().to_owned())).collect())
    }

    /// The field's text; empty if there is none.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// The field's number; 0 if there is none.
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.field(name).parse().unwrap_or(0)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(crate) fn version(&self) -> Version {
        Version::parse(self.field("redis_version"))
    }

    pub(crate) fn is_valkey(&self) -> bool {
        self.has("valkey_version")
    }
}

/// A version by its numbers; 0.0.0 if it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32, pub(crate) u32);

impl Version {
    pub(crate) fn parse(text: &str) -> Self {
        let mut numbers = text.split('.').map_while(|part| part.parse().ok());
        let mut next = || numbers.next().unwrap_or(0);
        Self(next(), next(), next())
    }
}

/// What decides how durable a write can be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The Redis version. A Valkey names the one that it is compatible with.
    pub(crate) version: Version,
    pub(crate) is_valkey: bool,
    /// Whether there is an append-only file.
    pub(crate) aof: bool,
    /// It was just turned on, and its first part is being written: after a crash the server would
    /// not read it.
    pub(crate) aof_begins: bool,
    /// Settings; `None` where `CONFIG` is not allowed, as managed services have it.
    pub(crate) appendfsync: Option<String>,
    pub(crate) no_appendfsync_on_rewrite: Option<String>,
    /// How many replicas are connected.
    pub(crate) replicas: u64,
    /// Whether there was one in the last hour (`repl-backlog-ttl`).
    pub(crate) had_replicas: bool,
}

impl Facts {
    /// The commands that ask for them.
    pub(crate) fn ask() -> Pipeline {
        let mut pipeline = Pipeline::new();
        pipeline.add_command(redis::cmd("INFO"));
        pipeline.add_command(config("appendfsync"));
        pipeline.add_command(config("no-appendfsync-on-rewrite"));
        pipeline
    }

    /// Reads the answers to [`Facts::ask`].
    pub(crate) fn read(answers: Vec<Value>) -> Self {
        let mut answers = answers.into_iter();
        let info = match answers.next() {
            Some(Value::BulkString(text)) => Info::parse(&text),
            _ => Info::default(),
        };
        let mut setting = || answers.next().and_then(setting);
        Self { appendfsync: setting(), no_appendfsync_on_rewrite: setting(), ..Self::of(&info) }
    }

    /// What `INFO` alone tells.
    pub(crate) fn of(info: &Info) -> Self {
        let rewrites =
            info.number("aof_rewrite_in_progress") + info.number("aof_rewrite_scheduled") > 0;
        Self {
            version: info.version(),
            is_valkey: info.is_valkey(),
            aof: info.field("aof_enabled") == "1",
            aof_begins: rewrites && info.number("aof_base_size") == 0,
            appendfsync: None,
            no_appendfsync_on_rewrite: None,
            replicas: info.number("connected_slaves"),
            had_replicas: info.field("repl_backlog_active") == "1",
        }
    }

    /// Whether `WAITAOF` is there and does not answer too early (redis#13793).
    pub(crate) fn has_waitaof(&self) -> bool {
        self.version >= Version(7, 2, 0) && !self.waitaof_is_broken()
    }

    pub(crate) fn waitaof_is_broken(&self) -> bool {
        let broken = Version(7, 4, 0)..=Version(7, 4, 2);
        !self.is_valkey && broken.contains(&self.version)
    }
}

pub(crate) fn config(name: &str) -> Cmd {
    let mut cmd = redis::cmd("CONFIG");
    cmd.arg("GET").arg(name);
    cmd
}

/// The answer of `CONFIG GET` with one name.
pub(crate) fn setting(answer: Value) -> Option<String> {
    let Value::Array(pair) = answer else { return None };
    match pair.into_iter().nth(1)? {
        Value::BulkString(value) => String::from_utf8(value).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_their_numbers() {
        assert_eq!(Version::parse("7.0.15"), Version(7, 0, 15));
        assert_eq!(Version::parse("8.0-rc1"), Version(8, 0, 0));
        assert_eq!(Version::parse(""), Version(0, 0, 0));
        assert!(Version::parse("7.10.0") > Version::parse("7.9.9"));
    }

    #[test]
    fn a_file_begins_until_its_first_part_is_written() {
        let facts = |text: &str| Facts::of(&Info::parse(text.as_bytes()));
        assert!(facts("aof_enabled:1\r\naof_rewrite_in_progress:1\r\naof_base_size:0").aof_begins);
        assert!(facts("aof_enabled:1\r\naof_rewrite_scheduled:1\r\naof_base_size:0").aof_begins);
        assert!(!facts("aof_enabled:1\r\naof_rewrite_in_progress:1\r\naof_base_size:9").aof_begins);
        assert!(!facts("aof_enabled:1\r\naof_rewrite_in_progress:0\r\naof_base_size:0").aof_begins);
    }
}
