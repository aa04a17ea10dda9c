//! What is damaged is the whole scripts' work: the plain parts leave it to them, or do the same. So
//! with what is rare: too much, or too little, of something.

use std::time::Duration;

use queue_core::conformance::Harness;
use queue_core::{
    Backend, ClaimRequest, Durability, JobState, KindSlots, Lease, LimitKeys, LimitSettings,
    Namespace, NewJob, OnConflict, Rate, Settled, Timestamp,
};
use queue_redis::RedisBackend;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{
    adopt, claim, claim_with, completed, ends, enqueue, job, request, set_limit, settle, transient,
};
use crate::support::twin::Twin;

const START: Timestamp = Timestamp::from_ms(4_102_444_800_000);

/// A store that is reached through a twin.
struct Scene {
    harness: RedisHarness,
    twin: Twin,
    backend: RedisBackend,
}

impl Scene {
    async fn new() -> Self {
        let harness = RedisHarness::new();
        let twin = Twin::start(&harness.redis);
        let backend = twin.backend().await;
        harness.set_clock(&backend, START).await;
        Self { harness, twin, backend }
    }

    async fn begin_anew(&self) {
        self.harness.raw::<()>(&[b"FLUSHALL"]);
        adopt(&self.backend).await;
        self.harness.set_clock(&self.backend, START).await;
    }

    /// A command whose second word is a key, without what is before its name.
    fn harm(&self, words: &[&[u8]]) {
        let key = self.harness.key(&self.backend, std::str::from_utf8(words[1]).unwrap());
        let words = [&words[..1], &[key.as_bytes()], &words[2..]].concat();
        self.harness.raw::<redis::Value>(&words);
    }

    /// Allowed difference, if counters are wrong: the wake-up for what they say is left. Whoever is
    /// woken for nothing finds out, and is not woken again.
    fn assert_same(&self, what: &str) {
        let mut differences = self.twin.differences();
        differences.retain(|text| !text.contains(":wake:"));
        assert!(differences.is_empty(), "{what}:\n{}", differences.join("\n"));
    }
}

/// How many of the scenes are tried; all if `PLAIN_CASES` is set.
fn some_of<T>(mut scenes: Vec<T>, count: usize) -> Vec<T> {
    if std::env::var("PLAIN_CASES").is_err() {
        fastrand::Rng::with_seed(0).shuffle(&mut scenes);
        scenes.truncate(count);
    }
    scenes
}

fn limited(kind: &str, tenant: &str) -> NewJob {
    job(kind).limit(format!("tenant:{tenant}"))
}

/// Jobs with and without keys, of two kinds; some of them run.
async fn populate(backend: &RedisBackend, concurrency: Option<u32>) -> Vec<Lease> {
    if let Some(most) = concurrency {
        let some = LimitSettings { concurrency: Some(most), ..LimitSettings::default() };
        set_limit(backend, "tenant:*", &some).await;
    }
    enqueue(backend, &[job("a"), limited("a", "a"), job("b"), limited("b", "b"), transient("a")])
        .await;
    let leases = claim(backend, &["a", "b"], 9).await;
    assert_eq!(leases.len(), 5);
    settle(backend, &leases[..2], &completed()).await;
    let more = [job("a"), limited("a", "a"), job("b"), limited("b", "b"), transient("a"), job("a")];
    enqueue(backend, &more).await;
    enqueue(backend, &[limited("a", "b"), limited("a", "b"), job("b").priority(2)]).await;
    leases[2..].to_vec()
}

/// Whatever a worker and a client do; errors are compared too.
async fn use_all(backend: &RedisBackend, running: &[Lease]) {
    let memory = Durability::Memory;
    let _ = backend.enqueue(&[job("a"), limited("a", "a"), limited("a", "new")], memory).await;
    let one = backend.claim(&request(&["a", "b"], 1)).await;
    let _ = backend.settle(&ends(&running[..1], &completed())).await;
    let mut added = request(&["a"], 2);
    added.kinds[0].limits = LimitKeys::parse(["tenant:a", "provider:x"]).unwrap();
    let two = backend.claim(&added).await;
    let _ = backend.enqueue(&[limited("b", "b"), job("b"), transient("a")], memory).await;
    let _ = backend.settle(&ends(&running[1..], &completed())).await;
    for done in [one, two] {
        let leases = done.map(|claim| claim.leases).unwrap_or_default();
        let _ = backend.settle(&ends(&leases, &completed())).await;
    }
    let _ = backend.claim(&request(&["b", "a"], 9)).await;
    let _ = backend.maintain(100).await;
    let _ = backend.claim(&request(&["b", "a"], 9)).await;
}

