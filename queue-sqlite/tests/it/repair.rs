//! What `audit` with repair puts right.

use std::time::Duration;

use queue_core::{
    Backend, ErrorKind, Hold, JobError, JobId, JobState, LimitKey, LimitSettings, LimitTarget,
    Outcome, Payload, RecoverOutcome, Retention, SettleRequest, Settled, Settlement,
};
use queue_sqlite::SqliteBackend;

use crate::support::{STORED, assert_sound, beside, completion, count, fast, job, request};

/// A store with jobs 1 to 6: ready, completed with a result, running, running, dead, scheduled.
async fn store(path: &std::path::Path) -> (SqliteBackend, Vec<JobId>) {
    let backend = fast(path);
    let order = ["b", "c", "d", "e"].map(|name| job(name).idempotency_key(name));
    backend.enqueue(&order, STORED).await.unwrap();
    let claim = backend.claim(&request(4)).await.unwrap();
    let mut done = completion(&claim.leases[..1]);
    done.settlements[0].outcome = Outcome::Completed { result: Some(Payload::raw("r")) };
    backend.settle(&done).await.unwrap();
    let mut dead = completion(&claim.leases[3..]);
    let error = JobError::new(ErrorKind::Failed, "no");
    dead.settlements[0].outcome = Outcome::Dead { error };
    backend.settle(&SettleRequest { claim: None, ..dead }).await.unwrap();
    let rest = [job("a"), job("f").delay(Duration::from_secs(3600))];
    backend.enqueue(&rest, STORED).await.unwrap();
    let ids = order.iter().chain(&rest).map(|job| job.job_id()).collect();
    (backend, ids)
}

/// Two jobs with a limit key, of which one runs and the other waits for room.
async fn limit(backend: &SqliteBackend) {
    let one = LimitSettings { concurrency: Some(1), ..LimitSettings::default() };
    let most = LimitSettings { max_live: Some(100), ..LimitSettings::default() };
    for (target, settings) in [("tenant:a", one), ("queue:*", most)] {
        let target = LimitTarget::new(target).unwrap();
        backend.set_limit(&target, Some(&settings)).await.unwrap();
    }
    let jobs = [(); 2].map(|()| job("x").priority(0).limit("tenant:a"));
    backend.enqueue(&jobs, STORED).await.unwrap();
    assert_eq!(backend.claim(&request(1)).await.unwrap().leases.len(), 1);
}

/// The room of the key is found again: the job that waits is given once the one that runs ends.
async fn assert_limited(backend: &SqliteBackend, damage: &str) {
    let tenant = LimitKey::new("tenant:a").unwrap();
    let status = backend.limit_status(&[tenant]).await.unwrap().remove(0);
    assert!(status.running <= 1 && status.live == 2, "{damage}: {status:?}");
    let running = backend.get(&status.holders).await.unwrap();
    if running.is_empty() {
        // Its claim was lost: it runs again.
        return;
    }
    let claims = "SELECT token FROM claim JOIN job USING (claim) WHERE id = ?1";
    let id = status.holders[0];
    let token: [u8; 16] =
        beside(backend.path()).query_row(claims, [id.as_bytes()], |row| row.get(0)).unwrap();
    let token = queue_core::ClaimToken::from_bytes(token);
    let done = Outcome::Completed { result: None };
    let end = Settlement { id, token, outcome: done, elapsed: Duration::ZERO };
    let settle = SettleRequest { settlements: vec![end], claim: Some(request(10)) };
    let claim = backend.settle(&settle).await.unwrap().claim.unwrap();
    let limited = claim.leases.iter().filter(|lease| !lease.spec.limits.is_empty());
    assert_eq!(limited.count(), 1, "{damage}");
}

