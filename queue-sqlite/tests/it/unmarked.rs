//! Claims that leave the rows of their jobs as they are until somebody looks.

use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

use queue_core::{
    Backend, ClaimRequest, ClaimToken, Hold, JobId, JobState, Lease, ListRequest, NewJob, Outcome,
    RenewRequest, Retention, SettleRequest, Settled, Timestamp,
};
use queue_sqlite::SqliteBackend;

use crate::support::{
    STORED, assert_sound, beside, completion, count, fast, job, request, set_clock,
};

const START: Timestamp = Timestamp::from_ms(4_102_444_800_000);

/// How many rows say that their jobs run, and what claims name beside these.
fn rows(path: &Path) -> (i64, Option<String>) {
    let sql = "SELECT (SELECT count(*) FROM job WHERE state = 4), \
               (SELECT group_concat(unmarked, ', ' ORDER BY claim) FROM claim)";
    beside(path).query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

fn fleeting(payload: &str) -> NewJob {
    job(payload).retention(Retention { completed: Duration::ZERO, ..Retention::default() })
}

/// A store with so many jobs, and a claim of them.
async fn claimed(path: &Path, jobs: u32) -> (SqliteBackend, Vec<Lease>) {
    let backend = fast(path);
    let new: Vec<NewJob> = (0..jobs).map(|n| fleeting(&n.to_string())).collect();
    backend.enqueue(&new, STORED).await.unwrap();
    let claim = backend.claim(&request(jobs)).await.unwrap();
    assert_eq!(claim.leases.len(), jobs as usize);
    (backend, claim.leases)
}

#[tokio::test]
async fn jobs_that_nobody_looks_at_are_written_once_and_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let (backend, leases) = claimed(&path, 9).await;
    assert_eq!(rows(&path), (0, Some("1+8".to_owned())));
    assert_eq!(count(&backend, JobState::Running).await, 9);
    for (some, left) in [(2..5, Some("1+1 6+3")), (0..1, Some("2 6+3")), (8..9, Some("2 6+2"))] {
        let settled = backend.settle(&completion(&leases[some.clone()])).await.unwrap().settled;
        assert_eq!(settled, vec![Settled::Applied(JobState::Completed); some.len()]);
        assert_eq!(rows(&path), (0, left.map(str::to_owned)));
    }
    let again = backend.settle(&completion(&leases[2..5])).await.unwrap().settled;
    assert_eq!(again, [Settled::Gone; 3]);
    // Whoever repeats something has the others marked.
    assert_eq!(rows(&path), (4, None));
    backend.settle(&completion(&leases[5..8])).await.unwrap();
    backend.settle(&completion(&leases[1..2])).await.unwrap();
    assert_eq!(rows(&path), (0, None));
    assert_sound(&backend).await;
    assert_eq!(backend.stats().await.unwrap(), []);
}

#[tokio::test]
async fn who_reads_sees_what_runs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let (backend, leases) = claimed(&path, 3).await;
    let other = fast(&path);
    let record = other.get(&[leases[1].spec.id]).await.unwrap().remove(0).unwrap();
    assert_eq!((record.state, record.worker.unwrap().as_str()), (JobState::Running, "w"));
    assert_eq!(rows(&path), (3, None));
    assert_sound(&backend).await;

    // Not for a while after that.
    backend.enqueue(&[fleeting("a"), fleeting("b")], STORED).await.unwrap();
    let now = backend.claim(&request(1)).await.unwrap().leases;
    assert_eq!(rows(&path), (4, None));
    set_clock(&path, START);
    let later = backend.claim(&request(1)).await.unwrap().leases;
    assert_eq!(rows(&path), (4, Some("5".to_owned())));
    let running = ListRequest::new(JobState::Running);
    assert_eq!(other.list(&running).await.unwrap().jobs.len(), 5);
    assert_eq!(rows(&path), (5, None));
    for leases in [leases, now, later] {
        backend.settle(&completion(&leases)).await.unwrap();
    }
    assert_eq!(other.stats().await.unwrap(), []);
}

