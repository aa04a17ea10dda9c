//! Everything a namespace holds, in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use queue_core::{Error, JobId};
use redis::Value;

use crate::connect::Link;
use crate::keys::Keys;
use crate::record::{Head, RESULT_APART, unpack_head};
use crate::reply::{self, Items};
use crate::scripts;
use crate::store::{self, Call, Repeat};

type Token = Vec<u8>;
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A running job: who holds it.
pub(super) struct Run {
    pub(super) token: Token,
}

/// A finished job.
pub(super) struct End {
    pub(super) state: u8,
    pub(super) finished_ms: u64,
    /// Whether its result is elsewhere.
    pub(super) result_apart: bool,
}

/// A claim's list of jobs, as it was made.
pub(super) struct Held {
    pub(super) left: u64,
    pub(super) ids: Vec<JobId>,
}

/// The content of a key without a fixed name.
pub(super) enum Other {
    List(Vec<Vec<u8>>),
    Sorted(Vec<(Vec<u8>, u64)>),
    Hash(Pairs),
    Foreign,
}

pub(super) struct Dump {
    /// `None` for a record that cannot be decoded.
    pub(super) jobs: BTreeMap<JobId, Option<Head>>,
    /// The failures of each job that has a record of its attempts.
    pub(super) att: BTreeMap<JobId, u16>,
    pub(super) fin: BTreeMap<JobId, End>,
    pub(super) run: BTreeMap<JobId, Run>,
    pub(super) claims: HashMap<Token, Held>,
    pub(super) leases: HashMap<Token, u64>,
    pub(super) cancel: BTreeSet<JobId>,
    pub(super) due: BTreeSet<JobId>,
    pub(super) idem: HashMap<Vec<u8>, JobId>,
    pub(super) count: BTreeMap<String, u64>,
    pub(super) ages: BTreeMap<String, u64>,
    pub(super) bad: BTreeSet<JobId>,
    pub(super) stale: u64,
    /// The jobs that have a body of their own, and those whose result has a place of its own.
    pub(super) bodies: BTreeSet<JobId>,
    pub(super) results: BTreeSet<JobId>,
    /// By name without the namespace's prefix.
    pub(super) others: BTreeMap<String, Other>,
}

pub(super) async fn read(link: &Link, keys: &Keys) -> Result<Dump, Error> {
    let names = other_names(link, keys).await?;
    let bytes = names.iter().map(String::len).sum();
    let mut cmd = scripts::dump.call(keys, names.len(), bytes);
    for name in &names {
        cmd.arg(name);
    }
    let call = Call::script(&scripts::dump, cmd);
    parse(store::one(link, call, Repeat::Freely).await?, keys)
}

/// The keys of the namespace that have no fixed name.
async fn other_names(link: &Link, keys: &Keys) -> Result<Vec<String>, Error> {
    let mut names = BTreeSet::new();
    let mut cursor = "0".to_owned();
    loop {
        let mut cmd = redis::cmd("SCAN");
        cmd.arg(&cursor).arg("MATCH").arg(format!("{}*", keys.prefix())).arg("COUNT").arg(1000);
        let mut items = Items::of(store::one(link, Call::plain(cmd), Repeat::Freely).await?)?;
        cursor = text(&items.bytes()?);
        for name in reply::array(items.value()?)? {
            names.insert(text(&reply::bytes(name)?));
        }
        if cursor == "0" {
            return Ok(names.into_iter().filter(|name| !keys.fixed().contains(name)).collect());
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn decimal(bytes: &[u8]) -> u64 {
    text(bytes).parse().unwrap_or(u64::MAX)
}

fn strings(value: Value) -> Result<Vec<Vec<u8>>, Error> {
    reply::array(value)?.into_iter().map(reply::bytes).collect()
}

fn flat(value: Value) -> Result<Pairs, Error> {
    let mut items = strings(value)?.into_iter();
    Ok(std::iter::from_fn(|| Some((items.next()?, items.next()?))).collect())
}

fn by_id<T>(value: Value, read: impl Fn(&[u8]) -> T) -> Result<BTreeMap<JobId, T>, Error> {
    flat(value)?.into_iter().map(|(id, bytes)| Ok((reply::id(&id)?, read(&bytes)))).collect()
}

fn numbers(value: Value) -> Result<Vec<(Vec<u8>, u64)>, Error> {
    Ok(flat(value)?.into_iter().map(|(member, number)| (member, decimal(&number))).collect())
}

fn id_set(members: &[Vec<u8>]) -> Result<BTreeSet<JobId>, Error> {
    members.iter().map(|member| reply::id(member)).collect()
}

fn named(value: Value) -> Result<BTreeMap<String, u64>, Error> {
    Ok(numbers(value)?.into_iter().map(|(name, number)| (text(&name), number)).collect())
}

fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn held(bytes: &[u8]) -> Held {
    let worker_bytes = bytes.get(16).map_or(0, |bytes| usize::from(*bytes));
    let ids = bytes.get(17 + worker_bytes..).and_then(|ids| reply::ids(ids).ok());
    Held { left: bytes.get(14..16).map_or(0, be), ids: ids.unwrap_or_default() }
}

fn parse(reply: Value, keys: &Keys) -> Result<Dump, Error> {
    let mut items = Items::of(reply)?;
    Ok(Dump {
        jobs: by_id(items.value()?, unpack_head)?,
        att: by_id(items.value()?, |bytes| {
            bytes.get(..2).and_then(|failures| u16::try_from(be(failures)).ok()).unwrap_or(0)
        })?,
        fin: by_id(items.value()?, |bytes| End {
            state: bytes.first().copied().unwrap_or(u8::MAX),
            finished_ms: bytes.get(2..8).map_or(0, be),
            result_apart: bytes.get(1).is_some_and(|reason| *reason >= RESULT_APART),
        })?,
        run: by_id(items.value()?, |bytes| Run {
            token: bytes.get(..16).unwrap_or_default().to_vec(),
        })?,
        claims: flat(items.value()?)?.into_iter().map(|(t, bytes)| (t, held(&bytes))).collect(),
        leases: numbers(items.value()?)?.into_iter().collect(),
        cancel: id_set(&strings(items.value()?)?)?,
        due: by_id(items.value()?, |_| ())?.into_keys().collect(),
        idem: flat(items.value()?)?
            .into_iter()
            .map(|(key, id)| Ok((key, reply::id(&id)?)))
            .collect::<Result<_, Error>>()?,
        count: named(items.value()?)?,
        ages: named(items.value()?)?,
        bad: id_set(&strings(items.value()?)?)?,
        stale: named(items.value()?)?.get("stale").copied().unwrap_or(0),
        bodies: id_set(&strings(items.value()?)?)?,
        results: id_set(&strings(items.value()?)?)?,
        others: others(items.value()?, keys)?,
    })
}

fn others(value: Value, keys: &Keys) -> Result<BTreeMap<String, Other>, Error> {
    let mut items = Items::of(value)?;
    let mut others = BTreeMap::new();
    while let Ok(name) = items.bytes() {
        let kind = text(&items.bytes()?);
        let content = items.value()?;
        let other = match kind.as_str() {
            "list" => Other::List(strings(content)?),
            "zset" => Other::Sorted(numbers(content)?),
            "hash" => Other::Hash(flat(content)?),
            // It went between the listing and the reading.
            "none" => continue,
            _ => Other::Foreign,
        };
        let name = text(&name);
        others.insert(name.strip_prefix(keys.prefix()).unwrap_or(&name).to_owned(), other);
    }
    Ok(others)
}
