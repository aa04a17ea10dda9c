//! Reading jobs and counts.

use std::collections::BTreeMap;

use queue_core::backend::StateCounts;
use queue_core::{
    Error, JobId, JobRecord, JobState, Kind, QueueName, QueueStats, Timestamp, WorkerId,
};
use redis::Value;

use super::quarantine::Unreadable;
use super::{RedisBackend, quarantine};
use crate::record::{
    state_of, unpack_attempts, unpack_end, unpack_history, unpack_job, unpack_log,
};
use crate::reply::{self, Items, unexpected};
use crate::scripts;
use crate::store::{self, Call, Repeat};

/// About how many fields a page of the counters has.
const STATS_PAGE: u32 = 5_000;

pub(super) async fn get(
    backend: &RedisBackend,
    ids: &[JobId],
) -> Result<Vec<Option<JobRecord>>, Error> {
    let mut records = Vec::with_capacity(ids.len());
    // An answer has only as many large jobs as arrive in time.
    while records.len() < ids.len() {
        let rest = &ids[records.len()..];
        let replies = get_some(backend, rest).await?;
        if replies.is_empty() {
            return Err(unexpected("no answer"));
        }
        for (id, reply) in rest.iter().zip(replies) {
            records.push(match reply {
                Value::Nil => None,
                reply => Some(record(*id, reply)?),
            });
        }
    }
    let unreadable: Vec<Unreadable> = (records.iter().flatten())
        .filter_map(|found| found.as_ref().err())
        .filter(|found| found.state != JobState::Quarantined && found.state != JobState::Running)
        .map(|found| found.what.clone())
        .collect();
    quarantine::met(backend, &unreadable).await;
    match (&records[..], ids) {
        // Asked for one job, its damage is the answer; among others it must not hide them.
        ([Some(Err(found))], [id]) => {
            Err(Error::Corrupt(format!("job {id} is quarantined: {}", found.what.reason)))
        }
        _ => Ok(records.into_iter().map(|found| found.and_then(Result::ok)).collect()),
    }
}

/// A job whose record cannot be read.
struct Damaged {
    what: Unreadable,
    state: JobState,
}

/// The answers about the first of these jobs.
async fn get_some(backend: &RedisBackend, ids: &[JobId]) -> Result<Vec<Value>, Error> {
    let mut cmd = scripts::get.call(&backend.keys, ids.len(), ids.len() * 24);
    for id in ids {
        cmd.arg(id.as_bytes().as_slice());
    }
    let call = Call::script(&scripts::get, cmd);
    reply::array(store::one(&backend.link, call, Repeat::Freely).await?)
}

/// Reads the answer about one job; the inner error is about its record.
fn record(id: JobId, reply: Value) -> Result<Result<JobRecord, Damaged>, Error> {
    let mut items = Items::of(reply)?;
    let state = u8::try_from(items.count()?).ok().and_then(state_of);
    let state = state.ok_or_else(|| unexpected("an unknown state"))?;
    let bytes = items.bytes()?;
    let damaged = |reason: String| {
        Ok(Err(Damaged { what: Unreadable { id, reason, record: bytes.clone() }, state }))
    };
    let stored = match unpack_job(id, bytes.clone(), items.bytes()?) {
        Ok(stored) => stored,
        Err(reason) => return damaged(reason),
    };
    if state == JobState::Quarantined {
        return damaged("it can be read by this program: recover it".to_owned());
    }
    let mut record = JobRecord::new(stored.spec, state, stored.enqueued_at);
    record.due_at = stored.due_at;
    if let Some(attempts) = unpack_attempts(&items.bytes()?) {
        record.failures = attempts.failures;
        record.stalls = attempts.stalls;
        record.snoozes = attempts.snoozes;
        record.due_at = attempts.due_at;
        record.last_error = attempts.last_error;
    }
    unpack_end(&mut record, &items.bytes()?, &items.bytes()?);
    record.lease_until = items.number()?.map(Timestamp::from_ms);
    let worker = items.bytes()?;
    record.worker = std::str::from_utf8(&worker).ok().and_then(|text| WorkerId::new(text).ok());
    record.cancel_requested = items.flag()?;
    record.history = unpack_history(&items.bytes()?);
    record.progress = unpack_log(&items.bytes()?).progress;
    Ok(Ok(record))
}

/// What is counted, read in pages: with tens of thousands of kinds the server would stand for all of it at
/// once. One page has the counters of some thousand; of more, each is right for the moment of its page.
pub(super) async fn stats(backend: &RedisBackend) -> Result<Vec<QueueStats>, Error> {
    let mut counts: BTreeMap<(QueueName, Kind), StateCounts> = BTreeMap::new();
    let mut cursor = b"0".to_vec();
    loop {
        let mut cmd = redis::cmd("HSCAN");
        cmd.arg(backend.keys.meta()).arg(&cursor).arg("COUNT").arg(STATS_PAGE);
        let reply = store::one(&backend.link, Call::plain(cmd), Repeat::Freely).await?;
        let mut page = Items::of(reply)?;
        cursor = page.bytes()?;
        let mut fields = reply::array(page.value()?)?.into_iter();
        while let (Some(field), Some(count)) = (fields.next(), fields.next()) {
            let (field, count) = (reply::bytes(field)?, reply::bytes(count)?);
            if let Some((pair, state, count)) = counter(&field, &count) {
                counts.entry(pair).or_default().insert(state, count); // a scan may meet one twice
            }
        }
        if cursor == b"0" {
            break;
        }
    }
    Ok(counts.into_iter().map(|((queue, kind), jobs)| QueueStats::new(queue, kind, jobs)).collect())
}

/// Reads a counter `<queue>/<kind>/<state>`; others count finished records per queue, and what has no
/// such name is no counter.
fn counter(field: &[u8], count: &[u8]) -> Option<((QueueName, Kind), JobState, u64)> {
    let mut parts = std::str::from_utf8(field).ok()?.split('/');
    let queue = QueueName::new(parts.next()?).ok()?;
    let kind = Kind::new(parts.next()?).ok()?;
    let state = JobState::from_name(parts.next()?)?;
    let count = std::str::from_utf8(count).ok()?.parse().ok()?;
    Some(((queue, kind), state, count))
}
