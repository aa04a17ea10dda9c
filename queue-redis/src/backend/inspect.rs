//! Why jobs wait: who could run them, and what is before them.

use std::time::Duration;

use queue_core::backend::{PASS_MAX, PLACE_MAX, WORKERS_MAX};
use queue_core::{
    Error, JobId, Kind, LaneSummary, Lanes, LimitKeys, LiveWorker, Place, Placement, Priority,
    QueueName, SpanStarts, StartRate, Timestamp, WorkerInfo,
};
use redis::Value;

use super::RedisBackend;
use crate::record::{millis, split};
use crate::reply::{self, Items};
use crate::scripts;
use crate::store::{self, Call, Repeat};

pub(super) async fn announce(
    backend: &RedisBackend,
    worker: &WorkerInfo,
    believed_for: Duration,
) -> Result<(), Error> {
    let mut cmd = scripts::announce.call(&backend.keys, 4, 512);
    cmd.arg(format!("{}/{:016x}", worker.id, worker.instance)).arg(worker.encode());
    cmd.arg(millis(believed_for)).arg(WORKERS_MAX);
    store::one(&backend.link, Call::script(&scripts::announce, cmd), Repeat::Freely).await?;
    Ok(())
}

pub(super) async fn workers(backend: &RedisBackend) -> Result<Vec<LiveWorker>, Error> {
    let mut cmd = scripts::workers.call(&backend.keys, 1, 16);
    cmd.arg(WORKERS_MAX);
    let call = Call::script(&scripts::workers, cmd);
    let mut items =
        reply::array(store::one(&backend.link, call, Repeat::Freely).await?)?.into_iter();
    let mut workers = Vec::new();
    while let (Some(words), Some(Value::Int(left_ms))) = (items.next(), items.next()) {
        // What a later program says may be unknown to this one.
        let Some(info) = WorkerInfo::decode(&reply::bytes(words)?) else { continue };
        let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0));
        workers.push(LiveWorker::new(info, left));
    }
    Ok(workers)
}

pub(super) async fn place(backend: &RedisBackend, id: JobId) -> Result<Placement, Error> {
    let mut cmd = scripts::place.call(&backend.keys, 2, 64);
    cmd.arg(id.as_bytes().as_slice()).arg(PLACE_MAX);
    let call = Call::script(&scripts::place, cmd);
    let items = reply::array(store::one(&backend.link, call, Repeat::Freely).await?)?;
    let is_ready = items.len() > 1;
    let mut items = Items::of(Value::Array(items))?;
    let now = items.timestamp()?;
    if !is_ready {
        return Ok(Placement::new(now, None));
    }
    let place = Place::new(items.count()?, items.flag()?, items.count()?);
    Ok(Placement::new(now, Some(place)))
}

/// How often jobs of a queue start, from what `lua/lib/starts.lua` says.
pub(super) fn start_rate(text: &str, now: Timestamp) -> Option<StartRate> {
    let mut numbers = text.split(' ').map(|number| number.parse().ok());
    let mut starts = || {
        let mut next = || numbers.next()?;
        Some(SpanStarts { count: next()?, first_ms: next()?, at_once: next()? })
    };
    Some(StartRate { span: StartRate::span_at(now), current: starts()?, previous: starts()? })
}

pub(super) async fn lanes(backend: &RedisBackend, queue: &QueueName) -> Result<Lanes, Error> {
    let mut cmd = scripts::queue_lanes.call(&backend.keys, 2, 64);
    cmd.arg(queue.as_str()).arg(PASS_MAX);
    let call = Call::script(&scripts::queue_lanes, cmd);
    let mut items = Items::of(store::one(&backend.link, call, Repeat::Freely).await?)?;
    let now = items.timestamp()?;
    let more = items.flag()?;
    let starts = reply::string(items.value()?)?;
    let starts = start_rate(&starts, now).ok_or_else(|| reply::unexpected("no counts"))?;
    let mut lanes = Vec::new();
    let mut rest = items.rest();
    while let (Some(kind), Some(index)) = (rest.next(), rest.next()) {
        let numbers = [rest.next(), rest.next(), rest.next()];
        let [jobs, turn, waiting_ms] = numbers.map(|number| match number {
            Some(Value::Int(number)) => u64::try_from(number).unwrap_or(0),
            _ => 0,
        });
        let (kind, index) = (reply::bytes(kind)?, reply::bytes(index)?);
        let Some((kind, priority, limits)) = lane(&kind, &index) else { continue };
        let waiting = Duration::from_millis(waiting_ms);
        lanes.push(LaneSummary { kind, priority, limits, jobs, waiting, turn });
    }
    Ok(Lanes::new(lanes, more, starts))
}

/// `None` for what damage has put into an index.
fn lane(kind: &[u8], index: &[u8]) -> Option<(Kind, Priority, LimitKeys)> {
    let kind = Kind::new(std::str::from_utf8(kind).ok()?).ok()?;
    let index = std::str::from_utf8(index).ok()?;
    let (priority, limits) = match index.split_once('/') {
        Some((priority, keys)) => (priority, split(keys)?),
        None => (index, LimitKeys::NONE),
    };
    Some((kind, Priority::new(priority.parse().ok()?)?, limits))
}
