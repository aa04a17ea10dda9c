//! The server's own moods: forgotten scripts, no memory, lost data, unfit settings.

use std::time::{Duration, SystemTime};

use queue_core::backend::{FINISHED_MAX, Verdict};
use queue_core::conformance::Harness;
use queue_core::{
    Backend, DeleteOutcome, Durability, Error, JobId, JobState, Kind, ListRequest, Namespace,
    NewJob, Outcome, Payload, QueueName, Report, Reported, RetryOutcome, RetryRequest, Settled,
    Timestamp, WatchRequest,
};
use queue_redis::RedisBackend;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{
    assert_sound, claim, completed, ends, enqueue, job, request, settle, transient,
};
use crate::support::proxy::Proxy;
use crate::support::server::TestRedis;

const START: Timestamp = Timestamp::from_ms(4_102_444_800_000);

#[tokio::test]
async fn a_drained_namespace_leaves_one_key() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let jobs: Vec<_> = (0..60_u8)
        .map(|n| transient(["a", "b", "c"][usize::from(n % 3)]).priority(n % 10))
        .map(|job| job.queue("default"))
        .collect();
    let ids = enqueue(&backend, &jobs).await;
    let later = transient("d").delay(Duration::from_secs(60)).idempotency_key("once");
    let scheduled = enqueue(&backend, &[later]).await;
    backend.cancel(&ids[..7]).await.unwrap();
    backend.cancel(&scheduled).await.unwrap();
    loop {
        let leases = claim(&backend, &["a", "b", "c", "d"], 9).await;
        if leases.is_empty() {
            break;
        }
        settle(&backend, &leases, &completed()).await;
    }
    assert_eq!(harness.lasting_names(&backend), [harness.key(&backend, "meta")]);
    assert_sound(&backend).await;
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again_and_in_order() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let forget = || harness.raw::<()>(&[b"SCRIPT", b"FLUSH"]);
    forget();
    let ids = enqueue(&backend, &[job("a")]).await;
    forget();
    let leases = claim(&backend, &["a"], 1).await;
    // The claim must see the job that the settlement before it has released.
    let mut both = ends(&leases, &Outcome::Released);
    both.claim = Some(request(&["a"], 1));
    forget();
    let reply = backend.settle(&both).await.unwrap();
    assert_eq!(reply.settled, [Settled::Applied(JobState::Ready)]);
    assert_eq!(reply.claim.unwrap().leases[0].spec.id, ids[0]);
    forget();
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_full_store_refuses_new_jobs_and_finishes_old_ones() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    enqueue(&backend, &[transient("a"), transient("a"), transient("a")]).await;
    let running = claim(&backend, &["a"], 1).await;
    harness.raw::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    assert!(matches!(
        backend.enqueue(&[job("a")], Durability::Memory).await,
        Err(Error::StoreFull(_))
    ));
    assert_eq!(
        settle(&backend, &running, &completed()).await,
        [Settled::Applied(JobState::Completed)]
    );
    let rest = claim(&backend, &["a"], 5).await;
    assert_eq!(settle(&backend, &rest, &completed()).await.len(), 2);
    harness.raw::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"0"]);
    enqueue(&backend, &[job("a")]).await;
    assert_sound(&backend).await;
}

#[tokio::test]
async fn unfit_servers_are_refused_with_a_remedy() {
    let refused = |redis: &TestRedis| {
        let url = redis.url();
        async move {
            match RedisBackend::connect(&url, Namespace::default()).await {
                Err(Error::Refused(why)) => why,
                other => panic!("not refused: {other:?}"),
            }
        }
    };
    let evicting = TestRedis::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    assert!(refused(&evicting).await.contains("noeviction"));
    let guarded = TestRedis::start_with(&["--requirepass", "hunter2"]);
    assert!(!refused(&guarded).await.contains("hunter2"));
    let url = format!("{}?pass=hunter2", guarded.url());
    RedisBackend::connect(&url, Namespace::default()).await.unwrap();
    let url = format!("{}?pass=hunter3", guarded.url());
    let error = RedisBackend::connect(&url, Namespace::default()).await.unwrap_err();
    assert!(matches!(&error, Error::Refused(why) if !why.contains("hunter3")), "{error}");
}

