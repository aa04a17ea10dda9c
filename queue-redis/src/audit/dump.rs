//! What a look at the namespace has found: facts of one instant.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use queue_core::{Error, JobId};
use redis::Value;

use super::finished::Entry;
use crate::keys::Keys;
use crate::record::{Attempts, END_BYTES, Head, RESULT_APART, unpack_attempts, unpack_head};
use crate::reply::{self, Items};

type Token = Vec<u8>;
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A running job: who holds it.
pub(super) struct Run {
    pub(super) raw: Vec<u8>,
    /// Whether the claim knows of it.
    pub(super) is_listed: bool,
}

/// A finished job.
pub(super) struct End {
    pub(super) state: u8,
    pub(super) finished_ms: u64,
    /// Whether its result is elsewhere.
    pub(super) result_apart: bool,
}

/// A claim.
pub(super) struct Holding {
    /// Its record; empty if there is none.
    pub(super) raw: Vec<u8>,
    pub(super) has_lease: bool,
    /// How many of the jobs on its list it holds.
    pub(super) held: u64,
}

impl Holding {
    /// How many jobs its record counts; `None` if that cannot be decoded.
    pub(super) fn left(&self) -> Option<u64> {
        let raw = &self.raw;
        let worker_bytes = raw.get(17).filter(|_| raw[0] == 1).map(|bytes| usize::from(*bytes))?;
        let ids = raw.get(18 + worker_bytes..)?;
        (!ids.is_empty() && ids.len() % 16 == 0).then(|| be(&raw[15..17]))
    }
}

/// The content of a key without a fixed name.
pub(super) enum Other {
    List(Vec<Vec<u8>>),
    Sorted(Vec<(Vec<u8>, u64)>),
    Hash(Pairs),
    /// Its members are looked at by the script.
    Set,
    /// Of a type that no key has.
    Foreign,
}

/// What is set and remembered of limit keys.
#[derive(Default)]
pub(super) struct Limits {
    pub(super) settings: Pairs,
    pub(super) states: Pairs,
    pub(super) reopen: Vec<(Vec<u8>, u64)>,
    /// Whether META says that there may be any of these.
    pub(super) is_noted: bool,
    /// Whether a change of settings has not reached all keys yet.
    pub(super) is_changing: bool,
}

/// How much of the namespace a look has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Extent {
    /// All of it.
    #[default]
    Whole,
    /// Everything about some jobs, but not in which lanes they are.
    Jobs,
    /// Everything about some jobs; of a lane all tickets of these jobs.
    Tickets,
}

#[derive(Default)]
pub(super) struct Dump {
    pub(super) extent: Extent,
    pub(super) now_ms: u64,
    /// Where to go on, and other things that belong to the kind of the look; of tickets their lane.
    pub(super) place: String,
    /// How much was read for it: bytes, more or less.
    pub(super) weight: u64,
    /// The jobs of which everything is known, if that is not all.
    pub(super) subjects: BTreeSet<JobId>,
    /// `None` for a record that cannot be decoded.
    pub(super) jobs: BTreeMap<JobId, Option<Head>>,
    pub(super) att: BTreeMap<JobId, Attempts>,
    /// As they are stored, without the last error.
    pub(super) raw_att: BTreeMap<JobId, Vec<u8>>,
    pub(super) fin: BTreeMap<JobId, End>,
    pub(super) run: BTreeMap<JobId, Run>,
    pub(super) holdings: BTreeMap<Token, Holding>,
    pub(super) cancel: BTreeSet<JobId>,
    pub(super) due: BTreeMap<JobId, u64>,
    pub(super) idem: BTreeMap<Vec<u8>, JobId>,
    /// The keys of jobs that keys of subjects lead to.
    pub(super) holders: BTreeMap<JobId, Vec<u8>>,
    pub(super) count: BTreeMap<String, Vec<u8>>,
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
    /// The entries of shelves on which subjects were found.
    pub(super) shelved: BTreeSet<(JobId, Entry)>,
    /// By name without the namespace's prefix.
    pub(super) others: BTreeMap<String, Other>,
    /// How many tickets of the lane are behind those that were seen.
    pub(super) behind: u64,
    /// The same of single tickets, if they were not seen together.
    pub(super) behind_of: BTreeMap<JobId, u64>,
    /// Limit keys, and running jobs that hold them and are not among their holders.
    pub(super) unheld: Vec<(String, JobId)>,
    /// Limit keys, holders that do not hold them, and their entries of `run` or nothing.
    pub(super) overheld: Vec<(String, Vec<u8>, Vec<u8>)>,
    /// How many running jobs hold a limit key.
    pub(super) running: BTreeMap<String, u64>,
    /// Live jobs by limit key, as they are counted.
    pub(super) live: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) limits: Limits,
    /// Members that are no ids, by the key that holds them.
    pub(super) strays: Vec<(String, Vec<u8>)>,
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) fn decimal(bytes: &[u8]) -> Option<u64> {
    text(bytes).parse().ok()
}

