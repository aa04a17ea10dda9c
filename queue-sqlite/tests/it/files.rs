//! Which files are opened, how, and which are refused.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use queue_core::backend::{CheckFinding, Verdict};
use queue_core::{Backend, Error, Namespace, Timestamp};
use queue_sqlite::{Durability, SqliteBackend, SqliteOptions};

use crate::support::{STORED, beside, interest, job, open, request, set_clock};

fn refusal(path: &Path) -> String {
    match SqliteBackend::open(path, SqliteOptions::default()) {
        Err(Error::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_file_has_the_settings_that_the_promises_need() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    assert_eq!(std::fs::metadata(backend.path()).unwrap().mode() & 0o777, 0o600);
    let wal = format!("{}-wal", backend.path().display());
    assert_eq!(std::fs::metadata(wal).unwrap().mode() & 0o777, 0o600);
    let conn = beside(backend.path());
    let number = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(number("page_size"), 4096);
    assert_eq!(number("auto_vacuum"), 2);
    assert_eq!(number("user_version"), 2);
    assert_eq!(number("application_id"), 0x6a6f_6271);
    let mode: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

#[tokio::test]
async fn the_check_tells_the_durability_and_finds_nothing_bad() {
    let directory = tempfile::tempdir().unwrap();
    for (durability, expected) in
        [(Durability::Fsync, Verdict::Good), (Durability::Memory, Verdict::Warning)]
    {
        let path = directory.path().join(format!("{durability:?}.db"));
        let options = SqliteOptions::default().durability(durability);
        let findings = SqliteBackend::open(path, options).unwrap().check().await.unwrap();
        // Where the tests run may be in memory, and is told.
        let bad = |f: &&CheckFinding| f.verdict == Verdict::Bad && f.name != "file system";
        assert_eq!(findings.iter().find(bad), None);
        let told = findings.iter().find(|finding| finding.name == "durability").unwrap();
        assert_eq!(told.verdict, expected, "{told:?}");
        let synchronous = if durability == Durability::Fsync { "= 2" } else { "= 1" };
        assert!(told.found.ends_with(synchronous), "{told:?}");
    }
}

#[test]
fn files_of_others_are_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    for content in ["short", &"not a database at all, but long enough to be one. ".repeat(100)] {
        std::fs::write(&path, content).unwrap();
        assert!(refusal(&path).contains("is not a queue database"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
    }
    let path = directory.path().join("other.db");
    for theirs in [
        "CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)",
        "PRAGMA application_id = 77",
        "PRAGMA journal_mode = wal",
    ] {
        beside(&path).execute_batch(theirs).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(refusal(&path).contains("another application"));
        assert!(std::fs::read(&path).unwrap() == before, "{theirs}: their file was changed");
    }
    // Not even what they have in their log is moved into their file.
    let theirs = beside(&path);
    theirs.execute_batch("INSERT INTO theirs VALUES (2)").unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(refusal(&path).contains("another application"));
    assert!(std::fs::read(&path).unwrap() == before);
}

#[test]
fn a_file_that_is_up_to_date_is_opened_while_somebody_writes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let first = open(&path);
    let writer = beside(&path);
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    drop(open(&path));
    drop(first);
}

#[tokio::test]
async fn a_link_is_followed_before_the_file_is_judged() {
    let directory = tempfile::tempdir().unwrap();
    let (real, links) = (directory.path().join("real"), directory.path().join("links"));
    for made in [&real, &links] {
        std::fs::create_dir(made).unwrap();
    }
    let target = real.join("queue.db");
    drop(open(&target));
    let link = links.join("queue.db");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let backend = open(&link);
    assert_eq!(backend.path(), target.canonicalize().unwrap());
    backend.enqueue(&[job("x")], STORED).await.unwrap();
    // All that stands beside the file stands beside the real one.
    assert_eq!(std::fs::read_dir(&links).unwrap().count(), 1);
}

#[tokio::test]
async fn a_link_to_a_network_or_memory_file_system_is_judged_by_its_target() {
    let memory = Path::new("/dev/shm");
    if !memory.is_dir() {
        return;
    }
    let Ok(target) = tempfile::tempdir_in(memory) else { return };
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("queue.db");
    std::fs::write(target.path().join("queue.db"), "").unwrap();
    std::os::unix::fs::symlink(target.path().join("queue.db"), &link).unwrap();
    let found = finding(&open(&link), "file system").await;
    assert_eq!(found.verdict, Verdict::Bad, "{found:?}");
}

async fn finding(backend: &SqliteBackend, name: &str) -> CheckFinding {
    let findings = backend.check().await.unwrap();
    findings.into_iter().find(|finding| finding.name == name).unwrap()
}

#[tokio::test]
async fn the_check_finds_files_that_others_can_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let backend = open(&path);
    assert_eq!(finding(&backend, "permissions").await.verdict, Verdict::Good);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    let found = finding(&backend, "permissions").await;
    assert_eq!(found.verdict, Verdict::Warning, "{found:?}");
    assert!(found.remedy.contains("chmod 600"), "{found:?}");
}

#[tokio::test]
async fn the_check_finds_a_clock_that_stands_still() {
    let directory = tempfile::tempdir().unwrap();
    let backend = open(&directory.path().join("queue.db"));
    assert_eq!(finding(&backend, "clock").await.verdict, Verdict::Good);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let ahead = |seconds| {
        let time = now + std::time::Duration::from_secs(seconds);
        Timestamp::from_ms(u64::try_from(time.as_millis()).unwrap())
    };
    set_clock(backend.path(), ahead(30));
    assert_eq!(finding(&backend, "clock").await.verdict, Verdict::Good);
    set_clock(backend.path(), ahead(86_400));
    let found = finding(&backend, "clock").await;
    assert_eq!(found.verdict, Verdict::Bad, "{found:?}");
    // The remedy helps, also the job that was claimed meanwhile by a worker that is gone.
    backend.enqueue(&[job("x")], STORED).await.unwrap();
    assert_eq!(backend.claim(&request(1)).await.unwrap().leases.len(), 1);
    let sql = found.remedy.split('\'').find(|part| part.starts_with("UPDATE")).unwrap();
    beside(backend.path()).execute_batch(sql).unwrap();
    assert_eq!(finding(&backend, "clock").await.verdict, Verdict::Good);
    assert_eq!(backend.maintain(1).await.unwrap().reaped, 1);
    assert_eq!(backend.audit(false).await.unwrap(), []);
}

#[tokio::test]
async fn a_file_that_was_deleted_takes_nothing_in_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let backend = open(&path);
    backend.enqueue(&[job("x")], STORED).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let refused = |what: &str, error: Error| match error {
        Error::NeedsRestart(why) => assert!(why.contains("moved or deleted"), "{what}: {why}"),
        other => panic!("{what}: {other:?}"),
    };
    refused("enqueue", backend.enqueue(&[job("y")], STORED).await.unwrap_err());
    refused("claim", backend.claim(&request(1)).await.unwrap_err());
    refused("get", backend.get(&[]).await.unwrap_err());
    refused("stats", backend.stats().await.unwrap_err());
    refused("maintain", backend.maintain(1).await.unwrap_err());
    let wait = backend.wait(&interest(), std::time::Duration::from_secs(20)).await;
    refused("wait", wait.unwrap_err());
    let found = finding(&backend, "file").await;
    assert_eq!(found.verdict, Verdict::Bad, "{found:?}");
    // Nor does a new file begin beside what is left of the old one, in which jobs may be.
    assert!(refusal(&path).contains("moved or deleted"));
    assert!(!path.exists());
    // Its own end leaves alone what stands there then.
    std::fs::write(&path, "").unwrap();
    backend.close().await;
    assert_eq!(std::fs::read(&path).unwrap(), b"");
}

#[test]
fn a_file_of_a_newer_version_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    drop(open(&path));
    beside(&path).execute_batch("PRAGMA user_version = 3").unwrap();
    let why = refusal(&path);
    assert!(why.contains("version 3") && why.contains("update this program"), "{why}");
}