const DAMAGE: &[&str] = &[
    "UPDATE lane SET ready = 7, running = 0, tail = head",
    "UPDATE lane SET turn = 1000",
    "UPDATE claim SET jobs = 9",
    "UPDATE claim SET until_ms = 9223372036854775807",
    "UPDATE claim SET until_ms = 5",
    "UPDATE claim SET runs = '77+3'",
    "UPDATE claim SET runs = '+'",
    "UPDATE lane SET head = tail",
    "DELETE FROM claim",
    "UPDATE shelf SET records = 5, next_expiry_ms = 5",
    "UPDATE shelf SET part = 0 WHERE part = 1",
    "UPDATE shelf SET part = 2 WHERE part = 1",
    "UPDATE shelf SET part = 2 WHERE part = 3",
    "DELETE FROM shelf",
    "UPDATE job SET holds_key = 0",
    "INSERT INTO lane SELECT 9, 'q', 'k', 1, '', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL",
    "UPDATE store SET fence = 1",
    "UPDATE store SET turn = 0",
    "UPDATE store SET queue_limits = 0",
    "UPDATE lane SET blocked_by = NULL WHERE blocked_by IS NOT NULL",
    "UPDATE lane SET blocked_by = 'tenant:b' WHERE ready > 0",
    "DELETE FROM limit_wait",
    "UPDATE limit_wait SET lanes = 7",
    "INSERT INTO limit_wait VALUES ('tenant:x', 'q', 'k', 1, 0)",
    "DELETE FROM limit_key",
    "UPDATE limit_key SET running = 7, live = 7",
    "UPDATE limit_key SET state = x'07', look_ms = NULL",
    "INSERT INTO limit_key VALUES ('x', 1, 1, NULL, NULL)",
    "UPDATE queue_live SET live = 9",
    "PRAGMA ignore_check_constraints = 1; UPDATE limit_key SET running = -5",
    "PRAGMA ignore_check_constraints = 1; UPDATE store SET starts = 'Default 1 1 1'",
    "INSERT INTO quarantine VALUES (77, 3, 5, 'no reason')",
    "PRAGMA foreign_keys = 0; INSERT INTO note (job) VALUES (77); \
     INSERT INTO line VALUES (77, 1, 1, 1, 'x'); INSERT INTO body VALUES (78, 0, x'80', x'');",
    "PRAGMA ignore_check_constraints = 1; UPDATE job SET position = NULL WHERE state BETWEEN 3 AND 4",
    "PRAGMA ignore_check_constraints = 1; UPDATE job SET claim = NULL WHERE state = 4",
    "PRAGMA ignore_check_constraints = 1; UPDATE job SET shelf = NULL WHERE state > 4",
    "PRAGMA ignore_check_constraints = 1; UPDATE job SET expiry_ms = NULL WHERE state > 4",
    "PRAGMA ignore_check_constraints = 1; UPDATE job SET state = 2 WHERE state = 1",
    "PRAGMA ignore_check_constraints = 1; UPDATE job SET cancel_requested = 1",
];

#[tokio::test]
async fn what_is_counted_wrongly_or_leads_nowhere_is_put_right() {
    let directory = tempfile::tempdir().unwrap();
    for (index, damage) in DAMAGE.iter().enumerate() {
        let (backend, ids) = store(&directory.path().join(index.to_string())).await;
        limit(&backend).await;
        assert_sound(&backend).await;
        beside(backend.path()).execute_batch(damage).unwrap();
        // Without being asked, nothing is changed.
        let found = backend.audit(false).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|v| !v.repaired), "{damage}: {found:?}");
        let repaired = backend.audit(true).await.unwrap();
        assert!(repaired.iter().all(|v| v.repaired), "{damage}: {repaired:?}");
        assert_sound(&backend).await;
        assert_eq!(count(&backend, JobState::Quarantined).await, 0, "{damage}");
        // Nothing was lost, and all of it runs.
        let records = backend.get(&ids).await.unwrap();
        assert!(records.iter().all(Option::is_some), "{damage}");
        assert_eq!(records[0].as_ref().unwrap().result, Some(Payload::raw("r")), "{damage}");
        let stalls: u32 = records.iter().flatten().map(|record| u32::from(record.stalls)).sum();
        assert_eq!(stalls, 0, "{damage}");
        let keys = ["b", "c", "d"].map(|name| job(name).idempotency_key(name));
        for outcome in backend.enqueue(&keys, STORED).await.unwrap() {
            let met = matches!(&outcome, queue_core::EnqueueOutcome::Done(done) if done.duplicate);
            assert!(met, "{damage}: {outcome:?}");
        }
        let claim = backend.claim(&request(10)).await.unwrap();
        assert!(claim.leases.iter().any(|lease| lease.spec.id == ids[4]), "{damage}");
        assert_limited(&backend, damage).await;
        assert_sound(&backend).await;
    }
}

