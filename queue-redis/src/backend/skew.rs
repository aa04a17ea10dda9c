//! Workers of two versions on one store: scripts with different texts run side by side.

use std::time::Duration;

use queue_core::{
    Backend, ClaimRequest, ClaimToken, Durability, Kind, KindSlots, Namespace, NewJob, Outcome,
    Payload, QueueName, Settlement, WorkerId,
};
use redis::{Arg, Cmd};

use super::{RedisBackend, claim, server, settle};
use crate::store::{self, Call, Repeat};

/// The same call of the same script with another text, and so another hash.
fn of_other_version(call: Call) -> Call {
    let Some(script) = call.script else { return call };
    let text = format!("{}-- of another version\n", script.text);
    let mut cmd = Cmd::new();
    cmd.arg("EVAL").arg(text);
    for argument in call.cmd.args_iter().skip(2) {
        if let Arg::Simple(bytes) = argument {
            cmd.arg(bytes);
        }
    }
    Call::plain(cmd)
}

fn request() -> ClaimRequest {
    ClaimRequest {
        token: ClaimToken::random(),
        worker: WorkerId::new("w").unwrap(),
        queues: vec![QueueName::default()],
        kinds: vec![KindSlots::new(Kind::new("a").unwrap(), 9)],
        max: 9,
        round_jobs: 0,
        lease: Duration::from_secs(30),
    }
}

#[tokio::test]
async fn two_versions_of_the_scripts_share_a_store() {
    let redis = server::TestRedis::start();
    let backend = RedisBackend::connect(&redis.url(), Namespace::default()).await.unwrap();
    for versions in 0..4_u8 {
        let version = |call: Call, bit: u8| match versions & bit {
            0 => call,
            _ => of_other_version(call),
        };
        let jobs: Vec<NewJob> =
            (0..3).map(|_| NewJob::new(Kind::new("a").unwrap(), Payload::raw("payload"))).collect();
        backend.enqueue(&jobs, Durability::Memory).await.unwrap();
        let request = request();
        let call = version(claim::call(&backend, &request), 1);
        let reply = store::one(&backend.link, call, Repeat::Freely).await.unwrap();
        let claimed =
            claim::answer(&backend, &request, reply, claim::Asked::now(&backend)).await.unwrap();
        assert_eq!(claimed.leases.len(), 3);
        // One of the jobs is given back, and claimed and settled by the usual version.
        let ends: Vec<Settlement> = (claimed.leases.iter().enumerate())
            .map(|(place, lease)| Settlement {
                id: lease.spec.id,
                token: lease.token,
                outcome: match place {
                    0 => Outcome::Released,
                    _ => Outcome::Completed { result: None },
                },
                elapsed: Duration::ZERO,
            })
            .collect();
        let call = version(settle::call(&backend.keys, &ends).unwrap(), 2);
        store::one(&backend.link, call, Repeat::Freely).await.unwrap();
        assert_eq!(backend.audit(false).await.unwrap(), [], "versions {versions}");
        let again = backend.claim(&self::request()).await.unwrap().leases;
        assert_eq!(again.len(), 1);
        backend.cancel(&[again[0].spec.id]).await.unwrap();
        let end = Settlement { token: again[0].token, ..ends[0].clone() };
        let call = settle::call(&backend.keys, &[end]).unwrap();
        store::one(&backend.link, call, Repeat::Freely).await.unwrap();
    }
    assert_eq!(backend.audit(false).await.unwrap(), []);
}
