//! A node of a cluster that gives its slot away, key by key: what a call needs may be gone already, and
//! what it made would be left behind.

use std::collections::BTreeMap;

use queue_core::{Backend, Durability, Error, Namespace};
use queue_redis::RedisBackend;

use crate::support::jobs::{claim, completed, ends, enqueue, job, request, settle};
use crate::support::server::{TestRedis, until};

/// What the node and the one that its keys go to are called.
const NODES: [&str; 2] =
    ["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"];

/// A server that has all slots of a cluster, and believes that there is another node; and where it
/// keeps what it knows.
fn node() -> (TestRedis, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let [this, other] = NODES;
    let known = format!(
        "{this} 127.0.0.1:0@{port},, myself,master - 0 0 1 connected 0-16383\n\
         {other} 127.0.0.1:1@2,, master - 0 0 2 disconnected\n\
         vars currentEpoch 2 lastVoteEpoch 0\n"
    );
    let file = dir.path().join("nodes.conf");
    std::fs::write(&file, known).unwrap();
    let file = file.to_str().unwrap();
    let port = port.to_string();
    let settings =
        ["--cluster-enabled", "yes", "--cluster-port", &port, "--cluster-config-file", file];
    let redis = TestRedis::start_with(&settings);
    let mut client = redis.client();
    until(|| {
        let info: String = redis::cmd("CLUSTER").arg("INFO").query(&mut client).unwrap();
        info.contains("cluster_state:ok")
    });
    (redis, dir)
}

/// Every key, and what it holds.
fn dump(redis: &TestRedis) -> BTreeMap<String, Vec<u8>> {
    let mut client = redis.client();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut client).unwrap();
    let bytes = |key: &String| redis::cmd("DUMP").arg(key).query(&mut redis.client()).unwrap();
    keys.iter().map(|key| (key.clone(), bytes(key))).collect()
}

/// Calls that meet a slot of which some keys have gone are refused before they have written
/// anything; once the slot is whole again they do their work.
#[tokio::test]
async fn nothing_is_half_written_while_a_slot_moves() {
    let (redis, _dir) = node();
    let mut client = redis.client();
    let namespace = Namespace::new("moving").unwrap();
    let backend = RedisBackend::connect(&redis.url(), namespace).await.unwrap();
    let of_tenant = || job("a").limit("tenant:x").limit("provider:p");
    enqueue(&backend, &[job("a"), job("a"), of_tenant(), of_tenant(), job("a")]).await;
    let leases = claim(&backend, &["a"], 3).await;
    settle(&backend, &leases[..1], &completed()).await;
    let slot: u16 = {
        let mut of = redis::cmd("CLUSTER");
        of.arg("KEYSLOT").arg("{moving/0}").query(&mut client).unwrap()
    };
    let mut set_slot = |words: &[&str]| {
        let mut cmd = redis::cmd("CLUSTER");
        cmd.arg("SETSLOT").arg(slot).arg(words).exec(&mut client).unwrap();
    };
    for gone in ["lane:a", "run", "leases"] {
        let gone = match gone {
            "lane:a" => "{moving/0}:lane:default/a/5".to_owned(),
            name => format!("{{moving/0}}:{name}"),
        };
        let mut other = redis.client();
        let kept: Vec<u8> = redis::cmd("DUMP").arg(&gone).query(&mut other).unwrap();
        assert!(!kept.is_empty(), "{gone}");
        redis::cmd("DEL").arg(&gone).exec(&mut other).unwrap();
        set_slot(&["MIGRATING", NODES[1]]);
        let before = dump(&redis);
        let one = [job("a")];
        let three = [job("a"), of_tenant(), of_tenant()];
        let (few, many) = (request(&["a"], 1), request(&["a"], 9));
        let (alone, rest) = (ends(&leases[1..2], &completed()), ends(&leases[1..], &completed()));
        let memory = Durability::Memory;
        let answers = tokio::join!(
            async { backend.enqueue(&one, memory).await.map(drop) },
            async { backend.enqueue(&three, memory).await.map(drop) },
            async { backend.claim(&few).await.map(drop) },
            async { backend.claim(&many).await.map(drop) },
            async { backend.settle(&alone).await.map(drop) },
            async { backend.settle(&rest).await.map(drop) },
            async { backend.maintain(100).await.map(drop) },
        );
        let (a, b, c, d, e, f, g) = answers;
        for answer in [a, b, c, d, e, f, g] {
            assert!(matches!(answer, Err(Error::Unavailable(_))), "{gone}: {answer:?}");
        }
        assert_eq!(dump(&redis), before, "{gone}");
        set_slot(&["STABLE"]);
        redis::cmd("RESTORE").arg(&gone).arg(0).arg(kept).exec(&mut other).unwrap();
    }
    assert_eq!(claim(&backend, &["a"], 9).await.len(), 2);
    settle(&backend, &leases[1..], &completed()).await;
    assert!(backend.audit(false).await.unwrap().is_empty());
}
