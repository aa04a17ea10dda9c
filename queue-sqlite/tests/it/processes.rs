//! Several processes on one file, which may be killed at any moment.
//!
//! A helper process is this test binary again, told by an environment variable to run one of the
//! `helper` tests below; without the variable those do nothing.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use queue_core::{
    Backend, ErrorKind, JobError, JobId, JobState, Lease, NewJob, OnConflict, Outcome, Progress,
    QueueName, Report, RetryRequest, Wake,
};
use queue_sqlite::SqliteBackend;

use crate::support::{
    STORED, assert_sound, completion, count, interest, job, kind, open, request, set_clock,
};

/// Names the file that a helper works on.
const FILE: &str = "QUEUE_SQLITE_TEST_FILE";

/// A helper process, which is killed when this is dropped.
struct Helper {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Helper {
    /// Runs the test `name` in another process.
    fn start(name: &str, file: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("processes::{name}"), "--nocapture", "--test-threads=1"])
            .env(FILE, file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    /// The next line that starts with `word`, without it; `None` if the process has ended.
    fn hear(&mut self, word: &str) -> Option<String> {
        let mut line = String::new();
        while self.said.read_line(&mut line).unwrap() > 0 {
            // Only whole lines count: a killed process may have written half of one.
            if let Some(rest) = line.strip_prefix(word).and_then(|rest| rest.strip_suffix('\n')) {
                return Some(rest.trim().to_owned());
            }
            line.clear();
        }
        None
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The file of a helper process; `None` in the usual run of the tests.
fn file() -> Option<PathBuf> {
    std::env::var_os(FILE).map(PathBuf::from)
}

fn say(word: &str, what: impl std::fmt::Display) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "\n{word} {what}").unwrap();
    stdout.flush().unwrap();
}

/// Does everything that writes until it is killed, and says what was acknowledged.
#[tokio::test]
async fn helper_works_until_it_is_killed() {
    let Some(file) = file() else { return };
    let backend = open(&file);
    for round in 0.. {
        let jobs: Vec<NewJob> = (0..20)
            .map(|n| job("x").idempotency_key(format!("{}-{round}-{n}", std::process::id())))
            .collect();
        backend.enqueue(&jobs, STORED).await.unwrap();
        jobs.iter().for_each(|job| say("enqueued", job.job_id()));
        let claim = backend.claim(&request(7)).await.unwrap();
        let (done, rest) = claim.leases.split_at(claim.leases.len() / 2);
        report(&backend, &claim.leases).await;
        backend.settle(&completion(done)).await.unwrap();
        done.iter().for_each(|lease| say("completed", lease.spec.id));
        operate(&backend, &rest[..rest.len() / 2]).await;
    }
}

async fn report(backend: &SqliteBackend, leases: &[Lease]) {
    let report = |lease: &Lease| Report {
        id: lease.spec.id,
        token: lease.token,
        progress: Some(Progress::new(50, "half")),
        lines_before: 0,
        lines: vec!["a line".to_owned(); 3],
    };
    let reports: Vec<Report> = leases.iter().map(report).collect();
    backend.report(&reports).await.unwrap();
}

/// What leaves something else behind than a completed job: a failure, jobs that were replaced,
/// run again and deleted, a pause.
async fn operate(backend: &SqliteBackend, leases: &[Lease]) {
    let mut settle = completion(leases);
    for settlement in &mut settle.settlements {
        let error = JobError::new(ErrorKind::Failed, "not this time");
        settlement.outcome = Outcome::Retry { delay: Duration::ZERO, error };
    }
    backend.settle(&settle).await.unwrap();
    let later = || job("later").delay(Duration::from_secs(3600)).idempotency_key("debounced");
    let replacing = [(); 2].map(|()| later().on_conflict(OnConflict::Replace));
    backend.enqueue(&replacing, STORED).await.unwrap();
    let replaced = replacing[0].job_id();
    let record = backend.get(&[replaced]).await.unwrap().remove(0);
    let finished_at = record.and_then(|record| record.finished_at);
    if let Some(finished_at) = finished_at {
        let again = RetryRequest { jobs: vec![(replaced, finished_at)], keep_counts: false };
        backend.retry(&again).await.unwrap();
        backend.delete(&[(replaced, JobState::Cancelled)]).await.unwrap();
    }
    let queue = "elsewhere".parse().unwrap();
    backend.set_paused(&queue, true).await.unwrap();
    backend.set_paused(&queue, false).await.unwrap();
}

/// How often the helpers are killed, unless `KILL_ROUNDS` says otherwise; two of them each time.
const ROUNDS_DEFAULT: usize = 8;

#[tokio::test]
async fn killed_processes_lose_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let backend = open(&path);
    let rounds = std::env::var("KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    for round in 0..rounds.unwrap_or(ROUNDS_DEFAULT) {
        // Killed after so many lines, wherever it is then: in the middle of a commit as likely as
        // not, since that is what it does most of its time.
        let said = killed("helper_works_until_it_is_killed", &path, 1 + (round % 8) * 5);
        assert_kept(&backend, &said).await;
    }
    recover(&backend, &path).await;
}

