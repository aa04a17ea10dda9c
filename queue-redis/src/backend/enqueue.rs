//! T1 and T2.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Instant;

use queue_core::{
    ConflictReason, Due, Durability, EnqueueOutcome, Enqueued, Error, JobId, JobState, LimitKey,
    LimitKeys, NewJob, OnConflict, Timestamp,
};
use redis::{Cmd, Value};

use super::RedisBackend;
use super::inspect::start_rate;
use crate::record::{PackedJob, joined, millis, pack_job, state_of};
use crate::reply::{Items, bytes, id, unexpected};
use crate::scripts::{self, Source};
use crate::store::{self, Call, Repeat};

/// The most bytes of jobs that one script takes in, unless a single job has more: so many that
/// they reach the server, and are answered, well within the time that an answer may take.
const CALL_MAX_BYTES: usize = 16 * 1024 * 1024;
/// The most jobs that one script takes in.
const CALL_MAX_JOBS: usize = 10_000;
/// Calls with fewer bytes are mostly so quick that their answers tell the server's time. Besides, a server
/// reads 16 KiB at a time, and answers only after it has made all that these have.
pub(super) const SLOW_MIN_BYTES: usize = 32 * 1024;
/// What a job adds to a call besides its record and body: id, key, and its share of the runs.
const OVERHEAD_BYTES: usize = 64;

/// What the jobs of one group share, so that the script reads it once.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Group<'a> {
    queue: &'a str,
    kind: &'a str,
    priority: u8,
    when: &'static str,
    ms: u64,
    on_conflict: &'static str,
    keyed: bool,
    /// Whether the bodies are apart.
    apart: bool,
    limits: &'a LimitKeys,
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
            on_conflict: match job.on_conflict {
                OnConflict::Reject => "r",
                OnConflict::Replace => "p",
                _ => "e",
            },
            keyed: job.spec.idempotency_key.is_some(),
            apart: packed.body.is_some(),
            limits: &job.spec.limits,
        }
    }

    /// Whether the two differ in nothing but their limit keys.
    fn is_like(&self, other: &Self) -> bool {
        !self.limits.is_empty() && !other.limits.is_empty() && {
            let like = Self { limits: other.limits, ..*self };
            like == *other
        }
    }

    /// What it shares with groups that differ from it in nothing but their limit keys, and how many
    /// of these there are.
    fn write_family(&self, lanes: usize, cmd: &mut Cmd) {
        cmd.arg(self.queue).arg(self.kind).arg(self.priority);
        let conflict = self.on_conflict;
        let key = if self.keyed { "k" } else { "" };
        let body = if self.apart { "b" } else { "" };
        let limited = if self.limits.is_empty() { "" } else { "l" };
        cmd.arg(self.when).arg(self.ms).arg([conflict, key, body, limited].concat()).arg(lanes);
    }

    /// The key of its lane, if it has limit keys.
    fn write_lane(&self, prefix: &str, cmd: &mut Cmd) {
        if !self.limits.is_empty() {
            let Self { queue, kind, priority, .. } = self;
            let limits = joined(self.limits);
            cmd.arg(format!("{prefix}lane:{queue}/{kind}/{priority}/{limits}"));
        }
    }
}

pub(super) async fn run(
    backend: &RedisBackend,
    jobs: &[NewJob],
    durability: Durability,
) -> Result<Vec<EnqueueOutcome>, Error> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    // A lost reply is followed by the same call. A job that may be refused because it exists
    // would then be refused because of itself: only the caller can judge that.
    let may_reject = jobs.iter().any(|job| job.on_conflict == OnConflict::Reject);
    let repeat = if may_reject { Repeat::Never } else { Repeat::Freely };
    let is_confirmed = !matches!(durability, Durability::Memory | Durability::Replicas(0));
    let mut outcomes = Vec::with_capacity(jobs.len());
    while outcomes.len() < jobs.len() {
        let rest = &jobs[outcomes.len()..];
        // What has to be confirmed waits for others, on the way and for its answer.
        let called = Instant::now();
        let sent_ms = if is_confirmed { 0 } else { backend.clock.now_ms() };
        let packed = pack_some(rest, sent_ms);
        let part = &rest[..packed.len()];
        let may_replace = part.iter().any(|job| job.on_conflict == OnConflict::Replace);
        let script = if may_replace { &scripts::replace } else { &scripts::enqueue };
        let call = Call::script(script, command(backend, script, part, &packed, sent_ms));
        drop(packed);
        let answer = if is_confirmed {
            backend.groups.make(call, repeat, durability).await
        } else {
            one(backend, call, repeat).await.map(|reply| (vec![reply], durability))
        };
        let (replies, reached) = answer.map_err(|error| of_part(error, outcomes.len()))?;
        let (answers, now_ms) = read_all(replies, part)?;
        if let Some(now_ms) = now_ms
            && !is_confirmed
        {
            backend.clock.note(now_ms, sent_ms, called);
        }
        outcomes.extend(answers.into_iter().map(|outcome| match outcome {
            EnqueueOutcome::Done(done) => EnqueueOutcome::Done(done.with_durability(reached)),
            refused => refused,
        }));
    }
    Ok(outcomes)
}

