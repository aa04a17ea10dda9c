//! T17: jobs that cannot be read.
//!
//! The scripts quarantine what they cannot read themselves; what they can read and this program
//! cannot (a codec of a newer version, damaged options) is set aside by a call of its own.

use queue_core::backend::QuarantinedJob;
use queue_core::{ClaimToken, Error, JobId, JobState, RecoverOutcome};
use redis::Value;

use super::RedisBackend;
use crate::record::{BRIEF_END, BRIEF_END_BYTES, END_BYTES, state_of, unpack_job};
use crate::reply::{self, unexpected};
use crate::scripts;
use crate::store::{self, Call, Repeat};

/// The hashes that hold a job's parts, in the order of the script's answer.
const PARTS: [&str; 7] = ["jobs", "body", "att", "fin", "result", "history", "log"];
/// So many jobs are recovered at once: their bytes travel here and back.
const RECOVERED_MAX: usize = 64;

/// A job that this program cannot read.
#[derive(Debug, Clone)]
pub(super) struct Unreadable {
    pub(super) id: JobId,
    pub(super) reason: String,
    /// What the record begins with; a job whose record is another one by now is left alone.
    pub(super) record: Vec<u8>,
}

/// Quarantines jobs: with a token those that it holds, without one those that do not run.
pub(super) async fn set_aside(
    backend: &RedisBackend,
    token: Option<ClaimToken>,
    jobs: &[Unreadable],
) -> Result<(), Error> {
    let bytes = jobs.iter().map(|job| job.record.len() + 24).sum();
    let mut cmd = scripts::set_aside.call(&backend.keys, 1 + jobs.len() * 2, bytes);
    match token {
        Some(token) => cmd.arg(token.as_bytes().as_slice()),
        None => cmd.arg(""),
    };
    for job in jobs {
        cmd.arg(job.id.as_bytes().as_slice()).arg(&job.record);
    }
    let call = Call::script(&scripts::set_aside, cmd);
    let reply = store::one(&backend.link, call, Repeat::Freely).await?;
    let quarantined = reply::ids(&reply::bytes(reply)?)?;
    for job in jobs.iter().filter(|job| quarantined.contains(&job.id)) {
        say(job.id, &job.reason);
    }
    Ok(())
}

/// Quarantines jobs that a reading call has met. Its own answer does not depend on it.
pub(super) async fn met(backend: &RedisBackend, jobs: &[Unreadable]) {
    if jobs.is_empty() {
        return;
    }
    if let Err(error) = set_aside(backend, None, jobs).await {
        tracing::warn!(
            event = "not_quarantined",
            %error,
            "jobs that cannot be read were not quarantined"
        );
    }
}

fn say(id: JobId, reason: &str) {
    tracing::error!(event = "job_quarantined", job_id = %id, reason, "a job cannot be read");
}

/// Logs jobs that a script has quarantined, each once and with the reason.
pub(super) async fn log(backend: &RedisBackend, ids: &[JobId]) {
    if ids.is_empty() {
        return;
    }
    let found = read(backend, ids).await.unwrap_or_default();
    for (place, id) in ids.iter().enumerate() {
        let job = found.get(place).and_then(Option::as_ref);
        say(*id, job.map_or("its record cannot be read", |job| job.reason.as_str()));
    }
}

/// What the store holds of a job in quarantine.
struct Raw {
    parts: Vec<Option<Vec<u8>>>,
}

impl Raw {
    fn part(&self, place: usize) -> Vec<u8> {
        self.parts.get(place).cloned().flatten().unwrap_or_default()
    }

    /// What is wrong with the job's record, if anything.
    fn fault(&self, id: JobId) -> Option<String> {
        unpack_job(id, self.part(0), self.part(1)).err()
    }

    /// Whether it has a finished record that can be read.
    fn has_end(&self) -> bool {
        let end = self.part(3);
        let state = end.first().copied().and_then(state_of);
        let is_end = |state: JobState| state.is_finished() && state != JobState::Quarantined;
        let is_brief = end.len() == BRIEF_END_BYTES && end[0] == BRIEF_END;
        is_brief || end.len() >= END_BYTES && state.is_some_and(is_end)
    }

    fn reason(&self, id: JobId) -> String {
        match self.fault(id) {
            Some(fault) => fault,
            None if !self.part(3).is_empty() && !self.has_end() => {
                "its finished record cannot be read".to_owned()
            }
            None => "it can be read by this program".to_owned(),
        }
    }
}

/// The answer about one job.
enum Found {
    Unknown,
    Other(JobState),
    Quarantined(Raw),
}

