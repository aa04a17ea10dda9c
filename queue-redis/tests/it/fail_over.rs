//! An address that leads to another primary while an enqueue waits for its confirmation: what the
//! first one has answered is no promise of the second.

use std::sync::Arc;
use std::time::Duration;

use queue_core::{
    Backend, Durability, EnqueueOutcome, LimitSettings, LimitTarget, NewJob, Payload,
};
use queue_redis::{RedisBackend, RedisOptions};

use crate::support::jobs::{assert_sound, claim, enqueue, job};
use crate::support::proxy::Proxy;
use crate::support::server::{TestRedis, until};

/// A primary with two replicas, one of which has a replica of its own and is the next primary.
struct Servers {
    first: TestRedis,
    idle: TestRedis,
    second: TestRedis,
    _last: TestRedis,
    proxy: Proxy,
    backend: Arc<RedisBackend>,
}

impl Servers {
    async fn start() -> Self {
        let first = TestRedis::start();
        let port = first.listen();
        let (idle, second) = (first.replica(port), first.replica(port));
        let last = second.replica(second.listen());
        let proxy = Proxy::start(first.socket()).await;
        let options = RedisOptions::default().confirm_within(Duration::from_secs(20));
        let backend = RedisBackend::connect_with(&proxy.url(), options).await.unwrap();
        Self { first, idle, second, _last: last, proxy, backend: Arc::new(backend) }
    }

    /// From now on the second primary hears nothing of what happens on the first.
    async fn part(&self) {
        // It has what was written before.
        let offset = self.first.info("master_repl_offset");
        until(|| self.second.info("slave_repl_offset") == offset);
        redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec(&mut self.second.client()).unwrap();
        until(|| self.second.info("role") == "master");
    }

    /// Enqueues a job that the first has answered and not confirmed when the second takes over.
    async fn enqueue_over(&self, jobs: Vec<NewJob>) -> Vec<EnqueueOutcome> {
        let frozen = self.idle.freeze();
        let backend = self.backend.clone();
        let sending =
            tokio::spawn(async move { backend.enqueue(&jobs, Durability::Replicas(1)).await });
        while self.first.info("blocked_clients") != "1" {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.proxy.lead_to(self.second.socket());
        let outcomes = sending.await.unwrap().unwrap();
        drop(frozen);
        outcomes
    }
}

fn is_new(outcome: &EnqueueOutcome, job: &NewJob) -> bool {
    matches!(outcome, EnqueueOutcome::Done(done) if done.id == job.job_id() && !done.duplicate)
}

fn found(outcome: &EnqueueOutcome, job: &NewJob) -> bool {
    matches!(outcome, EnqueueOutcome::Done(done) if done.id == job.job_id() && done.duplicate)
}

#[tokio::test]
async fn a_job_that_only_the_old_primary_had_room_for_is_not_acknowledged() {
    let servers = Servers::start().await;
    let backend = &servers.backend;
    let queue: LimitTarget = "queue:default".parse().unwrap();
    let one = LimitSettings { max_live: Some(1), ..LimitSettings::default() };
    backend.set_limit(&queue, Some(&one)).await.unwrap();
    let waiting = enqueue(backend, &[job("a")]).await;
    servers.part().await;
    backend.cancel(&waiting).await.unwrap();
    let new = job("a");
    let outcomes = servers.enqueue_over(vec![new.clone()]).await;
    assert!(matches!(outcomes[0], EnqueueOutcome::Full { .. }), "{outcomes:?}");
    assert_eq!(backend.get(&[new.job_id()]).await.unwrap(), [None]);
    assert_sound(backend).await;
}

#[tokio::test]
async fn each_job_is_answered_by_the_primary_that_confirms_it() {
    let servers = Servers::start().await;
    let backend = &servers.backend;
    let keyed = |key: &str, payload: &str| {
        let new = NewJob::new("a".parse().unwrap(), Payload::raw(payload.to_owned()));
        new.idempotency_key(key)
    };
    // One that goes on the first only, ones that come there only, and one that both have.
    let (gone, both) = (keyed("gone", "x"), keyed("both", "x"));
    enqueue(backend, &[gone.clone(), both.clone()]).await;
    servers.part().await;
    backend.cancel(&[gone.job_id()]).await.unwrap();
    let (came, same) = (keyed("came", "x"), keyed("same", "x"));
    enqueue(backend, &[came.clone(), same.clone()]).await;

    let jobs = vec![
        keyed("gone", "x"), // new on the first
        keyed("came", "y"), // refused on the first
        keyed("same", "x"), // found on the first
        same.clone(),       // the first knows it
        keyed("both", "x"), // found on both
        job("a"),           // new on both
    ];
    let outcomes = servers.enqueue_over(jobs.clone()).await;
    assert!(found(&outcomes[0], &gone), "{outcomes:?}");
    assert!(is_new(&outcomes[1], &jobs[1]), "{outcomes:?}");
    assert!(is_new(&outcomes[2], &jobs[2]), "{outcomes:?}");
    assert!(found(&outcomes[3], &jobs[2]), "{outcomes:?}");
    assert!(found(&outcomes[4], &both), "{outcomes:?}");
    assert!(is_new(&outcomes[5], &jobs[5]), "{outcomes:?}");
    let leases = claim(backend, &["a"], 9).await;
    let ids: Vec<_> = leases.iter().map(|lease| lease.spec.id).collect();
    let expected = [&gone, &both, &jobs[1], &jobs[2], &jobs[5]].map(|job| job.job_id());
    assert_eq!(ids, expected);
    assert_sound(backend).await;
}
