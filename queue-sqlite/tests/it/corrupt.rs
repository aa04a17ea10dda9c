//! Stores in which random rows hold random values, as far as the tables can be made to take them.

use std::collections::HashSet;
use std::time::Duration;

use queue_core::{
    Backend, Breaker, Claim, Error, ErrorKind, JobError, JobId, JobState, KindSlots, LimitKey,
    LimitSettings, LimitTarget, ListRequest, NewJob, Outcome, Progress, QueueName, RETENTION_MAX,
    RecoverOutcome, RenewRequest, Report, Reported, Retention, RetryOutcome, RetryRequest,
    SettleRequest, Settled, Settlement, Timestamp, WatchRequest, WorkerId, WorkerInfo,
};
use queue_sqlite::SqliteBackend;
use rusqlite::Connection;
use rusqlite::types::Value;

use crate::support::{STORED, beside, completion, fast, job, kind, request, set_clock};

/// How many jobs of each kind of past a store has; every second of them is damaged.
const JOBS: usize = 8;
/// Seeds that are tried unless `CORRUPT_SEEDS` says otherwise.
const SEEDS_DEFAULT: u64 = 8;
const START: Timestamp = Timestamp::from_ms(4_102_444_800_000);
/// After everything that waits is due.
const LATER: Timestamp = Timestamp::from_ms(4_102_444_800_000 + 86_400_000);
/// After all retention.
const LAST: Timestamp = Timestamp::from_ms(4_102_444_800_000 + 5_000_000_000_000);

fn seeds() -> u64 {
    let seeds = std::env::var("CORRUPT_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    seeds.unwrap_or(SEEDS_DEFAULT)
}

/// SplitMix64: the same sequence for the same seed everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = [0, 1, 5, 16, 17, 300][self.below(6)];
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    fn value(&mut self, of_type: &str) -> Value {
        const NUMBERS: [i64; 22] = [
            i64::MIN,
            -1,
            0,
            1,
            2,
            3,
            4,
            5,
            6,
            7,
            8,
            9,
            99,
            255,
            256,
            65_535,
            65_536,
            4_294_967_296,
            281_474_976_710_655,
            281_474_976_710_656,
            i64::MAX - 1,
            i64::MAX,
        ];
        match of_type {
            _ if self.below(8) == 0 => Value::Null,
            "INTEGER" if self.below(4) == 0 => Value::Integer(self.next().cast_signed()),
            "INTEGER" => Value::Integer(NUMBERS[self.below(NUMBERS.len())]),
            _ => Value::Blob(self.bytes()),
        }
    }
}

/// The columns of a table, with their types.
fn columns(conn: &Connection, table: &str) -> Vec<(String, String)> {
    let mut select = conn.prepare(&format!("PRAGMA table_info({table})")).unwrap();
    let columns = select.query_map([], |row| Ok((row.get(1)?, row.get(2)?))).unwrap();
    columns.map(Result::unwrap).collect()
}

/// Puts a random value into a random column of the rows `of` a table. What the table does not take
/// for another reason than its CHECKs is tried again with something else.
fn damage(conn: &Connection, table: &str, of: &str, random: &mut Random) {
    // Without its only row, which this names, there is no store.
    let columns: Vec<_> =
        columns(conn, table).into_iter().filter(|(name, _)| name != "one").collect();
    for _ in 0..20 {
        let (name, of_type) = &columns[random.below(columns.len())];
        let value = random.value(of_type);
        // Text that is not UTF-8 is text to SQLite.
        let cast = if of_type == "TEXT" { "CAST(?1 AS TEXT)" } else { "?1" };
        let sql = format!("UPDATE {table} SET {name} = {cast} WHERE {of}");
        if conn.execute(&sql, [&value]).is_ok_and(|rows| rows > 0) {
            return;
        }
    }
}

fn careless(backend: &SqliteBackend) -> Connection {
    let conn = beside(backend.path());
    conn.execute_batch("PRAGMA ignore_check_constraints = 1; PRAGMA foreign_keys = 0").unwrap();
    conn
}

/// Jobs by what became of them before the damage.
#[derive(Default)]
struct Jobs {
    ready: Vec<JobId>,
    scheduled: Vec<JobId>,
    retrying: Vec<JobId>,
    completed: Vec<JobId>,
    dead: Vec<JobId>,
    cancelled: Vec<JobId>,
    running: Claim,
}