type Words = Vec<Vec<u8>>;

fn words(words: &[&[u8]]) -> Words {
    words.iter().map(|word| word.to_vec()).collect()
}

/// What was once done otherwise.
fn known_damages() -> Vec<Words> {
    let mut illegal = [0; 46];
    (illegal[0], illegal[1]) = (1, 32);
    vec![
        words(&[b"ZADD", b"lanes:default/a", b"1", b""]),
        words(&[b"HSET", b"meta", b"default/a/ready", b"nan"]),
        words(&[b"HSET", b"meta", b"default/a/ready", b"inf"]),
        words(&[b"HSET", b"meta", b"done:default", b"1e30"]),
        words(&[b"HSET", b"live", b"tenant:a", b"nan"]),
        words(&[b"HSET", b"meta", b"turn", b"nan"]),
        words(&[b"HSET", b"limits", b"tenant:a", &illegal]),
        words(&[b"SET", b"limited", b"text"]),
        words(&[b"SET", b"att", b"text"]),
        words(&[b"DEL", b"lane:default/a/5"]),
    ]
}

/// Those of a wrong type, but the sets of lanes that wait (limit_damage.rs): a plain part leaves
/// more to them.
fn wrong_types() -> Vec<Words> {
    let names = [
        "hold:tenant:a",
        "hold:tenant:new",
        "lane:default/a/5",
        "lane:default/a/5/tenant:a",
        "lane:default/a/5/tenant:new",
        "lane:default/b/5",
        "lanes:default/a",
        "wake:default/a",
        "done:default",
        "leases",
        "claims",
        "run",
        "due",
        "live",
        "limits",
        "limited",
        "reopen",
        "fin",
        "ages",
        "att",
        "jobs",
        "cancel",
        "log",
    ];
    names.iter().map(|name| words(&[b"SET", name.as_bytes(), b"text"])).collect()
}

fn wrong_lanes() -> Vec<Words> {
    const OTHER: &[u8] = b"{twin/0}:lane:default/a/5";
    const OF_A: &[u8] = b"{twin/0}:lane:default/a/5/tenant:a";
    let mut all = vec![
        words(&[b"DEL", b"lane:default/a/5/tenant:a"]),
        words(&[b"LPOP", b"lane:default/a/5"]),
        words(&[b"RPUSH", b"lane:default/a/5", b"no id"]),
        words(&[b"RPUSH", b"lane:default/a/5", b"an id of nobody!"]),
        words(&[b"LMOVE", b"lane:default/a/5", OTHER, b"LEFT", b"RIGHT"]),
        words(&[b"COPY", b"lane:default/a/5", b"{twin/0}:lane:default/b/2", b"REPLACE"]),
        words(&[b"COPY", b"lane:default/a/5/tenant:a", OTHER, b"REPLACE"]),
        words(&[b"COPY", b"lane:default/a/5", OF_A, b"REPLACE"]),
        words(&[b"COPY", b"lane:default/a/5/tenant:b", OF_A, b"REPLACE"]),
        words(&[b"DEL", b"lanes:default/a"]),
        words(&[b"ZREM", b"lanes:default/a", b"5"]),
        words(&[b"ZREM", b"lanes:default/a", b"5/tenant:a"]),
        words(&[b"DEL", b"claims"]),
        words(&[b"HDEL", b"meta", b"default/a/ready", b"default/a/running", b"live:default"]),
        words(&[b"HDEL", b"meta", b"default/a/completed", b"done:default"]),
    ];
    let entries =
        ["5/", "5/no keys", "x", "55", "4", "4/tenant:nobody", "@tenant:a", "5/tenant:a,tenant:a"];
    for score in ["1", "9e15"] {
        let entry = |entry: &&str| {
            words(&[b"ZADD", b"lanes:default/a", score.as_bytes(), entry.as_bytes()])
        };
        all.extend(entries.iter().map(entry));
    }
    all
}

fn wrong_numbers() -> Vec<Words> {
    let fields = [
        ("meta", "default/a/ready"),
        ("meta", "default/a/running"),
        ("meta", "live:default"),
        ("meta", "default/a/completed"),
        ("meta", "done:default"),
        ("live", "tenant:a"),
        ("live", "tenant:new"),
        ("meta", "turn"),
        ("meta", "fence"),
        ("meta", "stale"),
        ("meta", "tidied"),
    ];
    let mut all = Vec::new();
    for value in ["nan", "inf", "-inf", "text", "-5", "1e30", "0x10", "2.5", "0"] {
        let set = |(key, field): &(&str, &str)| {
            words(&[b"HSET", key.as_bytes(), field.as_bytes(), value.as_bytes()])
        };
        all.extend(fields.iter().map(set));
    }
    all
}

