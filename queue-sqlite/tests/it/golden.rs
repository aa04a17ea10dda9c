//! The stored format, written down: this program writes the rows of version 2, and reads those and
//! the ones of version 1. Whoever has to change something here needs a migration.

use std::path::Path;
use std::time::Duration;

use queue_core::{
    AttemptEnd, Backend, Blocked, ClaimRequest, ClaimToken, Codec, ErrorKind, Hold, JobError,
    JobId, JobState, LimitKey, LimitKeys, LimitSettings, LimitTarget, LiveWorker, NewJob, Outcome,
    Payload, Progress, QueueName, Report, Retention, Timestamp, WatchRequest, WorkerId, WorkerInfo,
};

use queue_sqlite::SqliteBackend;

use crate::support::{STORED, assert_sound, beside, completion, job, open, request, set_clock};

const START: Timestamp = Timestamp::from_ms(4_102_444_800_000);

/// All rows of the store of [`write_all`].
const GOLDEN: &str = include_str!("golden_2.sql");
/// The rows that version 1 wrote there, and its tables.
const GOLDEN_1: &str = include_str!("golden_1.sql");
const TABLES_1: &str = include_str!("../../migrations/0001_jobs.sql");

const TABLES: [&str; 16] = [
    "store",
    "lane",
    "claim",
    "pause",
    "shelf",
    "job",
    "body",
    "note",
    "line",
    "quarantine",
    "limit_setting",
    "limit_key",
    "limit_wait",
    "limit_recheck",
    "queue_live",
    "worker",
];

fn id(byte: u8) -> JobId {
    JobId::from_bytes([byte; 16])
}

fn refused() -> JobError {
    JobError::new(ErrorKind::Failed, "no")
}

/// The INSERTs that make the rows of a file.
fn rows(path: &Path) -> String {
    let conn = beside(path);
    let mut text = String::new();
    for table in TABLES {
        let columns = format!(
            "SELECT group_concat('quote(' || name || ')', ' || '', '' || ') \
             FROM pragma_table_info('{table}')"
        );
        let columns: String = conn.query_row(&columns, [], |row| row.get(0)).unwrap();
        let sql =
            format!("SELECT 'INSERT INTO {table} VALUES (' || {columns} || ');' FROM {table}");
        let mut select = conn.prepare(&sql).unwrap();
        for row in select.query_map([], |row| row.get::<_, String>(0)).unwrap() {
            text.push_str(&row.unwrap());
            text.push('\n');
        }
    }
    text
}

/// Makes jobs in as many states as there are, with everything that can be stored about a job.
async fn write_all(path: &Path) {
    let backend = open(path);
    set_clock(path, START);
    let token = ClaimToken::from_bytes([7; 16]);
    let first = job("a")
        .id(id(1))
        .idempotency_key("one")
        .hold(Hold::AtLeast(Duration::from_secs(10)))
        .header("traceparent", "00-ab-cd-01")
        .expires_at(START.after(Duration::from_secs(60)));
    let names = [(2, "b"), (3, "c"), (4, "d"), (5, "e")];
    let others = names.map(|(number, payload)| job(payload).id(id(number)));
    // One that does not stand beside its head.
    let others = others.into_iter().chain([job("f".repeat(512)).id(id(6))]);
    let jobs: Vec<NewJob> = std::iter::once(first).chain(others).collect();
    backend.enqueue(&jobs, STORED).await.unwrap();
    let claim = backend.claim(&ClaimRequest { token, ..request(4) }).await.unwrap();
    let report = Report {
        id: id(1),
        token,
        progress: Some(Progress::new(40, "on its way")),
        lines_before: 0,
        lines: vec!["a line".to_owned()],
    };
    backend.report(&[report]).await.unwrap();
    let mut settle = completion(&claim.leases[..3]);
    let retry = Outcome::Retry { delay: Duration::from_secs(5), error: refused() };
    let outcomes = [
        Outcome::Completed { result: Some(Payload::raw("r")) },
        retry,
        Outcome::Dead { error: refused() },
    ];
    for (settlement, outcome) in settle.settlements.iter_mut().zip(outcomes) {
        settlement.outcome = outcome;
    }
    backend.settle(&settle).await.unwrap();
    backend.cancel(&[id(4), id(6)]).await.unwrap();
    beside(path).execute_batch("UPDATE job SET options = x'c1' WHERE job = 5").unwrap();
    backend.claim(&request(1)).await.unwrap();
    backend.set_paused(&"idle".parse().unwrap(), true).await.unwrap();
    write_limits(&backend).await;
    backend.close().await;
}

