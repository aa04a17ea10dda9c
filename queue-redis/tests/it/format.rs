//! The stored bytes, as the scripts write them: data outlives the program that wrote it, so these
//! must not change by accident, and what a newer program has added survives.

use std::sync::LazyLock;
use std::time::Duration;

use queue_core::conformance::Harness;
use queue_core::{
    Adaptive, Backend, Breaker, ClaimToken, Durability, ErrorKind, Hold, JobError, JobId, JobState,
    Kind, LimitKeys, LimitSettings, LimitTarget, NewJob, Outcome, Payload, Progress, Rate, Report,
    SettleRequest, Settled, Settlement, Timestamp, WatchRequest, WorkerId,
};
use queue_redis::RedisBackend;

use crate::support::harness::RedisHarness;
use crate::support::jobs::{assert_sound, completed, request};

const START: Timestamp = Timestamp::from_ms(0x0300_0000_0001);
static ID: LazyLock<JobId> = LazyLock::new(|| JobId::from_bytes([7; 16]));
static TOKEN: LazyLock<ClaimToken> = LazyLock::new(|| ClaimToken::from_bytes([9; 16]));

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Store {
    harness: RedisHarness,
    backend: RedisBackend,
}

impl Store {
    async fn new() -> Self {
        let harness = RedisHarness::new();
        let backend = harness.fresh(START).await;
        Self { harness, backend }
    }

    fn read(&self, key: &str, field: &[u8]) -> Vec<u8> {
        self.harness.raw(&[b"HGET", self.harness.key(&self.backend, key).as_bytes(), field])
    }

    fn write(&self, key: &str, field: &[u8], bytes: &[u8]) {
        let key = self.harness.key(&self.backend, key);
        self.harness.raw::<()>(&[b"HSET", key.as_bytes(), field, bytes]);
    }

    fn members(&self, key: &str) -> Vec<(String, u64)> {
        let key = self.harness.key(&self.backend, key);
        self.harness.raw(&[b"ZRANGE", key.as_bytes(), b"0", b"-1", b"WITHSCORES"])
    }

    fn of_job(&self, key: &str) -> Vec<u8> {
        self.read(key, ID.as_bytes())
    }

    async fn enqueue(&self, hold: Hold) {
        let job = NewJob::new(Kind::new("a").unwrap(), Payload::raw("p"))
            .id(*ID)
            .idempotency_key("k")
            .hold(hold);
        self.backend.enqueue(&[job], Durability::Memory).await.unwrap();
    }

    async fn claim(&self) {
        let mut request = request(&["a"], 1);
        request.token = *TOKEN;
        request.worker = WorkerId::new("w").unwrap();
        assert_eq!(self.backend.claim(&request).await.unwrap().leases.len(), 1);
    }

    async fn settle(&self, outcome: Outcome) -> Settled {
        let elapsed = Duration::from_millis(5);
        let settlements = vec![Settlement { id: *ID, token: *TOKEN, outcome, elapsed }];
        let request = SettleRequest { settlements, claim: None };
        self.backend.settle(&request).await.unwrap().settled[0]
    }

    async fn fail(&self) {
        let error = JobError::new(ErrorKind::Failed, "e");
        let outcome = Outcome::Retry { delay: Duration::ZERO, error };
        assert_eq!(self.settle(outcome).await, Settled::Applied(JobState::Ready));
    }

    async fn report(&self, lines_before: u64, lines: &[&str]) {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        let progress = Some(Progress::new(40, "half"));
        let report = Report { id: *ID, token: *TOKEN, progress, lines_before, lines };
        self.backend.report(&[report]).await.unwrap();
    }
}

