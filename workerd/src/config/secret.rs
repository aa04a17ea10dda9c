//! The store's address, whose password must not be shown.

use std::fmt;

/// The address of a store. Shows itself without secrets; [`StoreUrl::reveal`] is for connecting.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StoreUrl(String);

impl StoreUrl {
    /// # Errors
    /// What to write, without the text itself: it may hold a password.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let scheme = text.split_once(':').map(|(scheme, _)| scheme);
        match scheme {
            Some("sqlite") => sqlite(text).map(|()| Self(text.to_owned())),
            Some("redis" | "rediss") => redis(text).map(|()| Self(text.to_owned())),
            Some("redis+unix" | "unix") => socket(text).map(|()| Self(text.to_owned())),
            Some("memory") if text == "memory://" => Ok(Self(text.to_owned())),
            Some("redis+sentinel" | "redis+cluster") => Err(
                "Sentinel and Cluster are not supported in this version; write redis://HOST:PORT"
                    .to_owned(),
            ),
            _ => Err("this is not the address of a store; write sqlite:FILE, \
                      redis://HOST:PORT, rediss://HOST:PORT or memory://"
                .to_owned()),
        }
    }

    /// Whether it is a store that ends with its process.
    pub(crate) fn is_memory(&self) -> bool {
        self.0.starts_with("memory:")
    }

    /// The whole address, with its password.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

fn sqlite(text: &str) -> Result<(), String> {
    let path = text.trim_start_matches("sqlite:");
    match path.strip_prefix("//").unwrap_or(path) {
        "" => Err("this names no file; write sqlite:queue.db or sqlite:///path/queue.db".into()),
        ":memory:" => Err("this is no file; write memory:// for jobs that may be lost".into()),
        path if path.contains('?') => Err("a file has no parameters; write only its path".into()),
        _ => Ok(()),
    }
}

const REDIS_FORM: &str = "write redis://HOST:PORT/DATABASE, with USER:PASSWORD@ before the host \
                          if it needs them";

fn redis(text: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{what}; {REDIS_FORM}"));
    let Some((_, rest)) = text.split_once("://") else { return wrong("// is missing") };
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if rest.contains('@') {
        return wrong("a user or password with / ? # or @ must have these percent-encoded");
    }
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let (host, port) = match place.rfind(']') {
        Some(end) if place.starts_with('[') => (&place[1..end], place[end + 1..].strip_prefix(':')),
        _ => place.rsplit_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() || host.contains(char::is_whitespace) {
        return wrong("it names no host");
    }
    if port.is_some_and(|port| !matches!(port.parse::<u16>(), Ok(1..))) {
        return wrong("the port is not a number from 1 to 65535");
    }
    let database = rest.split(['?', '#']).next().unwrap_or_default().trim_start_matches('/');
    if !database.is_empty() && database.parse::<u32>().is_err() {
        return wrong("the database is not a number");
    }
    Ok(())
}

fn socket(text: &str) -> Result<(), String> {
    let path = text.split_once("://").map(|(_, path)| path.split('?').next().unwrap_or_default());
    if path.is_none_or(|path| !path.starts_with('/') || path == "/") {
        return Err("it names no socket; write redis+unix:///path/redis.sock".to_owned());
    }
    Ok(())
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hide(&self.0))
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The address with everything that may be a secret replaced. Rather too much than too little: a
/// password that nobody percent-encoded can hold any character.
fn hide(url: &str) -> String {
    // A file has no secrets in its name.
    let Some(start) = url.find("://").filter(|_| !url.starts_with("sqlite:")).map(|at| at + 3)
    else {
        return url.to_owned();
    };
    let (scheme, rest) = url.split_at(start);
    let (user_info, place) = match rest.rfind('@') {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => ("", rest),
    };
    let shown = match user_info.split_once(':') {
        Some((user, _)) => format!("{user}:***@"),
        None if user_info.is_empty() => String::new(),
        None => "***@".to_owned(),
    };
    let (place, query) = place.split_once('?').unwrap_or((place, ""));
    let mut text = format!("{scheme}{shown}{place}");
    for (index, parameter) in query.split('&').filter(|p| !p.is_empty()).enumerate() {
        text.push(if index == 0 { '?' } else { '&' });
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let lower = name.to_ascii_lowercase();
        let is_secret =
            ["pass", "secret", "token", "auth", "key"].iter().any(|s| lower.contains(s));
        text.push_str(name);
        if parameter.contains('=') {
            text.push('=');
            text.push_str(if is_secret { "***" } else { value });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden_and_the_rest_is_not() {
        for (url, shown) in [
            ("redis://:hunter2@host:6379/0", "redis://:***@host:6379/0"),
            ("rediss://user:hunt@er2@host", "rediss://user:***@host"),
            ("redis://hunter2@host", "redis://***@host"),
            ("redis://host/0?protocol=resp3&password=hunter2", {
                "redis://host/0?protocol=resp3&password=***"
            }),
            ("sqlite:queue.db", "sqlite:queue.db"),
            ("sqlite:///var/lib/a:b@c.db", "sqlite:///var/lib/a:b@c.db"),
            ("redis+unix:///run/redis.sock", "redis+unix:///run/redis.sock"),
            ("redis://[::1]:6379/1", "redis://[::1]:6379/1"),
            ("memory://", "memory://"),
        ] {
            let url = StoreUrl::new(url).unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
        }
    }

    #[test]
    fn what_is_no_store_is_refused_without_being_shown() {
        for bad in [
            "",
            "queue.db",
            "postgres://u:hunter2@host",
            "redis+cluster://:hunter2@h",
            "redis:hunter2",
            "redis://:hunter2@",
            "redis://:hunter2@host:port",
            "redis://:hunter2@host:0",
            "redis://:hunter2@host/hunter2",
            "redis://:hunter2/x@host",
            "redis+unix://hunter2",
            "sqlite:",
            "sqlite::memory:",
            "sqlite:hunter2?mode=ro",
            "memory:hunter2",
        ] {
            let error = StoreUrl::new(bad).unwrap_err();
            assert!(error.contains("write") && !error.contains("hunter2"), "{error}");
        }
    }
}
