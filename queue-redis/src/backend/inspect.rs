//! Why jobs wait: who could run them, and what is before them.

use std::time::Duration;

use queue_core::backend::{PASS_MAX, PLACE_MAX, WORKERS_MAX};
use queue_core::{
    Error, JobId, Kind, LaneSummary, Lanes, LimitKeys, LiveWorker, Place, Placement, Priority,
    QueueName, StartRate, WorkerInfo,
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
    let mut cmd = scripts::place.call(&backend.keys, 3, 64);
    cmd.arg(id.as_bytes().as_slice()).arg(PLACE_MAX).arg(PASS_MAX);
    let call = Call::script(&scripts::place, cmd);
    let items = reply::array(store::one(&backend.link, call, Repeat::Freely).await?)?;
    let is_ready = items.len() > 1;
    let mut items = Items::of(Value::Array(items))?;
    let now = items.timestamp()?;
    if !is_ready {
        return Ok(Placement::new(now, None));
    }
    let (jobs_ahead, lanes_ahead, lanes) = (items.count()?, items.count()?, items.count()?);
    let more = items.flag()?;
    let (current, previous) = (items.count()?, items.count()?);
    let starts = StartRate { span: StartRate::span_at(now), current, previous };
    Ok(Placement::new(now, Some(Place::new(jobs_ahead, lanes_ahead, lanes, more, starts))))
}

pub(super) async fn lanes(backend: &RedisBackend, queue: &QueueName) -> Result<Lanes, Error> {
    let mut cmd = scripts::queue_lanes.call(&backend.keys, 2, 64);
    cmd.arg(queue.as_str()).arg(PASS_MAX);
    let call = Call::script(&scripts::queue_lanes, cmd);
    let mut items = Items::of(store::one(&backend.link, call, Repeat::Freely).await?)?;
    let more = items.flag()?;
    let mut lanes = Vec::new();
    let mut rest = items.rest();
    while let (Some(kind), Some(index), Some(Value::Int(jobs)), Some(Value::Int(waiting_ms))) =
        (rest.next(), rest.next(), rest.next(), rest.next())
    {
        let (kind, index) = (reply::bytes(kind)?, reply::bytes(index)?);
        let count = |number| u64::try_from(number).unwrap_or(0);
        let waiting = Duration::from_millis(count(waiting_ms));
        lanes.extend(summary(&kind, &index, count(jobs), waiting));
    }
    Ok(Lanes::new(lanes, more))
}

/// `None` for what damage has put into an index.
fn summary(kind: &[u8], index: &[u8], jobs: u64, waiting: Duration) -> Option<LaneSummary> {
    let kind = Kind::new(std::str::from_utf8(kind).ok()?).ok()?;
    let index = std::str::from_utf8(index).ok()?;
    let (priority, limits) = match index.split_once('/') {
        Some((priority, keys)) => (priority, split(keys)?),
        None => (index, LimitKeys::NONE),
    };
    let priority = Priority::new(priority.parse().ok()?)?;
    Some(LaneSummary { kind, priority, limits, jobs, waiting })
}
