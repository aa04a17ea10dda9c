//! What the server's errors mean: one table from an error's prefix to what to do about it.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use queue_core::Error;
use redis::{ErrorKind, RedisError};

/// What to do about an error before telling the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// Try again on the same connection after a pause.
    BackOff,
    /// Try again on a new connection after a pause.
    Reconnect,
    /// Trying again cannot help.
    GiveUp,
}

/// What the caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    StoreFull,
    Unavailable,
    Refused,
    Corrupt,
}

struct Row {
    prefix: &'static str,
    reaction: Reaction,
    meaning: Meaning,
    /// What a person should know or do, for the message.
    hint: &'static str,
}

const fn row(
    prefix: &'static str,
    reaction: Reaction,
    meaning: Meaning,
    hint: &'static str,
) -> Row {
    Row { prefix, reaction, meaning, hint }
}

use Meaning::{Corrupt, Refused, StoreFull, Unavailable};
use Reaction::{BackOff, GiveUp, Reconnect};

/// For scripts that met a command which their user may not use: from 7.2 on, and before.
const NO_RIGHT: &str = "the user lacks a permission (ACL) that a script needs; the README of \
                        queue-redis has all, and `workerd check` says which";

/// The first row whose words the error begins with counts. An `ERR` that is not listed comes out
/// of a script and means that the data is not what the script expects.
///
/// `NOSCRIPT` is met here only if the script was forgotten again right after it was loaded;
/// `NOTBUSY` and `UNKILLABLE` answer commands that this program does not send.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    row("OOM", GiveUp, StoreFull, "Redis has reached its maxmemory"),
    row("READONLY", Reconnect, Unavailable, "the server is a replica now"),
    row("MASTERDOWN", Reconnect, Unavailable, "the replica has lost its master"),
    row("LOADING", Reconnect, Unavailable, "the server is loading its data"),
    row("UNBLOCKED", Reconnect, Unavailable, "the server has changed its role"),
    row("BUSY", BackOff, Unavailable, "another script blocks the server"),
    row("NOSCRIPT", BackOff, Unavailable, "somebody flushes the server's scripts"),
    row("UNKILLABLE", BackOff, Unavailable, "another script blocks the server"),
    row("NOTBUSY", BackOff, Unavailable, "no script blocks the server any more"),
    row("TRYAGAIN", BackOff, Unavailable, "the keys are being moved"),
    row("ASK", BackOff, Unavailable, "the keys are being moved"),
    row("MOVED", Reconnect, Unavailable,
        "another node of the cluster serves this namespace; nobody follows it there"),
    row("CLUSTERDOWN", BackOff, Unavailable, "the cluster does not serve this slot"),
    row("MISCONF", BackOff, Unavailable, "Redis cannot write to its disk"),
    row("NOREPLICAS", BackOff, Unavailable, "too few replicas are connected"),
    row("ERR max number of clients", BackOff, Unavailable, "raise maxclients"),
    row("ERR Script attempted to access a non local key", BackOff, Unavailable,
        "the keys are being moved"),
    row("ERR WAIT cannot be used with replica instances", Reconnect, Unavailable,
        "the server is a replica now"),
    row("ERR WAITAOF cannot be used", Reconnect, Unavailable,
        "the server's append-only file was turned off"),
    row("ERR AUTH", GiveUp, Refused, "the server wants no password, or another form of it"),
    row("ERR DB index", GiveUp, Refused, "the server has no database of this number"),
    row("ERR SELECT", GiveUp, Refused, "the server has no database of this number"),
    row("ERR The user executing the script", GiveUp, Refused, NO_RIGHT),
    row("ERR ACL failure in script", GiveUp, Refused, NO_RIGHT),
    row("CROSSSLOT", GiveUp, Refused, "this is a node of a cluster"),
    row("NOAUTH", GiveUp, Refused, "the URL needs a password"),
    row("WRONGPASS", GiveUp, Refused, "user name or password is wrong"),
    row("NOPERM", GiveUp, Refused, "the user lacks a permission (ACL)"),
    row("NOPROTO", GiveUp, Refused, "the server does not speak this protocol"),
    row("DENIED", GiveUp, Refused, "the server is in protected mode"),
    row("SCHEMA", GiveUp, Refused, "a program of another version has written this namespace"),
    row("WRONGTYPE", GiveUp, Corrupt, "a key holds another type; something else writes to it"),
    row("LOST", GiveUp, Corrupt, "a job has lost its place; `workerd audit --repair` finds it one"),
    row("EXECABORT", GiveUp, Refused, "the server has discarded a transaction"),
    row("ERR", GiveUp, Corrupt, "a script failed"),
];

