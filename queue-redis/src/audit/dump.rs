//! Everything a namespace holds, in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use queue_core::{Error, JobId};
use redis::Value;

use crate::connect::Link;
use crate::keys::Keys;
use crate::record::{Attempts, END_BYTES, Head, RESULT_APART, unpack_attempts, unpack_head};
use crate::reply::{self, Items};
use crate::scripts;
use crate::store::{self, Call, Repeat};

type Token = Vec<u8>;
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A running job: who holds it.
pub(super) struct Run {
    pub(super) token: Token,
    pub(super) raw: Vec<u8>,
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
    pub(super) raw: Vec<u8>,
}

/// Reading a million jobs takes a server about 2 s, in which nobody else is answered.
const JOBS_MAX: i64 = 500_000;

/// The content of a key without a fixed name.
pub(super) enum Other {
    List(Vec<Vec<u8>>),
    Sorted(Vec<(Vec<u8>, u64)>),
    Hash(Pairs),
    /// Of a type that no key has.
    Foreign,
}

#[derive(Default)]
pub(super) struct Dump {
    pub(super) now_ms: u64,
    /// `None` for a record that cannot be decoded.
    pub(super) jobs: BTreeMap<JobId, Option<Head>>,
    pub(super) att: BTreeMap<JobId, Attempts>,
    pub(super) fin: BTreeMap<JobId, End>,
    pub(super) run: BTreeMap<JobId, Run>,
    /// `None` for one that cannot be decoded.
    pub(super) claims: HashMap<Token, Option<Held>>,
    pub(super) leases: HashMap<Token, u64>,
    pub(super) cancel: BTreeSet<JobId>,
    pub(super) due: BTreeMap<JobId, u64>,
    pub(super) idem: BTreeMap<Vec<u8>, JobId>,
    /// `None` for one that is no number.
    pub(super) count: BTreeMap<String, Option<u64>>,
    pub(super) ages: BTreeMap<String, u64>,
    pub(super) bad: BTreeSet<JobId>,
    /// The queue and kind that quarantined jobs are counted under.
    pub(super) whence: BTreeMap<JobId, String>,
    /// Stale tickets, as they are noted.
    pub(super) stale: Vec<u8>,
    /// The ids that the hashes of payloads, results, histories and logs have.
    pub(super) bodies: BTreeSet<JobId>,
    pub(super) results: BTreeSet<JobId>,
    pub(super) histories: BTreeSet<JobId>,
    pub(super) logs: BTreeSet<JobId>,
    /// By name without the namespace's prefix.
    pub(super) others: BTreeMap<String, Other>,
    /// Members that are no ids, by the key that holds them.
    pub(super) strays: Vec<(&'static str, Vec<u8>)>,
}

pub(super) async fn read(link: &Link, keys: &Keys) -> Result<Dump, Error> {
    let mut hlen = redis::cmd("HLEN");
    hlen.arg(keys.jobs());
    let answer = store::one(link, Call::plain(hlen), Repeat::Freely).await?;
    if let Value::Int(jobs) = answer
        && jobs > JOBS_MAX
    {
        return Err(Error::Unsupported(format!(
            "an audit of {jobs} jobs: it reads them in one step, which would hold the server up \
             for seconds; at most {JOBS_MAX}"
        )));
    }
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

fn numbers(value: Value) -> Result<Vec<(Vec<u8>, u64)>, Error> {
    Ok(flat(value)?.into_iter().map(|(member, number)| (member, decimal(&number))).collect())
}

fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn held(raw: Vec<u8>) -> Option<Held> {
    let worker_bytes = raw.get(17).filter(|_| raw[0] == 1).map(|bytes| usize::from(*bytes))?;
    let ids = reply::ids(raw.get(18 + worker_bytes..)?).ok().filter(|ids| !ids.is_empty())?;
    Some(Held { left: be(&raw[15..17]), ids, raw })
}

fn end(bytes: &[u8]) -> End {
    let state = bytes.first().copied().filter(|_| bytes.len() >= END_BYTES);
    End {
        state: state.unwrap_or(u8::MAX),
        finished_ms: bytes.get(2..8).map_or(0, be),
        result_apart: bytes.get(1).is_some_and(|reason| *reason >= RESULT_APART),
    }
}

impl Dump {
    /// Reads a hash by id; fields that are no ids are strays.
    fn by_id<T>(
        &mut self,
        key: &'static str,
        value: Value,
        read: impl Fn(Vec<u8>) -> T,
    ) -> Result<BTreeMap<JobId, T>, Error> {
        let mut found = BTreeMap::new();
        for (field, bytes) in flat(value)? {
            match reply::id(&field) {
                Ok(id) => drop(found.insert(id, read(bytes))),
                Err(_) => self.strays.push((key, field)),
            }
        }
        Ok(found)
    }

    fn ids(&mut self, key: &'static str, value: Value) -> Result<BTreeSet<JobId>, Error> {
        let mut found = BTreeSet::new();
        for member in strings(value)? {
            match reply::id(&member) {
                Ok(id) => drop(found.insert(id)),
                Err(_) => self.strays.push((key, member)),
            }
        }
        Ok(found)
    }
}

fn parse(reply: Value, keys: &Keys) -> Result<Dump, Error> {
    let mut items = Items::of(reply)?;
    let mut dump = Dump { now_ms: items.count()?, ..Dump::default() };
    dump.jobs = dump.by_id("jobs", items.value()?, |bytes| unpack_head(&bytes))?;
    dump.att =
        dump.by_id("att", items.value()?, |att| unpack_attempts(&att).unwrap_or_default())?;
    dump.fin = dump.by_id("fin", items.value()?, |bytes| end(&bytes))?;
    dump.run = dump.by_id("run", items.value()?, |raw| Run {
        token: raw.get(..16).unwrap_or_default().to_vec(),
        raw,
    })?;
    dump.claims = flat(items.value()?)?.into_iter().map(|(t, raw)| (t, held(raw))).collect();
    dump.leases = numbers(items.value()?)?.into_iter().collect();
    dump.cancel = dump.ids("cancel", items.value()?)?;
    dump.due = dump.by_id("due", items.value()?, |score| decimal(&score))?;
    for (key, id) in flat(items.value()?)? {
        match reply::id(&id) {
            Ok(id) => drop(dump.idem.insert(key, id)),
            Err(_) => dump.strays.push(("idem", key)),
        }
    }
    for (name, number) in flat(items.value()?)? {
        match String::from_utf8(name) {
            Ok(name) => drop(dump.count.insert(name, text(&number).parse().ok())),
            Err(name) => dump.strays.push(("count", name.into_bytes())),
        }
    }
    for (name, expiry) in numbers(items.value()?)? {
        match String::from_utf8(name) {
            Ok(name) => drop(dump.ages.insert(name, expiry)),
            Err(name) => dump.strays.push(("ages", name.into_bytes())),
        }
    }
    dump.bad = dump.ids("bad", items.value()?)?;
    dump.whence = dump.by_id("whence", items.value()?, |pair| text(&pair))?;
    let meta = flat(items.value()?)?;
    dump.stale = meta.into_iter().find(|(name, _)| name == b"stale").unwrap_or_default().1;
    dump.bodies = dump.ids("body", items.value()?)?;
    dump.results = dump.ids("result", items.value()?)?;
    dump.histories = dump.ids("history", items.value()?)?;
    dump.logs = dump.ids("log", items.value()?)?;
    dump.others = others(items.value()?, keys)?;
    Ok(dump)
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
            // It went between the listing and the reading, or is not needed.
            "none" => continue,
            _ => Other::Foreign,
        };
        let name = text(&name);
        others.insert(name.strip_prefix(keys.prefix()).unwrap_or(&name).to_owned(), other);
    }
    Ok(others)
}
