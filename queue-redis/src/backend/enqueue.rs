//! T1 and T2.

use std::collections::HashMap;

use queue_core::{
    ConflictReason, Due, EnqueueOutcome, Enqueued, Error, JobId, JobState, NewJob, OnConflict,
};
use redis::{Cmd, Value};

use super::RedisBackend;
use crate::record::{PackedJob, millis, pack_job, state_of};
use crate::reply::{Items, bytes, id, unexpected};
use crate::scripts;
use crate::store::{self, Call, Repeat};

/// The most bytes of jobs that one script takes in, unless a single job has more: so many that
/// they reach the server, and are answered, well within the time that an answer may take.
const CALL_MAX_BYTES: usize = 16 * 1024 * 1024;
/// What a job adds to a call besides its record and body: number of its group, id, key.
const OVERHEAD_BYTES: usize = 64;

/// What the jobs of one group share, so that the script reads it once.
#[derive(PartialEq, Eq, Hash)]
struct Group<'a> {
    queue: &'a str,
    kind: &'a str,
    priority: u8,
    when: &'static str,
    ms: u64,
    reject: bool,
    keyed: bool,
    /// Whether the bodies are apart.
    apart: bool,
}

impl<'a> Group<'a> {
    fn of(job: &'a NewJob, packed: &PackedJob) -> Self {
        let (when, ms) = match job.due {
            Due::Now => ("n", 0),
            Due::After(delay) => ("d", millis(delay)),
            Due::At(time) => ("a", time.as_ms().min(queue_core::Timestamp::MAX.as_ms())),
        };
        Self {
            queue: job.spec.queue.as_str(),
            kind: job.spec.kind.as_str(),
            priority: job.spec.priority.level(),
            when,
            ms,
            reject: job.on_conflict == OnConflict::Reject,
            keyed: job.spec.idempotency_key.is_some(),
            apart: packed.body.is_some(),
        }
    }

    fn write(&self, cmd: &mut Cmd) {
        cmd.arg(self.queue).arg(self.kind).arg(self.priority);
        let conflict = if self.reject { "r" } else { "e" };
        let key = if self.keyed { "k" } else { "" };
        let body = if self.apart { "b" } else { "" };
        cmd.arg(self.when).arg(self.ms).arg(format!("{conflict}{key}{body}"));
    }
}

pub(super) async fn run(
    backend: &RedisBackend,
    jobs: &[NewJob],
) -> Result<Vec<EnqueueOutcome>, Error> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    // A lost reply is followed by the same call. A job that may be refused because it exists
    // would then be refused because of itself: only the caller can judge that.
    let may_reject = jobs.iter().any(|job| job.on_conflict == OnConflict::Reject);
    let repeat = if may_reject { Repeat::Never } else { Repeat::Freely };
    let mut outcomes = Vec::with_capacity(jobs.len());
    while outcomes.len() < jobs.len() {
        let rest = &jobs[outcomes.len()..];
        let packed = pack_some(rest);
        let part = &rest[..packed.len()];
        let call = Call::script(&scripts::enqueue, command(backend, part, &packed));
        drop(packed);
        let reply = store::one(&backend.link, call, repeat).await;
        outcomes.extend(read(reply.map_err(|error| of_part(error, outcomes.len()))?, part)?);
    }
    Ok(outcomes)
}

/// The first of these jobs, as many as one call takes in.
fn pack_some(jobs: &[NewJob]) -> Vec<PackedJob> {
    let mut bytes = 0;
    let mut packed = Vec::with_capacity(jobs.len());
    for job in jobs {
        let next = pack_job(&job.spec);
        bytes += next.bytes() + OVERHEAD_BYTES;
        if bytes > CALL_MAX_BYTES && !packed.is_empty() {
            break;
        }
        packed.push(next);
    }
    packed
}

/// "The store is full" means that none of the jobs was taken in. After a part of them was, all
/// that can be said is that the call should be made again.
fn of_part(error: Error, taken: usize) -> Error {
    match error {
        Error::StoreFull(why) if taken > 0 => {
            Error::Unavailable(format!("full after {taken} jobs of the batch: {why}"))
        }
        other => other,
    }
}

fn command(backend: &RedisBackend, jobs: &[NewJob], packed: &[PackedJob]) -> Cmd {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut numbers: HashMap<Group<'_>, usize> = HashMap::new();
    let mut of_jobs = Vec::with_capacity(jobs.len());
    for (job, packed) in jobs.iter().zip(packed) {
        let number = *numbers.entry(Group::of(job, packed)).or_insert_with(|| {
            groups.push(Group::of(job, packed));
            groups.len()
        });
        of_jobs.push(number);
    }
    let argument_bytes = packed.iter().map(|job| job.bytes() + OVERHEAD_BYTES).sum();
    let arguments = 1 + groups.len() * 6 + jobs.len() * 5;
    let mut cmd = scripts::enqueue.call(&backend.keys, arguments, argument_bytes);
    cmd.arg(groups.len());
    for group in &groups {
        group.write(&mut cmd);
    }
    for ((job, packed), group) in jobs.iter().zip(packed).zip(of_jobs) {
        cmd.arg(group).arg(job.spec.id.as_bytes().as_slice()).arg(&packed.record);
        if let Some(body) = &packed.body {
            cmd.arg(body);
        }
        if let Some(key) = &job.spec.idempotency_key {
            cmd.arg(key.as_str());
        }
    }
    cmd
}

fn read(reply: Value, jobs: &[NewJob]) -> Result<Vec<EnqueueOutcome>, Error> {
    let mut items = Items::of(reply)?;
    let letters = items.bytes()?;
    if letters.len() != jobs.len() {
        return Err(unexpected("not one answer per job"));
    }
    let mut outcomes = Vec::with_capacity(jobs.len());
    for (job, letter) in jobs.iter().zip(letters) {
        let created = |state| EnqueueOutcome::Done(Enqueued::created(job.spec.id, state));
        outcomes.push(match letter {
            b'S' => created(JobState::Scheduled),
            b'R' => created(JobState::Ready),
            b'D' => duplicate(&bytes(items.value()?)?)?,
            letter => {
                EnqueueOutcome::Conflict { existing: next_id(&mut items)?, reason: reason(letter)? }
            }
        });
    }
    Ok(outcomes)
}

fn next_id(items: &mut Items) -> Result<JobId, Error> {
    id(&items.bytes()?)
}

fn duplicate(bytes: &[u8]) -> Result<EnqueueOutcome, Error> {
    let (state, existing) = bytes.split_last().ok_or_else(|| unexpected("an empty duplicate"))?;
    let state = state_of(*state).ok_or_else(|| unexpected("an unknown state"))?;
    Ok(EnqueueOutcome::Done(Enqueued::duplicate(id(existing)?, state)))
}

fn reason(letter: u8) -> Result<ConflictReason, Error> {
    match letter {
        b'I' => Ok(ConflictReason::Id),
        b'K' => Ok(ConflictReason::IdempotencyKey),
        b'X' => Ok(ConflictReason::Rejected),
        _ => Err(unexpected("an unknown letter")),
    }
}