/// Makes a call. One that is likely to be slow has the server's time asked for, if that is not known.
async fn one(backend: &RedisBackend, call: Call, repeat: Repeat) -> Result<Value, Error> {
    let is_slow = call.bytes() >= SLOW_MIN_BYTES;
    let made = store::one(&backend.link, call, repeat);
    if !is_slow {
        return made.await;
    }
    let mut made = pin!(made);
    tokio::select! {
        biased;
        () = backend.clock.ask(&backend.link) => made.await,
        answer = &mut made => answer,
    }
}

/// The first of these jobs, as many as one call takes in.
pub(super) fn pack_some(jobs: &[NewJob], now_ms: u64) -> Vec<PackedJob> {
    let mut bytes = 0;
    let mut packed = Vec::with_capacity(jobs.len());
    for job in jobs {
        let next = pack_job(&job.spec, job.due == Due::Now, now_ms);
        bytes += next.bytes() + OVERHEAD_BYTES;
        if (bytes > CALL_MAX_BYTES || packed.len() == CALL_MAX_JOBS) && !packed.is_empty() {
            break;
        }
        packed.push(next);
    }
    packed
}

/// "The store is full" and "unsupported" mean that none of the jobs was taken in. After a part of
/// them was, all that can be said is that the call should be made again.
fn of_part(error: Error, taken: usize) -> Error {
    match error {
        Error::StoreFull(why) if taken > 0 => {
            Error::Unavailable(format!("full after {taken} jobs of the batch: {why}"))
        }
        Error::Unsupported(why) if taken > 0 => Error::Unavailable(why),
        other => other,
    }
}

pub(super) fn command(
    backend: &RedisBackend,
    script: &Source,
    jobs: &[NewJob],
    packed: &[PackedJob],
    sent_ms: u64,
) -> Cmd {
    let (groups, runs) = grouped(jobs, packed);
    let families: Vec<_> = groups.chunk_by(|before, group| group.is_like(before)).collect();
    let (limit_keys, carriers) = limit_keys(&groups, &runs);
    let argument_bytes = packed.iter().map(|job| job.bytes() + OVERHEAD_BYTES).sum();
    let arguments = 4 + families.len() * 7 + groups.len() + limit_keys.len() + jobs.len() * 4;
    let mut cmd = script.call(&backend.keys, arguments, argument_bytes);
    let are_lone = groups.len() == jobs.len() && groups.len() > 1;
    let runs = if are_lone { &[] } else { runs.as_slice() };
    let runs: Vec<u8> = runs.iter().flatten().flat_map(|number| number.to_be_bytes()).collect();
    cmd.arg(families.len()).arg(runs);
    cmd.arg(carriers.iter().flat_map(|jobs| jobs.to_be_bytes()).collect::<Vec<u8>>());
    for family in families {
        family[0].write_family(family.len(), &mut cmd);
        family.iter().for_each(|group| group.write_lane(backend.keys.prefix(), &mut cmd));
    }
    for key in limit_keys {
        cmd.arg(key.as_str());
    }
    for job in jobs {
        cmd.arg(job.spec.id.as_bytes().as_slice());
    }
    for (job, packed) in jobs.iter().zip(packed) {
        cmd.arg(&packed.record);
        if let Some(body) = &packed.body {
            cmd.arg(body);
        }
        if let Some(key) = &job.spec.idempotency_key {
            cmd.arg(key.as_str());
        }
    }
    cmd.arg(sent_ms);
    cmd
}