impl Jobs {
    fn all(&self) -> Vec<JobId> {
        let running = self.running.leases.iter().map(|lease| lease.spec.id);
        let others = [
            &self.ready,
            &self.scheduled,
            &self.retrying,
            &self.completed,
            &self.dead,
            &self.cancelled,
        ];
        running.chain(others.into_iter().flatten().copied()).collect()
    }
}

async fn enqueue(backend: &SqliteBackend, past: &str, delay: Duration) -> Vec<JobId> {
    let kept = Retention { completed: RETENTION_MAX, dead: RETENTION_MAX };
    let new = |n: usize| {
        // Those that are not small stand apart.
        let payload = if n % 8 < 4 { "x".repeat(600) } else { "x".to_owned() };
        let job: NewJob =
            job(payload).delay(delay).retention(kept).priority(u8::try_from(n % 3).unwrap());
        let job = if n % 4 < 2 { job.limit(format!("tenant:{}", n % 2)) } else { job };
        if n < JOBS { job.idempotency_key(format!("{past}-{n}")) } else { job }
    };
    let jobs: Vec<NewJob> = (0..2 * JOBS).map(new).collect();
    backend.enqueue(&jobs, STORED).await.unwrap();
    jobs.iter().map(NewJob::job_id).collect()
}

/// Claims all that is ready and ends it so.
async fn end_all(backend: &SqliteBackend, outcome: Outcome) {
    let claim = backend.claim(&request(500)).await.unwrap();
    assert_eq!(claim.leases.len(), 2 * JOBS);
    let mut settle = completion(&claim.leases);
    settle.settlements.iter_mut().for_each(|s| s.outcome = outcome.clone());
    backend.settle(&settle).await.unwrap();
}

fn error() -> JobError {
    JobError::new(ErrorKind::Failed, "it did not work")
}

async fn fill(backend: &SqliteBackend) -> Jobs {
    let (now, later) = (Duration::ZERO, Duration::from_secs(3600));
    let mut jobs =
        Jobs { scheduled: enqueue(backend, "scheduled", later).await, ..Jobs::default() };
    jobs.retrying = enqueue(backend, "retrying", now).await;
    end_all(backend, Outcome::Retry { delay: later, error: error() }).await;
    jobs.completed = enqueue(backend, "completed", now).await;
    end_all(backend, Outcome::Completed { result: Some(queue_core::Payload::raw("r")) }).await;
    jobs.dead = enqueue(backend, "dead", now).await;
    end_all(backend, Outcome::Dead { error: error() }).await;
    jobs.cancelled = enqueue(backend, "cancelled", now).await;
    backend.cancel(&jobs.cancelled).await.unwrap();
    enqueue(backend, "running", now).await;
    jobs.running = backend.claim(&request(500)).await.unwrap();
    for reported in report(backend, &jobs.running).await {
        assert_eq!(reported, Reported::Applied);
    }
    jobs.ready = enqueue(backend, "ready", now).await;
    backend.set_paused(&"elsewhere".parse().unwrap(), true).await.unwrap();
    limit(backend).await;
    jobs
}

/// Sets limits of every sort, after which little may run at once; lanes wait.
async fn limit(backend: &SqliteBackend) {
    let none = LimitSettings::default();
    let second = Duration::from_secs(1);
    let breaker = Breaker { failures: 3, window: second, cooldown: second };
    let set = [
        ("tenant:*", LimitSettings { concurrency: Some(5), ..none.clone() }),
        (
            "tenant:1",
            LimitSettings { breaker: Some(breaker), concurrency: Some(5), ..none.clone() },
        ),
        ("queue:*", LimitSettings { max_live: Some(1000), ..none }),
    ];
    for (target, settings) in set {
        let target = LimitTarget::new(target).unwrap();
        backend.set_limit(&target, Some(&settings)).await.unwrap();
    }
    // The queue's live jobs are counted now, and nobody gets room.
    backend.enqueue(&[job("last").limit("tenant:1").delay(second)], STORED).await.unwrap();
    backend.announce(&worker(), Duration::from_secs(1_000_000)).await.unwrap();
}