/// Settings, and what is remembered of a key.
fn wrong_limits() -> Vec<Words> {
    let mut all = Vec::new();
    for flags in [0_u8, 1, 2, 4, 5, 8, 9, 16, 17, 32, 33, 63, 64, 255] {
        for (fill, size) in [(0, 3), (0, 45), (0, 46), (1, 46), (2, 46), (1, 60)] {
            let mut bytes = vec![fill; size];
            (bytes[0], bytes[1]) = (1, flags);
            all.push(words(&[b"HSET", b"limits", b"tenant:a", &bytes]));
        }
    }
    for bytes in [&b""[..], b"?", b"\x01", &[0; 17], &[1; 17], &[1; 60], b"default/a"] {
        all.push(words(&[b"HSET", b"limited", b"tenant:a", bytes]));
    }
    all
}

#[tokio::test]
async fn damaged_keys_are_met_alike() {
    let scene = Scene::new().await;
    let others = [wrong_types(), wrong_lanes(), wrong_numbers(), wrong_limits()].concat();
    let with = |damage: Words| [None, Some(1), Some(2), Some(9)].map(|most| (damage.clone(), most));
    let others = some_of(others.into_iter().flat_map(with).collect(), 40);
    let known =
        known_damages().into_iter().flat_map(|damage| [(damage.clone(), None), (damage, Some(1))]);
    for (damage, concurrency) in known.chain(others) {
        scene.begin_anew().await;
        let running = populate(&scene.backend, concurrency).await;
        let damage: Vec<&[u8]> = damage.iter().map(Vec::as_slice).collect();
        scene.harm(&damage);
        use_all(&scene.backend, &running).await;
        let shown: Vec<_> = damage.iter().map(|word| word.escape_ascii().to_string()).collect();
        scene.assert_same(&format!("{} with {concurrency:?}", shown.join(" ")));
    }
}

/// Records, what jobs in `run` hold, and claims: cut off, too long, or with another byte somewhere.
#[tokio::test]
async fn damaged_records_are_met_alike() {
    let scene = Scene::new().await;
    let hashes = ["jobs", "run", "claims"];
    let scenes = hashes.into_iter().flat_map(|hash| (0..110).map(move |at| (hash, at))).collect();
    for (hash, at) in some_of(scenes, 40) {
        let mut rng = fastrand::Rng::with_seed(at as u64);
        let concurrency = if rng.bool() { Some(9) } else { None };
        scene.begin_anew().await;
        let running = populate(&scene.backend, concurrency).await;
        let name = scene.harness.key(&scene.backend, hash);
        let mut fields: Vec<Vec<u8>> = scene.harness.raw(&[b"HKEYS", name.as_bytes()]);
        fields.sort();
        for field in &fields {
            let mut bytes: Vec<u8> = scene.harness.raw(&[b"HGET", name.as_bytes(), field]);
            let at = at % bytes.len().max(1);
            match rng.u8(..6) {
                0 => bytes.truncate(at),
                1 => bytes.extend_from_slice(b"tenant:b"),
                2 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = rng.u8(..)),
                _ => continue,
            }
            scene.harness.raw::<()>(&[b"HSET", name.as_bytes(), field, &bytes]);
        }
        use_all(&scene.backend, &running).await;
        scene.assert_same(&format!("{hash} at {at} with {concurrency:?}"));
    }
}

/// A lane that no slot is left for, and that has no room either, has no share.
#[tokio::test]
async fn a_lane_without_room_and_slot_takes_no_share() {
    let scene = Scene::new().await;
    let backend = &scene.backend;
    let one = LimitSettings { concurrency: Some(1), ..LimitSettings::default() };
    set_limit(backend, "tenant:x", &one).await;
    enqueue(backend, &[limited("a", "x")]).await;
    assert_eq!(claim(backend, &["a"], 1).await.len(), 1);
    enqueue(backend, &[job("a"), job("a"), limited("a", "x")]).await;
    enqueue(backend, &[job("b"), job("b"), job("b")]).await;
    let of_y = || limited("b", "y");
    enqueue(backend, &[of_y(), of_y(), of_y()]).await;
    let mut four = request(&["a", "b"], 4);
    four.kinds[0].slots = 1;
    let leases = backend.claim(&four).await.unwrap().leases;
    scene.assert_same("shares");
    let kinds: Vec<_> =
        leases.iter().map(|l| (l.spec.kind.as_str(), l.spec.limits.is_empty())).collect();
    assert_eq!(kinds, [("a", true), ("b", true), ("b", true), ("b", false)]);
}