/// Its rowid is that of a job which a claim has held.
#[tokio::test]
async fn a_new_job_in_the_place_of_one_that_ended_does_not_run() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let (backend, leases) = claimed(&path, 4).await;
    backend.settle(&completion(&leases[2..])).await.unwrap();
    let new = [fleeting("new"), fleeting("new")];
    backend.enqueue(&new, STORED).await.unwrap();
    let rowid = |id: JobId| -> i64 {
        let bytes = id.as_bytes().as_slice();
        beside(&path)
            .query_row("SELECT job FROM job WHERE id = ?1", [bytes], |row| row.get(0))
            .unwrap()
    };
    assert_eq!(new.each_ref().map(|new| rowid(new.job_id())), [3, 4]);
    assert_eq!(rows(&path), (0, Some("1+1".to_owned())));
    let late = backend.settle(&completion(&leases[2..])).await.unwrap().settled;
    assert_eq!(late, [Settled::Gone; 2]);
    let records = backend.get(&new.each_ref().map(|new| new.job_id())).await.unwrap();
    assert!(records.into_iter().all(|record| record.unwrap().state == JobState::Ready));
    assert_sound(&backend).await;
}

#[tokio::test]
async fn jobs_that_come_back_to_the_head_do_not_bring_running_ones_along() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let (backend, leases) = claimed(&path, 6).await;
    let mut release = completion(&leases[2..3]);
    release.settlements[0].outcome = Outcome::Released;
    let settled = backend.settle(&release).await.unwrap().settled;
    assert_eq!(settled, [Settled::Applied(JobState::Ready)]);
    let again = backend.claim(&request(10)).await.unwrap().leases;
    assert_eq!(again.iter().map(|lease| lease.spec.id).collect::<Vec<_>>(), [leases[2].spec.id]);
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_worker_that_died_gives_back_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let (backend, leases) = claimed(&path, 5).await;
    backend.settle(&completion(&leases[1..2])).await.unwrap();
    drop(backend);
    let other = fast(&path);
    set_clock(&path, START);
    assert_eq!(other.maintain(500).await.unwrap().reaped, 4);
    let again = other.claim(&request(10)).await.unwrap().leases;
    let ids = |leases: &[Lease]| leases.iter().map(|lease| lease.spec.id).collect::<Vec<_>>();
    assert_eq!(ids(&again), [&ids(&leases[..1])[..], &ids(&leases[2..])].concat());
    assert!(again.iter().all(|lease| lease.stalls == 1));
    let late = other.settle(&completion(&leases[..1])).await.unwrap().settled;
    assert_eq!(late, [Settled::Stale(JobState::Running)]);
    assert_sound(&other).await;
}

#[tokio::test]
async fn only_so_many_are_left_unmarked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let backend = fast(&path);
    let jobs = || (0..500).map(|n| fleeting(&n.to_string())).collect::<Vec<NewJob>>();
    backend.enqueue(&jobs(), STORED).await.unwrap();
    for _ in 0..17 {
        backend.claim(&request(1)).await.unwrap();
    }
    assert_eq!(rows(&path), (16, Some("17".to_owned())));
    for _ in 0..5 {
        backend.enqueue(&jobs(), STORED).await.unwrap();
        backend.claim(&request(400)).await.unwrap();
    }
    // The fifth of these would have been one too many.
    let (marked, unmarked) = rows(&path);
    assert_eq!((marked, unmarked.unwrap().split(", ").count()), (17 + 4 * 400, 1));
    assert_sound(&backend).await;
}

/// What cannot be read is as good as no claim; nobody loses a job for it.
#[tokio::test]
async fn a_damaged_list_is_repaired() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let (backend, leases) = claimed(&path, 3).await;
    beside(&path).execute_batch("UPDATE claim SET unmarked = '1+1+1'").unwrap();
    assert_eq!(backend.get(&[leases[0].spec.id]).await.unwrap().len(), 1);
    assert!(backend.audit(true).await.unwrap().iter().all(|violation| violation.repaired));
    assert_sound(&backend).await;
    assert_eq!(backend.claim(&request(10)).await.unwrap().leases.len(), 3);
}