#[test]
fn what_cannot_be_a_store_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    assert!(refusal(directory.path()).contains("is a directory"));
    let missing = directory.path().join("no/such/queue.db");
    assert!(refusal(&missing).contains("create the directory first"));
    let read_only = directory.path().join("read-only.db");
    drop(open(&read_only));
    std::fs::set_permissions(&read_only, PermissionsExt::from_mode(0o400)).unwrap();
    assert!(refusal(&read_only).contains("read-only"));
    let linked = directory.path().join("linked.db");
    drop(open(&linked));
    std::fs::hard_link(&linked, directory.path().join("second-name.db")).unwrap();
    assert!(refusal(&linked).contains("hard links"));
}

/// The reason is told, not that the file is missing, as it has to be.
#[test]
#[cfg(target_os = "linux")]
fn a_file_that_cannot_be_made_is_not_called_missing() {
    // Nobody makes files there, not even root.
    let why = refusal(Path::new("/sys/queue.db"));
    assert!(!why.contains("create the directory"), "{why}");
}

#[test]
fn an_empty_file_becomes_a_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    std::fs::write(&path, "").unwrap();
    drop(open(&path));
    drop(open(&path));
}

#[test]
fn a_new_file_can_be_opened_by_many_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = &directory.path().join("queue.db");
    std::thread::scope(|scope| {
        let open = || scope.spawn(|| drop(open(path)));
        for thread in std::iter::repeat_with(open).take(8).collect::<Vec<_>>() {
            thread.join().unwrap();
        }
    });
}

#[tokio::test]
async fn namespaces_do_not_see_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let named = |name| SqliteOptions::default().namespace(Namespace::new(name).unwrap());
    let ours = SqliteBackend::open(&path, named("ours")).unwrap();
    let theirs = SqliteBackend::open(&path, named("theirs")).unwrap();
    ours.enqueue(&[job("x")], STORED).await.unwrap();
    assert_eq!(ours.stats().await.unwrap().len(), 1);
    assert_eq!(theirs.stats().await.unwrap(), []);
    // A file that was renamed by hand is not mistaken for another namespace's.
    let moved = directory.path().join("queue.db.moved");
    let original = ours.path().to_owned();
    ours.close().await;
    std::fs::rename(original, moved).unwrap();
    let error = SqliteBackend::open(&path, named("moved")).unwrap_err();
    assert!(error.to_string().contains("holds the namespace \"ours\""), "{error}");
}
