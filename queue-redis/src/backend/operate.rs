//! What operators do: T12 to T16 by hand, and pauses.

use std::collections::BTreeSet;

use queue_core::{
    CancelOutcome, DeleteOutcome, Error, JobId, JobState, QueueName, RetryOutcome, RetryRequest,
};

use super::{RedisBackend, quarantine};
use crate::record::{number_of, state_of};
use crate::reply::{self, unexpected};
use crate::scripts;
use crate::store::{self, Call, Repeat};

/// So many jobs are deleted by one script, or retried: freeing what they hold takes time, and so
/// does taking each off a shelf entry of its own.
const UNSHELVED_MAX: usize = 64;

fn state(number: u8) -> Result<JobState, Error> {
    state_of(number.wrapping_sub(b'0')).ok_or_else(|| unexpected("an unknown state"))
}

/// The answers of a script that answers with two characters per job.
async fn letters(backend: &RedisBackend, call: Call, jobs: usize) -> Result<Vec<[u8; 2]>, Error> {
    let letters = reply::bytes(store::one(&backend.link, call, Repeat::Freely).await?)?;
    if letters.len() != jobs * 2 {
        return Err(unexpected("not one answer per job"));
    }
    Ok(letters.chunks(2).map(|pair| [pair[0], pair[1]]).collect())
}

pub(super) async fn cancel(
    backend: &RedisBackend,
    ids: &[JobId],
) -> Result<Vec<CancelOutcome>, Error> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut cmd = scripts::cancel.call(&backend.keys, ids.len(), ids.len() * 24);
    for id in ids {
        cmd.arg(id.as_bytes().as_slice());
    }
    let letters = letters(backend, Call::script(&scripts::cancel, cmd), ids.len()).await?;
    let met = ids.iter().zip(&letters).filter(|(_, letters)| letters[0] == b'q');
    quarantine::log(backend, &met.map(|(id, _)| *id).collect::<Vec<_>>()).await;
    letters.into_iter().map(cancelled).collect()
}

fn cancelled([letter, number]: [u8; 2]) -> Result<CancelOutcome, Error> {
    match letter {
        b'c' => Ok(CancelOutcome::Cancelled),
        b'r' => Ok(CancelOutcome::Requested),
        b'n' => Ok(CancelOutcome::NotFound),
        b'f' | b'q' => state(number).map(CancelOutcome::AlreadyFinished),
        _ => Err(unexpected("an unknown letter")),
    }
}

pub(super) async fn retry(
    backend: &RedisBackend,
    request: &RetryRequest,
) -> Result<Vec<RetryOutcome>, Error> {
    let mut outcomes = Vec::with_capacity(request.jobs.len());
    for jobs in request.jobs.chunks(UNSHELVED_MAX) {
        let mut cmd = scripts::retry.call(&backend.keys, 1 + jobs.len() * 2, jobs.len() * 48);
        cmd.arg(u8::from(request.keep_counts));
        for (id, finished_at) in jobs {
            cmd.arg(id.as_bytes().as_slice()).arg(finished_at.as_ms());
        }
        let call = Call::script(&scripts::retry, cmd);
        for answer in reply::array(store::one(&backend.link, call, Repeat::Freely).await?)? {
            outcomes.push(retried(&reply::bytes(answer)?)?);
        }
    }
    Ok(outcomes)
}

fn retried(answer: &[u8]) -> Result<RetryOutcome, Error> {
    match answer {
        b"r" => Ok(RetryOutcome::Ready),
        b"e" => Ok(RetryOutcome::Expired),
        b"n" => Ok(RetryOutcome::NotFound),
        [b'u', number] => state(*number).map(RetryOutcome::Unchanged),
        [b'k', id @ ..] => reply::id(id).map(|by| RetryOutcome::KeyTaken { by }),
        _ => Err(unexpected("an unknown letter")),
    }
}

pub(super) async fn delete(
    backend: &RedisBackend,
    jobs: &[(JobId, JobState)],
) -> Result<Vec<DeleteOutcome>, Error> {
    let mut outcomes = Vec::with_capacity(jobs.len());
    for jobs in jobs.chunks(UNSHELVED_MAX) {
        let mut cmd = scripts::delete.call(&backend.keys, jobs.len() * 2, jobs.len() * 32);
        for (id, state) in jobs {
            cmd.arg(id.as_bytes().as_slice()).arg(number_of(*state));
        }
        let letters = letters(backend, Call::script(&scripts::delete, cmd), jobs.len()).await?;
        for pair in letters {
            outcomes.push(deleted(pair)?);
        }
    }
    Ok(outcomes)
}

fn deleted([letter, number]: [u8; 2]) -> Result<DeleteOutcome, Error> {
    match letter {
        b'd' => Ok(DeleteOutcome::Deleted),
        b'n' => Ok(DeleteOutcome::NotFound),
        b'u' => state(number).map(DeleteOutcome::Unchanged),
        _ => Err(unexpected("an unknown letter")),
    }
}

pub(super) async fn set_paused(
    backend: &RedisBackend,
    queue: &QueueName,
    paused: bool,
) -> Result<bool, Error> {
    let mut cmd = scripts::pause.call(&backend.keys, 2, 64);
    cmd.arg(queue.as_str()).arg(u8::from(paused));
    let call = Call::script(&scripts::pause, cmd);
    match store::one(&backend.link, call, Repeat::Freely).await? {
        redis::Value::Int(changed) => Ok(changed == 1),
        _ => Err(unexpected("not a number")),
    }
}

pub(super) async fn paused(backend: &RedisBackend) -> Result<Vec<QueueName>, Error> {
    let mut cmd = redis::cmd("HGET");
    cmd.arg(backend.keys.meta()).arg("paused");
    let names = reply::bytes(store::one(&backend.link, Call::plain(cmd), Repeat::Freely).await?)?;
    let names = String::from_utf8_lossy(&names).into_owned();
    let names: BTreeSet<QueueName> =
        names.split(',').filter_map(|name| QueueName::new(name).ok()).collect();
    Ok(names.into_iter().collect())
}
