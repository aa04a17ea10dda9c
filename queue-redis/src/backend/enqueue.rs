//! T1 and T2.

use std::collections::HashMap;

use queue_core::{
    ConflictReason, Due, EnqueueOutcome, Enqueued, Error, JobId, JobState, NewJob, OnConflict,
};
use redis::{Cmd, Value};

use super::RedisBackend;
use crate::record::{millis, pack_job, state_of};
use crate::reply::{Items, bytes, id, unexpected};
use crate::scripts;
use crate::store::{self, Call, Repeat};

/// What the jobs of one group share, so that the script reads it once.
#[derive(PartialEq, Eq, Hash)]
struct Group<'a> {
    queue: &'a str,
    kind: &'a str,
    priority: u8,
    when: &'static str,
    ms: u64,
    flags: &'static str,
}

impl<'a> Group<'a> {
    fn of(job: &'a NewJob) -> Self {
        let (when, ms) = match job.due {
            Due::Now => ("n", 0),
            Due::After(delay) => ("d", millis(delay)),
            Due::At(time) => ("a", time.as_ms().min(queue_core::Timestamp::MAX.as_ms())),
        };
        let reject = job.on_conflict == OnConflict::Reject;
        let flags = match (reject, job.spec.idempotency_key.is_some()) {
            (false, false) => "e",
            (false, true) => "ek",
            (true, false) => "r",
            (true, true) => "rk",
        };
        let priority = job.spec.priority.level();
        let (queue, kind) = (job.spec.queue.as_str(), job.spec.kind.as_str());
        Self { queue, kind, priority, when, ms, flags }
    }

    fn write(&self, cmd: &mut Cmd) {
        cmd.arg(self.queue).arg(self.kind).arg(self.priority);
        cmd.arg(self.when).arg(self.ms).arg(self.flags);
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
    let call = Call::script(&scripts::enqueue, command(backend, jobs));
    let reply = store::one(&backend.link, call, repeat).await?;
    read(reply, jobs)
}

fn command(backend: &RedisBackend, jobs: &[NewJob]) -> Cmd {
    let records: Vec<Vec<u8>> = jobs.iter().map(|job| pack_job(&job.spec)).collect();
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut numbers: HashMap<Group<'_>, usize> = HashMap::new();
    let mut of_jobs = Vec::with_capacity(jobs.len());
    for job in jobs {
        let number = *numbers.entry(Group::of(job)).or_insert_with(|| {
            groups.push(Group::of(job));
            groups.len()
        });
        of_jobs.push(number);
    }
    let argument_bytes = records.iter().map(|record| record.len() + 64).sum();
    let arguments = 1 + groups.len() * 6 + jobs.len() * 4;
    let mut cmd = scripts::enqueue.call(&backend.keys, arguments, argument_bytes);
    cmd.arg(groups.len());
    for group in &groups {
        group.write(&mut cmd);
    }
    for ((job, record), group) in jobs.iter().zip(&records).zip(of_jobs) {
        cmd.arg(group).arg(job.spec.id.as_bytes().as_slice()).arg(record);
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
