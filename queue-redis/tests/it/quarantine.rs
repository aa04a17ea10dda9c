//! Jobs that cannot be read (T17): met anywhere, they are set aside, and stop nobody.

use std::time::Duration;

use queue_core::conformance::Harness;
use queue_core::{
    Backend, CancelOutcome, DeleteOutcome, Durability, Error, JobId, JobState, ListRequest,
    Outcome, QueueName, RecoverOutcome, RetryOutcome, RetryRequest, Settled, Timestamp,
};
use queue_redis::RedisBackend;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{assert_sound, claim, completed, enqueue, job, settle};

const START: Timestamp = Timestamp::from_ms(4_102_444_800_000);
const GARBAGE: &[u8] = b"\xffgarbage";

/// One of the fields that the store has of a job.
struct Field<'a> {
    harness: &'a RedisHarness,
    key: String,
    id: JobId,
}

impl<'a> Field<'a> {
    fn of(harness: &'a RedisHarness, backend: &RedisBackend, key: &str, id: JobId) -> Self {
        Self { harness, key: harness.key(backend, key), id }
    }

    fn read(&self) -> Vec<u8> {
        self.harness.raw(&[b"HGET", self.key.as_bytes(), self.id.as_bytes()])
    }

    fn write(&self, bytes: &[u8]) {
        self.harness.raw::<()>(&[b"HSET", self.key.as_bytes(), self.id.as_bytes(), bytes]);
    }

    /// Makes the codec one that this program does not know, which no script looks at.
    fn spoil_codec(&self) -> Vec<u8> {
        let sound = self.read();
        let mut record = sound.clone();
        // In a brief record it shares a byte with the priority.
        if record[0] >= 5 {
            record[9] |= 0x70
        } else {
            record[19] = 99
        }
        self.write(&record);
        sound
    }
}

async fn quarantined(backend: &RedisBackend) -> Vec<JobId> {
    backend.list(&ListRequest::new(JobState::Quarantined)).await.unwrap().quarantined
}

async fn count(backend: &RedisBackend, state: JobState) -> u64 {
    let stats = backend.stats().await.unwrap();
    stats.iter().filter_map(|row| row.jobs.get(&state)).sum()
}

#[tokio::test]
async fn a_job_that_only_this_program_cannot_read_is_set_aside_after_its_claim() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let ids = enqueue(&backend, &[job("a").idempotency_key("k"), job("a")]).await;
    let record = Field::of(&harness, &backend, "jobs", ids[0]);
    let sound = record.spoil_codec();
    let leases = claim(&backend, &["a"], 5).await;
    assert_eq!(leases.iter().map(|lease| lease.spec.id).collect::<Vec<_>>(), ids[1..]);
    assert_eq!(quarantined(&backend).await, ids[..1]);
    assert_eq!(count(&backend, JobState::Quarantined).await, 1);
    assert_sound(&backend).await;
    let found = backend.quarantined(&ids).await.unwrap();
    assert!(found[1].is_none());
    let found = found[0].as_ref().unwrap();
    assert!(found.reason.contains("codec"), "{}", found.reason);
    assert_eq!(found.parts[0].0, "jobs");
    assert!(matches!(backend.get(&ids[..1]).await, Err(Error::Corrupt(why))
        if why.contains(&ids[0].to_string())));
    // Its key is free; the job that has it now keeps it.
    let second = enqueue(&backend, &[job("b").idempotency_key("k")]).await;
    assert_eq!(
        backend.recover(&ids).await.unwrap(),
        [RecoverOutcome::Unreadable, RecoverOutcome::Unchanged(JobState::Running)]
    );
    record.write(&sound);
    assert_eq!(
        backend.recover(&ids[..1]).await.unwrap(),
        [RecoverOutcome::Recovered(JobState::Ready)]
    );
    assert_sound(&backend).await;
    let again = claim(&backend, &["a"], 5).await;
    settle(&backend, &again, &completed()).await;
    let kept = enqueue(&backend, &[job("b").idempotency_key("k")]).await;
    assert_eq!((again[0].spec.id, kept), (ids[0], second));
    assert_sound(&backend).await;
}

#[tokio::test]
async fn every_call_that_meets_such_a_job_sets_it_aside() {
    for state in ["ready", "scheduled", "retrying", "completed"] {
        for meeting in ["get", "list"] {
            let harness = RedisHarness::new();
            let backend = harness.now().await;
            let delay = Duration::from_secs(u64::from(state == "scheduled") * 60);
            let ids = enqueue(&backend, &[job("a").delay(delay), job("a")]).await;
            if state == "retrying" || state == "completed" {
                let leases = claim(&backend, &["a"], 1).await;
                let error = queue_core::JobError::new(queue_core::ErrorKind::Failed, "no");
                let later = Outcome::Retry { delay: Duration::from_secs(60), error };
                let end = if state == "retrying" { later } else { completed() };
                settle(&backend, &leases, &end).await;
            }
            let record = Field::of(&harness, &backend, "jobs", ids[0]);
            let sound = record.read();
            let mut spoilt = sound.clone();
            // A codec that only this program refuses, or a name that the scripts cannot read either.
            let is_brief = spoilt[0] >= 5;
            match (meeting, is_brief) {
                ("get", false) => spoilt[19] = b'!',
                ("get", true) => spoilt[9] |= 0x70,
                (_, false) => spoilt[41] = b'!',
                (_, true) => spoilt[12] = b'!',
            }
            record.write(&spoilt);
            match meeting {
                "get" => assert!(backend.get(&ids).await.unwrap()[0].is_none()),
                _ => {
                    let state = JobState::from_name(state).unwrap();
                    let page = backend.list(&ListRequest::new(state)).await.unwrap();
                    assert!(page.jobs.iter().all(|job| job.id != ids[0]), "{state}");
                }
            }
            assert_eq!(quarantined(&backend).await, ids[..1], "{state} met by {meeting}");
            let cancelled = backend.cancel(&ids[..1]).await.unwrap();
            assert_eq!(cancelled, [CancelOutcome::AlreadyFinished(JobState::Quarantined)]);
            assert_eq!(claim(&backend, &["a"], 5).await[0].spec.id, ids[1]);
            record.write(&sound);
            let back = backend.recover(&ids[..1]).await.unwrap();
            let state = if state == "completed" { JobState::Completed } else { JobState::Ready };
            assert_eq!(back, [RecoverOutcome::Recovered(state)], "met by {meeting}");
            let record = backend.get(&ids[..1]).await.unwrap().remove(0).unwrap();
            assert_eq!((record.state, record.failures), (state, record.history.len() as u16));
            if state == JobState::Ready {
                let again = claim(&backend, &["a"], 5).await;
                assert_eq!(again.iter().map(|l| l.spec.id).collect::<Vec<_>>(), ids[..1]);
            }
            // Whoever could not be counted out of its old state is counted by a repair.
            backend.audit(true).await.unwrap();
            assert_sound(&backend).await;
        }
    }
}