fn limits() -> Vec<(LimitTarget, LimitSettings)> {
    let none = LimitSettings::default();
    let set = [
        ("provider:x", LimitSettings { rate: Some("1/1m".parse().unwrap()), ..none.clone() }),
        ("tenant:a", LimitSettings { concurrency: Some(1), weight: Some(2), ..none.clone() }),
        ("queue:*", LimitSettings { max_live: Some(100), ..none }),
    ];
    set.map(|(target, settings)| (LimitTarget::new(target).unwrap(), settings)).to_vec()
}

fn worker() -> WorkerInfo {
    WorkerInfo {
        id: WorkerId::new("w").unwrap(),
        instance: 7,
        queues: vec![QueueName::default()],
        ranks: Vec::new(),
        kinds: Vec::new(),
        concurrency: 4,
        running: 1,
    }
}

/// Jobs 7 and 8 with a limit key, of which one runs and holds a key of its worker, too, and the
/// other waits for room.
async fn write_limits(backend: &SqliteBackend) {
    for (target, settings) in limits() {
        backend.set_limit(&target, Some(&settings)).await.unwrap();
    }
    let jobs = [7, 8].map(|number| job("f").id(id(number)).limit("tenant:a"));
    backend.enqueue(&jobs, STORED).await.unwrap();
    let mut claim = ClaimRequest { token: ClaimToken::from_bytes([8; 16]), ..request(2) };
    claim.kinds[0].limits = LimitKeys::parse(["provider:x"]).unwrap();
    assert_eq!(backend.claim(&claim).await.unwrap().leases.len(), 1);
    backend.announce(&worker(), Duration::from_secs(45)).await.unwrap();
}

#[tokio::test]
async fn version_2_is_written_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    write_all(&path).await;
    let written = rows(&path);
    let (_comment, golden) = GOLDEN.split_once('\n').unwrap();
    assert!(written == golden, "{written}");
}

#[tokio::test]
async fn version_2_is_read_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    let conn = beside(backend.path());
    conn.execute_batch("DELETE FROM store").unwrap();
    conn.execute_batch(GOLDEN).unwrap();
    assert_golden(&backend).await;
}

/// A file of version 1 with these rows.
fn version_1(path: &Path, rows: &str) {
    let conn = beside(path);
    conn.execute_batch("PRAGMA auto_vacuum = incremental").unwrap();
    conn.execute_batch(TABLES_1).unwrap();
    conn.execute_batch(rows).unwrap();
    conn.execute_batch("PRAGMA user_version = 1; PRAGMA application_id = 0x6a6f6271").unwrap();
}

#[tokio::test]
async fn a_file_of_version_1_becomes_one_of_version_2() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    version_1(&path, GOLDEN_1);
    let backend = open(&path);
    assert_golden(&backend).await;
    // What runs can be claimed again and ends, and what is ready starts.
    let token = ClaimToken::from_bytes([7; 16]);
    let repeated = backend.claim(&ClaimRequest { token, ..request(1) }).await.unwrap();
    assert_eq!(repeated.leases.iter().map(|lease| lease.spec.id).collect::<Vec<_>>(), [id(4)]);
    backend.settle(&completion(&repeated.leases)).await.unwrap();
    backend.enqueue(&[job("new").id(id(9))], STORED).await.unwrap();
    let claim = backend.claim(&request(10)).await.unwrap();
    assert_eq!(claim.leases.iter().map(|lease| lease.spec.id).collect::<Vec<_>>(), [id(9)]);
    assert_sound(&backend).await;
    assert_eq!(rows(&path).matches("INSERT INTO body").count(), 8);
}

