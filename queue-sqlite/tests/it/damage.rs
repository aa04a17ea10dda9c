//! Data that nobody wrote with this program.

use queue_core::{
    Backend, CancelOutcome, DeleteOutcome, EnqueueOutcome, Error, JobId, JobState, LimitKeys,
    LimitSettings, LimitTarget, SettleRequest, Settled, Timestamp,
};
use queue_sqlite::SqliteBackend;

use crate::support::{
    STORED, assert_sound, beside, completion, count, job, open, request, set_clock,
};

/// Later than any clock that runs a test.
const LATER: Timestamp = Timestamp::from_ms(4_102_444_800_000);

fn break_job(backend: &SqliteBackend, what: &str, id: JobId) {
    let sql = format!("UPDATE {what} WHERE job = (SELECT job FROM job WHERE id = ?1)");
    assert_eq!(beside(backend.path()).execute(&sql, [id.as_bytes()]).unwrap(), 1);
}

#[tokio::test]
async fn an_unreadable_job_is_put_aside_and_blocks_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    let jobs = [job("a"), job("b"), job("c"), job("d")];
    backend.enqueue(&jobs, STORED).await.unwrap();
    break_job(&backend, "job SET options = x'c1'", jobs[0].job_id());
    break_job(&backend, "job SET codec = 99", jobs[2].job_id());

    let claim = backend.claim(&request(10)).await.unwrap();
    let given: Vec<JobId> = claim.leases.iter().map(|lease| lease.spec.id).collect();
    assert_eq!(given, [jobs[1].job_id(), jobs[3].job_id()]);
    assert_eq!(count(&backend, JobState::Quarantined).await, 2);
    assert_sound(&backend).await;

    // Asked for alone it is an error that names it; among others it hides nobody.
    let error = backend.get(&[jobs[0].job_id()]).await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt(_)), "{error:?}");
    assert!(error.to_string().contains(&jobs[0].job_id().to_string()), "{error}");
    let records = backend.get(&[jobs[0].job_id(), jobs[1].job_id()]).await.unwrap();
    assert!(records[0].is_none() && records[1].is_some());

    // Its bytes are kept until somebody deletes it.
    let bytes = "SELECT payload FROM job WHERE id = ?1";
    let bytes: Vec<u8> = beside(backend.path())
        .query_row(bytes, [jobs[2].job_id().as_bytes()], |row| row.get(0))
        .unwrap();
    assert_eq!(bytes, b"c");
    let cancelled = backend.cancel(&[jobs[0].job_id()]).await.unwrap();
    assert_eq!(cancelled, [CancelOutcome::AlreadyFinished(JobState::Quarantined)]);
    let deleted = backend.delete(&[(jobs[0].job_id(), JobState::Quarantined)]).await.unwrap();
    assert_eq!(deleted, [DeleteOutcome::Deleted]);
    assert_sound(&backend).await;
}

/// What somebody might do to the file, and a part of what the audit says about it.
const DAMAGE: &[(&str, &str)] = &[
    ("UPDATE lane SET ready = 7", "counts"),
    ("UPDATE lane SET tail = head", "outside of its lane"),
    ("UPDATE lane SET turn = 1000", "turn"),
    ("UPDATE claim SET jobs = 9", "instead of 1"),
    ("UPDATE claim SET runs = '99'", "lists 0 of its 1 jobs"),
    ("UPDATE claim SET runs = ''", "lists 0 of its 1 jobs"),
    ("DELETE FROM claim", "its claim is missing"),
    ("UPDATE shelf SET records = 5", "counts 5 records"),
    ("UPDATE shelf SET next_expiry_ms = 5", "until 5"),
    ("UPDATE shelf SET part = 0", "another queue or kind of end"),
    ("UPDATE shelf SET part = 2", "another queue or kind of end"),
    ("UPDATE shelf SET part = 3", "another queue or kind of end"),
    ("UPDATE job SET codec = NULL WHERE job = 1", "its body is missing"),
    ("UPDATE job SET lane = 77 WHERE job = 3", "its lane is missing"),
    (
        "INSERT INTO lane SELECT 9, 'q', 'k', 1, '', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL",
        "instead of none",
    ),
    ("UPDATE store SET fence = 1", "fence"),
    ("UPDATE store SET clock_ms = 1", "future"),
    ("DELETE FROM store", "0 rows about itself"),
    (
        "PRAGMA ignore_check_constraints = 1; UPDATE job SET state = 1 WHERE state = 4",
        "breaks the rules",
    ),
    ("PRAGMA ignore_check_constraints = 1; UPDATE claim SET jobs = -1", "CHECK"),
    ("UPDATE lane SET blocked_by = NULL WHERE blocked_by IS NOT NULL", "nobody of default/k waits"),
    ("UPDATE lane SET blocked_by = 'tenant:b' WHERE ready > 0", "which it does not need"),
    ("DELETE FROM limit_wait", "which counts none"),
    ("UPDATE limit_wait SET lanes = 2", "which counts 2"),
    ("UPDATE limit_key SET running = 0", "counts 2 live and 0 running jobs instead of 2 and 1"),
    ("UPDATE limit_key SET live = 7 WHERE name = 'tenant:a'", "counts 7 live"),
    ("DELETE FROM limit_key WHERE name = 'tenant:a'", "is not known although 2 live and 1 running"),
    ("INSERT INTO limit_key VALUES ('tenant:x', 0, 0, NULL, NULL)", "nobody needs it"),
    ("INSERT INTO limit_key VALUES ('x', 1, 1, NULL, NULL)", "is no limit key"),
    ("UPDATE limit_key SET state = x'07'", "cannot be read"),
    ("UPDATE limit_key SET look_ms = NULL", "can be forgotten"),
    ("UPDATE claim SET added = NULL", "counts 0 live and 1 running jobs instead of 0 and 0"),
    ("UPDATE limit_setting SET settings = '{}'", "cannot be read; set or remove them"),
    ("DELETE FROM limit_setting WHERE target = 'tenant:a'", "nobody will look for the lanes"),
    ("UPDATE queue_live SET live = 9", "counts 9 live jobs instead of"),
    ("UPDATE store SET queue_limits = 0", "counts 0 limits of queues instead of 1"),
    (
        "UPDATE limit_key SET state = x'010000000000000000000000000000000000000100000000000000000000\
         000000000000010000000000000000000000000000000000'",
        "does not run",
    ),
];

