//! Progress, logs and history: what running jobs leave behind, and who may write it.

use std::time::Duration;

use super::Harness;
use super::store::{LEASE, Store, failure, job};
use crate::{
    AttemptEnd, Backend, ErrorKind, HISTORY_ERROR_MAX_BYTES, HISTORY_MAX, JobError, JobId,
    JobState, LOG_LINE_MAX_BYTES, LOG_LINES_MAX, LOG_MAX_BYTES, Lease, LimitKeys, LogLine, Outcome,
    Progress, Report, Reported, RetryOutcome, RetryRequest, WatchRequest, Watched,
};

fn report(lease: &Lease, lines_before: u64, lines: &[&str]) -> Report {
    Report {
        id: lease.spec.id,
        token: lease.token,
        progress: None,
        lines_before,
        lines: lines.iter().map(|line| (*line).to_owned()).collect(),
    }
}

async fn send<H: Harness>(store: &Store<'_, H>, report: Report) -> Reported {
    store.backend.report(&[report]).await.unwrap()[0]
}

async fn look<H: Harness>(store: &Store<'_, H>, id: JobId, after_line: u64) -> Watched {
    let looks = store.backend.watch(&[WatchRequest { id, after_line }]).await.unwrap();
    looks.into_iter().next().flatten().expect("the store knows the job")
}

fn texts(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

pub async fn progress_and_lines_can_be_watched<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let id = store.enqueue(&job("a")).await.id;
    assert_eq!(look(&store, id, 0).await, Watched::new(JobState::Ready, 0));
    let lease = store.claim_one().await;
    let progress = Some(Progress::new(40, "ä \"half\"\0"));
    let first = Report { progress: progress.clone(), ..report(&lease, 0, &["one", "", "zwö\0"]) };
    assert_eq!(send(&store, first.clone()).await, Reported::Applied);
    let began_at = store.now();
    store.advance(Duration::from_secs(1)).await;
    assert_eq!(send(&store, report(&lease, 3, &["four"])).await, Reported::Applied);
    let seen = look(&store, id, 0).await;
    assert_eq!((seen.state, &seen.progress), (JobState::Running, &progress));
    let line = |number, at, text: &str| LogLine::new(number, at, 1, text.to_owned());
    let now = store.now();
    let expected = [
        line(1, began_at, "one"),
        line(2, began_at, ""),
        line(3, began_at, "zwö\0"),
        line(4, now, "four"),
    ];
    assert_eq!(seen.lines, expected);
    assert_eq!(look(&store, id, 3).await.lines, expected[3..]);
    assert_eq!(look(&store, id, u64::MAX).await.lines, []);
    store.complete(&lease).await;
    let done = look(&store, id, 0).await;
    assert_eq!((done.state, done.finished_at), (JobState::Completed, Some(now)));
    assert_eq!((done.progress, done.lines.len()), (progress.clone(), 4));
    assert_eq!(store.record(id).await.progress, progress);
    let unknown = [WatchRequest { id: JobId::new(), after_line: 0 }];
    assert_eq!(store.backend.watch(&unknown).await.unwrap(), [None]);
    store.audit().await;
}

pub async fn a_repeated_report_writes_nothing_twice<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let id = store.enqueue(&job("a")).await.id;
    let lease = store.claim_one().await;
    for _ in 0..2 {
        send(&store, report(&lease, 0, &["one", "two"])).await;
    }
    // The reply was lost and more has come since.
    send(&store, report(&lease, 0, &["one", "two", "three"])).await;
    send(&store, report(&lease, 1, &["two", "three"])).await;
    assert_eq!(texts(&look(&store, id, 0).await.lines), ["one", "two", "three"]);
    // A report was lost for good.
    send(&store, report(&lease, 5, &["six"])).await;
    let lines = look(&store, id, 0).await.lines;
    assert_eq!(texts(&lines), ["one", "two", "three", "six"]);
    assert_eq!(lines[3].number, 4);
    // The next attempt counts from 0 again, and its lines go on.
    store.settle(&lease, Outcome::Retry { delay: Duration::ZERO, error: failure() }).await;
    let lease = store.claim_one().await;
    send(&store, report(&lease, 0, &["again"])).await;
    let last = look(&store, id, 4).await.lines;
    assert_eq!((last[0].number, last[0].attempt, last[0].text.as_str()), (5, 2, "again"));
    store.audit().await;
}

pub async fn a_stale_report_changes_nothing<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let id = store.enqueue(&job("a")).await.id;
    let lost = store.claim_one().await;
    store.advance(LEASE).await;
    store.maintain().await;
    let late = || Report { progress: Some(Progress::new(9, "")), ..report(&lost, 0, &["late"]) };
    assert_eq!(send(&store, late()).await, Reported::Stale);
    let lease = store.claim_one().await;
    assert_eq!(send(&store, late()).await, Reported::Stale);
    store.complete(&lease).await;
    assert_eq!(send(&store, late()).await, Reported::Stale);
    assert_eq!(send(&store, report(&lease, 0, &["late"])).await, Reported::Stale);
    let seen = look(&store, id, 0).await;
    assert_eq!((seen.progress, seen.lines), (None, vec![]));
    let stranger = Report { id: JobId::new(), ..late() };
    assert_eq!(send(&store, stranger).await, Reported::Stale);
    store.audit().await;
}