/// What the store holds of the first of these jobs.
async fn find(backend: &RedisBackend, ids: &[JobId]) -> Result<Vec<Found>, Error> {
    let mut cmd = scripts::raw.call(&backend.keys, ids.len(), ids.len() * 24);
    for id in ids {
        cmd.arg(id.as_bytes().as_slice());
    }
    let call = Call::script(&scripts::raw, cmd);
    let replies = reply::array(store::one(&backend.link, call, Repeat::Freely).await?)?;
    if replies.is_empty() {
        return Err(unexpected("no answer"));
    }
    replies.into_iter().map(found).collect()
}

fn found(reply: Value) -> Result<Found, Error> {
    match reply {
        Value::Nil => Ok(Found::Unknown),
        Value::Int(number) => {
            let state = u8::try_from(number).ok().and_then(state_of);
            state.map(Found::Other).ok_or_else(|| unexpected("an unknown state"))
        }
        parts => {
            let part = |part| match part {
                Value::Nil => Ok(None),
                part => reply::bytes(part).map(Some),
            };
            let parts = reply::array(parts)?.into_iter().map(part).collect::<Result<_, _>>()?;
            Ok(Found::Quarantined(Raw { parts }))
        }
    }
}

/// The raw parts of quarantined jobs.
pub(super) async fn read(
    backend: &RedisBackend,
    ids: &[JobId],
) -> Result<Vec<Option<QuarantinedJob>>, Error> {
    let mut jobs = Vec::with_capacity(ids.len());
    while jobs.len() < ids.len() {
        let rest = &ids[jobs.len()..];
        for (id, found) in rest.iter().zip(find(backend, rest).await?) {
            let Found::Quarantined(raw) = found else {
                jobs.push(None);
                continue;
            };
            let reason = raw.reason(*id);
            let named = PARTS.iter().zip(raw.parts);
            let parts = named.filter_map(|(name, part)| Some(((*name).to_owned(), part?)));
            jobs.push(Some(QuarantinedJob::new(*id, reason, parts.collect())));
        }
    }
    Ok(jobs)
}

/// Takes jobs back that this program can read.
pub(super) async fn recover(
    backend: &RedisBackend,
    ids: &[JobId],
) -> Result<Vec<RecoverOutcome>, Error> {
    let mut outcomes = Vec::with_capacity(ids.len());
    while outcomes.len() < ids.len() {
        let rest = &ids[outcomes.len()..];
        let rest = &rest[..rest.len().min(RECOVERED_MAX)];
        let found = find(backend, rest).await?;
        let readable: Vec<(JobId, &Raw)> = (rest.iter().zip(&found))
            .filter_map(|(id, found)| match found {
                Found::Quarantined(raw) if raw.fault(*id).is_none() => Some((*id, raw)),
                _ => None,
            })
            .collect();
        let mut recovered = take_back(backend, &readable).await?.into_iter();
        for (id, found) in rest.iter().zip(&found) {
            outcomes.push(match found {
                Found::Unknown => RecoverOutcome::NotFound,
                Found::Other(state) => RecoverOutcome::Unchanged(*state),
                Found::Quarantined(raw) if raw.fault(*id).is_some() => RecoverOutcome::Unreadable,
                Found::Quarantined(_) => recovered.next().ok_or_else(|| unexpected("too short"))?,
            });
        }
    }
    Ok(outcomes)
}

async fn take_back(
    backend: &RedisBackend,
    jobs: &[(JobId, &Raw)],
) -> Result<Vec<RecoverOutcome>, Error> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let mut cmd = scripts::recover.call(&backend.keys, jobs.len() * 3, jobs.len() * 256);
    for (id, raw) in jobs {
        cmd.arg(id.as_bytes().as_slice()).arg(raw.part(0)).arg(u8::from(raw.has_end()));
    }
    let call = Call::script(&scripts::recover, cmd);
    let letters = reply::bytes(store::one(&backend.link, call, Repeat::Freely).await?)?;
    if letters.len() != jobs.len() * 2 {
        return Err(unexpected("not one answer per job"));
    }
    letters.chunks(2).map(|pair| recovered(pair[0], pair[1])).collect()
}

fn recovered(letter: u8, number: u8) -> Result<RecoverOutcome, Error> {
    let state =
        state_of(number.wrapping_sub(b'0')).ok_or_else(|| unexpected("an unknown state"))?;
    match letter {
        b'r' => Ok(RecoverOutcome::Recovered(state)),
        b'u' => Ok(RecoverOutcome::Unchanged(state)),
        b'x' => Ok(RecoverOutcome::Unreadable),
        b'n' => Ok(RecoverOutcome::NotFound),
        _ => Err(unexpected("an unknown letter")),
    }
}