/// A job that breaks a rule of its table is found when it is marked.
#[tokio::test]
async fn a_broken_job_does_not_keep_others_from_being_marked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let (backend, leases) = claimed(&path, 3).await;
    let damage = "PRAGMA ignore_check_constraints = 1; UPDATE job SET elapsed_ms = 1 WHERE job = 2";
    beside(&path).execute_batch(damage).unwrap();
    let ids: Vec<JobId> = leases.iter().map(|lease| lease.spec.id).collect();
    let records = backend.get(&ids).await.unwrap();
    assert!(records[1].is_none());
    assert!([0, 2].iter().all(|n| records[*n].as_ref().unwrap().state == JobState::Running));
    assert_eq!(count(&backend, JobState::Quarantined).await, 1);
    let settled = backend.settle(&completion(&leases)).await.unwrap().settled;
    let applied = Settled::Applied(JobState::Completed);
    assert_eq!(settled, [applied, Settled::Stale(JobState::Quarantined), applied]);
    assert_sound(&backend).await;
}

/// Nobody gets a job that runs, whatever its lane says about places.
#[tokio::test]
async fn damaged_places_give_no_job_away_twice() {
    let directory = tempfile::tempdir().unwrap();
    let damages = [
        "UPDATE lane SET tail = head",
        "UPDATE lane SET head = tail",
        "UPDATE lane SET head = 0",
        "UPDATE lane SET head = 0, ready = 4",
        "UPDATE job SET position = 9223372036854775807",
        "UPDATE job SET position = -9223372036854775808",
        "UPDATE lane SET head = -9223372036854775808, tail = 9223372036854775807",
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let backend = fast(&directory.path().join(number.to_string()));
        backend.enqueue(&["a", "b", "c", "d"].map(fleeting), STORED).await.unwrap();
        let mut ids = Vec::new();
        for _ in 0..5 {
            beside(backend.path()).execute_batch(damage).unwrap();
            let claim = backend.claim(&request(1)).await.unwrap();
            ids.extend(claim.leases.iter().map(|lease| lease.spec.id));
        }
        assert_eq!(ids.len(), 4, "{damage}");
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 4, "{damage}");
    }
}

/// Two stores to which the same happens, of which one is looked at after each step.
struct Pair {
    watched: SqliteBackend,
    alone: SqliteBackend,
    ids: Vec<JobId>,
}

/// Does the same to both stores and expects the same answer.
macro_rules! both {
    ($pair:expr, $call:ident($($argument:expr),*)) => {{
        let alone = $pair.alone.$call($($argument),*).await.unwrap();
        let watched = $pair.watched.$call($($argument),*).await.unwrap();
        assert_eq!(shown(&alone), shown(&watched));
        alone
    }};
}

fn shown(answer: &impl Debug) -> String {
    format!("{answer:?}")
}

impl Pair {
    async fn assert_same(&self) {
        let records = self.watched.get(&self.ids).await.unwrap();
        assert_eq!(shown(&self.alone.get(&self.ids).await.unwrap()), shown(&records));
        assert_sound(&self.alone).await;
        assert_sound(&self.watched).await;
    }

    fn set_clock(&self, now: Timestamp) {
        set_clock(self.alone.path(), now);
        set_clock(self.watched.path(), now);
    }
}

fn some_job(random: &mut fastrand::Rng, ids: &mut Vec<JobId>) -> NewJob {
    let id = match ids.len() {
        known @ 1.. if random.u8(..10) == 0 => ids[random.usize(..known)],
        known => JobId::from_bytes((known as u128 + 1).to_be_bytes()),
    };
    if !ids.contains(&id) {
        ids.push(id);
    }
    let completed = Duration::from_secs([0, 0, 60][random.usize(..3)]);
    let retention = Retention { completed, dead: Duration::from_secs(60) };
    let job = job("x").id(id).retention(retention).max_attempts(2);
    let holds = [Hold::Kept, Hold::Kept, Hold::Live, Hold::AtLeast(Duration::from_secs(9))];
    match random.u8(..40) {
        0..=3 => {
            let hold = holds[random.usize(..4)];
            job.idempotency_key(format!("key {}", random.u8(..60))).hold(hold)
        }
        4 => job.limit("tenant:a"),
        5 => job.delay(Duration::from_secs(1)),
        6 => job.expires_at(START.after(Duration::from_secs(10)).into()),
        _ => job,
    }
}