pub async fn a_log_is_bounded<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let id = store.enqueue(&job("a")).await.id;
    let lease = store.claim_one().await;
    let lines: Vec<String> = (0..LOG_LINES_MAX + 30).map(|n| n.to_string()).collect();
    let texts: Vec<&str> = lines.iter().map(String::as_str).collect();
    send(&store, report(&lease, 0, &texts)).await;
    let kept = look(&store, id, 0).await.lines;
    assert_eq!((kept.len(), kept[0].number), (LOG_LINES_MAX, 31));
    // Fewer lines, if they are long.
    let long = "x".repeat(LOG_LINE_MAX_BYTES);
    let count = LOG_MAX_BYTES / LOG_LINE_MAX_BYTES + 4;
    let before = lines.len() as u64;
    send(&store, report(&lease, before, &vec![long.as_str(); count])).await;
    let kept = look(&store, id, 0).await.lines;
    assert_eq!(kept.len(), LOG_MAX_BYTES / LOG_LINE_MAX_BYTES);
    assert!(kept.iter().all(|line| line.text == long));
    assert_eq!(kept.last().unwrap().number, before + count as u64);
    store.audit().await;
}

pub async fn failures_and_lost_leases_are_remembered<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let id = store.enqueue(&job("a").max_stalls(5)).await.id;
    let lease = store.claim_one().await;
    let long = JobError::new(ErrorKind::Panicked, "ä".repeat(2000));
    let retry = Outcome::Retry { delay: Duration::ZERO, error: long.clone() };
    store.settle(&lease, retry).await;
    let failed_at = store.now();
    store.claim_one().await;
    store.advance(LEASE).await;
    store.maintain().await;
    let snoozed = store.claim_one().await;
    store.settle(&snoozed, Outcome::Snoozed { delay: Duration::ZERO }).await;
    let dead = store.claim_one().await;
    store.settle(&dead, Outcome::Dead { error: failure() }).await;

    let record = store.record(id).await;
    assert_eq!(record.last_error, Some(failure()));
    let [failed, lost, died] = &record.history[..] else { panic!("{:?}", record.history) };
    let worker = |n: usize| record.history[n].worker.as_ref().unwrap().as_str();
    assert_eq!([worker(0), worker(1), worker(2)], ["tester"; 3]);
    assert_eq!((failed.number, failed.ended_at), (1, failed_at));
    let AttemptEnd::Failed { error, elapsed } = &failed.end else { panic!("{failed:?}") };
    assert_eq!(*elapsed, Duration::from_millis(42));
    assert_eq!(*error, long.shortened(HISTORY_ERROR_MAX_BYTES));
    assert_eq!(
        (lost.number, lost.ended_at, &lost.end),
        (2, store.now(), &AttemptEnd::LeaseExpired)
    );
    let AttemptEnd::Failed { error, .. } = &died.end else { panic!("{died:?}") };
    assert_eq!((died.number, error), (2, &failure()));
    // What an operator starts again keeps its past.
    let jobs = vec![(id, record.finished_at.unwrap())];
    let request = RetryRequest { jobs, keep_counts: false };
    assert_eq!(store.backend.retry(&request).await.unwrap(), [RetryOutcome::Ready]);
    assert_eq!(store.record(id).await.history, record.history);
    store.audit().await;
}

pub async fn a_history_is_bounded<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let id = store.enqueue(&job("a").max_attempts(1000)).await.id;
    let attempts = HISTORY_MAX as u16 + 5;
    for n in 1..=attempts {
        let lease = store.claim_one().await;
        let error = JobError::new(ErrorKind::Failed, format!("failure {n}"));
        store.settle(&lease, Outcome::Retry { delay: Duration::ZERO, error }).await;
    }
    let history = store.record(id).await.history;
    let numbers: Vec<u16> = history.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, (6..=attempts).collect::<Vec<_>>());
    store.audit().await;
}

pub async fn a_throttled_job_keeps_its_attempt<H: Harness>(harness: &H) {
    let store = Store::new(harness).await;
    let id = store.enqueue(&job("a")).await.id;
    let delay = Duration::from_secs(7);
    store
        .settle(&store.claim_one().await, Outcome::Throttled { delay, limits: LimitKeys::NONE })
        .await;
    let record = store.record(id).await;
    assert_eq!((record.state, record.failures, record.snoozes), (JobState::Scheduled, 0, 1));
    assert_eq!((record.due_at, record.history), (store.now().after(delay), vec![]));
    store.advance(delay).await;
    assert_eq!(store.claim_one().await.attempt(), 1);
    store.audit().await;
}