/// Two jobs with a limit key, of which one runs and holds a key of its worker, too, and the other
/// waits for room.
async fn limited(backend: &SqliteBackend) {
    let none = LimitSettings::default();
    let set = [
        ("provider:x", LimitSettings { rate: Some("1/1d".parse().unwrap()), ..none.clone() }),
        ("tenant:a", LimitSettings { concurrency: Some(1), ..none.clone() }),
        ("queue:*", LimitSettings { max_live: Some(100), ..none }),
    ];
    for (target, settings) in set {
        let target = LimitTarget::new(target).unwrap();
        backend.set_limit(&target, Some(&settings)).await.unwrap();
    }
    let jobs = [(); 2].map(|()| job("x").priority(0).limit("tenant:a"));
    backend.enqueue(&jobs, STORED).await.unwrap();
    let mut claim = request(1);
    claim.kinds[0].limits = LimitKeys::parse(["provider:x"]).unwrap();
    assert_eq!(backend.claim(&claim).await.unwrap().leases.len(), 1);
}

#[tokio::test]
async fn the_audit_finds_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    for (index, (damage, found)) in DAMAGE.iter().enumerate() {
        let backend = open(&directory.path().join(index.to_string()));
        backend.enqueue(&[job("a"), job("b"), job("c")], STORED).await.unwrap();
        let claim = backend.claim(&request(2)).await.unwrap();
        backend.settle(&completion(&claim.leases[..1])).await.unwrap();
        limited(&backend).await;
        assert_sound(&backend).await;
        beside(backend.path()).execute_batch(damage).unwrap();
        let violations = backend.audit(false).await.unwrap();
        assert!(violations.iter().any(|v| v.what.contains(found)), "{damage}: {violations:?}");
    }
}

/// The only violations are those of jobs whose lane is missing.
async fn assert_sound_but_for_lanes(backend: &SqliteBackend) {
    for violation in backend.audit(false).await.unwrap() {
        assert!(violation.what.contains("lane is missing"), "{violation:?}");
    }
}

fn lose_lane(backend: &SqliteBackend, id: JobId) {
    break_job(backend, "job SET lane = 77", id);
}

fn state_number(backend: &SqliteBackend, id: JobId) -> Option<i64> {
    let sql = "SELECT state FROM job WHERE id = ?1";
    beside(backend.path()).query_row(sql, [id.as_bytes()], |row| row.get(0)).ok()
}

/// As they stand in the table.
const QUARANTINED: Option<i64> = Some(8);

#[tokio::test]
async fn a_key_that_is_not_text_blocks_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    let jobs = [job("a").idempotency_key("x"), job("b")];
    backend.enqueue(&jobs, STORED).await.unwrap();
    break_job(&backend, "job SET key = CAST(x'ff' AS TEXT)", jobs[0].job_id());
    let records = backend.get(&[jobs[0].job_id(), jobs[1].job_id()]).await.unwrap();
    assert!(records[0].is_none() && records[1].is_some());
    let error = backend.get(&[jobs[0].job_id()]).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error:?}");
    let claim = backend.claim(&request(10)).await.unwrap();
    assert_eq!(claim.leases.len(), 1);
    assert_eq!(claim.leases[0].spec.id, jobs[1].job_id());
    assert_eq!(count(&backend, JobState::Quarantined).await, 1);
}

