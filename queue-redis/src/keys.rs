//! Every key of a namespace. All share the hash tag `{<namespace>/0}`, so that a cluster keeps
//! them in one slot and every script can reach them.

use queue_core::Namespace;

/// The keys with fixed names, in the order of the scripts' `KEYS`. Those of the hot path declare the
/// first one and a key that is never there (scripts.rs), and name the others themselves, as all do with
/// lanes: each key that a call names costs the server a hundredth of a short call.
pub(crate) const FIXED: [&str; 21] = [
    "meta", "jobs", "due", "idem", "body", "live", "fin", "run", "claims", "leases", "ages", "bad",
    "whence", "limited", "reopen", "att", "history", "result", "cancel", "log", "limits",
];

/// The names of one namespace's keys.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: String,
    fixed: Vec<String>,
    never: String,
}

impl Keys {
    pub(crate) fn new(namespace: &Namespace) -> Self {
        let prefix = format!("{{{namespace}/0}}:");
        let fixed = FIXED.iter().map(|name| format!("{prefix}{name}")).collect();
        let never = format!("{prefix}never");
        Self { prefix, fixed, never }
    }

    /// What all keys begin with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The keys of [`FIXED`].
    pub(crate) fn fixed(&self) -> &[String] {
        &self.fixed
    }

    pub(crate) fn meta(&self) -> &str {
        &self.fixed[0]
    }

    /// A key that nobody makes.
    pub(crate) fn never(&self) -> &str {
        &self.never
    }

    pub(crate) fn limits(&self) -> String {
        format!("{}limits", self.prefix)
    }

    pub(crate) fn live(&self) -> String {
        format!("{}live", self.prefix)
    }

    /// The list that wakes a worker for a `<queue>/<kind>`, or that with "@" and a limit key.
    pub(crate) fn wake(&self, list: &str) -> String {
        format!("{}wake:{list}", self.prefix)
    }

    /// What such a list is called behind `wake:`.
    pub(crate) fn woken_by<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(&self.prefix)?.strip_prefix("wake:")
    }

    /// The list that wakes one worker: `c` for a cancel request, `i` to look at its interest anew.
    pub(crate) fn wake_worker(&self, worker: &str) -> String {
        format!("{}wake:w:{worker}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_share_the_hash_tag() {
        let keys = Keys::new(&Namespace::new("shop").unwrap());
        assert_eq!(keys.meta(), "{shop/0}:meta");
        let dynamic = [keys.wake_worker("w")];
        assert!(keys.fixed().iter().chain(&dynamic).all(|key| key.starts_with("{shop/0}:")));
    }
}