/// Whoever can wait then does: an address leads to such a server while a fail-over is under way.
#[tokio::test]
async fn a_server_that_may_get_fit_is_unavailable() {
    let unavailable = async |url: &str| match RedisBackend::connect(url, Namespace::default()).await
    {
        Err(Error::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    };
    let replica = TestRedis::start_with(&["--replicaof", "127.0.0.1 1"]);
    assert!(unavailable(&replica.url()).await.contains("master"));
    let harness = RedisHarness::new();
    let proxy = Proxy::start(harness.redis.socket()).await;
    for error in ["LOADING Redis is loading", "MOVED 3999 127.0.0.1:6381"] {
        // As often as it is asked.
        for _ in 0..1000 {
            proxy.answer("HMGET", format!("-{error}\r\n"));
        }
        let why = unavailable(&proxy.url()).await;
        assert!(why.contains(error), "{why}");
        proxy.answer_no_more();
    }
    RedisBackend::connect(&proxy.url(), Namespace::default()).await.unwrap();
}

#[tokio::test]
async fn data_of_another_program_is_refused_by_connect_and_by_every_call() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let meta = harness.key(&backend, "meta");
    for (schema, remedy) in [("3", "older program"), ("9", "upgrade this")] {
        harness.raw::<()>(&[b"HSET", meta.as_bytes(), b"schema", schema.as_bytes()]);
        let again = RedisBackend::connect(&harness.redis.url(), backend.namespace().clone()).await;
        let Err(Error::Refused(why)) = again else { panic!("{again:?}") };
        assert!(why.contains(remedy), "{why}");
        let call = backend.enqueue(&[job("a")], Durability::Memory).await;
        let Err(Error::Refused(why)) = call else { panic!("{call:?}") };
        assert!(why.contains(remedy), "{why}");
    }
    let findings = backend.check().await.unwrap();
    let bad: Vec<_> = findings.iter().filter(|f| f.verdict == Verdict::Bad).collect();
    assert_eq!(bad.iter().map(|f| f.name).collect::<Vec<_>>(), ["schema"]);
}

#[tokio::test]
async fn the_check_says_what_a_server_without_a_file_can_lose() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    // What is known about this server's version is not what this is about.
    let check = async || -> Vec<_> {
        let findings = backend.check().await.unwrap();
        findings.into_iter().filter(|finding| finding.name != "security").collect()
    };
    let findings = check().await;
    let warned: Vec<_> = findings.iter().filter(|f| f.verdict != Verdict::Good).collect();
    assert_eq!(warned.iter().map(|f| f.name).collect::<Vec<_>>(), ["persistence"]);
    assert!(warned[0].found.contains("loses every job"));
    harness.raw::<()>(&[b"CONFIG", b"SET", b"appendonly", b"yes"]);
    let findings = check().await;
    assert!(findings.iter().all(|f| f.verdict == Verdict::Good), "{findings:?}");
}

