//! What this user may do. A script that meets a command that is not allowed stops in the middle,
//! after what it has written before.

use queue_core::Error;
use queue_core::backend::CheckFinding;
use redis::{Cmd, Value};

use super::plain;
use crate::connect::Link;
use crate::keys::Keys;
use crate::scripts;
use crate::store::{self, Call, Repeat};

/// Every command that scripts and calls use, with arguments that it would take; `K` is a key.
#[rustfmt::skip]
const COMMANDS: &[&[&str]] = &[
    &["BLPOP", "K", "1"], &["DEL", "K"], &["EVALSHA", "0", "1", "K"], &["EXISTS", "K"],
    &["EXPIRE", "K", "1"],
    &["HDEL", "K", "f"], &["HEXISTS", "K", "f"], &["HGET", "K", "f"], &["HGETALL", "K"], &["HINCRBY", "K", "f", "1"],
    &["HKEYS", "K"], &["HLEN", "K"], &["HMGET", "K", "f"], &["HRANDFIELD", "K", "1"], &["HSCAN", "K", "0"],
    &["HSET", "K", "f", "v"], &["HSETNX", "K", "f", "v"], &["HSTRLEN", "K", "f"],
    &["LINDEX", "K", "0"], &["LLEN", "K"], &["LPOP", "K"], &["LPOS", "K", "v"],
    &["LPUSH", "K", "v"],
    &["LRANGE", "K", "0", "0"], &["LREM", "K", "1", "v"], &["LTRIM", "K", "0", "0"],
    &["PEXPIRE", "K", "1"], &["RPUSH", "K", "v"], &["SADD", "K", "m"], &["SCARD", "K"],
    &["SISMEMBER", "K", "m"], &["SMEMBERS", "K"], &["SMISMEMBER", "K", "m"], &["SRANDMEMBER", "K", "1"], &["SREM", "K", "m"], &["SSCAN", "K", "0"], &["SUNIONSTORE", "K", "K"], &["TIME"], &["TYPE", "K"],
    &["UNLINK", "K"], &["ZADD", "K", "1", "m"], &["ZCARD", "K"], &["ZCOUNT", "K", "0", "0"], &["ZMSCORE", "K", "m"],
    &["ZRANGE", "K", "0", "0"], &["ZRANK", "K", "m"], &["ZREM", "K", "m"], &["ZSCAN", "K", "0"], &["ZSCORE", "K", "m"],
];

pub(super) async fn findings(link: &Link, keys: &Keys) -> Result<[CheckFinding; 2], Error> {
    Ok([commands(link, keys).await?, scripts(link).await?])
}

async fn commands(link: &Link, keys: &Keys) -> Result<CheckFinding, Error> {
    const NAME: &str = "permissions";
    let tried = match plain(link, &["ACL", "WHOAMI"]).await {
        Ok(Value::BulkString(user)) => {
            let calls: Vec<Call> =
                COMMANDS.iter().map(|words| Call::plain(dry_run(&user, words, keys))).collect();
            store::all(link, &calls, Repeat::Freely).await
        }
        Ok(_) => Err(Error::Refused(String::new())),
        Err(error) => Err(error),
    };
    let answers = match tried {
        Ok(answers) => answers,
        Err(unavailable @ Error::Unavailable(_)) => return Err(unavailable),
        Err(_) => {
            return Ok(CheckFinding::warning(
                NAME,
                "unknown: this user may not ask what it may do",
                "allow +acl|whoami and +acl|dryrun, or make sure that it has the permissions of \
                 the README of queue-redis",
            ));
        }
    };
    let refused: Vec<&str> = COMMANDS
        .iter()
        .zip(answers)
        .filter(|(_, answer)| *answer != Value::Okay)
        .map(|(words, _)| words[0])
        .collect();
    if refused.is_empty() {
        return Ok(CheckFinding::good(NAME, "every command that is used is allowed"));
    }
    Ok(CheckFinding::bad(
        NAME,
        format!("this user may not {} on {}*", refused.join(", "), keys.prefix()),
        "give it the permissions of the README of queue-redis: a script that is stopped in its \
         middle leaves a half of its work",
    ))
}

fn dry_run(user: &[u8], words: &[&str], keys: &Keys) -> Cmd {
    let mut cmd = redis::cmd("ACL");
    cmd.arg("DRYRUN").arg(user);
    for word in words {
        cmd.arg(if *word == "K" { keys.meta() } else { word });
    }
    cmd
}

async fn scripts(link: &Link) -> Result<CheckFinding, Error> {
    const NAME: &str = "scripts";
    let calls: Vec<Call> = scripts::load_all().cmd_iter().cloned().map(Call::plain).collect();
    match store::all(link, &calls, Repeat::Freely).await {
        Ok(_) => Ok(CheckFinding::good(NAME, format!("{} are loaded", calls.len()))),
        Err(unavailable @ Error::Unavailable(_)) => Err(unavailable),
        Err(why @ Error::Refused(_)) => Ok(CheckFinding::warning(
            NAME,
            why.to_string(),
            "allow +script|load, or have somebody load them again whenever the server restarts",
        )),
        Err(why) => Ok(CheckFinding::bad(
            NAME,
            why.to_string(),
            "this server cannot run the scripts: use Redis 7.0 or later, or Valkey 7.2 or later",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every word in capitals that is the first argument of a call in a script.
    fn used(text: &str) -> BTreeSet<&str> {
        let calls = text.split("('").skip(1).filter_map(|rest| rest.split_once('\''));
        let is_name = |word: &str| word.len() > 2 && word.bytes().all(|b| b.is_ascii_uppercase());
        calls.map(|(word, _)| word).filter(|word| is_name(word)).collect()
    }

    #[test]
    fn every_command_of_the_scripts_is_tried() {
        let tried: BTreeSet<&str> = COMMANDS.iter().map(|words| words[0]).collect();
        let mut all = BTreeSet::new();
        for (source, _) in scripts::all() {
            all.extend(used(source.text));
            let missing: Vec<_> = used(source.text).difference(&tried).copied().collect();
            assert!(missing.is_empty(), "{} uses {missing:?}", source.name);
        }
        assert!(all.len() > 20, "the search finds nothing: {all:?}");
    }
}
