//! Audits of stores that are too large for one look, and at work meanwhile.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use queue_core::{
    Backend, ErrorKind, Hold, JobError, JobId, JobState, ListRequest, NewJob, Outcome, RetryRequest,
};
use queue_redis::RedisBackend;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{assert_sound, claim, completed, ends, enqueue, job, settle, transient};

const MINUTE: Duration = Duration::from_secs(60);

/// More jobs than one look takes, in every state, in lanes and on shelves of several pages.
async fn populate(backend: &RedisBackend, kind: &str) {
    for n in 0..6 {
        let jobs: Vec<_> = (0..400)
            .map(|i| {
                let job = job(kind);
                match i % 8 {
                    0 => job.delay(MINUTE),
                    1 => job.idempotency_key(format!("{kind}-{n}-{i}")),
                    2 => job
                        .idempotency_key(format!("{kind}-{n}-{i}"))
                        .hold(Hold::AtLeast(10 * MINUTE)),
                    _ => job,
                }
            })
            .collect();
        let ids = enqueue(backend, &jobs).await;
        backend.cancel(&ids[390..]).await.unwrap();
    }
    for n in 0..4 {
        let leases = claim(backend, &[kind], 150).await;
        settle(backend, &leases[..100], &completed()).await;
        if n > 0 {
            settle(backend, &leases[100..], &failed(MINUTE)).await;
        }
    }
}

fn failed(delay: Duration) -> Outcome {
    Outcome::Retry { delay, error: JobError::new(ErrorKind::Failed, "no") }
}