fn worker() -> WorkerInfo {
    WorkerInfo {
        id: WorkerId::new("w").unwrap(),
        instance: 7,
        queues: Vec::new(),
        ranks: Vec::new(),
        kinds: Vec::new(),
        concurrency: 1,
        running: 0,
    }
}

async fn report(backend: &SqliteBackend, claim: &Claim) -> Vec<Reported> {
    let report = |lease: &queue_core::Lease| Report {
        id: lease.spec.id,
        token: lease.token,
        progress: Some(Progress::new(50, "half")),
        lines_before: 0,
        lines: vec!["one".to_owned(), "two".to_owned()],
    };
    let reports: Vec<Report> = claim.leases.iter().map(report).collect();
    backend.report(&reports).await.unwrap()
}

/// Runs everything that can be claimed; the number of rounds is bounded.
async fn work_off(backend: &SqliteBackend) {
    for _ in 0..100 {
        let claim = backend.claim(&request(500)).await.unwrap();
        if claim.leases.is_empty() && !claim.more {
            return;
        }
        backend.settle(&completion(&claim.leases)).await.unwrap();
    }
    panic!("there is work without end");
}

async fn maintain(backend: &SqliteBackend) {
    for _ in 0..100 {
        if !backend.maintain(100).await.unwrap().more {
            return;
        }
    }
    panic!("there is maintenance without end");
}

async fn list(backend: &SqliteBackend, state: JobState) -> Vec<JobId> {
    let mut request = ListRequest { limit: 7, ..ListRequest::new(state) };
    let mut found = Vec::new();
    for _ in 0..1000 {
        let page = backend.list(&request).await.unwrap();
        found.extend(page.jobs.iter().map(|job| job.id).chain(page.quarantined));
        if page.next.is_none() {
            return found;
        }
        request.cursor = page.next;
    }
    panic!("there are pages without end");
}