/// Nobody could open the file else.
#[tokio::test]
async fn damaged_jobs_do_not_keep_a_file_of_version_1_from_being_opened() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let damage = "PRAGMA ignore_check_constraints = 1; \
         UPDATE job SET state = 9, settled_by = x'00' WHERE job = 2; \
         UPDATE claim SET claim = 7 WHERE claim = 1;";
    version_1(&path, &format!("{GOLDEN_1}{damage}"));
    let backend = open(&path);
    assert!(backend.get(&[id(2)]).await.is_err());
    assert_eq!(backend.get(&[id(2), id(3)]).await.unwrap()[1].as_ref().unwrap().failures, 1);
    backend.audit(true).await.unwrap();
    assert_sound(&backend).await;
}

async fn assert_golden(backend: &SqliteBackend) {
    assert_sound(backend).await;
    let records = backend.get(&[1, 2, 3, 4, 5, 6].map(id)).await.unwrap();
    let [completed, retrying, dead, running] = [0, 1, 2, 3].map(|n| records[n].clone().unwrap());
    assert_eq!(records[4], None);

    assert_eq!(completed.state, JobState::Completed);
    assert_eq!(completed.spec.hold, Hold::AtLeast(Duration::from_secs(10)));
    assert_eq!(completed.spec.idempotency_key.unwrap().as_str(), "one");
    assert_eq!(completed.spec.retention, Retention::default());
    assert_eq!(completed.spec.expires_at, Some(START.after(Duration::from_secs(60))));
    assert_eq!(completed.spec.options.headers["traceparent"], "00-ab-cd-01");
    assert_eq!(completed.result, Some(Payload::from_parts(Codec::Raw, "r")));
    assert_eq!(completed.progress, Some(Progress::new(40, "on its way")));
    assert_eq!(completed.elapsed, Some(Duration::from_millis(1)));

    assert_eq!(retrying.state, JobState::Retrying);
    assert_eq!(retrying.due_at, START.after(Duration::from_secs(5)));
    assert_eq!(retrying.last_error, Some(refused()));
    assert_eq!((retrying.history[0].number, retrying.history[0].ended_at), (1, START));
    let elapsed = Duration::from_millis(1);
    assert_eq!(retrying.history[0].end, AttemptEnd::Failed { error: refused(), elapsed });

    assert_eq!((dead.state, dead.spec.payload), (JobState::Dead, Payload::raw("c")));
    assert_eq!(running.lease_until, Some(START.after(Duration::from_secs(30))));
    assert!(running.state == JobState::Running && running.cancel_requested);
    assert_eq!(records[5].as_ref().unwrap().state, JobState::Cancelled);

    assert_eq!(backend.limits().await.unwrap(), limits());
    let keys = ["provider:x", "tenant:a", "queue:default"].map(|key| LimitKey::new(key).unwrap());
    let [provider, tenant, queue] = backend.limit_status(&keys).await.unwrap().try_into().unwrap();
    assert_eq!(provider.blocked, [Blocked::Rate { next_at: START.after(Duration::from_secs(60)) }]);
    assert_eq!((provider.holders, provider.live), (vec![id(7)], 0));
    assert_eq!((tenant.holders, tenant.live), (vec![id(7)], 2));
    assert_eq!(tenant.blocked, [Blocked::Full { allowed: 1 }]);
    assert_eq!(queue.live, 4);
    let place = backend.place(id(8)).await.unwrap().place.unwrap();
    let lanes = backend.lanes(&QueueName::default()).await.unwrap();
    assert_eq!((place.jobs_ahead, lanes.starts.current.count), (0, 5));
    let workers = backend.workers().await.unwrap();
    assert_eq!(workers, [LiveWorker::new(worker(), Duration::from_secs(45))]);

    let watched = backend.watch(&[WatchRequest { id: id(1), after_line: 0 }]).await.unwrap();
    assert_eq!(watched[0].as_ref().unwrap().lines[0].text, "a line");
    let aside = backend.quarantined(&[id(5)]).await.unwrap().remove(0).unwrap();
    assert!(aside.reason.contains("options"), "{aside:?}");
    assert_eq!(backend.paused().await.unwrap(), ["idle".parse().unwrap()]);
}