pub(super) fn strings(value: Value) -> Result<Vec<Vec<u8>>, Error> {
    reply::array(value)?.into_iter().map(reply::bytes).collect()
}

pub(super) fn flat(value: Value) -> Result<Pairs, Error> {
    let mut items = strings(value)?.into_iter();
    Ok(std::iter::from_fn(|| Some((items.next()?, items.next()?))).collect())
}

pub(super) fn numbers(value: Value) -> Result<Vec<(Vec<u8>, u64)>, Error> {
    let number = |(member, number): (Vec<u8>, Vec<u8>)| (member, score(&number));
    Ok(flat(value)?.into_iter().map(number).collect())
}

fn score(bytes: &[u8]) -> u64 {
    decimal(bytes).unwrap_or(u64::MAX)
}

fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn end(bytes: &[u8]) -> End {
    let state = bytes.first().copied().filter(|_| bytes.len() >= END_BYTES);
    End {
        state: state.unwrap_or(u8::MAX),
        finished_ms: bytes.get(2..8).map_or(0, be),
        result_apart: bytes.get(1).is_some_and(|reason| *reason >= RESULT_APART),
    }
}

/// Fields that are ids; the scripts tell others apart.
fn by_id<T>(value: Value, read: impl Fn(Vec<u8>) -> T) -> Result<BTreeMap<JobId, T>, Error> {
    flat(value)?.into_iter().map(|(field, bytes)| Ok((reply::id(&field)?, read(bytes)))).collect()
}

fn ids(value: Value) -> Result<BTreeSet<JobId>, Error> {
    strings(value)?.iter().map(|member| reply::id(member)).collect()
}

impl Dump {
    /// Whether everything about this job is known.
    pub(super) fn is_subject(&self, id: JobId) -> bool {
        self.extent == Extent::Whole || self.subjects.contains(&id)
    }

    /// A number that is another one as soon as anything has happened to the job but cancelling
    /// while it waits in a lane, which leaves a stale ticket behind.
    pub(super) fn condition(&self, id: JobId) -> u64 {
        let mut hasher = DefaultHasher::new();
        id.as_bytes().hash(&mut hasher);
        let head = self.jobs.get(&id).and_then(Option::as_ref);
        head.map(|head| (&head.lane, head.enqueued_ms)).hash(&mut hasher);
        self.raw_att.get(&id).hash(&mut hasher);
        self.run.get(&id).map(|run| &run.raw).hash(&mut hasher);
        self.due.get(&id).hash(&mut hasher);
        self.fin.get(&id).map(|end| (end.state, end.finished_ms)).hash(&mut hasher);
        self.bad.contains(&id).hash(&mut hasher);
        hasher.finish()
    }

    /// How many tickets of a job in a lane are stale, as far as that is known.
    pub(super) fn stale_times(&self, lane: &str, ticket: &[u8]) -> Option<u64> {
        let Some(Other::Hash(fields)) = self.others.get(&format!("gone:{lane}")) else {
            return None;
        };
        fields.iter().find(|(field, _)| field == ticket).and_then(|(_, count)| decimal(count))
    }

    /// As if nothing had been asked about this job.
    pub(super) fn forget(&mut self, id: JobId) {
        self.subjects.remove(&id);
        self.jobs.remove(&id);
        self.att.remove(&id);
        self.fin.remove(&id);
        self.run.remove(&id);
        self.due.remove(&id);
        self.whence.remove(&id);
        for ids in [
            &mut self.cancel,
            &mut self.bad,
            &mut self.bodies,
            &mut self.results,
            &mut self.histories,
            &mut self.logs,
        ] {
            ids.remove(&id);
        }
        self.shelved.retain(|(other, _)| *other != id);
    }