/// The groups, and those of jobs that follow each other, from 1, and how many do.
fn grouped<'a>(jobs: &'a [NewJob], packed: &[PackedJob]) -> (Vec<Group<'a>>, Vec<[u16; 2]>) {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut numbers: HashMap<Group<'_>, u16> = HashMap::new();
    let mut runs: Vec<[u16; 2]> = Vec::new();
    for (job, packed) in jobs.iter().zip(packed) {
        let group = Group::of(job, packed);
        match runs.last_mut() {
            // Neighbours are mostly alike, and it takes longer to look one up than to compare two.
            Some([number, length]) if groups[usize::from(*number) - 1] == group => {
                *length += 1;
                continue;
            }
            // Most calls have one group, which is noted once there is another.
            Some(_) if numbers.is_empty() => drop(numbers.insert(groups[0], 1)),
            _ => {}
        }
        let next = groups.len() as u16 + 1;
        let number = if groups.is_empty() { next } else { *numbers.entry(group).or_insert(next) };
        if number == next {
            groups.push(group);
        }
        runs.push([number, 1]);
    }
    (groups, runs)
}

/// Each limit key that jobs have, and how many have it.
fn limit_keys<'a>(groups: &[Group<'a>], runs: &[[u16; 2]]) -> (Vec<&'a LimitKey>, Vec<u16>) {
    if groups.iter().all(|group| group.limits.is_empty()) {
        return (Vec::new(), Vec::new());
    }
    let mut jobs_of = vec![0; groups.len()];
    for &[group, length] in runs {
        jobs_of[usize::from(group) - 1] += length;
    }
    let (mut keys, mut carriers) = (Vec::new(), Vec::new());
    let mut places = HashMap::new();
    for (group, jobs) in groups.iter().zip(jobs_of) {
        for key in group.limits.iter() {
            let place = *places.entry(key).or_insert_with(|| {
                keys.push(key);
                carriers.push(0);
                keys.len() - 1
            });
            carriers[place] += jobs;
        }
    }
    (keys, carriers)
}

/// What has become of the jobs by the answers to a call and its repeats, and the store's clock
/// unless that is damaged.
fn read_all(
    replies: Vec<Value>,
    jobs: &[NewJob],
) -> Result<(Vec<EnqueueOutcome>, Option<u64>), Error> {
    let mut readings = replies.into_iter().map(|reply| read(reply, jobs));
    let first = readings.next().ok_or_else(|| unexpected("no answer"))??;
    readings.try_fold(first, |(earlier, _), later| {
        let (later, now_ms) = later?;
        Ok((
            earlier.iter().zip(later).map(|(earlier, later)| agreed(earlier, later)).collect(),
            now_ms,
        ))
    })
}

/// The last answer counts: the server that gave it may have taken the place of one that had other
/// jobs, and had said what is true there only. That a job is new is still true if the last one has
/// just this job.
fn agreed(earlier: &EnqueueOutcome, later: EnqueueOutcome) -> EnqueueOutcome {
    match (earlier, later) {
        (EnqueueOutcome::Done(made), EnqueueOutcome::Done(found))
            if !made.duplicate && found.duplicate && found.id == made.id =>
        {
            let made = Enqueued::created(found.id, found.state).replacing(made.replaced);
            EnqueueOutcome::Done(made)
        }
        (_, later) => later,
    }
}

/// What has become of the jobs, and the store's clock unless that is damaged.
fn read(reply: Value, jobs: &[NewJob]) -> Result<(Vec<EnqueueOutcome>, Option<u64>), Error> {
    let mut items = Items::of_first(reply)?;
    let first = items.bytes()?;
    let Some((letters, now)) = first.split_at_checked(jobs.len()) else {
        return Err(unexpected("not one answer per job"));
    };
    let now = std::str::from_utf8(now).ok().and_then(|now| now.parse().ok());
    let mut outcomes = Vec::with_capacity(jobs.len());
    for (job, letter) in jobs.iter().zip(letters) {
        let created = |state| EnqueueOutcome::Done(Enqueued::created(job.spec.id, state));
        outcomes.push(match letter {
            b'S' => created(JobState::Scheduled),
            b'R' => created(JobState::Ready),
            b's' => replacing(job.spec.id, JobState::Scheduled, &mut items)?,
            b'r' => replacing(job.spec.id, JobState::Ready, &mut items)?,
            b'D' => duplicate(&bytes(items.value()?)?)?,
            b'F' => full(&bytes(items.value()?)?).ok_or_else(|| unexpected("not what is full"))?,
            letter => EnqueueOutcome::Conflict {
                existing: next_id(&mut items)?,
                reason: reason(*letter, job)?,
            },
        });
    }
    Ok((outcomes, now))
}

