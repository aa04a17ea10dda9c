//! What an enqueue must survive, and what a server has to do for it.

mod group;

use queue_core::{Durability, Error};

use crate::info::Facts;
pub(crate) use group::Groups;

/// How a server makes sure that a write survives what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confirmation {
    /// It answers no write before that: nothing more to do.
    Answer,
    /// By `WAITAOF`: the write is on its disk.
    Flushed,
    /// By `WAIT`: so many replicas have the write.
    Replicated(u8),
}

/// What to do about an enqueue on this server.
///
/// # Errors
/// [`Error::Unsupported`] if the server cannot give it as it is; [`Error::Unavailable`] if it can
/// and just now does not.
pub(crate) fn plan(asked: Durability, server: &Facts) -> Result<Confirmation, Error> {
    match asked {
        Durability::Memory | Durability::Replicas(0) => Ok(Confirmation::Answer),
        Durability::Fsync => plan_flush(server),
        Durability::Replicas(replicas) => plan_replicas(replicas, server),
        other => Err(Error::Unsupported(format!("durability {other} on Redis"))),
    }
}

/// Why `appendfsync always` alone is not enough: with `no-appendfsync-on-rewrite yes` the file is
/// not flushed while it is rewritten.
pub(crate) fn flushes_each_write(server: &Facts) -> bool {
    server.aof
        && server.appendfsync.as_deref() == Some("always")
        && server.no_appendfsync_on_rewrite.as_deref() == Some("no")
}

fn plan_flush(server: &Facts) -> Result<Confirmation, Error> {
    let refuse = |why: &str| {
        Err(Error::Unsupported(format!(
            "durability fsync on this Redis server: {why}; or ask for durability memory"
        )))
    };
    if !server.aof {
        return refuse("its append-only file is off: set appendonly yes and appendfsync always");
    }
    if server.aof_begins {
        let why = "the server is writing its first append-only file";
        return Err(Error::Unavailable(why.to_owned()));
    }
    if flushes_each_write(server) {
        return Ok(Confirmation::Answer);
    }
    match server.appendfsync.as_deref() {
        Some("no") => refuse("it never flushes its file by itself: set appendfsync always"),
        Some("always") if !server.has_waitaof() => {
            refuse("it does not flush while it rewrites: set no-appendfsync-on-rewrite no")
        }
        _ if server.has_waitaof() => Ok(Confirmation::Flushed),
        _ if server.waitaof_is_broken() => refuse(
            "WAITAOF of 7.4.0 to 7.4.2 answers before the data is on the disk: upgrade, or set \
             appendfsync always",
        ),
        Some(_) => refuse("set appendfsync always, or use Redis or Valkey 7.2 or later"),
        None => refuse(
            "CONFIG GET appendfsync is not allowed, so nobody can tell: allow it, or use Redis or \
             Valkey 7.2 or later",
        ),
    }
}

fn plan_replicas(replicas: u8, server: &Facts) -> Result<Confirmation, Error> {
    match server.replicas {
        0 if !server.had_replicas => Err(Error::Unsupported(format!(
            "durability replicas:{replicas} on this Redis server: it has no replica; add some, or \
             ask for less"
        ))),
        // Replicas come back; they are not worth a job's refusal for good.
        connected if connected < u64::from(replicas) => {
            Err(Error::Unavailable(format!("{connected} of {replicas} replicas are connected")))
        }
        _ => Ok(Confirmation::Replicated(replicas)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(version: &str, aof: bool, appendfsync: Option<&str>) -> Facts {
        Facts {
            version: crate::info::Version::parse(version),
            aof,
            appendfsync: appendfsync.map(str::to_owned),
            no_appendfsync_on_rewrite: appendfsync.map(|_| "no".to_owned()),
            ..Facts::default()
        }
    }

    #[derive(Debug, PartialEq)]
    enum Answer {
        Yes(Confirmation),
        Never,
        Later,
    }
    use Answer::{Later, Never, Yes};
    use Confirmation::{Answer as ByAnswer, Flushed, Replicated};

    fn planned(asked: Durability, server: &Facts) -> Answer {
        match plan(asked, server) {
            Ok(confirmation) => Yes(confirmation),
            Err(Error::Unsupported(_)) => Never,
            Err(Error::Unavailable(_)) => Later,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn fsync_by_version_and_settings() {
        let always = Some("always");
        let everysec = Some("everysec");
        let table = [
            ("7.0.15", false, always, Never),
            ("7.0.15", true, always, Yes(ByAnswer)),
            ("7.0.15", true, everysec, Never),
            ("7.0.15", true, Some("no"), Never),
            ("7.0.15", true, None, Never),
            ("7.2.0", false, everysec, Never),
            ("7.2.0", true, always, Yes(ByAnswer)),
            ("7.2.0", true, everysec, Yes(Flushed)),
            ("7.2.0", true, Some("no"), Never),
            ("7.2.0", true, None, Yes(Flushed)),
            ("7.3.241", true, everysec, Yes(Flushed)),
            ("7.4.0", true, everysec, Never),
            ("7.4.2", true, everysec, Never),
            ("7.4.2", true, None, Never),
            ("7.4.2", true, always, Yes(ByAnswer)),
            ("7.4.3", true, everysec, Yes(Flushed)),
            ("8.0.0", true, everysec, Yes(Flushed)),
            ("10.1.0", true, everysec, Yes(Flushed)),
            ("?", true, everysec, Never),
        ];
        for (version, aof, appendfsync, expected) in table {
            let found = planned(Durability::Fsync, &server(version, aof, appendfsync));
            assert_eq!(found, expected, "{version} {aof} {appendfsync:?}");
        }
    }

    #[test]
    fn a_valkey_is_not_taken_for_the_redis_that_it_says_it_is() {
        let mut valkey = server("7.4.1", true, Some("everysec"));
        valkey.is_valkey = true;
        assert_eq!(planned(Durability::Fsync, &valkey), Yes(Flushed));
    }

    #[test]
    fn a_file_that_is_not_flushed_while_it_is_rewritten_is_no_promise() {
        let mut old = server("7.0.15", true, Some("always"));
        old.no_appendfsync_on_rewrite = Some("yes".to_owned());
        assert_eq!(planned(Durability::Fsync, &old), Never);
        let new = Facts { version: crate::info::Version::parse("7.2.4"), ..old };
        assert_eq!(planned(Durability::Fsync, &new), Yes(Flushed));
    }

    #[test]
    fn a_file_that_is_just_being_made_holds_nothing_yet() {
        let mut server = server("7.0.15", true, Some("always"));
        server.aof_begins = true;
        assert_eq!(planned(Durability::Fsync, &server), Later);
    }

    #[test]
    fn replicas_by_how_many_there_are() {
        // Connected, had some, asked.
        let table = [
            (0, false, 1, Never),
            (0, true, 1, Later),
            (1, true, 1, Yes(Replicated(1))),
            (1, true, 2, Later),
            (3, true, 2, Yes(Replicated(2))),
            (0, false, 0, Yes(ByAnswer)),
        ];
        for (replicas, had_replicas, asked, expected) in table {
            let server = Facts { replicas, had_replicas, ..server("7.0.15", false, None) };
            let found = planned(Durability::Replicas(asked), &server);
            assert_eq!(found, expected, "{asked} of {replicas}");
        }
    }

    #[test]
    fn memory_is_always_given() {
        assert_eq!(planned(Durability::Memory, &Facts::default()), Yes(ByAnswer));
    }
}
