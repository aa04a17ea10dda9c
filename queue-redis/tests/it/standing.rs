//! Standing claims: the server makes them as a wait ends, or finds them revoked.

use std::sync::Arc;
use std::time::Duration;

use queue_core::{
    Backend, ClaimRequest, Context, Error, Executor, Fail, JobState, Kind, Payload, Queue, Wake,
    Woken, Worker,
};
use queue_redis::{RedisBackend, RedisOptions};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{
    assert_sound, claim, completed, enqueue, interest, job, request, settle,
};
use crate::support::proxy::Proxy;

const LONG: Duration = Duration::from_secs(20);

/// A wait of worker "tester" with a claim that has reached the server.
struct Standing {
    request: ClaimRequest,
    wanted: oneshot::Sender<()>,
    end: JoinHandle<Result<Woken, Error>>,
}

impl Standing {
    async fn start(harness: &RedisHarness, backend: &Arc<RedisBackend>) -> Self {
        loop {
            // Its answer tells the server's clock, if it comes at once.
            assert!(claim(backend, &["a"], 1).await.is_empty());
            let (wanted, revoked) = oneshot::channel();
            let request = request(&["a"], 8);
            let (own, asked) = (backend.clone(), request.clone());
            let end = tokio::spawn(async move {
                let interest = interest("tester", &["a"]);
                own.wait_and_claim(&interest, &asked, revoked, LONG).await
            });
            if has_more_behind_its_wait(harness).await {
                return Self { request, wanted, end };
            }
            drop(wanted);
            assert!(end.await.unwrap().unwrap().claim.is_none());
        }
    }
}

/// Whether the one client that is blocked has sent more behind the command that blocks it.
pub(crate) async fn has_more_behind_its_wait(harness: &RedisHarness) -> bool {
    let mut tick = tokio::time::interval(Duration::from_millis(2));
    loop {
        let clients: String = harness.raw(&[b"CLIENT", b"LIST"]);
        // "b": blocked.
        let mut blocked = clients.lines().filter(|line| line.contains(" flags=b"));
        if let Some(client) = blocked.next() {
            assert!(blocked.next().is_none(), "{clients}");
            return !client.contains(" qbuf=0 ");
        }
        tick.tick().await;
    }
}

fn jobs_of(woken: &Woken) -> usize {
    woken.claim.as_ref().map_or(0, |claim| claim.leases.len())
}

#[tokio::test]
async fn the_answer_brings_the_job() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    let standing = Standing::start(&harness, &backend).await;
    let ids = enqueue(&backend, &[job("a")]).await;
    let woken = standing.end.await.unwrap().unwrap();
    assert_eq!(woken.wake, Wake::Work);
    let claim = woken.claim.unwrap();
    assert_eq!((claim.leases[0].spec.id, claim.leases.len()), (ids[0], 1));
    assert_eq!(claim.leases[0].token, standing.request.token);
}

/// Or a worker whose host has slept would run a job whose lease is over.
#[tokio::test]
async fn an_answer_says_how_old_it_is() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    let standing = Standing::start(&harness, &backend).await;
    let list = harness.key(&backend, "wake:default/a");
    // Nothing else of this thread runs until the host is awake again.
    harness.raw::<()>(&[b"RPUSH", list.as_bytes(), b"w"]);
    let nap = Duration::from_millis(60);
    std::thread::sleep(nap);
    let woken = standing.end.await.unwrap().unwrap();
    assert_eq!((woken.wake, jobs_of(&woken)), (Wake::Work, 0));
    assert!(woken.claim.is_some() && woken.claimed_ago >= nap, "{:?}", woken.claimed_ago);
}

#[tokio::test]
async fn a_revoked_claim_is_found_revoked_by_the_server() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    let list = harness.key(&backend, "wake:w:tester");
    for _ in 0..10 {
        let standing = Standing::start(&harness, &backend).await;
        drop(standing.wanted);
        let woken = standing.end.await.unwrap().unwrap();
        assert_eq!((woken.wake, woken.claim), (Wake::Timeout, None));
        assert_eq!(harness.raw::<i64>(&[b"EXISTS", list.as_bytes()]), 0, "no word is left");
    }
}

#[tokio::test]
async fn a_second_wait_of_a_worker_is_heard_beside_one_with_a_claim() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    let standing = Standing::start(&harness, &backend).await;
    let other = tokio::spawn({
        let backend = backend.clone();
        async move { backend.wait(&interest("tester", &["b"]), LONG).await.unwrap() }
    });
    enqueue(&backend, &[job("b")]).await;
    assert_eq!(other.await.unwrap(), Wake::Work);
    enqueue(&backend, &[job("a")]).await;
    // Its claim was made when the other was woken, and found nothing.
    let woken = standing.end.await.unwrap().unwrap();
    assert_eq!((woken.wake, jobs_of(&woken)), (Wake::Timeout, 0));
    assert_eq!(claim(&backend, &["a"], 1).await.len(), 1);
}