/// An error, understood.
#[derive(Debug)]
pub(crate) struct Diagnosis {
    pub(crate) reaction: Reaction,
    pub(crate) error: Error,
    /// Whether the call may have taken effect although it failed.
    pub(crate) may_have_applied: bool,
}

/// The error of a repeated call. Some errors mean that nothing was changed, which nobody knows if
/// an attempt before may have taken effect.
pub(crate) fn of_repeat(error: Error) -> Error {
    match error {
        Error::StoreFull(why) | Error::Unsupported(why) => Error::Unavailable(why),
        other => other,
    }
}

fn tell(meaning: Meaning, message: String) -> Error {
    match meaning {
        StoreFull => Error::StoreFull(message),
        Unavailable => Error::Unavailable(message),
        Refused => Error::Refused(message),
        Corrupt => Error::Corrupt(message),
    }
}

/// Says what an error means. Messages name the server's error and never what was sent to it.
pub(crate) fn diagnose(error: &RedisError) -> Diagnosis {
    match error.kind() {
        ErrorKind::AuthenticationFailed => Diagnosis {
            reaction: GiveUp,
            error: Error::Refused("user name or password is wrong or missing".to_owned()),
            may_have_applied: false,
        },
        ErrorKind::Server(_) | ErrorKind::Extension => {
            let code = error.code().unwrap_or("ERR");
            of_server(code, error.detail().unwrap_or_default())
        }
        ErrorKind::InvalidClientConfig => Diagnosis {
            reaction: GiveUp,
            error: Error::Refused(error.to_string()),
            may_have_applied: false,
        },
        // Broken connections, timeouts, and answers that are not Redis's protocol.
        _ => Diagnosis {
            reaction: Reconnect,
            error: Error::Unavailable(error.to_string()),
            may_have_applied: true,
        },
    }
}

fn of_server(code: &str, detail: &str) -> Diagnosis {
    let whole = format!("{code} {detail}");
    match TABLE.iter().find(|row| begins_with_words(&whole, row.prefix)) {
        Some(row) => Diagnosis {
            reaction: row.reaction,
            error: tell(row.meaning, format!("{} ({})", row.hint, whole.trim_end())),
            may_have_applied: false,
        },
        // An error of a server that is newer than this table.
        None => {
            if is_new(code) {
                tracing::warn!(
                    event = "error_unknown",
                    error = whole.trim_end(),
                    "an error that is not known; trying again"
                );
            }
            Diagnosis {
                reaction: BackOff,
                error: Error::Unavailable(whole.trim_end().to_owned()),
                may_have_applied: true,
            }
        }
    }
}

/// `BUSY` is not the beginning of `BUSYKEY`.
fn begins_with_words(text: &str, words: &str) -> bool {
    text.strip_prefix(words).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}

/// Whether this process meets the code for the first time; of hundreds, some never.
fn is_new(code: &str) -> bool {
    static MET: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut met = MET.lock().unwrap_or_else(PoisonError::into_inner);
    met.len() < 100 && met.insert(code.to_owned())
}