/// Commits so much that the log goes into the file all the time, until it is killed.
#[tokio::test]
async fn helper_fills_the_log_until_it_is_killed() {
    let Some(file) = file() else { return };
    let backend = open(&file);
    loop {
        let jobs: Vec<NewJob> = (0..8).map(|_| job("x".repeat(100_000))).collect();
        backend.enqueue(&jobs, STORED).await.unwrap();
        jobs.iter().for_each(|job| say("enqueued", job.job_id()));
        let claim = backend.claim(&request(8)).await.unwrap();
        backend.settle(&completion(&claim.leases)).await.unwrap();
        claim.leases.iter().for_each(|lease| say("completed", lease.spec.id));
    }
}

/// Who opens the file next finds nobody there, and reads the log from its beginning.
#[tokio::test]
async fn processes_killed_while_the_log_goes_into_the_file_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    open(&path).close().await;
    for round in 0..4 {
        let before = std::fs::metadata(&path).unwrap().len();
        // Together they write some 16 MiB and more, with which the thread and the writers copy.
        let said = killed("helper_fills_the_log_until_it_is_killed", &path, 104 + 24 * round);
        let after = std::fs::metadata(&path).unwrap().len();
        assert!(after > before + 4 * 1024 * 1024, "nothing was copied: {before}, {after}");
        let backend = open(&path);
        assert_kept(&backend, &said).await;
        backend.close().await;
    }
}

/// What processes said.
#[derive(Default)]
struct Said {
    enqueued: HashSet<JobId>,
    completed: HashSet<JobId>,
}

/// Runs two helpers, kills them after so many jobs were acknowledged by each, and tells what they said.
fn killed(helper: &str, path: &Path, lines: usize) -> Said {
    let mut helpers = [(); 2].map(|()| Helper::start(helper, path));
    let mut said = Said::default();
    for helper in &mut helpers {
        for _ in 0..lines {
            said.enqueued.insert(helper.hear("enqueued").unwrap().parse::<JobId>().unwrap());
        }
    }
    for helper in &mut helpers {
        helper.child.kill().unwrap();
    }
    for helper in &mut helpers {
        while let Some(line) = helper.hear("") {
            let Some((word, id)) = line.split_once(' ') else { continue };
            let Ok(id) = id.parse::<JobId>() else { continue };
            match word {
                "enqueued" => said.enqueued.insert(id),
                _ => said.completed.insert(id),
            };
        }
        helper.kill();
    }
    said
}

/// All that was acknowledged is there, and nothing is damaged.
async fn assert_kept(backend: &SqliteBackend, said: &Said) {
    assert_sound(backend).await;
    let enqueued: Vec<JobId> = said.enqueued.iter().copied().collect();
    for ids in enqueued.chunks(500) {
        for record in backend.get(ids).await.unwrap() {
            let record = record.expect("an acknowledged job is there");
            let done = said.completed.contains(&record.spec.id);
            assert!(!done || record.state == JobState::Completed, "{}", record.state);
        }
    }
}