/// Every command that the scripts use is one of the few in this list, so that an ACL role can be
/// written for them.
#[tokio::test]
async fn a_user_with_the_documented_permissions_can_do_everything() {
    let harness = RedisHarness::new();
    let readme = include_str!("../../README.md");
    let line = readme.lines().find(|line| line.starts_with("ACL SETUSER worker")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    harness.raw::<()>(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
    let url = format!("{}?user=worker&pass=secret", harness.redis.url());
    let namespace = Namespace::new("shop").unwrap();
    let backend = RedisBackend::connect(&url, namespace).await.unwrap();
    let ids = enqueue(&backend, &[job("a").idempotency_key("k"), job("a"), transient("a")]).await;
    enqueue(&backend, &[job("b").delay(Duration::from_secs(1))]).await;
    backend.cancel(&ids[1..2]).await.unwrap();
    let leases = claim(&backend, &["a"], 2).await;
    backend.cancel(&ids[..1]).await.unwrap();
    let retry = Outcome::Snoozed { delay: Duration::from_secs(5) };
    settle(&backend, &leases[..1], &retry).await;
    settle(&backend, &leases[1..], &completed()).await;
    backend.maintain(10).await.unwrap();
    backend.get(&ids).await.unwrap();
    backend.stats().await.unwrap();
    let findings = backend.check().await.unwrap();
    let permissions = findings.iter().find(|finding| finding.name == "permissions").unwrap();
    assert_eq!(permissions.verdict, Verdict::Good, "{permissions:?}");
    operate(&backend, &ids).await;
    assert_sound(&backend).await;
}

/// Every call of operators and of running jobs.
async fn operate(backend: &RedisBackend, ids: &[JobId]) {
    for state in JobState::ALL {
        backend.list(&ListRequest::new(state)).await.unwrap();
    }
    let queue = QueueName::default();
    assert!(backend.set_paused(&queue, true).await.unwrap());
    assert_eq!(backend.paused().await.unwrap(), std::slice::from_ref(&queue));
    assert!(backend.set_paused(&queue, false).await.unwrap());
    let records = backend.get(ids).await.unwrap();
    let ended = records.iter().flatten().filter_map(|job| Some((job.spec.id, job.finished_at?)));
    let again = RetryRequest { jobs: ended.collect(), keep_counts: false };
    let outcomes = backend.retry(&again).await.unwrap();
    assert!(outcomes.contains(&RetryOutcome::Ready), "{outcomes:?}");
    for lease in claim(backend, &["a"], 5).await {
        let (id, token) = (lease.spec.id, lease.token);
        let lines = vec!["a line".to_owned()];
        let report = Report { id, token, progress: None, lines_before: 0, lines };
        assert_eq!(backend.report(&[report]).await.unwrap(), [Reported::Applied]);
        let looks = backend.watch(&[WatchRequest { id, after_line: 0 }]).await.unwrap();
        assert_eq!(looks[0].as_ref().unwrap().lines.len(), 1);
        settle(backend, &[lease], &completed()).await;
        let deleted = backend.delete(&[(id, JobState::Completed)]).await.unwrap();
        assert_eq!(deleted, [DeleteOutcome::Deleted]);
    }
    backend.quarantined(ids).await.unwrap();
    backend.recover(ids).await.unwrap();
    backend.audit(true).await.unwrap();
}

#[tokio::test]
async fn a_worker_can_join_a_full_store() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    enqueue(&backend, &[transient("a")]).await;
    harness.raw::<()>(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    let joined = harness.open(backend.namespace()).await;
    let leases = claim(&joined, &["a"], 1).await;
    assert_eq!(
        settle(&joined, &leases, &completed()).await,
        [Settled::Applied(JobState::Completed)]
    );
}

/// Nothing delayed would fire, and nobody would know why.
#[tokio::test]
async fn the_check_says_that_the_stores_clock_is_ahead() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let verdict = async || {
        let findings = backend.check().await.unwrap();
        findings.into_iter().find(|finding| finding.name == "store clock").unwrap()
    };
    assert_eq!(verdict().await.verdict, Verdict::Good);
    let ahead = Timestamp::from(SystemTime::now() + Duration::from_secs(3600));
    harness.set_clock(&backend, ahead).await;
    let found = verdict().await;
    assert_eq!(found.verdict, Verdict::Bad);
    // What it says to do helps.
    let command = found.remedy.split("run ").nth(1).unwrap().split(',').next().unwrap();
    let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
    assert_eq!(harness.raw::<u8>(&words), 1);
    assert_eq!(verdict().await.verdict, Verdict::Good);
    enqueue(&backend, &[job("a")]).await;
    assert_eq!(claim(&backend, &["a"], 1).await.len(), 1);
}

/// How many more finished records than the cap a queue has before those that come push others out.
const SLACK: usize = 100;

/// A busy queue drops its oldest records as it goes, without maintenance.
#[tokio::test]
async fn a_full_shelf_drops_its_oldest_records_as_new_ones_come() {
    let harness = RedisHarness::new();
    let backend = harness.fresh(START).await;
    let cap = usize::try_from(FINISHED_MAX).unwrap();
    let mut sent = Vec::new();
    // Batches that the cap does not divide, so that one is dropped in part; a few large bodies.
    for batch in 0..=cap / 300 {
        harness.set_clock(&backend, START.after(Duration::from_secs(batch as u64))).await;
        let jobs: Vec<_> = (0..300_u16)
            .map(|n| if n % 100 == 0 { large(n) } else { job("a") })
            .map(|job| job.idempotency_key(fastrand::u64(..).to_string()))
            .collect();
        sent.extend(enqueue(&backend, &jobs).await);
        let leases = claim(&backend, &["a"], 300).await;
        assert_eq!(settle(&backend, &leases, &completed()).await.len(), 300);
    }
    let over = sent.len() - cap;
    assert!((SLACK..300).contains(&over));
    let fields = |name| harness.raw::<usize>(&[b"HLEN", harness.key(&backend, name).as_bytes()]);
    assert_eq!((fields("fin"), fields("jobs"), fields("idem")), (cap, cap, cap));
    let found = backend.get(&sent[..300]).await.unwrap();
    assert_eq!(found.iter().filter(|record| record.is_none()).count(), over);
    assert_sound(&backend).await;

    // One at a time: each pushes one out, many at once.
    let before = backend.get(&sent[..300]).await.unwrap().iter().flatten().count();
    for more in 1..=SLACK {
        enqueue(&backend, &[job("a")]).await;
        settle(&backend, &claim(&backend, &["a"], 1).await, &completed()).await;
        assert_eq!(fields("fin"), if more < SLACK { cap + more } else { cap });
    }
    assert_eq!(backend.get(&sent[..300]).await.unwrap().iter().flatten().count(), before - SLACK);
    assert_sound(&backend).await;
}

fn large(n: u16) -> NewJob {
    NewJob::new(Kind::new("a").unwrap(), Payload::raw(vec![7; 2000 + usize::from(n)]))
}

/// Cancelled jobs leave their tickets behind; where nobody claims they must not pile up.
#[tokio::test]
async fn tickets_of_cancelled_jobs_do_not_pile_up_behind_a_live_one() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let kept = enqueue(&backend, &[job("a")]).await;
    let mut newest = enqueue(&backend, &[job("a")]).await;
    let tickets = || harness.raw::<usize>(&[b"LLEN", key(&harness, &backend, "lane").as_bytes()]);
    let mut most = 0;
    let mut again = Vec::new();
    for _ in 0..20 {
        // The newest stays behind a live one at the head, the others go; one has its id again.
        let mut jobs: Vec<_> = (0..499).map(|_| transient("a")).collect();
        jobs.extend(again.pop());
        again.push(jobs[0].clone());
        let sent = enqueue(&backend, &jobs).await;
        let (last, others) = sent.split_last().unwrap();
        let doomed: Vec<_> = newest.iter().chain(others).copied().collect();
        for ids in doomed.chunks(500) {
            backend.cancel(ids).await.unwrap();
        }
        newest = vec![*last];
        most = most.max(tickets());
    }
    assert!(most < 4096, "{most} tickets");
    assert_sound(&backend).await;
    let left: Vec<_> = [kept, newest].concat();
    let mut found = Vec::new();
    while found.len() < left.len() {
        let leases = claim(&backend, &["a"], 500).await;
        found.extend(leases.iter().map(|lease| lease.spec.id));
    }
    assert_eq!(found, left);
    assert_sound(&backend).await;
}

