//! The store's address, whose password must not be shown.

use std::fmt;

/// The address of a store. Shows itself without secrets; [`StoreUrl::reveal`] is for connecting.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StoreUrl(String);

/// The schemes that this version can connect to.
const SCHEMES: [&str; 6] = ["sqlite", "redis", "rediss", "redis+unix", "unix", "memory"];

impl StoreUrl {
    /// # Errors
    /// What to write, without the text itself: it may hold a password.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let scheme = text.split_once(':').map(|(scheme, _)| scheme);
        match scheme {
            Some(scheme) if SCHEMES.contains(&scheme) => Ok(Self(text.to_owned())),
            Some("redis+sentinel" | "redis+cluster") => Err(
                "Sentinel and Cluster are not supported in this version; write redis://HOST:PORT"
                    .to_owned(),
            ),
            _ => Err("this is not the address of a store; write sqlite:FILE, \
                      redis://HOST:PORT, rediss://HOST:PORT or memory://"
                .to_owned()),
        }
    }

    /// The whole address, with its password.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
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
    let start = url.find("://").map_or_else(|| url.find(':').map_or(0, |at| at + 1), |at| at + 3);
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
            ("rediss://user:hun/t@er2@host", "rediss://user:***@host"),
            ("redis://hunter2@host", "redis://***@host"),
            ("redis://host/0?protocol=resp3&password=hunter2", {
                "redis://host/0?protocol=resp3&password=***"
            }),
            ("sqlite:queue.db", "sqlite:queue.db"),
            ("sqlite:///var/lib/queue.db?mode=rwc", "sqlite:///var/lib/queue.db?mode=rwc"),
            ("memory://", "memory://"),
        ] {
            let url = StoreUrl::new(url).unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
        }
    }

    #[test]
    fn what_is_no_store_is_refused_without_being_shown() {
        for bad in ["", "queue.db", "postgres://u:hunter2@host", "redis+cluster://:hunter2@h"] {
            let error = StoreUrl::new(bad).unwrap_err();
            assert!(error.contains("write") && !error.contains("hunter2"), "{error}");
        }
    }
}