/// Whether the server does not know the script.
pub(crate) fn is_noscript(error: &RedisError) -> bool {
    error.code() == Some("NOSCRIPT")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> RedisError {
        redis::parse_redis_value(format!("-{line}\r\n").as_bytes())
            .and_then(redis::Value::extract_error)
            .unwrap_err()
    }

    fn meaning(error: &Error) -> Option<Meaning> {
        match error {
            Error::StoreFull(_) => Some(StoreFull),
            Error::Unavailable(_) => Some(Unavailable),
            Error::Refused(_) => Some(Refused),
            Error::Corrupt(_) => Some(Corrupt),
            _ => None,
        }
    }

    /// What servers really send, one line per row of the table.
    const LINES: &[&str] = &[
        "OOM command not allowed when used memory > 'maxmemory'.",
        "READONLY You can't write against a read only replica.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "LOADING Redis is loading the dataset in memory",
        "UNBLOCKED force unblock from blocking operation, instance state changed",
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "NOSCRIPT No matching script. Please use EVAL.",
        "UNKILLABLE Sorry the script already executed write commands against the dataset.",
        "NOTBUSY No scripts in execution right now.",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "ASK 3999 127.0.0.1:6381",
        "MOVED 3999 127.0.0.1:6381",
        "CLUSTERDOWN The cluster is down",
        "MISCONF Redis is configured to save RDB snapshots, but unable to persist on disk.",
        "NOREPLICAS Not enough good replicas to write.",
        "ERR max number of clients reached",
        "ERR Script attempted to access a non local key in a cluster node script: ab, on @user",
        "ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0",
        "ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.",
        "ERR AUTH <password> called without any password configured for the default user.",
        "ERR DB index is out of range",
        "ERR SELECT is not allowed in cluster mode",
        "ERR The user executing the script can't run this command or subcommand script: ab, on @user",
        "ERR ACL failure in script: User w has no permissions to run the 'rpush' command script: ab",
        "CROSSSLOT Keys in request don't hash to the same slot",
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair or user is disabled.",
        "NOPERM User w has no permissions to run the 'zadd' command",
        "NOPROTO unsupported protocol version",
        "DENIED Redis is running in protected mode",
        "SCHEMA the store has schema 9, this program knows 4",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "LOST default/a: a ready job is not in its lane",
        "EXECABORT Transaction discarded because of previous errors.",
        "ERR user_script:12: attempt to index a nil value script: ab, on @user_script:12.",
    ];

    #[test]
    fn each_row_is_met_by_what_servers_send() {
        assert_eq!(LINES.len(), TABLE.len());
        for (line, row) in LINES.iter().zip(TABLE) {
            let found = diagnose(&parsed(line));
            assert_eq!(found.reaction, row.reaction, "{line}");
            assert_eq!(meaning(&found.error), Some(row.meaning), "{line}");
            assert!(found.error.to_string().contains(row.hint), "{}", found.error);
            assert!(!found.may_have_applied, "{line}");
        }
    }

    #[test]
    fn an_unknown_error_is_retryable() {
        let found = diagnose(&parsed("FUTURE something new"));
        assert_eq!((found.reaction, meaning(&found.error)), (BackOff, Some(Unavailable)));
        assert!(found.may_have_applied);
    }

    #[test]
    fn an_unknown_error_is_new_once() {
        assert!(is_new("NEWCODE"));
        assert!(!is_new("NEWCODE"));
    }

    #[test]
    fn a_longer_word_is_another_error() {
        let found = diagnose(&parsed("BUSYKEY Target key name already exists."));
        assert!(!found.error.to_string().contains("another script"), "{}", found.error);
        assert!(found.may_have_applied, "it is not in the table");
    }

    #[test]
    fn a_broken_connection_is_replaced_and_its_outcome_unknown() {
        for kind in [std::io::ErrorKind::BrokenPipe, std::io::ErrorKind::TimedOut] {
            let found = diagnose(&RedisError::from(std::io::Error::from(kind)));
            assert_eq!((found.reaction, meaning(&found.error)), (Reconnect, Some(Unavailable)));
            assert!(found.may_have_applied);
        }
    }

    #[test]
    fn a_missing_script_is_recognised() {
        assert!(is_noscript(&parsed("NOSCRIPT No matching script. Please use EVAL.")));
        assert!(!is_noscript(&parsed("ERR NOSCRIPT")));
    }
}