    pub(super) fn of(answer: Value, keys: &Keys) -> Result<Self, Error> {
        let mut items = Items::of(answer)?;
        let mut dump = Self { now_ms: items.count()?, ..Self::default() };
        dump.place = text(&items.bytes()?);
        dump.weight = items.count()?;
        dump.subjects = ids(items.value()?)?;
        dump.jobs = by_id(items.value()?, |bytes| unpack_head(&bytes))?;
        dump.raw_att = by_id(items.value()?, |raw| raw)?;
        let attempts = |raw: &Vec<u8>| unpack_attempts(raw).unwrap_or_default();
        dump.att = dump.raw_att.iter().map(|(id, raw)| (*id, attempts(raw))).collect();
        dump.fin = by_id(items.value()?, |bytes| end(&bytes))?;
        dump.run = by_id(items.value()?, |raw| Run { raw, is_listed: true })?;
        for id in ids(items.value()?)? {
            if let Some(run) = dump.run.get_mut(&id) {
                run.is_listed = false;
            }
        }
        dump.holdings = holdings(items.value()?)?;
        dump.cancel = ids(items.value()?)?;
        dump.due = by_id(items.value()?, |bytes| score(&bytes))?;
        for (key, id) in flat(items.value()?)? {
            match reply::id(&id) {
                Ok(id) => drop(dump.idem.insert(key, id)),
                Err(_) => dump.strays.push(("idem".to_owned(), key)),
            }
        }
        dump.holders = by_id(items.value()?, |key| key)?;
        for (name, number) in flat(items.value()?)? {
            match String::from_utf8(name) {
                Ok(name) => drop(dump.count.insert(name, number)),
                Err(name) => dump.strays.push(("meta".to_owned(), name.into_bytes())),
            }
        }
        for (name, expiry) in numbers(items.value()?)? {
            match String::from_utf8(name) {
                Ok(name) => drop(dump.ages.insert(name, expiry)),
                Err(name) => dump.strays.push(("ages".to_owned(), name.into_bytes())),
            }
        }
        dump.bad = ids(items.value()?)?;
        dump.whence = by_id(items.value()?, |pair| text(&pair))?;
        dump.stale = strings(items.value()?)?.pop().unwrap_or_default();
        dump.bodies = ids(items.value()?)?;
        dump.results = ids(items.value()?)?;
        dump.histories = ids(items.value()?)?;
        dump.logs = ids(items.value()?)?;
        dump.shelved = shelved(items.value()?)?;
        dump.others = others(items.value()?, keys)?;
        let strays = flat(items.value()?)?;
        dump.strays.extend(strays.into_iter().map(|(key, member)| (text(&key), member)));
        for (key, id) in flat(items.value()?)? {
            dump.unheld.push((text(&key), reply::id(&id)?));
        }
        let mut overheld = strings(items.value()?)?.into_iter();
        while let (Some(key), Some(member), Some(run)) =
            (overheld.next(), overheld.next(), overheld.next())
        {
            dump.overheld.push((text(&key), member, run));
        }
        let mut running = Items::of(items.value()?)?;
        while let Ok(key) = running.bytes() {
            dump.running.insert(text(&key), running.count()?);
        }
        dump.live = flat(items.value()?)?.into_iter().collect();
        dump.limits = limits(items.value()?)?;
        Ok(dump)
    }
}

fn limits(value: Value) -> Result<Limits, Error> {
    let items = reply::array(value)?;
    if items.is_empty() {
        return Ok(Limits::default());
    }
    let mut items = Items::of(Value::Array(items))?;
    Ok(Limits {
        settings: flat(items.value()?)?,
        states: flat(items.value()?)?,
        reopen: numbers(items.value()?)?,
        is_noted: !items.bytes()?.is_empty(),
        is_changing: !items.bytes()?.is_empty(),
    })
}

fn holdings(value: Value) -> Result<BTreeMap<Token, Holding>, Error> {
    let mut items = Items::of(value)?;
    let mut found = BTreeMap::new();
    while let Ok(token) = items.bytes() {
        let (raw, has_lease) = (items.bytes()?, !items.bytes()?.is_empty());
        found.insert(token, Holding { raw, has_lease, held: items.count()? });
    }
    Ok(found)
}

fn shelved(value: Value) -> Result<BTreeSet<(JobId, Entry)>, Error> {
    let mut items = Items::of(value)?;
    let mut found = BTreeSet::new();
    while let Ok(id) = items.bytes() {
        let (shelf, expiry) = (text(&items.bytes()?), score(&items.bytes()?));
        found.insert((reply::id(&id)?, Entry { shelf, expiry, bytes: items.bytes()? }));
    }
    Ok(found)
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
            "set" => Other::Set,
            // It went between the listing and the reading, or is not needed.
            "none" => continue,
            _ => Other::Foreign,
        };
        let name = text(&name);
        others.insert(name.strip_prefix(keys.prefix()).unwrap_or(&name).to_owned(), other);
    }
    Ok(others)
}