/// Everything that reads, and the writes that meet every job. None of it fails for a damaged one.
async fn look_at_everything(backend: &SqliteBackend, jobs: &Jobs) {
    let ids = jobs.all();
    for id in &ids {
        match backend.get(&[*id]).await {
            Ok(_) | Err(Error::Corrupt(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(backend.get(&ids).await.unwrap().len(), ids.len());
    let watched: Vec<WatchRequest> =
        ids.iter().map(|id| WatchRequest { id: *id, after_line: 0 }).collect();
    backend.watch(&watched).await.unwrap();
    for state in JobState::ALL {
        list(backend, state).await;
    }
    report(backend, &jobs.running).await;
    let tokens = jobs.running.leases.iter().map(|lease| lease.token).take(1).collect();
    backend.renew(&RenewRequest { tokens, lease: Duration::from_secs(60) }).await.unwrap();
    backend.stats().await.unwrap();
    backend.paused().await.unwrap();
    backend.limits().await.unwrap();
    let keys = ["tenant:0", "tenant:1", "queue:default"].map(|key| LimitKey::new(key).unwrap());
    backend.limit_status(&keys).await.unwrap();
    backend.lanes(&QueueName::default()).await.unwrap();
    for id in &ids {
        backend.place(*id).await.unwrap();
    }
    backend.workers().await.unwrap();
    backend.quarantined(&ids).await.unwrap();
}

/// What is quarantined can be seen, and then be taken back or deleted.
async fn clear_quarantine(backend: &SqliteBackend) -> (usize, usize) {
    let aside = list(backend, JobState::Quarantined).await;
    let count = "SELECT count(*) FROM job WHERE state = 8";
    let count: i64 = beside(backend.path()).query_row(count, [], |row| row.get(0)).unwrap();
    assert_eq!(aside.len(), usize::try_from(count).unwrap());
    for raw in backend.quarantined(&aside).await.unwrap() {
        let raw = raw.expect("it is listed");
        assert!(!raw.reason.is_empty() && raw.parts.iter().any(|(name, _)| name == "job.due_ms"));
    }
    let mut recovered = 0;
    for outcome in backend.recover(&aside).await.unwrap() {
        match outcome {
            RecoverOutcome::Recovered(_) => recovered += 1,
            other => assert_eq!(other, RecoverOutcome::Unreadable),
        }
    }
    let left = list(backend, JobState::Quarantined).await;
    assert_eq!(left.len(), aside.len() - recovered);
    let left: Vec<_> = left.into_iter().map(|id| (id, JobState::Quarantined)).collect();
    backend.delete(&left).await.unwrap();
    assert_eq!(list(backend, JobState::Quarantined).await, []);
    (recovered, left.len())
}

/// An audit puts right whatever it says that it does.
async fn repair(backend: &SqliteBackend, seed: u64) {
    let first = backend.audit(true).await.unwrap();
    let second = backend.audit(false).await.unwrap();
    for violation in &second {
        let known = first.iter().any(|known| known == violation && !known.repaired);
        // What is for people to decide about: a note that cannot be read, and the name of a lane
        // whose jobs are quarantined for it.
        let left =
            ["its history", "CHECK constraint failed in lane", "cannot be read; set or remove"];
        let is_left = left.iter().any(|left| violation.what.contains(left));
        assert!(known && is_left, "seed {seed}: {violation:?}");
    }
}

/// All good jobs do what good jobs do; `good` says which ones these are.
async fn good_jobs_flow(backend: &SqliteBackend, jobs: &Jobs, good: &HashSet<JobId>, seed: u64) {
    let leases: Vec<_> =
        jobs.running.leases.iter().filter(|lease| good.contains(&lease.spec.id)).cloned().collect();
    let settled = backend.settle(&completion(&leases)).await.unwrap().settled;
    assert!(settled.iter().all(|s| *s == Settled::Applied(JobState::Completed)), "{settled:?}");
    let good_of = |ids: &[JobId]| -> Vec<JobId> {
        ids.iter().filter(|id| good.contains(*id)).copied().collect()
    };
    let dead = good_of(&jobs.dead);
    let records = backend.get(&dead).await.unwrap();
    let finished_at = |record: Option<queue_core::JobRecord>| record.unwrap().finished_at.unwrap();
    let again = dead.iter().copied().zip(records.into_iter().map(finished_at)).collect();
    let retried = RetryRequest { jobs: again, keep_counts: false };
    for outcome in backend.retry(&retried).await.unwrap() {
        assert_eq!(outcome, RetryOutcome::Ready, "seed {seed}");
    }
    work_off(backend).await;
    set_clock(backend.path(), LATER);
    maintain(backend).await;
    work_off(backend).await;
    let ran: Vec<JobId> =
        [&jobs.ready, &jobs.scheduled, &jobs.retrying, &jobs.completed, &jobs.dead]
            .into_iter()
            .flat_map(|ids| good_of(ids))
            .collect();
    for (id, record) in ran.iter().zip(backend.get(&ran).await.unwrap()) {
        let state = record.map(|record| record.state);
        assert_eq!(state, Some(JobState::Completed), "seed {seed}: {id}");
    }
    let cancelled = good_of(&jobs.cancelled);
    for record in backend.get(&cancelled).await.unwrap() {
        assert_eq!(record.unwrap().state, JobState::Cancelled, "seed {seed}");
    }
}

async fn everything_ends(backend: &SqliteBackend) {
    set_clock(backend.path(), LAST);
    maintain(backend).await;
    work_off(backend).await;
    let new = job("new");
    backend.enqueue(std::slice::from_ref(&new), STORED).await.unwrap();
    let claim = backend.claim(&request(500)).await.unwrap();
    let given: Vec<JobId> = claim.leases.iter().map(|lease| lease.spec.id).collect();
    assert_eq!(given, [new.job_id()]);
    let end = Settlement {
        id: new.job_id(),
        token: claim.leases[0].token,
        outcome: Outcome::Completed { result: None },
        elapsed: Duration::ZERO,
    };
    let settle = SettleRequest { settlements: vec![end], claim: None };
    let settled = backend.settle(&settle).await.unwrap().settled;
    assert_eq!(settled, [Settled::Applied(JobState::Completed)]);
}

async fn in_time<T>(seed: u64, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), work)
        .await
        .unwrap_or_else(|_| panic!("seed {seed}: it hangs"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_jobs_are_quarantined_and_the_others_run() {
    let (mut damaged, mut recovered, mut deleted) = (0, 0, 0);
    for seed in 0..seeds() {
        let directory = tempfile::tempdir().unwrap();
        let backend = fast(&directory.path().join("queue.db"));
        set_clock(backend.path(), START);
        in_time(seed, async {
            let jobs = fill(&backend).await;
            let mut random = Random(seed);
            let conn = careless(&backend);
            let mut good: HashSet<JobId> = jobs.all().into_iter().collect();
            for id in jobs.all().into_iter().step_by(2) {
                good.remove(&id);
                damaged += 1;
                let table = ["job", "job", "job", "body", "note", "line"][random.below(6)];
                let id: String = id.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
                let of = format!("job = (SELECT job FROM job WHERE id = x'{id}')");
                damage(&conn, table, &of, &mut random);
            }
            drop(conn);
            // Before and after everything has been looked at.
            if seed % 2 == 0 {
                look_at_everything(&backend, &jobs).await;
            }
            good_jobs_flow(&backend, &jobs, &good, seed).await;
            look_at_everything(&backend, &jobs).await;
            repair(&backend, seed).await;
            let (back, gone) = clear_quarantine(&backend).await;
            (recovered, deleted) = (recovered + back, deleted + gone);
            repair(&backend, seed).await;
            everything_ends(&backend).await;
        })
        .await;
    }
    assert!(recovered > 0 && deleted > 0, "{recovered} {deleted}");
    println!("{damaged} damaged, {recovered} recovered, {deleted} deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_to_what_jobs_share_is_repaired() {
    for seed in 0..seeds() {
        let directory = tempfile::tempdir().unwrap();
        let backend = fast(&directory.path().join("queue.db"));
        set_clock(backend.path(), START);
        in_time(seed, async {
            let jobs = fill(&backend).await;
            let mut random = Random(seed);
            let conn = careless(&backend);
            for table in [
                "lane",
                "claim",
                "shelf",
                "quarantine",
                "store",
                "pause",
                "limit_setting",
                "limit_key",
                "limit_wait",
                "queue_live",
                "worker",
            ] {
                let rows: i64 = conn
                    .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
                    .unwrap();
                for _ in 0..rows.min(2) {
                    damage_one_row(&conn, table, &mut random);
                }
            }
            drop(conn);
            look_at_everything(&backend, &jobs).await;
            work_off(&backend).await;
            maintain(&backend).await;
            repair(&backend, seed).await;
            clear_quarantine(&backend).await;
            set_clock(backend.path(), LATER);
            maintain(&backend).await;
            work_off(&backend).await;
            repair(&backend, seed).await;
            everything_ends(&backend).await;
        })
        .await;
    }
}

fn damage_one_row(conn: &Connection, table: &str, random: &mut Random) {
    let key = &columns(conn, table)[0].0;
    // As SQL: text need not be UTF-8 any more.
    let quote = format!(
        "SELECT CASE typeof({key}) WHEN 'text' THEN 'CAST(x''' || hex({key}) || ''' AS TEXT)' \
         ELSE quote({key}) END FROM {table} ORDER BY {key}"
    );
    let rows: Vec<String> = conn
        .prepare(&quote)
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let quoted = &rows[random.below(rows.len())];
    damage(conn, table, &format!("{key} = {quoted}"), random);
}

/// A worker that has slots for another kind only.
#[tokio::test]
async fn a_lane_that_counts_jobs_it_has_not_wakes_nobody_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let backend = fast(&directory.path().join("queue.db"));
    backend.enqueue(&[job("x")], STORED).await.unwrap();
    let claim = backend.claim(&request(1)).await.unwrap();
    beside(backend.path()).execute("UPDATE lane SET ready = 5", []).unwrap();
    let interest = crate::support::interest();
    let brief = Duration::from_millis(50);
    assert_eq!(backend.wait(&interest, brief).await.unwrap(), queue_core::Wake::Work);
    let kinds = vec![KindSlots::new(kind(), 5)];
    let empty = backend.claim(&queue_core::ClaimRequest { kinds, ..request(5) }).await.unwrap();
    assert!(empty.leases.is_empty());
    assert_eq!(backend.wait(&interest, brief).await.unwrap(), queue_core::Wake::Timeout);
    backend.settle(&completion(&claim.leases)).await.unwrap();
    assert_eq!(backend.audit(false).await.unwrap(), []);
}
