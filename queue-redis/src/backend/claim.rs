//! T4: the request and its answer.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use queue_core::{Claim, ClaimRequest, Error, JobId, Kind, Lease, QueueName, Timestamp};
use redis::Value;

use super::quarantine::Unreadable;
use super::{RedisBackend, quarantine};
use crate::record::{Attempts, joined, millis, unpack_attempts, unpack_next_job};
use crate::reply::{self, Items};
use crate::scripts;
use crate::store::{self, Call, Repeat};

pub(super) async fn run(backend: &RedisBackend, request: &ClaimRequest) -> Result<Claim, Error> {
    let reply = store::one(&backend.link, call(backend, request), Repeat::Freely).await?;
    answer(backend, request, reply).await
}

pub(super) fn call(backend: &RedisBackend, request: &ClaimRequest) -> Call {
    let arguments = 5 + request.queues.len() + 3 * request.kinds.len();
    let mut cmd = scripts::claim.call(&backend.keys, arguments, arguments * 32);
    cmd.arg(request.token.as_bytes().as_slice()).arg(request.worker.as_str());
    cmd.arg(request.max).arg(millis(request.lease)).arg(request.queues.len());
    for queue in &request.queues {
        cmd.arg(queue.as_str());
    }
    for kind in &request.kinds {
        cmd.arg(kind.kind.as_str()).arg(kind.slots).arg(joined(&kind.limits));
    }
    Call::script(&scripts::claim, cmd)
}

/// Reads the answer, and quarantines jobs that this program cannot decode: they would stay leased
/// and stall.
pub(super) async fn answer(
    backend: &RedisBackend,
    request: &ClaimRequest,
    reply: Value,
) -> Result<Claim, Error> {
    let Answer { claim, epoch, quarantined, undecodable, shut } = read(request, reply)?;
    backend.waiters.note_shut(request, shut);
    backend.note_epoch(&epoch).await;
    quarantine::log(backend, &quarantined).await;
    if !undecodable.is_empty() {
        // The others are leased and must reach their worker; these wait for their lease to end.
        if let Err(error) = quarantine::set_aside(backend, Some(request.token), &undecodable).await
        {
            tracing::warn!(%error, "jobs that cannot be decoded were not quarantined");
        }
    }
    Ok(claim)
}

struct Answer {
    claim: Claim,
    epoch: Vec<u8>,
    /// Those that the script could not read.
    quarantined: Vec<JobId>,
    /// Those that this program cannot read.
    undecodable: Vec<Unreadable>,
    /// By `<queue>/<kind>` the key that the worker adds and that keeps its jobs from running.
    shut: Vec<(String, String)>,
}

fn read(request: &ClaimRequest, reply: Value) -> Result<Answer, Error> {
    let mut items = Items::of(reply)?;
    let _now = items.count()?;
    let claimed_at = Timestamp::from_ms(items.count()?);
    let first_fence = items.count()?;
    let mut claim = Claim::default();
    claim.more = items.flag()?;
    claim.next_due = items.number()?.map(Duration::from_millis);
    claim.maintain = items.flag()?;
    let epoch = items.bytes()?;
    let quarantined = items.ids()?;
    let offsets = offsets(&items.bytes()?)?;
    let ids = items.ids()?;
    let atts = reply::list(items.value()?)?;
    let mut atts = atts.into_iter().map(reply::bytes);
    let mut bodies = bodies(items.value()?)?;
    let mut shut = reply::list(items.value()?)?.into_iter().map(reply::string);
    let shut = std::iter::from_fn(|| Some((shut.next()?, shut.next()?)));
    let shut = shut.map(|(pair, key)| Ok((pair?, key?))).collect::<Result<_, Error>>()?;
    claim.expired = expired(reply::list(items.value()?)?)?;
    let mut undecodable = Vec::new();
    claim.leases.reserve(ids.len());
    for (place, (id, record)) in (0..).zip(ids.into_iter().zip(items.rest())) {
        let att = atts.next().transpose()?.unwrap_or_default();
        let body = bodies.remove(&(place + 1)).unwrap_or_default();
        let last = claim.leases.last().map(|lease: &Lease| &lease.spec);
        match unpack_next_job(last, id, reply::bytes(record)?, body) {
            Ok(stored) => {
                let fence = first_fence + offsets.get(place).map_or(place as u64, |at| *at);
                let mut lease = Lease::new(stored.spec, request.token, fence, claimed_at);
                lease.enqueued_at = stored.enqueued_at;
                lease.due_at = stored.due_at;
                if let Some(Attempts { failures, stalls, due_at, .. }) = unpack_attempts(&att) {
                    (lease.failures, lease.stalls, lease.due_at) = (failures, stalls, due_at);
                }
                claim.leases.push(lease);
            }
            Err(reason) => undecodable.push(Unreadable { id, reason, record: Vec::new() }),
        }
    }
    Ok(Answer { claim, epoch, quarantined, undecodable, shut })
}

/// Queue and kind, as in "default/mail", and how many, …
fn expired(items: Vec<Value>) -> Result<BTreeMap<(QueueName, Kind), u64>, Error> {
    let (mut items, mut expired) = (items.into_iter(), BTreeMap::new());
    while let (Some(pair), Some(Value::Int(jobs))) = (items.next(), items.next()) {
        let pair = reply::string(pair)?;
        let (queue, kind) = pair.split_once('/').unwrap_or_default();
        if let (Ok(queue), Ok(kind), Ok(jobs)) =
            (QueueName::new(queue), Kind::new(kind), u64::try_from(jobs))
        {
            expired.insert((queue, kind), jobs);
        }
    }
    Ok(expired)
}

/// The bodies that are apart, by the number of their job from 1.
fn bodies(value: Value) -> Result<HashMap<usize, Vec<u8>>, Error> {
    let mut items = reply::list(value)?.into_iter();
    let mut bodies = HashMap::new();
    while let (Some(number), Some(body)) = (items.next(), items.next()) {
        let Value::Int(number) = number else { return Err(reply::unexpected("not a number")) };
        bodies.insert(usize::try_from(number).unwrap_or(0), reply::bytes(body)?);
    }
    Ok(bodies)
}

/// The places of a repeated claim's jobs in it, as decimal numbers with commas.
fn offsets(bytes: &[u8]) -> Result<Vec<u64>, Error> {
    let text = String::from_utf8_lossy(bytes);
    let numbers = text.split(',').filter(|number| !number.is_empty());
    numbers.map(|number| number.parse().map_err(|_| reply::unexpected("not an offset"))).collect()
}