#[tokio::test]
async fn each_format_has_these_bytes() {
    let store = Store::new().await;
    store.enqueue(Hold::AtLeast(Duration::from_millis(0x0a0b))).await;
    let head = concat!(
        "03",                 // version
        "030000000001",       // enqueued
        "030000000001",       // due
        "00000001",           // payload bytes
        "0001",               // key bytes
        "00",                 // codec
        "0701",               // queue and kind bytes
        "05",                 // priority
        "000a03",             // attempts, stalls
        "00015180001275",     // retention of completed, dead …
        "00",                 // …
        "08",                 // flags: held for a time
        "64656661756c74616b", // default, a, k
        "000000000a0b",       // the time
    );
    let record = store.of_job("jobs");
    assert_eq!(hex(&record[..record.len() - 2]), head);
    assert_eq!(hex(&record[record.len() - 2..]), "7080", "payload and options");

    store.claim().await;
    assert_eq!(hex(&store.of_job("run")), format!("{}03{}", "09".repeat(16), &head[34..]));
    let claim = concat!("01", "030000000001", "000bb800000003e8", "0001", "01", "77");
    let ids = "07".repeat(16);
    assert_eq!(hex(&store.read("claims", TOKEN.as_bytes().as_slice())), format!("{claim}{ids}"));

    store.report(0, &["l"]).await;
    let token = "09".repeat(16);
    let told = concat!("28", "0004", "0000", "68616c66"); // percent, lengths, text
    let line = concat!("000f", "000000000001", "030000000001", "0001", "6c");
    let expected = format!("01{}{}{token}{told}{line}", "000000000001", "000000000001");
    assert_eq!(hex(&store.of_job("log")), expected);

    store.fail().await;
    let error = "82a46b696e64a66661696c6564a76d657373616765a165";
    let length = format!("{:04x}", error.len() / 2);
    let counts = concat!("01", "0001", "00", "00000000", "030000000001");
    assert_eq!(hex(&store.of_job("att")), format!("{counts}{token}{length}{error}"));
    let entry = format!("0001{}{}00{}{}", "030000000001", "000000000005", "0177", error);
    assert_eq!(hex(&store.of_job("history")), format!("01{:04x}{entry}", entry.len() / 2));

    store.claim().await;
    store.settle(Outcome::Completed { result: Some(Payload::raw("r")) }).await;
    let end = concat!("04", "00", "030000000001", "000000000005");
    assert_eq!(hex(&store.of_job("fin")), format!("{end}{token}0072"));
    assert_sound(&store.backend).await;
}

#[tokio::test]
async fn usual_jobs_have_brief_records_and_ends() {
    let store = Store::new().await;
    let job = NewJob::new(Kind::new("a").unwrap(), Payload::raw("p")).id(*ID);
    store.backend.enqueue(&[job], Durability::Memory).await.unwrap();
    let record = concat!(
        "05",           // version
        "030000000001", // enqueued
        "0001",         // payload bytes
        "85",           // kept, codec 0, priority 5
        "0001",         // queue and kind bytes; the queue is the usual one
        "61",           // a
        "70",           // payload
    );
    assert_eq!(hex(&store.of_job("jobs")), record);
    store.claim().await;
    // As of the whole record of such a job.
    let settings = concat!("000a03", "00015180", "00127500", "00");
    let run = format!("{}030000000701 05{settings}64656661756c7461", "09".repeat(16));
    assert_eq!(hex(&store.of_job("run")), run.replace(' ', ""));
    let done = Outcome::Completed { result: None };
    assert_eq!(store.settle(done.clone()).await, Settled::Applied(JobState::Completed));
    assert_eq!(hex(&store.of_job("fin")), concat!("14", "030000000001", "000005", "09090909"));
    assert_sound(&store.backend).await;

    // What else ends the job has another token, and the same one has ended it before.
    assert_eq!(store.settle(done.clone()).await, Settled::AlreadyDone(JobState::Completed));
    let mut other = *TOKEN.as_bytes();
    other[3] ^= 1;
    let (id, token) = (*ID, ClaimToken::from_bytes(other));
    let settlements = vec![Settlement { id, token, outcome: done, elapsed: Duration::ZERO }];
    let request = SettleRequest { settlements, claim: None };
    let settled = store.backend.settle(&request).await.unwrap().settled;
    assert_eq!(settled, [Settled::Stale(JobState::Completed)]);

    let found = store.backend.get(&[*ID]).await.unwrap().remove(0).unwrap();
    assert_eq!((found.enqueued_at, found.finished_at), (START, Some(START)));
    assert_eq!(found.spec.payload, Payload::raw("p"));
}

/// A job that has run for more than four hours or so has a whole end, and so does one with a result.
#[tokio::test]
async fn other_ends_are_whole() {
    let store = Store::new().await;
    let result = Some(Payload::raw("r"));
    let ends = [((1 << 24) - 1, None, true), (1 << 24, None, false), (1, result, false)];
    for (elapsed_ms, result, is_brief) in ends {
        let job = NewJob::new(Kind::new("a").unwrap(), Payload::raw("p")).id(*ID);
        store.backend.enqueue(&[job], Durability::Memory).await.unwrap();
        store.claim().await;
        let (id, token) = (*ID, *TOKEN);
        let (outcome, elapsed) = (Outcome::Completed { result }, Duration::from_millis(elapsed_ms));
        let settlements = vec![Settlement { id, token, outcome, elapsed }];
        let request = SettleRequest { settlements, claim: None };
        store.backend.settle(&request).await.unwrap();
        assert_eq!(store.of_job("fin").len() == 14, is_brief, "{elapsed_ms} ms");
        let found = store.backend.get(&[*ID]).await.unwrap().remove(0).unwrap();
        assert_eq!(found.elapsed, Some(elapsed));
        assert_sound(&store.backend).await;
        store.backend.delete(&[(*ID, JobState::Completed)]).await.unwrap();
    }
}