/// What the killed processes left running is taken back and done.
async fn recover(backend: &SqliteBackend, path: &Path) {
    let running = count(backend, JobState::Running).await;
    assert!(running > 0, "they were killed with jobs in their hands");
    set_clock(path, queue_core::Timestamp::from_ms(4_102_444_800_000));
    let mut reaped = 0;
    loop {
        let done = backend.maintain(100).await.unwrap();
        reaped += done.reaped;
        if !done.more {
            break;
        }
    }
    assert_eq!(reaped, running);
    loop {
        let claim = backend.claim(&request(500)).await.unwrap();
        if claim.leases.is_empty() {
            break;
        }
        backend.settle(&completion(&claim.leases)).await.unwrap();
    }
    assert_eq!(count(backend, JobState::Ready).await, 0);
    assert_eq!(count(backend, JobState::Running).await, 0);
    assert_sound(backend).await;
}

/// Enqueues one job for each line that it is told, or resumes the queue.
#[tokio::test]
async fn helper_enqueues_on_command() {
    let Some(file) = file() else { return };
    let backend = open(&file);
    say("open", "");
    for line in std::io::stdin().lines() {
        let new = match line.unwrap().as_str() {
            "resume" => {
                assert!(backend.set_paused(&QueueName::default(), false).await.unwrap());
                continue;
            }
            "later" => job("x").delay(Duration::from_secs(3600)),
            _ => job("x"),
        };
        backend.enqueue(&[new], STORED).await.unwrap();
    }
}

#[test]
fn processes_may_create_a_file_together() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let mut helpers = [(); 4].map(|()| Helper::start("helper_enqueues_on_command", &path));
    for helper in &mut helpers {
        helper.hear("open").expect("it could open the file");
    }
}

#[tokio::test]
async fn a_job_of_another_process_wakes_a_waiter() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let backend = open(&path);
    let mut helper = Helper::start("helper_enqueues_on_command", &path);
    helper.hear("open").unwrap();
    let mut tell = helper.child.stdin.take().unwrap();
    for command in ["now", "later"] {
        // Wakes because of the other process, long before its time is over.
        let started = Instant::now();
        let interest = interest();
        let wait = backend.wait(&interest, Duration::from_secs(20));
        let command = async {
            writeln!(tell, "{command}").unwrap();
        };
        let (woken, ()) = tokio::join!(wait, command);
        assert_eq!(woken.unwrap(), Wake::Work);
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        let claim = backend.claim(&request(10)).await.unwrap();
        backend.settle(&completion(&claim.leases)).await.unwrap();
    }
    // The claim has told when the scheduled job is due: there is nothing else to wake up for.
    let woken = backend.wait(&interest(), Duration::from_millis(100)).await.unwrap();
    assert_eq!(woken, Wake::Timeout);
    let none = queue_core::Interest {
        kinds: vec![queue_core::KindLimits::new(kind())],
        queues: Vec::new(),
        ..interest()
    };
    assert_eq!(backend.wait(&none, Duration::from_millis(1)).await.unwrap(), Wake::Timeout);
}

#[tokio::test]
async fn a_queue_that_another_process_resumes_wakes_a_waiter() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let backend = open(&path);
    assert!(backend.set_paused(&QueueName::default(), true).await.unwrap());
    backend.enqueue(&[job("x")], STORED).await.unwrap();
    let mut helper = Helper::start("helper_enqueues_on_command", &path);
    helper.hear("open").unwrap();
    let mut tell = helper.child.stdin.take().unwrap();
    // While it is paused there is nothing to wake up for.
    let woken = backend.wait(&interest(), Duration::from_millis(100)).await.unwrap();
    assert_eq!(woken, Wake::Timeout);
    let claim = backend.claim(&request(10)).await.unwrap();
    assert!(claim.leases.is_empty() && !claim.more);
    let interest = interest();
    let wait = backend.wait(&interest, Duration::from_secs(20));
    let resume = async {
        writeln!(tell, "resume").unwrap();
    };
    let (woken, ()) = tokio::join!(wait, resume);
    assert_eq!(woken.unwrap(), Wake::Work);
    assert_eq!(backend.claim(&request(10)).await.unwrap().leases.len(), 1);
}