fn key(harness: &RedisHarness, backend: &RedisBackend, what: &str) -> String {
    harness.key(backend, &format!("{what}:default/a/5"))
}

/// Also with more live jobs than a window: then those at the head go.
#[tokio::test]
async fn tickets_of_cancelled_jobs_at_the_head_go_first() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let mut sent = Vec::new();
    for _ in 0..20 {
        let jobs: Vec<_> = (0..500).map(|_| transient("a")).collect();
        sent.extend(enqueue(&backend, &jobs).await);
    }
    for ids in sent[..5000].chunks(500) {
        backend.cancel(ids).await.unwrap();
    }
    let tickets: usize = harness.raw(&[b"LLEN", key(&harness, &backend, "lane").as_bytes()]);
    assert!(tickets < 5000 + 2048, "{tickets} tickets");
    assert_sound(&backend).await;
    let mut found = Vec::new();
    while found.len() < 5000 {
        found.extend(claim(&backend, &["a"], 500).await.iter().map(|lease| lease.spec.id));
    }
    assert_eq!(found, sent[5000..]);
    assert_sound(&backend).await;
}

#[tokio::test]
async fn the_counts_of_many_kinds_are_read_in_pages() {
    const KINDS: usize = 12_000;
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    let jobs: Vec<_> = (0..KINDS).map(|number| job(&format!("k{number}"))).collect();
    for some in jobs.chunks(2000) {
        backend.enqueue(some, Durability::Memory).await.unwrap();
    }
    let before = harness.commands();
    let stats = backend.stats().await.unwrap();
    let pages = harness.commands() - before;
    assert!((3..30).contains(&pages), "{pages}");
    assert_eq!(stats.len(), KINDS);
    assert!(stats.iter().all(|of_kind| of_kind.jobs.get(&JobState::Ready) == Some(&1)));
}