/// A rate is minded on the short way while it lets more jobs start than are taken.
#[tokio::test]
async fn starts_of_a_rate_are_counted_alike() {
    let scene = Scene::new().await;
    let backend = &scene.backend;
    let rate = Rate::new(10, Duration::from_secs(1)).with_burst(8);
    let some = LimitSettings { rate: Some(rate), ..LimitSettings::default() };
    set_limit(backend, "tenant:*", &some).await;
    enqueue(backend, &[limited("a", "x"), limited("a", "x"), limited("a", "y")]).await;
    // The first claim looks at the keys that the new settings are about.
    assert_eq!(claim(backend, &["a"], 1).await.len(), 1);
    let before = scene.twin.tally("claim").plain;
    let two = claim(backend, &["a"], 2).await;
    assert_eq!(two.len(), 2);
    assert_eq!(scene.twin.tally("claim").plain, before + 1);
    // Starts are remembered for as long as they count.
    for (n, lease) in two.iter().enumerate() {
        scene.harness.set_clock(backend, START.after(Duration::from_millis(120 * n as u64))).await;
        settle(backend, std::slice::from_ref(lease), &completed()).await;
        assert_eq!(scene.twin.tally("settle").shortest, n + 1);
    }
    scene.assert_same("a start of each");
    enqueue(backend, &[limited("a", "z"), limited("a", "z")]).await;
    for _ in 0..2 {
        let plain = scene.twin.tally("claim").plain;
        assert_eq!(claim_with(backend, "a", "tenant:z", 1).await.len(), 1);
        assert_eq!(scene.twin.tally("claim").plain, plain + 1);
        scene.assert_same("a key that the job has and the worker adds counts once");
    }
    let before = scene.twin.tally("claim").plain;
    let more: Vec<_> = (0..9).map(|_| limited("a", "x")).collect();
    enqueue(backend, &more).await;
    scene.harness.set_clock(backend, START.after(Duration::from_millis(130))).await;
    // Two have started of eight, and a tenth of a second later there is one more.
    assert_eq!(claim(backend, &["a"], 4).await.len(), 4);
    assert_eq!(scene.twin.tally("claim").plain, before + 1);
    assert_eq!(claim(backend, &["a"], 9).await.len(), 3);
    assert_eq!(scene.twin.tally("claim").plain, before + 1, "the last start closes the key");
    scene.assert_same("no start is left");
    assert!(backend.audit(false).await.unwrap().is_empty());
}

/// A claim of one job need not know the lanes behind the first with room, or the next one.
#[tokio::test]
async fn one_job_of_many_tenants_is_claimed_alike() {
    let scene = Scene::new().await;
    let backend = &scene.backend;
    for limits in [false, true] {
        if limits {
            let most = LimitSettings { concurrency: Some(2), ..LimitSettings::default() };
            set_limit(backend, "tenant:*", &most).await;
            // Looks at the keys that the new settings are about, and keeps two places of three.
            enqueue(backend, &[limited("a", "full"), limited("a", "full")]).await;
            assert_eq!(claim(backend, &["a"], 2).await.len(), 2);
        }
        let tenants = ["x", "x", "y", "z", "full"];
        enqueue(backend, &tenants.map(|tenant| limited("a", tenant))).await;
        enqueue(backend, &[job("a")]).await;
        let mut leases = Vec::new();
        // The first leaves jobs in its lane, the next ones empty theirs; `full` has no room.
        let shortest = if limits { [1, 1, 0, 1, 0] } else { [1, 1, 1, 1, 1] };
        for (n, count) in shortest.into_iter().enumerate() {
            let before = scene.twin.tally("claim").shortest;
            leases.extend(claim(backend, &["a"], 1).await);
            assert_eq!(scene.twin.tally("claim").shortest, before + count, "{limits} {n}");
            scene.assert_same(&format!("limits: {limits}, claim {n}"));
        }
        assert_eq!(leases.len(), 5);
        leases.extend(claim(backend, &["a"], 9).await);
        settle(backend, &leases, &completed()).await;
        scene.assert_same("all have completed");
    }
    assert!(backend.audit(false).await.unwrap().is_empty());
}

