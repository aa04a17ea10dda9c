//! The Lua scripts, each assembled from the shared parts it needs.

use std::sync::LazyLock;

use redis::{Cmd, Pipeline, Script};

use crate::keys::{FIXED, Keys};

/// A script as the server sees it.
#[derive(Debug)]
pub(crate) struct Source {
    /// The file's name, for messages.
    pub(crate) name: &'static str,
    /// The whole text.
    pub(crate) text: &'static str,
    /// The text's SHA-1 in hexadecimal.
    pub(crate) hash: String,
}

impl Source {
    fn new(name: &'static str, text: &'static str) -> Self {
        Self { name, text, hash: Script::new(text).get_hash().to_owned() }
    }

    /// A call of the script by its hash, to be completed with its `ARGV`.
    pub(crate) fn call(&self, keys: &Keys, arguments: usize, argument_bytes: usize) -> Cmd {
        let overhead = FIXED.len() * 48 + 64;
        let mut cmd = Cmd::with_capacity(arguments + FIXED.len() + 3, argument_bytes + overhead);
        cmd.arg("EVALSHA").arg(&self.hash).arg(FIXED.len());
        for key in keys.fixed() {
            cmd.arg(key);
        }
        cmd
    }

    /// The command that makes the server know the script.
    pub(crate) fn load(&self) -> Cmd {
        let mut cmd = Cmd::new();
        cmd.arg("SCRIPT").arg("LOAD").arg(self.text);
        cmd
    }
}

/// `allow-oom` goes to the scripts that a full store needs to finish jobs, and so to become less
/// full; claiming is one of them, or a store full of ready jobs would stay full. Scripts without
/// it are refused by a full store before their first line runs.
macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident: $flags:literal [$($part:literal)*];)*) => {
        $(
            $(#[$doc])*
            #[allow(non_upper_case_globals, reason = "named like their files")]
            pub(crate) static $name: LazyLock<Source> = LazyLock::new(|| {
                Source::new(stringify!($name), concat!(
                    "#!lua", $flags, "\n",
                    include_str!("../lua/lib/base.lua"),
                    // A function of its own sees the locals above as upvalues, which makes each
                    // closure below cheaper: about a fifth of what an empty claim costs.
                    "return (function()\n",
                    $(include_str!(concat!("../lua/lib/", $part, ".lua")),)*
                    include_str!(concat!("../lua/", stringify!($name), ".lua")),
                    "end)()\n",
                ))
            });
        )*

        /// Makes the server know every script.
        pub(crate) fn load_all() -> Pipeline {
            let mut pipeline = Pipeline::new();
            $(pipeline.add_command($name.load());)*
            pipeline
        }

        #[cfg(test)]
        fn all() -> Vec<(&'static Source, &'static str)> {
            vec![$((&*$name, include_str!(concat!("../lua/", stringify!($name), ".lua")))),*]
        }
    };
}

scripts! {
    /// T1, T2.
    enqueue: "" ["record" "wake" "lanes" "due" "state"];
    /// T3, T4.
    claim: " flags=allow-oom" ["record" "claims" "wake" "lanes" "finish" "promote"];
    /// T5.
    renew: " flags=allow-oom" ["claims"];
    /// T6–T10, T14.
    settle: " flags=allow-oom"
        ["record" "claims" "wake" "lanes" "due" "state" "finish" "release"];
    /// T12, T13.
    cancel: " flags=allow-oom" ["record" "claims" "wake" "lanes" "state" "finish" "compact"];
    /// Reads jobs.
    get: " flags=no-writes" ["record" "claims" "state"];
    /// T3, T11, T16.
    maintain: " flags=allow-oom"
        ["record" "claims" "wake" "lanes" "due" "finish" "promote" "release"];
    /// Hands a wake-up on.
    pass_on: " flags=allow-oom" ["wake"];
    /// Leaves a word for one worker.
    tell: " flags=allow-oom" ["wake"];
    /// Reads everything but payloads and large results.
    dump: " flags=no-writes" ["record"];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{INLINE_MAX_BYTES, RESULT_APART};
    use queue_core::backend::{FINISHED_MAX, PASS_MAX};

    #[test]
    fn each_header_states_purpose_keys_arguments_reply_and_invariant() {
        for (source, file) in all() {
            let header: String = file.lines().take_while(|line| line.starts_with("--")).collect();
            let keys = format!("-- KEYS   {} fixed keys", FIXED.len());
            for part in [keys.as_str(), "-- ARGV   ", "-- Reply  ", "-- Invariant: "] {
                assert!(header.contains(part), "{}: no {part:?} in its header", source.name);
            }
        }
    }

    #[test]
    fn the_prelude_names_the_fixed_keys_in_order() {
        let text = include_str!("../lua/lib/base.lua");
        let line = text.lines().find(|line| line.starts_with("local META")).unwrap();
        let names: Vec<String> = line
            .trim_start_matches("local ")
            .trim_end_matches(" =")
            .split(", ")
            .map(str::to_lowercase)
            .collect();
        assert_eq!(names, FIXED);
    }

    #[test]
    fn limits_are_those_of_the_contract() {
        let finish_part = include_str!("../lua/lib/finish.lua");
        assert!(finish_part.contains(&format!("local FINISHED_MAX = {FINISHED_MAX}\n")));
        assert!(claim.text.contains(&format!("= 32, {PASS_MAX}, {PASS_MAX}, {PASS_MAX}\n")));
        let base = include_str!("../lua/lib/base.lua");
        assert!(base.contains(&format!("local INLINE_MAX_BYTES = {INLINE_MAX_BYTES}\n")));
        assert!(base.contains(&format!("local RESULT_APART = {RESULT_APART}\n")));
    }

    #[test]
    fn settling_works_when_the_store_is_full_and_enqueueing_is_refused_up_front() {
        let flags = |source: &Source| source.text.lines().next().unwrap().contains("allow-oom");
        assert!([&*claim, &*settle, &*renew, &*cancel, &*maintain].into_iter().all(flags));
        assert!(!flags(&enqueue));
    }
}