#[tokio::test]
async fn a_key_may_hold_any_text() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    for key in ["\0x", "\0", &"x".repeat(256), &"\u{10ffff}".repeat(64)] {
        let job = job("a").idempotency_key(key);
        backend.enqueue(std::slice::from_ref(&job), STORED).await.unwrap();
        let record = backend.get(&[job.job_id()]).await.unwrap().remove(0).unwrap();
        assert_eq!(record.spec.idempotency_key.unwrap().as_str(), key);
        let claim = backend.claim(&request(10)).await.unwrap();
        assert_eq!(claim.leases.len(), 1);
    }
    // The table says so too: no other program can write an empty or a longer one.
    let conn = beside(backend.path());
    for bytes in ["''", "printf('%.257c', 'x')"] {
        assert!(conn.execute(&format!("UPDATE job SET key = {bytes} WHERE job = 1"), []).is_err());
    }
}

#[tokio::test]
async fn a_missing_lane_is_one_jobs_trouble_when_it_is_due() {
    let directory = tempfile::tempdir().unwrap();
    let later = || std::time::Duration::from_secs(60);
    for by_claim in [true, false] {
        let backend = open(&directory.path().join(by_claim.to_string()));
        let jobs = [job("a").delay(later()), job("b").delay(later()), job("c")];
        backend.enqueue(&jobs, STORED).await.unwrap();
        lose_lane(&backend, jobs[0].job_id());
        set_clock(backend.path(), LATER);
        if !by_claim {
            assert!(!backend.maintain(100).await.unwrap().more);
        }
        let claim = backend.claim(&request(10)).await.unwrap();
        let given: Vec<JobId> = claim.leases.iter().map(|lease| lease.spec.id).collect();
        assert_eq!(given, [jobs[2].job_id(), jobs[1].job_id()]);
        assert!(!claim.maintain, "nothing is left to be done again and again");
        assert_eq!(state_number(&backend, jobs[0].job_id()), QUARANTINED);
        // Whoever enqueues it again learns that it is there; whoever deletes it is rid of it.
        let again = backend.enqueue(&jobs[..1], STORED).await.unwrap();
        assert!(matches!(again[0], EnqueueOutcome::Conflict { .. }), "{again:?}");
        let deleted = backend.delete(&[(jobs[0].job_id(), JobState::Quarantined)]).await.unwrap();
        assert_eq!(deleted, [DeleteOutcome::Deleted]);
        assert_eq!(state_number(&backend, jobs[0].job_id()), None);
        // All that is left of it is the count of the lane that it lost.
        let repaired = backend.audit(true).await.unwrap();
        assert!(repaired.len() == 1 && repaired[0].repaired, "{repaired:?}");
        assert_sound(&backend).await;
    }
}

#[tokio::test]
async fn a_missing_lane_is_one_jobs_trouble_when_it_runs() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    let jobs = ["a", "b", "c", "d", "e"].map(job);
    backend.enqueue(&jobs, STORED).await.unwrap();
    let claim = backend.claim(&request(4)).await.unwrap();
    for job in [&jobs[1], &jobs[3]] {
        lose_lane(&backend, job.job_id());
        beside(backend.path()).execute("UPDATE lane SET running = running - 1", []).unwrap();
    }
    // The others are settled, and the claim that was asked for with it is made.
    let settle = completion(&claim.leases[..2]);
    let reply =
        backend.settle(&SettleRequest { claim: Some(request(1)), ..settle.clone() }).await.unwrap();
    let expected = [Settled::Applied(JobState::Completed), Settled::Stale(JobState::Quarantined)];
    assert_eq!(reply.settled, expected);
    assert_eq!(reply.claim.unwrap().leases.len(), 1);
    let repeated = backend.settle(&settle).await.unwrap();
    assert_eq!(repeated.settled[1], Settled::Stale(JobState::Quarantined));
    // The rest of the claim lapses.
    set_clock(backend.path(), LATER);
    let done = backend.maintain(100).await.unwrap();
    assert_eq!((done.reaped, done.more), (3, false));
    assert_eq!(state_number(&backend, jobs[3].job_id()), QUARANTINED);
    assert_eq!(count(&backend, JobState::Ready).await, 2);
    assert_sound_but_for_lanes(&backend).await;
}

