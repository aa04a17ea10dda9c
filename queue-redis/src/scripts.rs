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
    /// How many of the fixed keys it declares.
    declares: usize,
}

impl Source {
    fn new(name: &'static str, text: &'static str, declares: usize) -> Self {
        Self { name, text, hash: Script::new(text).get_hash().to_owned(), declares }
    }

    /// A call of the script by its hash, to be completed with its `ARGV`.
    pub(crate) fn call(&self, keys: &Keys, arguments: usize, argument_bytes: usize) -> Cmd {
        let overhead = self.declares * 48 + 64;
        let mut cmd = Cmd::with_capacity(arguments + self.declares + 3, argument_bytes + overhead);
        cmd.arg("EVALSHA").arg(&self.hash);
        if self.declares == 1 {
            // A key that is never there: a cluster's node that is giving the slot away refuses the
            // call, since that key may have gone, and with it others that the script would miss.
            cmd.arg(2).arg(keys.meta()).arg(keys.never());
            return cmd;
        }
        cmd.arg(self.declares);
        for key in keys.fixed().iter().take(self.declares) {
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

/// How many of the fixed keys a script declares: all unless it says otherwise.
macro_rules! declared {
    () => {
        FIXED.len()
    };
    ($count:literal) => {
        $count
    };
}

/// What reads META's fields: those that most scripts need unless the script says otherwise.
macro_rules! reading {
    () => {
        include_str!("../lua/lib/read.lua")
    };
    ($file:literal) => {
        include_str!(concat!("../lua/", $file, ".lua"))
    };
}

/// `allow-oom` goes to the scripts that a full store needs to finish jobs, and so to become less
/// full; claiming is one of them, or a store full of ready jobs would stay full. Scripts without
/// it are refused by a full store before their first line runs.
macro_rules! scripts {
    ($(
        $(#[$doc:meta])*
        $name:ident = $file:literal: $flags:literal $(declares $declares:literal)?
            $(reads $reads:literal)? $(short [$($short:literal)*])?
            $(plain [$($plain:literal)*])? [$($part:literal)*] $(then [$($rest:literal)*])?;
    )*) => {
        $(
            $(#[$doc])*
            #[allow(non_upper_case_globals, reason = "named like their files")]
            pub(crate) static $name: LazyLock<Source> = LazyLock::new(|| {
                Source::new(stringify!($name), concat!(
                    "#!lua", $flags, "\n",
                    include_str!("../lua/lib/keys.lua"),
                    reading!($($reads)?),
                    include_str!("../lua/lib/start.lua"),
                    $($(include_str!(concat!("../lua/", $short, ".lua")),)*)?
                    include_str!("../lua/lib/meta.lua"),
                    include_str!("../lua/lib/brief.lua"),
                    $($(include_str!(concat!("../lua/", $plain, ".lua")),)*)?
                    // A function of its own sees the locals above as upvalues, 60 at most, which makes
                    // each closure below cheaper. It may have 200 locals.
                    "return (function()\n",
                    include_str!("../lua/lib/base.lua"),
                    $(include_str!(concat!("../lua/lib/", $part, ".lua")),)*
                    include_str!(concat!("../lua/", $file, ".lua")),
                    $($(include_str!(concat!("../lua/", $rest, ".lua")),)*)?
                    "end)()\n",
                ), declared!($($declares)?))
            });
        )*

        /// Makes the server know every script.
        pub(crate) fn load_all() -> Pipeline {
            let mut pipeline = Pipeline::new();
            $(pipeline.add_command($name.load());)*
            pipeline
        }

        #[cfg(test)]
        pub(crate) fn all() -> Vec<(&'static Source, &'static str)> {
            vec![$((&*$name, include_str!(concat!("../lua/", $file, ".lua")))),*]
        }
    };
}

scripts! {
    /// T1, T2, if no job may take the place of another: what that needs is left out, because
    /// making its functions costs each call more than a job.
    enqueue = "enqueue": "" declares 1 reads "short/enqueue_read"
        short ["lib/times" "lib/doubling" "short/enqueue" "lib/read"] plain ["plain/enqueue"]
        ["class" "record" "wake" "waits" "lanes" "due" "state" "starts" "admit"];
    /// T1, T2, if one may.
    replace = "enqueue": "" short ["lib/times" "lib/doubling"]
        ["class" "record" "shelf" "wake" "waits" "lanes" "due" "state" "quarantine" "finish"
         "forget" "compact" "unlist" "starts" "admit"];
    /// T3, T4.
    claim = "claim": " flags=allow-oom" declares 1 reads "short/claim_read"
        short ["short/claim"]
        plain ["lib/class" "lib/waits" "lib/turns" "plain/room" "plain/claim"]
        ["record" "shelf" "left" "claims" "wake" "lanes" "quarantine" "finish" "forget" "promote"
         "limits" "look"]
        then ["claim/take" "claim/views" "claim/serve" "claim/save"];
    /// The same, sent behind a wait, unless the worker has taken it back.
    standing_claim = "claim": " flags=allow-oom" declares 1 reads "short/claim_read"
        short ["lib/standing" "short/claim"]
        plain ["lib/class" "lib/waits" "lib/turns" "plain/room" "plain/claim"]
        ["record" "shelf" "left" "claims" "wake" "lanes" "quarantine" "finish" "forget" "promote"
         "limits" "look"]
        then ["claim/take" "claim/views" "claim/serve" "claim/save"];
    /// T5.
    renew = "renew": " flags=allow-oom" ["left" "claims"];
    /// T6–T10, T14.
    settle = "settle": " flags=allow-oom" declares 1 reads "short/settle_read"
        short ["short/settle" "lib/read"]
        plain ["plain/old" "plain/settle"]
        ["class" "record" "shelf" "left" "claims" "wake" "waits" "lanes" "due" "state" "quarantine"
         "finish" "forget" "history" "held" "release" "limits" "ends"];
    /// T12, T13.
    cancel = "cancel": " flags=allow-oom"
        ["class" "record" "shelf" "left" "claims" "wake" "waits" "lanes" "state" "quarantine"
         "finish" "forget" "compact" "unlist"];
    /// Reads jobs.
    get = "get": " flags=no-writes" ["class" "record" "left" "claims" "state"];
    /// Lists jobs by state.
    list = "list": " flags=no-writes" ["class" "record" "shelf" "left" "claims" "state" "named"];
    /// T15.
    retry = "retry": "" ["class" "record" "shelf" "wake" "waits" "lanes" "state" "unshelve"];
    /// T16, by hand.
    delete = "delete": " flags=allow-oom"
        ["class" "record" "shelf" "wake" "waits" "lanes" "state" "quarantine" "finish" "unshelve"
         "compact" "unlist"];
    /// T17.
    set_aside = "set_aside": " flags=allow-oom"
        ["class" "record" "shelf" "left" "claims" "wake" "waits" "lanes" "state" "quarantine"
         "finish" "unshelve" "compact" "unlist" "held" "release" "limits" "ends"];
    /// Reads quarantined jobs.
    raw = "raw": " flags=no-writes" ["class" "record" "state"];
    /// T17, back.
    recover = "recover": " flags=allow-oom"
        ["class" "record" "shelf" "wake" "waits" "lanes" "state" "finish"];
    /// Pauses and resumes queues.
    pause = "pause": " flags=allow-oom" ["wake" "named"];
    /// Takes progress and log lines.
    report = "report": "" ["class" "record" "log"];
    /// Looks at watched jobs.
    watch = "watch": " flags=no-writes" ["class" "record" "state" "log"];
    /// T3, T11, T16.
    maintain = "maintain": " flags=allow-oom"
        ["class" "record" "shelf" "left" "claims" "wake" "waits" "lanes" "due" "quarantine"
         "finish" "forget" "history" "promote" "held" "release" "limits" "look" "ends" "heal"
         "rare"];
    /// Sets and removes limits.
    set_limit = "set_limit": " flags=allow-oom" ["class" "record" "wake" "limits" "look"];
    /// Ends what has closed a limit key.
    reset_limit = "reset_limit": " flags=allow-oom" ["class" "record" "wake" "limits"];
    /// Looks at limit keys.
    limit_status = "limit_status": " flags=no-writes" [];
    /// Takes down what a worker says about itself.
    announce = "announce": "" [];
    /// Reads what workers have said.
    workers = "workers": " flags=no-writes" [];
    /// Finds the place of a job in line.
    place = "place": " flags=no-writes" ["class" "record" "state"];
    /// Lists the lanes of a queue.
    queue_lanes = "queue_lanes": " flags=no-writes" ["class" "record" "state" "starts" "named"];
    /// Hands a wake-up on.
    pass_on = "pass_on": " flags=allow-oom" ["wake"];
    /// Leaves a word for one worker.
    tell = "tell": " flags=allow-oom" ["wake"];
    /// Looks at a part of the namespace, but not at payloads, large results and logs.
    dump = "dump": " flags=no-writes"
        ["class" "record" "shelf" "left" "claims" "held" "facts" "places" "counters"];
    /// Looks at a page of a lane.
    tickets = "tickets": " flags=no-writes"
        ["class" "record" "shelf" "left" "claims" "held" "facts"];
    /// Compares counters with sizes.
    totals = "totals": " flags=no-writes" ["shelf" "counters"];
    /// Puts right what an audit has found.
    repair = "repair": " flags=allow-oom" ["class" "record" "wake" "waits" "lanes" "held" "rare"];
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
            let all = FIXED.len();
            let keys = match source.declares {
                some if some < all => "-- KEYS   the first of the fixed keys".to_owned(),
                _ if source.name == "replace" => format!("fixed keys, or all {all}"),
                _ => format!("-- KEYS   {all} fixed keys"),
            };
            for part in [keys.as_str(), "-- ARGV   ", "-- Reply  ", "-- Invariant: "] {
                assert!(header.contains(part), "{}: no {part:?} in its header", source.name);
            }
        }
    }

    /// The short ways end at CHUNK: a call with as many jobs as it may have costs twice as much beyond.
    #[test]
    fn the_largest_calls_take_the_short_ways() {
        let (_, rest) = include_str!("../lua/lib/keys.lua").split_once("local CHUNK = ").unwrap();
        let chunk: u32 = rest.lines().next().unwrap().parse().unwrap();
        assert!(chunk >= PASS_MAX, "{chunk}");
    }

    #[test]
    fn the_prelude_names_the_fixed_keys_in_order() {
        let text = include_str!("../lua/lib/keys.lua");
        let (_, rest) = text.split_once("\nlocal META").unwrap();
        let names = format!("META{}", rest.split_once('=').unwrap().0);
        let names: Vec<String> = names.split(',').map(|name| name.trim().to_lowercase()).collect();
        assert_eq!(names, FIXED);
    }

    #[test]
    fn limits_are_those_of_the_contract() {
        assert!(claim.text.contains(&format!("= {PASS_MAX}, {PASS_MAX}, {PASS_MAX}\n")));
        assert!(claim.text.contains("local LANES_MAX, TURN_MAX = 32, 32\n"));
        let start = include_str!("../lua/lib/keys.lua");
        assert!(start.contains(&format!("local FINISHED_MAX, SLACK = {FINISHED_MAX}, 100\n")));
        assert!(start.contains(&format!("local INLINE_MAX_BYTES = {INLINE_MAX_BYTES}\n")));
        let base = include_str!("../lua/lib/base.lua");
        assert!(base.contains(&format!("local RESULT_APART = {RESULT_APART}\n")));
    }

    #[test]
    fn settling_works_when_the_store_is_full_and_enqueueing_is_refused_up_front() {
        let flags = |source: &Source| source.text.lines().next().unwrap().contains("allow-oom");
        assert!([&*claim, &*settle, &*renew, &*cancel, &*maintain].into_iter().all(flags));
        assert!(!flags(&enqueue));
    }
}