fn some_outcome(random: &mut fastrand::Rng) -> Outcome {
    let delay = Duration::from_secs(random.u64(..2));
    let error = queue_core::JobError::new(queue_core::ErrorKind::Failed, "no");
    match random.u8(..24) {
        0 => Outcome::Released,
        1 => Outcome::Retry { delay, error },
        2 => Outcome::Dead { error },
        3 => Outcome::Snoozed { delay },
        4 => Outcome::Cancelled,
        _ => Outcome::Completed { result: None },
    }
}

/// Reports some of the leases, which leave `leases` unless they are to be reported twice.
fn some_ends(random: &mut fastrand::Rng, leases: &mut Vec<Lease>) -> SettleRequest {
    random.shuffle(leases);
    let count = random.usize(..=leases.len());
    let mut settle = completion(&leases[..count]);
    for settlement in &mut settle.settlements {
        settlement.outcome = some_outcome(random);
    }
    if random.u8(..6) == 0 {
        settle.settlements.extend(settle.settlements.first().cloned());
    }
    if random.u8(..6) > 0 {
        leases.drain(..count);
    }
    settle
}

fn some_claim(random: &mut fastrand::Rng) -> ClaimRequest {
    ClaimRequest {
        token: ClaimToken::from_bytes(random.u128(..).to_be_bytes()),
        ..request(random.u32(1..12))
    }
}

#[tokio::test]
async fn who_looks_changes_nothing() {
    let mut left = 0;
    for seed in 0..24 {
        let directory = tempfile::tempdir().unwrap();
        let [watched, alone] = ["a", "b"].map(|name| fast(&directory.path().join(name)));
        let mut pair = Pair { watched, alone, ids: Vec::new() };
        let (mut random, mut now) = (fastrand::Rng::with_seed(seed), START);
        let mut leases = Vec::new();
        pair.set_clock(now);
        for _ in 0..80 {
            match random.u8(..14) {
                0..=2 => {
                    let count = random.usize(1..30);
                    let new: Vec<NewJob> =
                        (0..count).map(|_| some_job(&mut random, &mut pair.ids)).collect();
                    both!(pair, enqueue(&new, STORED));
                }
                3..=5 => {
                    let request = some_claim(&mut random);
                    leases.extend(both!(pair, claim(&request)).leases);
                }
                6..=9 => {
                    let claim = random.bool().then(|| some_claim(&mut random));
                    let settle = SettleRequest { claim, ..some_ends(&mut random, &mut leases) };
                    let reply = both!(pair, settle(&settle));
                    leases.extend(reply.claim.into_iter().flat_map(|claim| claim.leases));
                }
                10 => {
                    let id = random.choice(&pair.ids).copied();
                    both!(pair, cancel(id.as_slice()));
                }
                11 => {
                    let tokens = leases.first().map(|lease: &Lease| lease.token);
                    let tokens = tokens.into_iter().collect();
                    let renew = RenewRequest { tokens, lease: Duration::from_secs(20) };
                    both!(pair, renew(&renew));
                }
                12 => {
                    both!(pair, maintain(500));
                }
                _ => {
                    now = now.after(Duration::from_millis(random.u64(..12_000)));
                    pair.set_clock(now);
                }
            }
            both!(pair, stats());
            pair.watched.get(&pair.ids).await.unwrap();
            left += usize::from(rows(pair.alone.path()).1.is_some());
        }
        pair.assert_same().await;
    }
    // Or nothing was tried.
    assert!(left > 24 * 20, "{left}");
}