#[tokio::test]
async fn settling_reaping_and_cancelling_meet_them_too() {
    let harness = RedisHarness::new();
    let backend = harness.fresh(START).await;
    let spoil = |id: JobId| {
        Field::of(&harness, &backend, "jobs", id).write(GARBAGE);
        let run = Field::of(&harness, &backend, "run", id);
        let held = run.read();
        if !held.is_empty() {
            run.write(&[&held[..16], b"?"].concat());
        }
    };
    let ids = enqueue(&backend, &[job("a"), job("a"), job("a")]).await;
    let leases = claim(&backend, &["a"], 2).await;
    ids.iter().for_each(|id| spoil(*id));
    assert_eq!(
        settle(&backend, &leases[..1], &completed()).await,
        [Settled::Stale(JobState::Quarantined)]
    );
    assert_eq!(
        backend.cancel(&ids[2..]).await.unwrap(),
        [CancelOutcome::AlreadyFinished(JobState::Quarantined)]
    );
    harness.set_clock(&backend, START.after(Duration::from_secs(60))).await;
    backend.maintain(10).await.unwrap();
    let mut found = quarantined(&backend).await;
    found.sort();
    assert_eq!(found, ids);
    // The ticket of the third is still in its lane: a claim passes it.
    assert_eq!(claim(&backend, &["a"], 5).await, []);
    assert_eq!(
        backend.delete(&[(ids[2], JobState::Ready)]).await.unwrap(),
        [DeleteOutcome::Unchanged(JobState::Quarantined)]
    );
    let all: Vec<_> = ids.iter().map(|id| (*id, JobState::Quarantined)).collect();
    assert_eq!(backend.delete(&all).await.unwrap(), [DeleteOutcome::Deleted; 3]);
    backend.audit(true).await.unwrap();
    assert_sound(&backend).await;
    assert_eq!(backend.stats().await.unwrap(), []);
}

#[tokio::test]
async fn a_ticket_that_was_left_behind_runs_no_job_twice() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let jobs = [job("a"), job("a")];
    let ids = enqueue(&backend, &jobs).await;
    Field::of(&harness, &backend, "jobs", ids[0]).write(GARBAGE);
    backend.cancel(&ids[..1]).await.unwrap();
    backend.delete(&[(ids[0], JobState::Quarantined)]).await.unwrap();
    enqueue(&backend, &jobs[..1]).await;
    let mut runs = Vec::new();
    for _ in 0..4 {
        runs.extend(claim(&backend, &["a"], 1).await.iter().map(|lease| lease.spec.id));
    }
    runs.sort();
    let mut expected = ids.clone();
    expected.sort();
    assert_eq!(runs, expected);
}

#[tokio::test]
async fn quarantined_jobs_are_listed_in_pages_and_by_queue() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let make = |n: usize| job("a").queue(["default", "other"][n % 2]);
    let jobs: Vec<_> = (0..20).map(make).collect();
    let ids = enqueue(&backend, &jobs).await;
    for id in &ids {
        Field::of(&harness, &backend, "jobs", *id).spoil_codec();
    }
    backend.get(&ids).await.unwrap();
    for (queue, expected) in [(None, 20), (Some("other"), 10)] {
        let mut request = ListRequest { limit: 3, ..ListRequest::new(JobState::Quarantined) };
        request.queue = queue.map(|name| QueueName::new(name).unwrap());
        let mut found = Vec::new();
        loop {
            let page = backend.list(&request).await.unwrap();
            found.extend(page.quarantined);
            request.cursor = page.next;
            if request.cursor.is_none() {
                break;
            }
        }
        let total = found.len();
        found.sort();
        found.dedup();
        assert_eq!((found.len(), total), (expected, expected));
    }
    let at = Timestamp::from_ms(1);
    let retry = RetryRequest { jobs: vec![(ids[0], at)], keep_counts: false };
    assert_eq!(
        backend.retry(&retry).await.unwrap(),
        [RetryOutcome::Unchanged(JobState::Quarantined)]
    );
    assert_sound(&backend).await;
    assert!(backend.enqueue(&jobs[..1], Durability::Memory).await.is_ok());
}