/// Records of jobs that do not expire once had room for the time at which they do.
#[tokio::test]
async fn a_record_with_an_empty_expiry_is_read() {
    let store = Store::new().await;
    for limits in [None, Some("tenant:a")] {
        // One with unusual settings, whose record is a whole one.
        let mut job =
            NewJob::new(Kind::new("a").unwrap(), Payload::raw("p")).id(*ID).max_attempts(9);
        if let Some(key) = limits {
            job = job.limit(key);
        }
        store.backend.enqueue(&[job.clone()], Durability::Memory).await.unwrap();
        let mut record = store.of_job("jobs");
        record[0] -= 2;
        record.splice(35..35, [0; 6]);
        store.write("jobs", ID.as_bytes(), &record);
        let request = request(&["a"], 1);
        let lease = store.backend.claim(&request).await.unwrap().leases.remove(0);
        assert_eq!(lease.spec.payload, job.spec.payload);
        assert_eq!((lease.spec.expires_at, &lease.spec.limits), (None, &job.spec.limits));
        assert_eq!(store.of_job("run")[16], record[0]);
        assert!(hex(&store.of_job("run")).contains(&hex(&record[17..41])));
        let outcome = Outcome::Completed { result: None };
        let (id, token, elapsed) = (*ID, lease.token, Duration::ZERO);
        let settlements = vec![Settlement { id, token, outcome, elapsed }];
        let request = SettleRequest { settlements, claim: None };
        let settled = store.backend.settle(&request).await.unwrap().settled;
        assert_eq!(settled, [Settled::Applied(JobState::Completed)]);
        assert_sound(&store.backend).await;
        store.backend.delete(&[(*ID, JobState::Completed)]).await.unwrap();
    }
}

#[tokio::test]
async fn each_format_of_limits_has_these_bytes() {
    let store = Store::new().await;
    let key = LimitTarget::new("provider:x").unwrap();
    let settings = LimitSettings {
        concurrency: Some(2),
        rate: Some(Rate { count: 1, period: Duration::from_secs(1), burst: 2 }),
        breaker: Some(Breaker {
            failures: 2,
            window: Duration::from_secs(9),
            cooldown: Duration::from_secs(5),
        }),
        adaptive: Some(Adaptive { floor: 1 }),
        ..LimitSettings::default()
    };
    store.backend.set_limit(&key, Some(&settings)).await.unwrap();
    let numbers = concat!("00000002", "00000001", "0000000003e8", "00000002", "02");
    let times = concat!("000000002328", "000000001388", "00000001", "00", "0000000000000000");
    assert_eq!(hex(&store.read("limits", b"provider:x")), format!("010f{numbers}{times}"));

    let job = NewJob::new(Kind::new("a").unwrap(), Payload::raw("p")).id(*ID).limit("tenant:a");
    store.backend.enqueue(&[job], Durability::Memory).await.unwrap();
    let record = hex(&store.of_job("jobs"));
    let names = "61000874656e616e743a61"; // a, tenant:a behind its length
    assert_eq!(record, format!("060300000000010001850001{names}70"));
    assert_eq!(store.members("lanes:default/a"), [("5/tenant:a".to_owned(), (5 << 48) + 1)]);
    assert_eq!(store.read("live", b"tenant:a"), b"1");

    let mut request = request(&["a"], 1);
    request.token = *TOKEN;
    request.kinds[0].limits = LimitKeys::parse(["provider:x"]).unwrap();
    assert_eq!(store.backend.claim(&request).await.unwrap().leases.len(), 1);
    let added = "70726f76696465723a78"; // the key that the worker has added
    let head =
        format!("0000000701 05 000a03 00015180 00127500 10 64656661756c74{names}").replace(' ', "");
    assert_eq!(hex(&store.of_job("run")), format!("{}04{head}{added}", "09".repeat(16)));
    for held in ["hold:provider:x", "hold:tenant:a"] {
        let name = store.harness.key(&store.backend, held);
        let holders: Vec<Vec<u8>> = store.harness.raw(&[b"SMEMBERS", name.as_bytes()]);
        assert_eq!(holders, [ID.as_bytes().to_vec()], "{held}");
    }
    let scheduled = format!("{:016x}", (START.as_ms() + 1000) * 1000);
    let state = |flags: &str, rest: &str| format!("01{flags}{scheduled}{rest}");
    let limited = || hex(&store.read("limited", b"provider:x"));
    assert_eq!(limited(), state("00", concat!("000000000000", "00")));

    // The provider turns it away; one with the key waits.
    let limits = LimitKeys::parse(["provider:x"]).unwrap();
    let away = Outcome::Throttled { delay: Duration::from_secs(1), limits };
    assert_eq!(store.settle(away).await, Settled::Applied(JobState::Scheduled));
    let waiting = NewJob::new(Kind::new("a").unwrap(), Payload::raw("")).limit("provider:x");
    store.backend.enqueue(&[waiting], Durability::Memory).await.unwrap();
    request.token = ClaimToken::from_bytes([8; 16]);
    request.kinds[0].limits = LimitKeys::NONE;
    assert!(store.backend.claim(&request).await.unwrap().leases.is_empty());
    let closed = "0300000003e9";
    let reduced = concat!("00000001", "00000000", "030000000001");
    let pair = "64656661756c742f61"; // default/a
    assert_eq!(limited(), state("04", &format!("{closed}00{reduced}{pair}")));
    assert_eq!(store.members("lanes:default/a"), []);
    let place = [("5/provider:x".to_owned(), (5 << 48) + 2)];
    assert_eq!(store.members("parked:default/a"), place);
    assert_eq!(store.members("waits:default/a:provider:x"), place);
    assert_eq!(store.members("reopen"), [("provider:x".to_owned(), START.as_ms() + 1000)]);
    assert_sound(&store.backend).await;
}

