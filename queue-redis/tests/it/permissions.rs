//! Users who may not do all that a script does: it stops in its middle, and Redis takes nothing back.

use std::time::Duration;

use queue_core::{
    Backend, Durability, EnqueueOutcome, Error, JobId, NewJob, OnConflict, Payload, Queue,
};
use queue_redis::{RedisBackend, RedisOptions};

use crate::support::harness::RedisHarness;
use crate::support::jobs::{assert_sound, claim, completed, enqueue, job, settle, transient};

/// The commands that enqueues write with, one way or the other, but `HDEL`, which takes back.
const WRITES: [&str; 10] =
    ["hset", "hsetnx", "rpush", "zadd", "sadd", "hincrby", "ltrim", "zrem", "unlink", "hlen"];

/// A user who may do everything but what is taken away.
struct User {
    harness: RedisHarness,
    admin: RedisBackend,
    backend: RedisBackend,
}

impl User {
    async fn new() -> Self {
        let harness = RedisHarness::new();
        let admin = harness.now().await;
        Self::rights(&harness, "on >s ~* &* +@all");
        let url = format!("{}?user=w&pass=s", harness.redis.url());
        let options = RedisOptions::default().namespace(admin.namespace().clone());
        let backend = RedisBackend::connect_with(&url, options).await.unwrap();
        Self { harness, admin, backend }
    }

    fn rights(harness: &RedisHarness, rules: &str) {
        let words = format!("ACL SETUSER w {rules}");
        harness.raw::<()>(&words.split(' ').map(str::as_bytes).collect::<Vec<_>>());
    }

    fn may_not(&self, command: &str) {
        Self::rights(&self.harness, &format!("-{command}"));
    }

    fn may_all(&self) {
        Self::rights(&self.harness, "+@all");
    }

    async fn is_there(&self, id: JobId) -> bool {
        self.admin.get(&[id]).await.unwrap()[0].is_some()
    }
}

fn is_new(outcome: &EnqueueOutcome) -> bool {
    matches!(outcome, EnqueueOutcome::Done(done) if !done.duplicate)
}

/// Enqueues by each way through the scripts.
fn shapes() -> Vec<Vec<NewJob>> {
    let limited = |key: &str| transient("a").limit(key);
    let keyed = || transient("a").idempotency_key("k");
    let large = NewJob::new("a".parse().unwrap(), Payload::raw("x".repeat(5000)));
    vec![
        vec![transient("a")],
        vec![limited("tenant:a")],
        (0..5).map(|_| transient("a")).collect(),
        vec![transient("a"), transient("a").priority(7), transient("b"), limited("tenant:a")],
        (0..3).map(|n| limited(&format!("tenant:{n}"))).collect(),
        vec![keyed()],
        vec![transient("a").delay(Duration::from_secs(60)), transient("b")],
        vec![large, transient("b"), limited("tenant:b")],
        vec![keyed().on_conflict(OnConflict::Replace), transient("b")],
    ]
}

/// Whatever the user may not do: jobs that were refused are not there, and can be enqueued later.
#[tokio::test]
async fn an_enqueue_that_is_stopped_in_its_middle_leaves_nothing() {
    let user = User::new().await;
    let mut refusals = 0;
    for with_others in [false, true] {
        for command in WRITES {
            for (n, jobs) in shapes().into_iter().enumerate() {
                let place = format!("shape {n} without {command}, with others: {with_others}");
                if with_others {
                    enqueue(&user.admin, &[transient("a"), transient("b")]).await;
                }
                user.may_not(command);
                let refused = user.backend.enqueue(&jobs, Durability::Memory).await;
                user.may_all();
                if let Err(error) = refused {
                    assert!(matches!(&error, Error::Refused(_)), "{place}: {error}");
                    refusals += 1;
                    for job in &jobs {
                        assert!(!user.is_there(job.job_id()).await, "{place}");
                    }
                    assert_eq!(user.admin.audit(false).await.unwrap(), [], "{place}");
                    let outcomes = user.backend.enqueue(&jobs, Durability::Memory).await.unwrap();
                    assert!(outcomes.iter().all(is_new), "{place}: {outcomes:?}");
                }
                assert_eq!(user.admin.audit(false).await.unwrap(), [], "{place}");
                let ids: Vec<_> = jobs.iter().map(NewJob::job_id).collect();
                user.admin.cancel(&ids).await.unwrap();
                let leases = claim(&user.admin, &["a", "b"], 50).await;
                settle(&user.admin, &leases, &completed()).await;
            }
        }
    }
    assert!(refusals > 40, "{refusals}");
}

/// Nothing can be taken back without `HDEL`: then the job's own record is no proof that it runs.
#[tokio::test]
async fn a_half_of_a_job_is_no_duplicate() {
    let user = User::new().await;
    for jobs in [vec![job("a")], vec![job("a"), job("b")], vec![job("c").idempotency_key("k")]] {
        user.may_not("rpush -hdel");
        let refused = user.backend.enqueue(&jobs, Durability::Memory).await;
        assert!(matches!(&refused, Err(Error::Refused(_))), "{refused:?}");
        user.may_all();
        let lost = user.backend.enqueue(&jobs, Durability::Memory).await;
        assert!(matches!(&lost, Err(Error::Corrupt(why)) if why.contains("LOST")), "{lost:?}");
        user.admin.audit(true).await.unwrap();
        let found = user.backend.enqueue(&jobs, Durability::Memory).await.unwrap();
        assert!(!is_new(&found[0]), "{found:?}");
    }
    assert_eq!(claim(&user.admin, &["a", "b", "c"], 9).await.len(), 4);
}

/// As callers do it, alone and with others: the refusal is not followed by a success.
#[tokio::test]
async fn a_queue_does_not_ask_again_what_the_store_refuses() {
    let user = User::new().await;
    user.may_not("rpush");
    let admin = &user.admin;
    let url = format!("{}?user=w&pass=s", user.harness.redis.url());
    let options = RedisOptions::default().namespace(admin.namespace().clone());
    let queue = Queue::new(RedisBackend::connect_with(&url, options).await.unwrap());
    let (one, two, three) = (job("a"), job("a"), job("b"));
    let (first, second, third) = tokio::join!(
        queue.enqueue(one.clone()),
        queue.enqueue(two.clone()),
        queue.enqueue(three.clone())
    );
    for (answer, job) in [(first, one), (second, two), (third, three)] {
        let Err(Error::Refused(why)) = &answer else { panic!("{answer:?}") };
        assert!(why.contains("ACL"), "{why}");
        assert!(!user.is_there(job.job_id()).await);
    }
    assert_sound(admin).await;
}