/// Does everything with the jobs of one kind, over and over, until told to stop. There are never
/// many more of them than in the beginning.
async fn work(
    backend: Arc<RedisBackend>,
    kind: String,
    make: fn(&str) -> NewJob,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
) {
    let mut n = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let jobs: Vec<_> = (0..20)
            .map(|i| match i % 5 {
                0 => transient(&kind).delay(Duration::from_millis(i)),
                1 => transient(&kind).idempotency_key(format!("{kind}-live-{n}-{i}")),
                _ => make(&kind),
            })
            .collect();
        let ids = enqueue(&backend, &jobs).await;
        backend.cancel(&ids[12..15]).await.unwrap();
        let leases = claim(&backend, &[&kind], 40).await;
        let (kept, rest) = leases.split_at(leases.len() * 3 / 4);
        let mut request = ends(kept, &completed());
        for (i, settlement) in request.settlements.iter_mut().enumerate() {
            settlement.outcome = match i % 9 {
                0 => failed(Duration::from_millis(3)),
                1 => failed(Duration::ZERO),
                2 => Outcome::Released,
                3 => Outcome::Snoozed { delay: Duration::from_millis(2) },
                _ => completed(),
            };
        }
        backend.settle(&request).await.unwrap();
        let running: Vec<JobId> = rest.iter().map(|lease| lease.spec.id).collect();
        backend.cancel(&running).await.unwrap();
        settle(&backend, rest, &Outcome::Cancelled).await;
        operate(&backend, &kind).await;
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Brings some cancelled jobs back, deletes others.
async fn operate(backend: &RedisBackend, kind: &str) {
    let of_kind = async |state| {
        let page = ListRequest { limit: 30, ..ListRequest::new(state) };
        let mut jobs = backend.list(&page).await.unwrap().jobs;
        jobs.retain(|job| job.kind.as_str() == kind);
        jobs
    };
    let ended = of_kind(JobState::Cancelled).await;
    let (again, gone) = ended.split_at(ended.len().min(3));
    let jobs = again.iter().filter_map(|job| Some((job.id, job.finished_at?))).collect();
    backend.retry(&RetryRequest { jobs, keep_counts: false }).await.unwrap();
    let gone: Vec<_> = gone.iter().map(|job| (job.id, JobState::Cancelled)).collect();
    backend.delete(&gone).await.unwrap();
    let ended = of_kind(JobState::Completed).await;
    let gone: Vec<_> = ended.iter().map(|job| (job.id, JobState::Completed)).collect();
    backend.delete(&gone).await.unwrap();
    backend.maintain(50).await.unwrap();
}

/// Runs workers of some kinds, whose jobs `make` makes, while `body` runs; it gets how many rounds
/// they have made.
async fn while_working<T>(
    backend: &Arc<RedisBackend>,
    kinds: &[&str],
    make: fn(&str) -> NewJob,
    body: impl AsyncFnOnce(&AtomicUsize) -> T,
) -> T {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let work = |kind: &&str| {
        let (backend, kind) = (backend.clone(), (*kind).to_owned());
        tokio::spawn(work(backend, kind, make, stop.clone(), done.clone()))
    };
    let tasks: Vec<_> = kinds.iter().map(work).collect();
    let result = body(&done).await;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    result
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_of_a_store_at_work_names_nothing_that_is_right() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    for kind in ["a", "b", "still"] {
        populate(&backend, kind).await;
    }
    assert_sound(&backend).await;
    while_working(&backend, &["a", "b"], job, async |done| {
        for round in 0..6 {
            let before = done.load(Ordering::Relaxed);
            let found = backend.audit(round % 3 == 2).await.unwrap();
            assert_eq!(found, [], "round {round}");
            assert!(done.load(Ordering::Relaxed) > before, "nobody worked in round {round}");
        }
    })
    .await;
    assert_sound(&backend).await;
}

/// Jobs that nobody works on, by what has become of them.
struct Still {
    ready: Vec<JobId>,
    keyed: JobId,
    waiting: JobId,
    running: Vec<JobId>,
    completed: Vec<JobId>,
}

async fn still(backend: &RedisBackend) -> Still {
    let mut ids = Vec::new();
    for _ in 0..5 {
        let jobs: Vec<_> = (0..300).map(|_| job("a")).collect();
        ids.extend(enqueue(backend, &jobs).await);
    }
    let keyed = enqueue(backend, &[job("a").idempotency_key("mine")]).await[0];
    let waiting = enqueue(backend, &[job("a").delay(60 * MINUTE)]).await[0];
    let running: Vec<_> = claim(backend, &["a"], 20).await;
    let ended = claim(backend, &["a"], 20).await;
    settle(backend, &ended, &completed()).await;
    let of = |leases: &[queue_core::Lease]| leases.iter().map(|lease| lease.spec.id).collect();
    let (running, completed): (Vec<JobId>, Vec<JobId>) = (of(&running), of(&ended));
    let ready = ids.into_iter().filter(|id| !running.contains(id) && !completed.contains(id));
    Still { ready: ready.collect(), keyed, waiting, running, completed }
}

const NOBODY: &[u8] = b"an-id-of-nobody!";
const FAR: &[u8] = b"9000000000000";

/// Damages of every kind, each with what an audit must say of it.
fn damages(still: &Still) -> Vec<(Vec<&[u8]>, &'static str)> {
    let lane: &[u8] = b"lane:default/a/5";
    let (ready, running) = (|n: usize| still.ready[n].as_bytes(), &still.running);
    let ended = |n: usize| still.completed[n].as_bytes().as_slice();
    vec![
        (vec![b"HSET", b"meta", b"default/a/ready", b"77"], "counter default/a/ready"),
        (vec![b"HSET", b"meta", b"default/a/running", b"?"], "counter default/a/running"),
        (vec![b"HSET", b"meta", b"default/a/completed", b"1"], "counter default/a/completed"),
        (vec![b"HSET", b"meta", b"nobody/x/scheduled", b"1"], "counter nobody/x/scheduled"),
        (vec![b"HSET", b"meta", b"done:default", b"3"], "counter done:default"),
        (vec![b"RPUSH", lane, b"no id"], "holds a ticket that is no id"),
        (vec![b"RPUSH", lane, NOBODY], "has a ticket in the lane default/a/5 wrongly"),
        (vec![b"RPUSH", lane, ready(700)], "is listed as [Ready, Ready]"),
        (vec![b"LPUSH", lane, ended(0)], "is listed as [Ready, Completed]"),
        (vec![b"LREM", lane, b"1", ready(600)], "is listed nowhere"),
        (vec![b"HSET", b"gone:default/a/5", ready(650), b"3"], "stale tickets, not "),
        (vec![b"ZADD", b"lanes:default/a", b"0", b"x"], "leads to no lane"),
        (vec![b"HSET", b"gone:other/a/5", NOBODY, b"1"], "is there without its lane"),
        (vec![b"SET", b"lane:default/z/5", b"1"], "is not a list"),
        (vec![b"HSET", b"meta", b"stale", b"1000000"], " counted"),
        (vec![b"ZADD", b"due", FAR, NOBODY], "is listed as [Scheduled] but has no record"),
        (vec![b"ZADD", b"due", FAR, still.waiting.as_bytes()], "is due at"),
        (vec![b"ZADD", b"due", FAR, running[0].as_bytes()], "[Scheduled, Running]"),
        (vec![b"HDEL", b"run", running[1].as_bytes()], "a claim holds 19 jobs"),
        (vec![b"ZADD", b"leases", FAR, b"nobody's"], "a claim holds 0 jobs"),
        (vec![b"SADD", b"cancel", NOBODY], "has a cancel request but does not run"),
        (vec![b"ZADD", b"done:default", FAR, ready(3)], "is on the shelf done:default"),
        (vec![b"ZADD", b"done:default", FAR, b"?"], "holds an entry that is no ids"),
        (vec![b"ZADD", b"ages", FAR, b"done:default"], "the shelf done:default ends at"),
        (vec![b"HSET", b"idem", b"yours", NOBODY], "an idempotency key leads to it wrongly"),
        (vec![b"HSET", b"idem", b"theirs", b"?"], "idem holds"),
        (vec![b"HDEL", b"idem", b"mine"], "its idempotency key does not lead to it"),
        (vec![b"HSET", b"att", NOBODY, b"?"], "is in att and has no record"),
        (vec![b"HSET", b"history", NOBODY, b"?"], "is in history and has no record"),
        (vec![b"HSET", b"log", NOBODY, b"?"], "is in log and has no record"),
        (vec![b"HSET", b"body", NOBODY, b"?"], "has a payload but no record"),
        (vec![b"HSET", b"body", ready(5), b"?"], "has a second payload"),
        (vec![b"HSET", b"result", ready(6), b"?"], "has a result but has not finished"),
        (vec![b"HSET", b"result", ended(1), b"?"], "has two results"),
        (vec![b"HSET", b"fin", ended(2), b"?"], "has an end that is no end"),
        (vec![b"ZADD", b"bad", FAR, ready(7)], "[Ready, Quarantined]"),
        (vec![b"HSET", b"whence", NOBODY, b"default/a"], "is in whence and not quarantined"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_found_and_repaired_while_others_work() {
    let harness = RedisHarness::new();
    let backend = Arc::new(harness.now().await);
    let still = still(&backend).await;
    // What moves has no finished records: so few are counted at once.
    while_working(&backend, &["b", "c"], transient, async |done| {
        while done.load(Ordering::Relaxed) < 5 {
            tokio::task::yield_now().await;
        }
        let damages = damages(&still);
        for (words, _) in &damages {
            let key = harness.key(&backend, std::str::from_utf8(words[1]).unwrap());
            let mut command = words.clone();
            command[1] = key.as_bytes();
            harness.raw::<redis::Value>(&command);
        }
        let found = backend.audit(false).await.unwrap();
        for (_, what) in &damages {
            assert!(found.iter().any(|f| f.what.contains(what)), "{what}: not in {found:#?}");
        }
        let mut rounds = 0;
        while !backend.audit(true).await.unwrap().is_empty() {
            rounds += 1;
            assert!(rounds < 4, "{:#?}", backend.audit(false).await);
        }
    })
    .await;
    assert_sound(&backend).await;
    // Nobody was lost, and nobody is given twice.
    let mut given = BTreeSet::new();
    loop {
        let leases = claim(&backend, &["a"], 500).await;
        if leases.is_empty() {
            break;
        }
        assert!(leases.iter().all(|lease| given.insert(lease.spec.id)));
    }
    assert!(still.ready.iter().chain([&still.keyed]).all(|id| given.contains(id)));
}

/// Everything that the server does while `body` runs, as words.
async fn commands_of(harness: &RedisHarness, body: impl Future<Output = ()>) -> Vec<Vec<String>> {
    let mut monitor = UnixStream::connect(harness.redis.socket()).unwrap();
    monitor.write_all(b"MONITOR\r\n").unwrap();
    let mut lines = BufReader::new(monitor).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "+OK");
    // It must be read meanwhile, or it would fill the server's memory.
    let reader = std::thread::spawn(move || {
        let lines = lines.map_while(Result::ok).take_while(|line| !line.contains("the end"));
        lines.map(|line| words_of(&line)).collect::<Vec<_>>()
    });
    body.await;
    harness.raw::<String>(&[b"ECHO", b"the end"]);
    reader.join().unwrap()
}

fn words_of(line: &str) -> Vec<String> {
    let words = line.split_once("] ").map_or("", |(_, words)| words);
    words.trim_matches('"').split("\" \"").map(str::to_owned).collect()
}

/// How many items a command may touch, if that is known from its words.
fn items_of(words: &[String]) -> u64 {
    let number = |at: usize| words[at].parse::<i64>().unwrap();
    match words[0].to_uppercase().as_str() {
        "HGETALL" | "HKEYS" | "HVALS" | "SMEMBERS" => u64::MAX,
        "LRANGE" | "ZRANGE" if !words.iter().any(|word| word == "BYSCORE") => {
            let (from, to) = (number(2), number(3));
            if (from < 0) == (to < 0) { from.abs_diff(to) + 1 } else { u64::MAX }
        }
        "HSCAN" | "ZSCAN" | "SSCAN" => number(4).unsigned_abs(),
        "LPOS" | "LREM" | "LINDEX" => u64::MAX,
        "EVALSHA" => 0,
        _ => words.len() as u64 - 2,
    }
}

/// However many jobs there are, in one lane, one claim after the other, or on one shelf.
#[tokio::test]
async fn no_step_of_an_audit_touches_more_than_some_items() {
    let harness = RedisHarness::new();
    let backend = harness.now().await;
    for _ in 0..12 {
        let jobs: Vec<_> = (0..500).map(|_| job("a")).collect();
        enqueue(&backend, &jobs).await;
    }
    for n in 0..4 {
        let leases = claim(&backend, &["a"], 500).await;
        if n > 1 {
            settle(&backend, &leases, &completed()).await;
        }
    }
    let late: Vec<_> = (0..500).map(|_| job("a").delay(MINUTE)).collect();
    enqueue(&backend, &late).await;
    let more: Vec<_> = (0..500).map(|_| job("a").delay(MINUTE)).collect();
    enqueue(&backend, &more).await;
    let commands = commands_of(&harness, async { assert_sound(&backend).await }).await;
    assert!(commands.len() > 1000, "nothing is seen");
    // Counters are as many as there are kinds of jobs and limit keys; a shelf has few entries for
    // many jobs.
    let is_short =
        |words: &[String]| ["meta", "live", "done:default"].iter().any(|k| words[1].ends_with(k));
    for words in commands.iter().filter(|words| words.len() > 1 && !is_short(words)) {
        assert!(items_of(words) <= 500, "{words:?}");
    }
}
