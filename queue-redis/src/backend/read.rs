//! Reading jobs and counts.

use std::collections::BTreeMap;

use queue_core::backend::StateCounts;
use queue_core::{
    Error, JobId, JobRecord, JobState, Kind, QueueName, QueueStats, Timestamp, WorkerId,
};
use redis::Value;

use super::RedisBackend;
use crate::record::{state_of, unpack_attempts, unpack_end, unpack_job};
use crate::reply::{self, Items, unexpected};
use crate::scripts;
use crate::store::{self, Call, Repeat};

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
            records.push(match (reply, ids) {
                (Value::Nil, _) => None,
                // Asked for one job, its damage is the answer; among others it must not hide them.
                (reply, [_]) => Some(record(*id, reply)?),
                (reply, _) => record(*id, reply).ok(),
            });
        }
    }
    Ok(records)
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

fn record(id: JobId, reply: Value) -> Result<JobRecord, Error> {
    let mut items = Items::of(reply)?;
    let state = u8::try_from(items.count()?).ok().and_then(state_of);
    let state = state.ok_or_else(|| unexpected("an unknown state"))?;
    let stored = unpack_job(id, items.bytes()?, items.bytes()?)
        .map_err(|reason| Error::Corrupt(format!("job {id}: {reason}")))?;
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
    Ok(record)
}

pub(super) async fn stats(backend: &RedisBackend) -> Result<Vec<QueueStats>, Error> {
    let mut cmd = redis::cmd("HGETALL");
    cmd.arg(backend.keys.count());
    let reply = store::one(&backend.link, Call::plain(cmd), Repeat::Freely).await?;
    let mut fields = reply::array(reply)?.into_iter();
    let mut counts: BTreeMap<(QueueName, Kind), StateCounts> = BTreeMap::new();
    while let (Some(field), Some(count)) = (fields.next(), fields.next()) {
        let (field, count) = (reply::bytes(field)?, reply::bytes(count)?);
        if let Some((pair, state, count)) = counter(&field, &count) {
            counts.entry(pair).or_default().insert(state, count);
        }
    }
    Ok(counts.into_iter().map(|((queue, kind), jobs)| QueueStats::new(queue, kind, jobs)).collect())
}

/// Reads a counter `<queue>/<kind>/<state>`; others count finished records per queue.
fn counter(field: &[u8], count: &[u8]) -> Option<((QueueName, Kind), JobState, u64)> {
    let mut parts = std::str::from_utf8(field).ok()?.split('/');
    let queue = QueueName::new(parts.next()?).ok()?;
    let kind = Kind::new(parts.next()?).ok()?;
    let state = JobState::from_name(parts.next()?)?;
    let count = std::str::from_utf8(count).ok()?.parse().ok()?;
    Some(((queue, kind), state, count))
}
