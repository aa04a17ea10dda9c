//! Which files are opened, how, and which are refused.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use queue_core::backend::Verdict;
use queue_core::{Backend, Error, Namespace};
use queue_sqlite::{Durability, SqliteBackend, SqliteOptions};

use crate::support::{beside, job, open};

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
    assert_eq!(number("user_version"), 1);
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
        assert!(findings.iter().all(|finding| finding.verdict != Verdict::Bad), "{findings:?}");
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
    beside(&path).execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)").unwrap();
    assert!(refusal(&path).contains("another application"));
    let tables = "SELECT count(*) FROM sqlite_schema";
    let tables: i64 = beside(&path).query_row(tables, [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 1);
    let path = directory.path().join("marked.db");
    beside(&path).execute_batch("PRAGMA application_id = 77").unwrap();
    assert!(refusal(&path).contains("another application"));
}

#[test]
fn a_file_of_a_newer_version_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    drop(open(&path));
    beside(&path).execute_batch("PRAGMA user_version = 2").unwrap();
    let why = refusal(&path);
    assert!(why.contains("version 2") && why.contains("update this program"), "{why}");
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
    ours.enqueue(&[job("x")]).await.unwrap();
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