fn replacing(id: JobId, state: JobState, items: &mut Items) -> Result<EnqueueOutcome, Error> {
    let replaced = Some(next_id(items)?);
    Ok(EnqueueOutcome::Done(Enqueued::created(id, state).replacing(replaced)))
}

fn next_id(items: &mut Items) -> Result<JobId, Error> {
    id(&items.bytes()?)
}

fn duplicate(bytes: &[u8]) -> Result<EnqueueOutcome, Error> {
    let (state, existing) = bytes.split_last().ok_or_else(|| unexpected("an empty duplicate"))?;
    let state = state_of(*state).ok_or_else(|| unexpected("an unknown state"))?;
    Ok(EnqueueOutcome::Done(Enqueued::duplicate(id(existing)?, state)))
}

/// What is full, and how often jobs of its queue have started.
fn full(bytes: &[u8]) -> Option<EnqueueOutcome> {
    let mut parts = std::str::from_utf8(bytes).ok()?.splitn(3, ' ');
    let now = Timestamp::from_ms(parts.next()?.parse().ok()?);
    let limit = LimitKey::new(parts.next()?).ok()?;
    let rate = start_rate(parts.next()?, now)?;
    Some(EnqueueOutcome::Full { limit, retry_after: rate.retry_after(now) })
}

fn reason(letter: u8, job: &NewJob) -> Result<ConflictReason, Error> {
    match letter {
        b'I' => Ok(ConflictReason::Id),
        b'K' => Ok(ConflictReason::of_key(job.on_conflict)),
        b'X' => Ok(ConflictReason::Rejected),
        _ => Err(unexpected("an unknown letter")),
    }
}

#[cfg(test)]
mod tests {
    use queue_core::{Kind, Payload};

    use super::*;

    /// After a fail-over, each answer that the old server may have given, and each of the new one.
    #[test]
    fn the_last_answer_counts_but_a_job_that_is_there_stays_new() {
        let (own, other, before) = (JobId::new(), JobId::new(), JobId::new());
        let done = EnqueueOutcome::Done;
        let made = Enqueued::created(own, JobState::Ready);
        let refused = |reason| EnqueueOutcome::Conflict { existing: other, reason };
        let limit = LimitKey::new("queue:default").unwrap();
        let full = EnqueueOutcome::Full { limit, retry_after: std::time::Duration::ZERO };
        let all = [
            done(made),
            done(made.replacing(Some(before))),
            done(Enqueued::duplicate(own, JobState::Running)),
            done(Enqueued::duplicate(other, JobState::Ready)),
            refused(ConflictReason::Id),
            refused(ConflictReason::IdempotencyKey),
            full,
        ];
        for (first, earlier) in all.iter().enumerate() {
            for (last, later) in all.iter().enumerate() {
                let new = Enqueued::created(own, JobState::Running);
                let expected = match (first, last) {
                    (0, 2) => done(new),
                    (1, 2) => done(new.replacing(Some(before))),
                    _ => later.clone(),
                };
                assert_eq!(agreed(earlier, later.clone()), expected, "{earlier:?}, {later:?}");
            }
        }
    }

    #[test]
    fn jobs_that_share_everything_are_one_group_wherever_they_are() {
        let runs_of = |kinds: &str| {
            let job =
                |kind: char| NewJob::new(Kind::new(kind.to_string()).unwrap(), Payload::raw(""));
            let jobs: Vec<_> = kinds.chars().map(job).collect();
            let (groups, runs) = grouped(&jobs, &pack_some(&jobs, 0));
            let names: String = groups.iter().map(|group| group.kind).collect();
            (names, runs)
        };
        let table: [(&str, &str, &[[u16; 2]]); 4] = [
            ("a", "a", &[[1, 1]]),
            ("aaa", "a", &[[1, 3]]),
            ("aabbaa", "ab", &[[1, 2], [2, 2], [1, 2]]),
            ("abcba", "abc", &[[1, 1], [2, 1], [3, 1], [2, 1], [1, 1]]),
        ];
        for (kinds, names, runs) in table {
            assert_eq!(runs_of(kinds), (names.to_owned(), runs.to_vec()), "{kinds}");
        }
    }
}
