//! Which times records get: those that they are sent with, if these can be believed.

use queue_core::{Backend, Durability, Kind, Namespace, NewJob, Payload, Timestamp};

use super::{RedisBackend, enqueue, server};
use crate::scripts::{self, Source};
use crate::store::{self, Call, Repeat};

/// The server's clock, in milliseconds.
async fn now_ms(backend: &RedisBackend) -> u64 {
    let call = Call::plain(redis::cmd("TIME").to_owned());
    let reply = store::one(&backend.link, call, Repeat::Freely).await.unwrap();
    let (seconds, micros): (u64, u64) = redis::from_redis_value(reply).unwrap();
    seconds * 1000 + micros / 1000
}

/// The times at which the jobs' records say that they were enqueued and due.
async fn times(backend: &RedisBackend, jobs: &[NewJob]) -> Vec<(u64, u64)> {
    let mut times = Vec::new();
    for job in jobs {
        let ids = [job.spec.id];
        let record = super::read::get(backend, &ids).await.unwrap().remove(0).unwrap();
        times.push((record.enqueued_at.as_ms(), record.due_at.as_ms()));
    }
    times
}

/// Enqueues jobs as somebody does who thinks that it is this time; answers their times.
async fn send(
    backend: &RedisBackend,
    script: &Source,
    jobs: &[NewJob],
    sent_ms: u64,
) -> Vec<(u64, u64)> {
    let packed = enqueue::pack_some(jobs, sent_ms);
    let cmd = enqueue::command(backend, script, jobs, &packed, sent_ms);
    let reply = store::one(&backend.link, Call::plain(cmd), Repeat::Freely).await.unwrap();
    let letters: Vec<u8> = redis::from_redis_value(reply).unwrap();
    assert_eq!(letters[..jobs.len()], *b"RRR".get(..jobs.len()).unwrap());
    times(backend, jobs).await
}

fn job(kind: &str) -> NewJob {
    NewJob::new(Kind::new(kind).unwrap(), Payload::raw("payload"))
}

#[tokio::test]
async fn times_are_kept_if_they_can_be_believed() {
    let redis = server::TestRedis::start();
    let name = Namespace::default();
    let backend = RedisBackend::connect(&redis.url(), name).await.unwrap();
    // Those that the shortest part, the plain one and the whole script take in.
    let shapes: [fn() -> Vec<NewJob>; 5] = [
        || vec![job("a")],
        || vec![job("a"), job("a").limit("tenant:a")],
        || vec![job("a"), job("a"), job("a")],
        || vec![job("a"), job("b").expires_at(Timestamp::MAX)],
        || vec![job("a"), NewJob::new(Kind::new("a").unwrap(), Payload::raw(vec![7; 2000]))],
    ];
    for (shape, jobs) in shapes.into_iter().enumerate() {
        for script in [&*scripts::enqueue, &*scripts::replace] {
            let (sent_ms, kept) = loop {
                let sent_ms = now_ms(&backend).await - 100;
                let kept = send(&backend, script, &jobs(), sent_ms).await;
                if now_ms(&backend).await < sent_ms + 1000 {
                    break (sent_ms, kept);
                }
            };
            for times in kept {
                assert_eq!(times, (sent_ms, sent_ms), "{shape} {}", script.name);
            }
            let before_ms = now_ms(&backend).await;
            for sent_ms in [0, before_ms - 1000, before_ms + 60_000] {
                for (enqueued, due) in send(&backend, script, &jobs(), sent_ms).await {
                    let is_now = (before_ms..before_ms + 50_000).contains(&enqueued);
                    assert!(is_now && enqueued == due, "{shape} {} {sent_ms}", script.name);
                }
            }
        }
    }
    // A key is held for a time from when the store has its job.
    let keyed = [job("a").idempotency_key("k")];
    let sent_ms = now_ms(&backend).await - 100;
    let (enqueued, _) = send(&backend, &scripts::enqueue, &keyed, sent_ms).await[0];
    assert!(enqueued >= sent_ms + 100);
    // A store whose clock is ahead of the server's has times of its own.
    let ahead_ms = now_ms(&backend).await + 1_000_000;
    let mut cmd = redis::cmd("HSET");
    cmd.arg(backend.keys.meta()).arg("clock_ms").arg(ahead_ms);
    store::one(&backend.link, Call::plain(cmd), Repeat::Freely).await.unwrap();
    for (shape, jobs) in shapes.into_iter().enumerate() {
        for times in send(&backend, &scripts::enqueue, &jobs(), ahead_ms - 100).await {
            assert_eq!(times, (ahead_ms, ahead_ms), "{shape}");
        }
    }
    assert_eq!(backend.audit(false).await.unwrap(), []);
}

#[tokio::test]
async fn later_enqueues_are_sent_with_the_time_that_earlier_answers_had() {
    let redis = server::TestRedis::start();
    let name = Namespace::default();
    let backend = RedisBackend::connect(&redis.url(), name).await.unwrap();
    assert_eq!(backend.clock.now_ms(), 0);
    let mut last_ms = now_ms(&backend).await;
    for _ in 0..20 {
        let jobs = [job("a")];
        enqueue::run(&backend, &jobs, Durability::Memory).await.unwrap();
        let known_ms = backend.clock.now_ms();
        let now_ms = now_ms(&backend).await;
        let is_near = known_ms <= now_ms && known_ms + 60_000 > now_ms;
        assert!(known_ms == 0 || is_near, "{known_ms} {now_ms}"); // 0 if the answer was slow
        let (enqueued, due) = times(&backend, &jobs).await[0];
        assert!(enqueued == due && enqueued + 1000 > last_ms && enqueued <= now_ms);
        last_ms = now_ms;
    }
}

#[tokio::test]
async fn the_server_is_asked_for_its_time_ahead_of_large_calls() {
    let redis = server::TestRedis::start();
    let times = || {
        let info: String =
            redis::cmd("INFO").arg("commandstats").query(&mut redis.client()).unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("cmdstat_time:calls="));
        line.map_or(0, |line| line.split(',').next().unwrap().parse::<u32>().unwrap())
    };
    // Each backend knows nothing yet. Scripts ask for the time once a call.
    for (bytes, asked) in [(100, 1), (enqueue::SLOW_MIN_BYTES / 2, 2)] {
        let backend = RedisBackend::connect(&redis.url(), Namespace::default()).await.unwrap();
        let before = times();
        let jobs =
            [(); 2].map(|()| NewJob::new(Kind::new("a").unwrap(), Payload::raw(vec![1; bytes])));
        enqueue::run(&backend, &jobs, Durability::Memory).await.unwrap();
        assert_eq!(times() - before, asked, "{bytes}");
        let known_ms = backend.clock.now_ms();
        assert!(known_ms <= now_ms(&backend).await, "{known_ms}"); // 0 if all answers were slow
    }
}