#[tokio::test]
async fn each_end_has_a_shelf() {
    let store = Store::new().await;
    let expiry = |kept_s: u64| START.as_ms() + kept_s * 1000;
    let error = || JobError::new(ErrorKind::Failed, "e");
    let ends = [
        ("done:default", 86_400, Hold::Kept, Some(completed())),
        ("dead:default", 14 * 86_400, Hold::Kept, Some(Outcome::Dead { error: error() })),
        ("void:default", 86_400, Hold::Kept, None),
        ("held:default", 5, Hold::AtLeast(Duration::from_secs(5)), Some(completed())),
    ];
    for (shelf, kept_s, hold, outcome) in ends {
        store.enqueue(hold).await;
        let state = match outcome {
            Some(outcome) => {
                store.claim().await;
                let Settled::Applied(state) = store.settle(outcome).await else {
                    panic!("{shelf}")
                };
                state
            }
            None => {
                store.backend.cancel(&[*ID]).await.unwrap();
                JobState::Cancelled
            }
        };
        let name = store.harness.key(&store.backend, shelf);
        let entries: Vec<(Vec<u8>, u64)> =
            store.harness.raw(&[b"ZRANGE", name.as_bytes(), b"0", b"-1", b"WITHSCORES"]);
        assert_eq!(entries, [(ID.as_bytes().to_vec(), expiry(kept_s))], "{shelf}");
        let count = store.read("meta", shelf.as_bytes());
        assert_eq!(count, if hold == Hold::Kept { &b"1"[..] } else { b"" }, "{shelf}");
        let ages = store.harness.key(&store.backend, "ages");
        let age: u64 = store.harness.raw(&[b"ZSCORE", ages.as_bytes(), shelf.as_bytes()]);
        assert_eq!(age, expiry(kept_s));
        store.backend.delete(&[(*ID, state)]).await.unwrap();
        assert_sound(&store.backend).await;
    }
}

/// An older program settles, reports and reaps what a newer one has written.
#[tokio::test]
async fn what_a_newer_program_has_added_survives_a_rewrite() {
    let store = Store::new().await;
    store.enqueue(Hold::Kept).await;
    store.claim().await;
    store.report(0, &["one"]).await;
    store.fail().await;
    let att = [store.of_job("att"), b"new".to_vec()].concat();
    store.write("att", ID.as_bytes(), &att);
    // An entry of a history with more to it, and more about a log.
    let mut history = store.of_job("history");
    history[2] += 3;
    history.extend(b"new");
    store.write("history", ID.as_bytes(), &history);
    let mut log = store.of_job("log");
    log[33] = 3;
    let text_end = 34 + "half".len();
    log.splice(text_end..text_end, *b"new");
    store.write("log", ID.as_bytes(), &log);

    store.claim().await;
    store.report(0, &["one", "two"]).await;
    store.fail().await;
    assert!(store.of_job("att").ends_with(b"new"));
    assert!(store.of_job("history").starts_with(&history));
    assert_eq!(&store.of_job("log")[text_end..text_end + 3], b"new");
    let watch = [WatchRequest { id: *ID, after_line: 0 }];
    let seen = store.backend.watch(&watch).await.unwrap().remove(0).unwrap();
    let lines: Vec<_> = seen.lines.iter().map(|line| line.text.as_str()).collect();
    assert_eq!((lines, seen.failures), (vec!["one", "two"], 2));
    assert_eq!(seen.progress, Some(Progress::new(40, "half")));
    assert_sound(&store.backend).await;
}