#[tokio::test]
async fn a_missing_lane_or_a_wrong_count_does_not_keep_records_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    let jobs = ["a", "b", "c"].map(job);
    backend.enqueue(&jobs, STORED).await.unwrap();
    let claim = backend.claim(&request(3)).await.unwrap();
    backend.settle(&completion(&claim.leases)).await.unwrap();
    lose_lane(&backend, jobs[1].job_id());
    beside(backend.path()).execute("UPDATE shelf SET records = 1", []).unwrap();
    set_clock(backend.path(), LATER);
    // The one that cannot be read is kept for somebody to look at.
    assert_eq!(backend.maintain(2).await.unwrap().dropped, 1);
    assert_eq!(backend.maintain(2).await.unwrap().dropped, 1);
    let states = jobs.map(|job| state_number(&backend, job.job_id()));
    assert_eq!(states, [None, QUARANTINED, None]);
}

#[tokio::test]
async fn a_wrong_count_does_not_stop_a_job() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    backend.enqueue(&[job("a"), job("b")], STORED).await.unwrap();
    let claim = backend.claim(&request(2)).await.unwrap();
    beside(backend.path()).execute("UPDATE lane SET running = 0", []).unwrap();
    let settled = backend.settle(&completion(&claim.leases)).await.unwrap().settled;
    assert_eq!(settled, [Settled::Applied(JobState::Completed); 2]);
}

#[tokio::test]
async fn unreadable_jobs_that_a_claim_meets_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    for _ in 0..2 {
        let jobs: Vec<_> = (0..300).map(|n| job(n.to_string())).collect();
        backend.enqueue(&jobs, STORED).await.unwrap();
    }
    beside(backend.path()).execute("UPDATE job SET options = x'c1'", []).unwrap();
    let claim = backend.claim(&request(1)).await.unwrap();
    assert!(claim.leases.is_empty() && claim.more);
    assert_eq!(count(&backend, JobState::Quarantined).await, 500);
    let claim = backend.claim(&request(1)).await.unwrap();
    assert!(claim.leases.is_empty() && !claim.more);
    assert_eq!(count(&backend, JobState::Quarantined).await, 600);
    assert_sound(&backend).await;
}

/// It shows only when the job is written.
#[tokio::test]
async fn damage_that_a_table_refuses_to_carry_on_is_one_jobs_trouble() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    let jobs = ["a", "b", "c"].map(|name| job(name).idempotency_key(name));
    backend.enqueue(&jobs, STORED).await.unwrap();
    let claim = backend.claim(&request(3)).await.unwrap();
    let damage = "PRAGMA ignore_check_constraints = 1; UPDATE job SET key = NULL WHERE job = 2";
    beside(backend.path()).execute_batch(damage).unwrap();
    let settled = backend.settle(&completion(&claim.leases)).await.unwrap().settled;
    let done = Settled::Applied(JobState::Completed);
    assert_eq!(settled, [done, Settled::Stale(JobState::Quarantined), done]);
    assert_sound(&backend).await;
}

/// A claim that cannot tell which jobs it holds, or tells of others, is found out at the latest when
/// its lease is over.
#[tokio::test]
async fn a_claim_with_a_damaged_list_lets_its_jobs_go() {
    let directory = tempfile::tempdir().unwrap();
    for (index, runs) in ["''", "'+'", "'1 1 1'", "'77+2'", "'1'"].into_iter().enumerate() {
        let backend = open(&directory.path().join(index.to_string()));
        let jobs = ["a", "b", "c"].map(job);
        backend.enqueue(&jobs, STORED).await.unwrap();
        assert_eq!(backend.claim(&request(3)).await.unwrap().leases.len(), 3);
        beside(backend.path()).execute_batch(&format!("UPDATE claim SET runs = {runs}")).unwrap();
        set_clock(backend.path(), LATER);
        assert_eq!(backend.maintain(10).await.unwrap().reaped, 3, "{runs}");
        let claim = backend.claim(&request(10)).await.unwrap();
        let given: Vec<JobId> = claim.leases.iter().map(|lease| lease.spec.id).collect();
        assert_eq!(given, jobs.map(|job| job.job_id()), "{runs}");
        let settled = backend.settle(&completion(&claim.leases)).await.unwrap().settled;
        assert_eq!(settled, [Settled::Applied(JobState::Completed); 3]);
        assert_sound(&backend).await;
    }
}

/// What a lane takes for the place of its first job may be wrong; that place also moves back when
/// jobs return to it.
#[tokio::test]
async fn jobs_before_the_head_of_their_lane_run() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    let jobs = ["a", "b", "c", "d"].map(job);
    backend.enqueue(&jobs, STORED).await.unwrap();
    beside(backend.path()).execute("UPDATE lane SET head = 2", []).unwrap();
    let mut given = Vec::new();
    for _ in 0..jobs.len() {
        let claim = backend.claim(&request(1)).await.unwrap();
        given.extend(claim.leases.iter().map(|lease| lease.spec.id));
    }
    assert_eq!(given, [2, 3, 0, 1].map(|index: usize| jobs[index].job_id()));
    assert_sound(&backend).await;
}