#[tokio::test]
async fn a_running_job_without_a_claim_becomes_ready_and_an_unreadable_one_is_quarantined() {
    let directory = tempfile::tempdir().unwrap();
    let (backend, ids) = store(&directory.path().join("queue.db")).await;
    let damage = "DELETE FROM claim; UPDATE job SET options = x'c1' WHERE job = 4;";
    beside(backend.path()).execute_batch(damage).unwrap();
    backend.audit(true).await.unwrap();
    assert_sound(&backend).await;
    assert_eq!(count(&backend, JobState::Running).await, 0);
    assert_eq!(count(&backend, JobState::Ready).await, 3);
    assert_eq!(count(&backend, JobState::Quarantined).await, 1);
    let raw = backend.quarantined(&ids[3..4]).await.unwrap().remove(0).unwrap();
    assert!(raw.reason.contains("options"), "{raw:?}");
    assert!(raw.parts.contains(&("job.options".to_owned(), vec![0xc1])));
    assert!(raw.parts.contains(&("job.dead_reason".to_owned(), b"2".to_vec())));
    // Still not readable, then mended by hand.
    let recovered = backend.recover(&ids[3..4]).await.unwrap();
    assert_eq!(recovered, [RecoverOutcome::Unreadable]);
    let mend = "UPDATE job SET options = x'80' WHERE job = 4";
    beside(backend.path()).execute_batch(mend).unwrap();
    let recovered = backend.recover(&ids[3..4]).await.unwrap();
    assert_eq!(recovered, [RecoverOutcome::Recovered(JobState::Dead)]);
    let record = backend.get(&ids[3..4]).await.unwrap().remove(0).unwrap();
    assert_eq!(record.failures, 1);
    assert_eq!(record.last_error.unwrap().message, "no");
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_running_job_that_lost_its_place_stays_with_its_claim() {
    let directory = tempfile::tempdir().unwrap();
    let backend = fast(&directory.path().join("queue.db"));
    backend.enqueue(&[job("a"), job("b")], STORED).await.unwrap();
    let claim = backend.claim(&request(2)).await.unwrap();
    let damage = "PRAGMA ignore_check_constraints = 1; UPDATE job SET position = NULL";
    beside(backend.path()).execute_batch(damage).unwrap();
    assert!(backend.audit(true).await.unwrap().iter().all(|violation| violation.repaired));
    let settled = backend.settle(&completion(&claim.leases)).await.unwrap().settled;
    assert_eq!(settled, [Settled::Applied(JobState::Completed); 2]);
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_record_that_holds_no_key_is_not_kept_as_if_it_did() {
    let directory = tempfile::tempdir().unwrap();
    let backend = fast(&directory.path().join("queue.db"));
    let live = job("a").idempotency_key("k").hold(Hold::Live);
    backend.enqueue(std::slice::from_ref(&live), STORED).await.unwrap();
    let claim = backend.claim(&request(1)).await.unwrap();
    backend.settle(&completion(&claim.leases)).await.unwrap();
    beside(backend.path()).execute_batch("UPDATE shelf SET part = 0").unwrap();
    let repaired = backend.audit(true).await.unwrap();
    assert!(!repaired.is_empty() && repaired.iter().all(|violation| violation.repaired));
    assert_sound(&backend).await;
    let part = "SELECT part FROM shelf";
    let part: i64 = beside(backend.path()).query_row(part, [], |row| row.get(0)).unwrap();
    assert_eq!(part, 1);
}

#[tokio::test]
async fn a_job_that_has_failed_waits_as_one_that_is_retried() {
    let directory = tempfile::tempdir().unwrap();
    let backend = fast(&directory.path().join("queue.db"));
    backend.enqueue(&[job("a")], STORED).await.unwrap();
    let mut failed = completion(&backend.claim(&request(1)).await.unwrap().leases);
    let (delay, error) = (Duration::from_secs(60), JobError::new(ErrorKind::Failed, "no"));
    failed.settlements[0].outcome = Outcome::Retry { delay, error };
    backend.settle(&failed).await.unwrap();
    let damage = "PRAGMA ignore_check_constraints = 1; UPDATE job SET state = 1 WHERE state = 2";
    beside(backend.path()).execute_batch(damage).unwrap();
    assert!(backend.audit(true).await.unwrap().iter().all(|violation| violation.repaired));
    assert_eq!(count(&backend, JobState::Retrying).await, 1);
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_recovered_job_takes_its_key_back_if_that_is_free() {
    let directory = tempfile::tempdir().unwrap();
    for taken in [false, true] {
        let backend = fast(&directory.path().join(taken.to_string()));
        let kept = Retention { completed: Duration::from_secs(60), dead: Duration::from_secs(60) };
        let first = job("x").idempotency_key("key").hold(Hold::Live).retention(kept);
        backend.enqueue(std::slice::from_ref(&first), STORED).await.unwrap();
        let set = |options| {
            let sql = format!("UPDATE job SET options = x'{options}' WHERE job = 1");
            beside(backend.path()).execute_batch(&sql).unwrap();
        };
        set("c1");
        assert!(backend.get(&[first.job_id()]).await.is_err());
        let second = job("x").idempotency_key("key");
        if taken {
            // Its key was freed.
            backend.enqueue(std::slice::from_ref(&second), STORED).await.unwrap();
            assert_eq!(count(&backend, JobState::Ready).await, 1);
        }
        set("80");
        let recovered = backend.recover(&[first.job_id()]).await.unwrap();
        assert_eq!(recovered, [RecoverOutcome::Recovered(JobState::Ready)]);
        let third = job("x").idempotency_key("key");
        let met = backend.enqueue(&[third], STORED).await.unwrap().remove(0);
        let holder = if taken { second.job_id() } else { first.job_id() };
        assert!(
            matches!(&met, queue_core::EnqueueOutcome::Done(done) if done.id == holder),
            "{met:?}"
        );
        assert_sound(&backend).await;
    }
}
