//! What a server must have so that the promises hold.

mod access;
mod clock;
mod server;
mod settings;

use queue_core::Error;
use queue_core::backend::{CheckFinding, Epoch, Verdict};
use redis::{Cmd, Value};

use crate::connect::Link;
use crate::info::{Facts, Info, config, setting};
use crate::keys::Keys;
use crate::reply::{self, Items};
use crate::store::{self, Call, Repeat};

/// The layout of the data that this program knows.
const SCHEMA: &str = "4";

async fn plain(link: &Link, words: &[&str]) -> Result<Value, Error> {
    let mut cmd = Cmd::new();
    for word in words {
        cmd.arg(word);
    }
    store::one(link, Call::plain(cmd), Repeat::Freely).await
}

async fn info(link: &Link) -> Result<Info, Error> {
    Ok(Info::parse(&reply::bytes(plain(link, &["INFO"]).await?)?))
}

/// A setting of the server; `None` where `CONFIG` is not allowed, as managed services have it.
async fn config_get(link: &Link, name: &str) -> Option<String> {
    store::one(link, Call::plain(config(name)), Repeat::Freely).await.ok().and_then(setting)
}

/// What decides how durable a write can be.
///
/// # Errors
/// The server does not answer, or does not let this user ask `INFO`.
pub(crate) async fn facts(link: &Link) -> Result<Facts, Error> {
    Ok(facts_beside(link, &info(link).await?).await)
}

async fn facts_beside(link: &Link, info: &Info) -> Facts {
    Facts {
        appendfsync: config_get(link, "appendfsync").await,
        no_appendfsync_on_rewrite: config_get(link, "no-appendfsync-on-rewrite").await,
        ..Facts::of(info)
    }
}

/// Refuses a server that cannot keep the promises (P11).
///
/// # Errors
/// [`Error::Refused`] with what to do about it. [`Error::Unavailable`] for a replica: while a fail-over
/// is under way, an address may lead to one for a time.
pub(crate) async fn refuse_unfit(link: &Link) -> Result<(), Error> {
    let info = info(link).await?;
    let fitness = server::fitness(&info);
    match fitness.into_iter().find(|finding| finding.verdict == Verdict::Bad) {
        Some(CheckFinding { name, found, remedy, .. }) => {
            let why = format!("{name} is {found:?}: {remedy}");
            Err(if server::is_replica(&info) {
                Error::Unavailable(why)
            } else {
                Error::Refused(why)
            })
        }
        None => Ok(()),
    }
}

/// Marks a namespace as made by this program, unless it is marked, and answers its epoch: random
/// bytes made with it, so that a store that lost its data can be told from the one it was.
///
/// # Errors
/// [`Error::Refused`] if a newer program has written it.
pub(crate) async fn open_namespace(link: &Link, keys: &Keys) -> Result<Epoch, Error> {
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
    // "rare": what a new namespace does not have (`lua/lib/rare.lua`).
    let calls =
        [mark("schema", SCHEMA), mark("epoch", &epoch), mark("note", NOTE), mark("rare", "")];
    store::all(link, &calls, Repeat::Freely).await?;
    // Another program may have marked it in between: what is there counts.
    let epoch = read_marks(link, keys).await?;
    epoch.ok_or_else(|| Error::Unavailable("the namespace was emptied while opened".to_owned()))
}

/// Redis keeps a small hash as one run of bytes and looks through it for each field, unless one of
/// its values has more than 64 bytes (`hash-max-listpack-value`). Every script reads some fields, counters
/// among them.
const NOTE: &str =
    "More than 64 bytes keep this hash out of the compact encoding, which is slow to read from.";

/// The epoch of a namespace that is marked.
async fn read_marks(link: &Link, keys: &Keys) -> Result<Option<Epoch>, Error> {
    let mut fields = Items::of(plain(link, &["HMGET", keys.meta(), "schema", "epoch"]).await?)?;
    let (schema, epoch) = (fields.bytes()?, fields.bytes()?);
    if !schema.is_empty() && schema != SCHEMA.as_bytes() {
        return Err(Error::Refused(foreign(&String::from_utf8_lossy(&schema))));
    }
    Ok((!schema.is_empty() && !epoch.is_empty()).then_some(Epoch::new(epoch)))
}

/// What is wrong with a namespace that has another layout, and what to do about it.
fn foreign(schema: &str) -> String {
    let found = schema.parse::<u64>().ok().zip(SCHEMA.parse().ok());
    let remedy = match found {
        Some((schema, known)) if schema > known => {
            "a newer program has written it: upgrade this one"
        }
        Some(_) => {
            "an older program has written it: let that one finish its jobs, or use another \
             namespace for this one"
        }
        None => "something else has written it: use another namespace",
    };
    format!("the namespace has schema {schema} and this program knows {SCHEMA}; {remedy}")
}

/// Everything worth knowing before work starts.
pub(crate) async fn run(
    link: &Link,
    keys: &Keys,
    epoch: &Epoch,
) -> Result<Vec<CheckFinding>, Error> {
    let info = info(link).await?;
    let mut findings = server::fitness(&info);
    findings.extend(server::condition(&info));
    if server::is_loading(&info) {
        // It answers nothing else.
        return Ok(findings);
    }
    let facts = facts_beside(link, &info).await;
    findings.extend(settings::findings(link, &info, &facts).await);
    findings.extend(access::findings(link, keys).await?);
    findings.extend(clock::findings(link, keys).await?);
    findings.extend(namespace(link, keys, epoch).await?);
    Ok(findings)
}

/// The marks of the namespace: schema and epoch.
async fn namespace(link: &Link, keys: &Keys, known: &Epoch) -> Result<Vec<CheckFinding>, Error> {
    const EPOCH: &str = "epoch";
    let found = match read_marks(link, keys).await {
        Ok(found) => found,
        Err(Error::Refused(found)) => {
            return Ok(vec![CheckFinding::bad("schema", found, "use a program that knows it")]);
        }
        Err(other) => return Err(other),
    };
    let schema = CheckFinding::good("schema", SCHEMA);
    let reset = |found| {
        CheckFinding::bad(
            EPOCH,
            found,
            "find out who emptied the server (FLUSHALL, or a restart without its data): jobs that \
             were in it are gone",
        )
    };
    let epoch = match found {
        Some(epoch) if epoch == *known => CheckFinding::good(EPOCH, "as when opened"),
        Some(_) => reset("another: the store was reset since this program opened it"),
        None => reset("none: the store was emptied since this program opened it"),
    };
    Ok(vec![schema, epoch])
}