/// META notes which of the keys may be there that most stores lack. If the note is lost, all may be.
#[tokio::test]
async fn what_most_stores_lack_is_looked_for_if_nothing_is_noted() {
    let scene = Scene::new().await;
    let backend = &scene.backend;
    let ids = enqueue(backend, &[job("a"), job("a").delay(Duration::from_secs(5))]).await;
    let leases = claim(backend, &["a"], 1).await;
    backend.cancel(&ids[..1]).await.unwrap();
    scene.harm(&[b"HDEL", b"meta", b"rare"]);
    settle(backend, &leases, &completed()).await;
    let asked = scene.harness.key(backend, "cancel");
    assert!(!scene.harness.raw::<bool>(&[b"EXISTS", asked.as_bytes()]));
    scene.harness.set_clock(backend, START.after(Duration::from_secs(5))).await;
    assert_eq!(claim(backend, &["a"], 1).await.len(), 1);
    scene.assert_same("nothing is noted");
    backend.maintain(100).await.unwrap();
    let meta = scene.harness.key(backend, "meta");
    let noted: Option<String> = scene.harness.raw(&[b"HGET", meta.as_bytes(), b"rare"]);
    assert_eq!(noted.as_deref(), Some(""));
}

/// The contract forbids it; still no job may be lost.
#[tokio::test]
async fn a_queue_or_kind_that_is_named_twice_loses_nothing() {
    let scene = Scene::new().await;
    let backend = &scene.backend;
    enqueue(backend, &[job("a"), job("a"), job("a"), job("b")]).await;
    let mut twice: ClaimRequest = request(&["a", "b"], 2);
    twice.queues.push(twice.queues[0].clone());
    twice.kinds.push(KindSlots::new(twice.kinds[0].kind.clone(), 2));
    let leases = backend.claim(&twice).await.unwrap().leases;
    scene.assert_same("twice");
    let rest = claim(backend, &["a", "b"], 9).await;
    let mut ids: Vec<_> = leases.iter().chain(&rest).map(|lease| lease.spec.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((leases.len() + rest.len(), ids.len()), (4, 4));
    assert!(backend.audit(false).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_job_that_ends_twice_in_one_call_ends_once() {
    let scene = Scene::new().await;
    let backend = &scene.backend;
    for kinds in [["a", "a"], ["a", "b"]] {
        enqueue(backend, &kinds.map(|kind| limited(kind, "x"))).await;
        let leases = claim(backend, &["a", "b"], 2).await;
        let twice = [leases[0].clone(), leases[1].clone(), leases[0].clone()];
        let settled = settle(backend, &twice, &completed()).await;
        scene.assert_same(&format!("{kinds:?}"));
        let done = JobState::Completed;
        assert_eq!(settled[..2], [Settled::Applied(done), Settled::Applied(done)]);
        assert!(!matches!(settled[2], Settled::Applied(_)), "{settled:?}");
        assert!(backend.audit(false).await.unwrap().is_empty());
    }
}

/// Jobs of a few tenants that end in another order than that of their lanes.
#[tokio::test]
async fn jobs_of_many_lanes_end_in_any_order() {
    let scene = Scene::new().await;
    let backend = &scene.backend;
    for round in 0..6 {
        let mut rng = fastrand::Rng::with_seed(round);
        let make = |n: usize| {
            let one = limited(["a", "b"][n % 2], &format!("t{}", n % 7)).limit("provider:p");
            if n.is_multiple_of(5) { one.idempotency_key(format!("{round}-{n}")) } else { one }
        };
        enqueue(backend, &(0..60).map(make).collect::<Vec<_>>()).await;
        let mut some = request(&["a", "b"], 20);
        some.kinds[0].limits = LimitKeys::parse(["provider:p", "provider:q"]).unwrap();
        let mut leases = backend.claim(&some).await.unwrap().leases;
        leases.extend(claim(backend, &["a", "b"], 40).await);
        if round % 2 == 0 {
            rng.shuffle(&mut leases);
        }
        settle(backend, &leases[..45], &completed()).await;
        settle(backend, &leases[45..], &completed()).await;
        scene.assert_same(&format!("round {round}"));
        assert!(backend.audit(false).await.unwrap().is_empty());
    }
    assert_eq!(scene.twin.tally("settle").plain, 12);
}

/// As many queues and kinds, lanes and keys as one call may have.
#[tokio::test]
async fn much_of_everything_is_met_alike() {
    let scene = Scene::new().await;
    let backend = &scene.backend;
    let some = LimitSettings { concurrency: Some(300), ..LimitSettings::default() };
    set_limit(backend, "tenant:*", &some).await;
    let kinds: Vec<String> = (0..20).map(|n| format!("kind{n}")).collect();
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let queues: Vec<String> = (0..12).map(|n| format!("queue{n}")).collect();
    for of_one in [false, true] {
        let make = |n: usize| {
            let (kind, queue) = if of_one { (0, 0) } else { (n % 20, n / 20 % 12) };
            let key = |nth: usize| format!("tenant:{nth}{n:0>120}");
            let keyed = (0..4).fold(job(kinds[kind]), |job, nth| job.limit(key(nth)));
            keyed.queue(&queues[queue])
        };
        enqueue(backend, &(0..500).map(make).collect::<Vec<_>>()).await;
        let mut all = request(&kinds, 480);
        all.queues = queues.iter().map(|name| name.parse().unwrap()).collect();
        let mut leases = backend.claim(&all).await.unwrap().leases;
        all.token = request(&kinds, 480).token;
        leases.extend(backend.claim(&all).await.unwrap().leases);
        assert_eq!(leases.len(), 500);
        settle(backend, &leases, &completed()).await;
        scene.assert_same("much");
    }
    assert_eq!(scene.twin.tally("claim").plain, 4);
    assert!(backend.audit(false).await.unwrap().is_empty());
}

/// A queue with as many completed records as are kept: the oldest of all sorts go.
#[tokio::test]
async fn the_oldest_records_go_alike() {
    let scene = Scene::new().await;
    // What only fills the shelf needs no twin.
    let url = scene.harness.redis.url();
    let filler = RedisBackend::connect(&url, Namespace::new("twin").unwrap()).await.unwrap();
    let mut now = START;
    let mut complete = async |backend: &RedisBackend, jobs: &[NewJob], at_once: usize| {
        now = now.after(Duration::from_secs(1));
        scene.harness.set_clock(backend, now).await;
        enqueue(backend, jobs).await;
        let leases = claim(backend, &["a", "b"], u32::try_from(jobs.len()).unwrap()).await;
        assert_eq!(leases.len(), jobs.len());
        for some in leases.chunks(at_once) {
            settle(backend, some, &completed()).await;
        }
    };
    let of = |kind: &str, count: usize| (0..count).map(|_| job(kind)).collect::<Vec<_>>();
    complete(&filler, &of("a", 90), 90).await;
    complete(&filler, &of("a", 40), 1).await;
    complete(&filler, &of("b", 30), 30).await;
    complete(&filler, &[job("a").idempotency_key("one"), job("a")], 2).await;
    complete(&filler, &of("a", 200), 77).await;
    complete(&filler, &[limited("a", "x"), job("a")], 2).await;
    for _ in 0..20 {
        complete(&filler, &of("a", 480), 480).await;
    }
    complete(&filler, &of("a", 100), 100).await;
    for (kind, count, at_once) in
        [("a", 40, 40), ("a", 3, 1), ("b", 90, 90), ("a", 200, 100), ("a", 480, 480)]
    {
        complete(&scene.backend, &of(kind, count), at_once).await;
        scene.assert_same(&format!("{count} of {kind}, {at_once} at once"));
    }
    let tally = scene.twin.tally("settle");
    assert!(tally.shortest >= 3 && tally.plain > tally.shortest, "{tally:?}");
    assert!(scene.backend.audit(false).await.unwrap().is_empty());
}

#[tokio::test]
async fn groups_of_one_lane_are_met_alike() {
    let scene = Scene::new().await;
    let backend = &scene.backend;
    let again = |tenant| limited("a", tenant).on_conflict(OnConflict::Reject);
    for (n, jobs) in [
        vec![job("a"), job("a").on_conflict(OnConflict::Reject)],
        vec![limited("a", "x"), limited("a", "y"), again("x")],
        vec![again("v"), limited("a", "w"), limited("a", "v"), limited("a", "y"), again("w")],
    ]
    .into_iter()
    .enumerate()
    {
        let before = scene.twin.tally("enqueue").plain;
        enqueue(backend, &jobs).await;
        assert_eq!(scene.twin.tally("enqueue").plain, before + 1, "{n}");
        scene.assert_same(&format!("enqueue {n}"));
    }
    assert!(backend.audit(false).await.unwrap().is_empty());
}