#[tokio::test]
async fn a_broken_connection_leaves_the_claim_in_doubt() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    let standing = Standing::start(&harness, &backend).await;
    harness.raw::<i64>(&[b"CLIENT", b"KILL", b"TYPE", b"normal"]);
    let error = standing.end.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    // Nobody has made it: the repeat is the claim.
    enqueue(&backend, &[job("a")]).await;
    let claim = backend.claim(&standing.request).await.unwrap();
    assert_eq!(claim.leases.len(), 1);
    // The next wait has a claim again.
    let standing = Standing::start(&harness, &backend).await;
    enqueue(&backend, &[job("a")]).await;
    assert_eq!(jobs_of(&standing.end.await.unwrap().unwrap()), 1);
}

#[tokio::test]
async fn a_server_that_has_forgotten_the_script_learns_it_again() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    for expected in [0, 1] {
        let standing = Standing::start(&harness, &backend).await;
        if expected == 0 {
            harness.raw::<()>(&[b"SCRIPT", b"FLUSH"]);
        }
        enqueue(&backend, &[job("a")]).await;
        let woken = standing.end.await.unwrap().unwrap();
        assert_eq!((woken.wake, jobs_of(&woken)), (Wake::Work, expected));
        let leases = claim(&backend, &["a"], 1).await;
        settle(&backend, &leases, &completed()).await;
    }
}

#[tokio::test]
async fn jobs_that_come_as_the_backend_goes_are_given_back() {
    let harness = RedisHarness::new();
    let staying = Arc::new(harness.now().await);
    for round in 0..12 {
        let going = Arc::new(harness.open(staying.namespace()).await);
        let standing = Standing::start(&harness, &going).await;
        standing.end.abort();
        assert!(standing.end.await.is_err());
        // Nothing else of this thread runs between enqueueing and dropping in every other round.
        let name = harness.key(&staying, "wake:default/a");
        if round % 2 == 0 {
            enqueue(&staying, &[job("a")]).await;
        } else {
            harness.raw::<()>(&[b"RPUSH", name.as_bytes(), b"w"]);
        }
        drop(going);
        if round % 2 == 1 {
            enqueue(&staying, &[job("a")]).await;
        }
        let lease = loop {
            if let Some(lease) = claim(&staying, &["a"], 1).await.pop() {
                break lease;
            }
            let short = Duration::from_millis(200);
            staying.wait(&interest("other", &["a"]), short).await.unwrap();
        };
        assert_eq!((lease.stalls, lease.failures), (0, 0));
        settle(&staying, &[lease], &completed()).await;
    }
    assert_sound(&staying).await;
}

#[tokio::test]
async fn a_claim_can_be_revoked_while_the_server_is_away() {
    let harness = RedisHarness::new();
    let proxy = Proxy::start(harness.redis.socket()).await;
    let options = RedisOptions::default().namespace(harness.now().await.namespace().clone());
    let backend = RedisBackend::connect_with(&proxy.url(), options).await.unwrap();
    assert!(claim(&backend, &["a"], 1).await.is_empty());
    proxy.shut(true);
    let (wanted, revoked) = oneshot::channel();
    let (interest, request) = (interest("tester", &["a"]), request(&["a"], 8));
    let wait = backend.wait_and_claim(&interest, &request, revoked, LONG * 3);
    let (woken, ()) = tokio::join!(wait, async move { drop(wanted) });
    assert_eq!((woken.as_ref().unwrap().wake, jobs_of(&woken.unwrap())), (Wake::Timeout, 0));
}

/// Or a worker would not stop until its wait is over.
#[tokio::test]
async fn a_claim_whose_revocation_is_refused_ends_with_its_connection() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    let standing = Standing::start(&harness, &backend).await;
    let replicas = |count: &[u8]| {
        harness.raw::<()>(&[b"CONFIG", b"SET", b"min-replicas-to-write", count]);
    };
    replicas(b"1");
    drop(standing.wanted);
    let woken = tokio::time::timeout(LONG, standing.end).await;
    let woken = woken.expect("the wait ends before its time").unwrap().unwrap();
    assert_eq!((woken.wake, woken.claim), (Wake::Timeout, None));
    replicas(b"0");
    enqueue(&backend, &[job("a")]).await;
    assert_eq!(claim(&backend, &["a"], 1).await.len(), 1);
}

struct Nothing;

impl Executor for Nothing {
    async fn run(&self, _: Context) -> Result<Option<Payload>, Fail> {
        Ok(None)
    }
}

/// Who stops a worker must not leave a job to the end of its lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stops_leaves_no_job_running() {
    let harness = RedisHarness::new();
    let direct = harness.now().await;
    let namespace = direct.namespace().clone();
    let direct = Queue::new(direct);
    for round in 0..15 {
        let queue = Queue::new(harness.open(&namespace).await);
        let worker = Worker::new(&queue)
            .concurrency(1 + round % 3)
            .executor(Kind::new("a").unwrap(), None, Nothing)
            .start()
            .unwrap();
        while !has_more_behind_its_wait(&harness).await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let enqueueing = async {
            for _ in 0..3 {
                direct.enqueue(job("a")).await.unwrap();
            }
        };
        let (report, ()) = tokio::join!(worker.drain(LONG), enqueueing);
        assert_eq!(report.lost, 0);
        let running = |row: &queue_core::QueueStats| row.jobs.get(&JobState::Running).copied();
        let stats = direct.stats().await.unwrap();
        assert_eq!(stats.iter().filter_map(running).sum::<u64>(), 0, "round {round}");
    }
    assert_eq!(direct.audit().await.unwrap(), []);
}
