//! Large batches come in by statements of many rows.

use std::time::Duration;

use queue_core::{
    Backend, ClaimRequest, Durability, EnqueueOutcome, JobId, JobState, KindSlots, LimitSettings,
    LimitTarget, MemoryBackend, NewJob, Timestamp,
};

use crate::support::{STORED, assert_sound, fast, job, kind, request, set_clock};

/// Jobs of several lanes, some of which are of the same ids or cannot come in with the others.
fn jobs() -> Vec<NewJob> {
    let mut jobs: Vec<NewJob> = Vec::new();
    for n in 0..200 {
        let new = job(if n % 50 < 40 { "x".to_owned() } else { "x".repeat(n * 10) });
        let new = new.priority(u8::try_from(n % 2).unwrap());
        let new = if n % 3 == 0 { new.limit(format!("tenant:{}", n % 4)) } else { new };
        let new = if n % 90 == 70 { new.idempotency_key("key") } else { new };
        // One of this batch, which may be in the same statement or in another one.
        let met = (n % 13 == 12).then(|| jobs[n * 3 / 4].job_id());
        jobs.push(match met {
            Some(id) => new.id(id),
            None => new,
        });
    }
    jobs
}

fn answers(outcomes: Vec<EnqueueOutcome>) -> Vec<(JobId, Option<(bool, JobState)>)> {
    let answer = |outcome| match outcome {
        EnqueueOutcome::Done(done) => (done.id, Some((done.duplicate, done.state))),
        EnqueueOutcome::Conflict { existing, .. } => (existing, None),
        other => panic!("{other:?}"),
    };
    outcomes.into_iter().map(answer).collect()
}

async fn given(backend: &impl Backend) -> Vec<JobId> {
    let kinds = vec![KindSlots::new(kind(), 500)];
    let claim = backend.claim(&ClaimRequest { kinds, ..request(500) }).await.unwrap();
    claim.leases.iter().map(|lease| lease.spec.id).collect()
}

#[tokio::test]
async fn a_large_batch_is_what_its_jobs_are_one_by_one() {
    let directory = tempfile::tempdir().unwrap();
    for limited in [false, true] {
        let backend = fast(&directory.path().join(limited.to_string()));
        let model = MemoryBackend::default();
        assert!(backend.claim(&request(1)).await.unwrap().spare);
        assert!(model.claim(&request(1)).await.unwrap().spare);
        let live = LimitSettings { max_live: Some(10), ..LimitSettings::default() };
        let target = LimitTarget::new("tenant:1").unwrap();
        if limited {
            backend.set_limit(&target, Some(&live)).await.unwrap();
            model.set_limit(&target, Some(&live)).await.unwrap();
        }
        let jobs = jobs();
        // Some are there already.
        for batch in [&jobs[20..23], &jobs[50..51], &jobs, &jobs] {
            let (found, expected) = (
                backend.enqueue(batch, STORED).await,
                model.enqueue(batch, Durability::Memory).await,
            );
            let (found, expected) = (found.unwrap(), expected.unwrap());
            let full = |outcomes: &[EnqueueOutcome]| -> Vec<bool> {
                outcomes.iter().map(|o| matches!(o, EnqueueOutcome::Full { .. })).collect()
            };
            assert_eq!(full(&found), full(&expected));
            assert_eq!(limited && batch.len() > 3, full(&found).contains(&true));
            let done = |outcomes: Vec<EnqueueOutcome>| {
                let done =
                    |outcome: &EnqueueOutcome| !matches!(outcome, EnqueueOutcome::Full { .. });
                answers(outcomes.into_iter().filter(done).collect())
            };
            assert_eq!(done(found), done(expected));
            assert_sound(&backend).await;
        }
        assert_eq!(given(&backend).await, given(&model).await);
        assert_sound(&backend).await;
    }
}

#[tokio::test]
async fn a_large_batch_of_delayed_jobs_is_what_its_jobs_are_one_by_one() {
    let directory = tempfile::tempdir().unwrap();
    let backend = fast(&directory.path().join("queue.db"));
    let model = MemoryBackend::default();
    let delay = |n: usize| Duration::from_secs(60 + u64::try_from(n * 31 % 7).unwrap());
    let mut jobs: Vec<NewJob> = Vec::new();
    for n in 0..150 {
        let new = job(n.to_string()).priority(u8::try_from(n / 5 % 2).unwrap());
        // Some are due at once, and some meet one of this batch.
        let new = match n {
            40..80 if n % 9 == 0 => new.run_at(Timestamp::from_ms(5)),
            80..100 => new.delay(Duration::ZERO),
            _ => new.delay(delay(n)),
        };
        let met = (n % 13 == 12).then(|| jobs[n * 3 / 4].job_id());
        jobs.push(match met {
            Some(id) => new.id(id),
            None => new,
        });
    }
    for batch in [&jobs[20..23], &jobs, &jobs] {
        let found = backend.enqueue(batch, STORED).await.unwrap();
        let expected = model.enqueue(batch, Durability::Memory).await.unwrap();
        assert_eq!(answers(found), answers(expected));
        assert_sound(&backend).await;
    }
    assert_eq!(given(&backend).await, given(&model).await);
    let met = |n: usize| n % 13 == 12;
    for (n, job) in jobs.iter().enumerate().filter(|(n, _)| !met(*n)) {
        let record = backend.get(&[job.job_id()]).await.unwrap().remove(0).unwrap();
        if record.state == JobState::Scheduled {
            assert_eq!(record.due_at.since(record.enqueued_at), delay(n));
        } else {
            assert_eq!(record.due_at, record.enqueued_at);
        }
    }
    // Each becomes ready at its time.
    set_clock(backend.path(), Timestamp::from_ms(4_102_444_800_000));
    let kinds = vec![KindSlots::new(kind(), 500)];
    let leases = backend.claim(&ClaimRequest { kinds, ..request(500) }).await.unwrap().leases;
    let waited = jobs.iter().enumerate().filter(|(n, _)| !met(*n) && !(80..100).contains(n));
    assert_eq!(leases.len(), waited.filter(|(n, _)| !(40..80).contains(n) || n % 9 != 0).count());
    for priority in 0..2 {
        let lane = leases.iter().filter(|lease| lease.spec.priority.level() == priority);
        assert!(lane.map(|lease| (lease.due_at, lease.spec.id)).is_sorted());
    }
    assert_sound(&backend).await;
}
