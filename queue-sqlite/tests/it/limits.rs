//! Limits with more keys than one call looks at.

use std::time::Duration;

use queue_core::{
    Backend, Lease, LimitKey, LimitSettings, LimitTarget, NewJob, Rate, Retention, Timestamp,
    WorkerId, WorkerInfo,
};
use queue_sqlite::SqliteBackend;

use crate::support::{STORED, assert_sound, beside, completion, fast, job, request, set_clock};

const START: Timestamp = Timestamp::from_ms(4_102_444_800_000);

async fn limit(backend: &SqliteBackend, target: &str, settings: LimitSettings) {
    let target = LimitTarget::new(target).unwrap();
    backend.set_limit(&target, Some(&settings)).await.unwrap();
}

fn concurrency(most: u32) -> LimitSettings {
    LimitSettings { concurrency: Some(most), ..LimitSettings::default() }
}

async fn enqueue(backend: &SqliteBackend, jobs: &[NewJob]) {
    for some in jobs.chunks(500) {
        backend.enqueue(some, STORED).await.unwrap();
    }
}

/// All that claims give until they say that there is nothing more.
async fn drain(backend: &SqliteBackend) -> Vec<Lease> {
    let mut leases = Vec::new();
    for _ in 0..100 {
        let claim = backend.claim(&request(500)).await.unwrap();
        leases.extend(claim.leases);
        if !claim.more {
            return leases;
        }
    }
    panic!("there is more without end");
}

async fn settle(backend: &SqliteBackend, leases: &[Lease]) {
    for some in leases.chunks(500) {
        backend.settle(&completion(some)).await.unwrap();
    }
}

fn rows(backend: &SqliteBackend, table: &str) -> i64 {
    let count = format!("SELECT count(*) FROM {table}");
    beside(backend.path()).query_row(&count, [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn tenants_that_are_gone_leave_no_rows() {
    let directory = tempfile::tempdir().unwrap();
    let backend = fast(&directory.path().join("queue.db"));
    set_clock(backend.path(), START);
    let rate = Rate::new(1, Duration::from_secs(10)).with_burst(2);
    limit(&backend, "tenant:*", LimitSettings { rate: Some(rate), ..concurrency(1) }).await;
    let most = LimitSettings { max_live: Some(1_000_000), ..LimitSettings::default() };
    limit(&backend, "queue:*", most).await;
    let none = Retention { completed: Duration::ZERO, dead: Duration::ZERO };
    let of = |n: usize| {
        let queue = queue_core::QueueName::new(format!("q-{}", n % 7)).unwrap();
        job("x").retention(none).limit(format!("tenant:{n}")).queue(queue)
    };
    let jobs: Vec<NewJob> = (0..2000).flat_map(|n| [of(n), of(n)]).collect();
    enqueue(&backend, &jobs).await;
    let info = WorkerInfo {
        id: WorkerId::new("w").unwrap(),
        instance: 1,
        queues: Vec::new(),
        ranks: Vec::new(),
        kinds: Vec::new(),
        concurrency: 1,
        running: 0,
    };
    backend.announce(&info, Duration::from_secs(45)).await.unwrap();
    let mut done = 0;
    let tables = ["limit_key", "limit_wait", "queue_live", "worker", "lane", "job"];
    while done < jobs.len() {
        let mut claim = request(500);
        claim.queues = (0..7).map(|n| format!("q-{n}").parse().unwrap()).collect();
        let claim = backend.claim(&claim).await.unwrap();
        assert!(claim.more || !claim.leases.is_empty());
        done += claim.leases.len();
        if done == 500 {
            assert!(tables.iter().all(|table| rows(&backend, table) > 0));
        }
        settle(&backend, &claim.leases).await;
    }
    set_clock(backend.path(), START.after(Duration::from_secs(120)));
    while backend.maintain(500).await.unwrap().more {}
    assert_sound(&backend).await;
    for table in tables {
        assert_eq!(rows(&backend, table), 0, "{table}");
    }
    let starts = beside(backend.path()).query_row("SELECT starts FROM store", [], |row| row.get(0));
    assert_eq!(starts, Ok(String::new()));
}

#[tokio::test]
async fn a_wrong_number_of_places_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let backend = fast(&directory.path().join("queue.db"));
    enqueue(&backend, &[(); 3].map(|()| job("x").limit("tenant:a"))).await;
    assert_eq!(backend.claim(&request(2)).await.unwrap().leases.len(), 2);
    let key = LimitKey::new("tenant:a").unwrap();
    let drift = async || backend.limit_status(std::slice::from_ref(&key)).await.unwrap()[0].drift;
    assert_eq!(drift().await, 0);
    for (counted, expected) in [(5, 3), (0, 2)] {
        let damage = format!("UPDATE limit_key SET running = {counted}");
        beside(backend.path()).execute_batch(&damage).unwrap();
        assert_eq!(drift().await, expected, "{counted} instead of 2");
    }
    assert!(backend.audit(true).await.unwrap().iter().all(|found| found.repaired));
    assert_eq!(drift().await, 0);
    assert_sound(&backend).await;
}

#[tokio::test]
async fn many_keys_with_many_lanes_each_find_room_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let backend = fast(&directory.path().join("queue.db"));
    limit(&backend, "provider:*", concurrency(1)).await;
    let of = |n: usize| {
        job("x").limit(format!("provider:{}", n % 20)).limit(format!("tenant:{}", n / 20))
    };
    enqueue(&backend, &(0..800).map(of).collect::<Vec<_>>()).await;
    for _ in 0..3 {
        let leases = drain(&backend).await;
        assert_eq!(leases.len(), 20);
        assert_eq!(rows(&backend, "limit_wait"), 20);
        assert_sound(&backend).await;
        settle(&backend, &leases).await;
    }
    // All of them move on to other keys.
    limit(&backend, "tenant:*", concurrency(1)).await;
    limit(&backend, "provider:*", concurrency(40)).await;
    while backend.maintain(500).await.unwrap().more {}
    // Three tenants have had all of theirs.
    assert_eq!(drain(&backend).await.len(), 37);
    assert_eq!(rows(&backend, "limit_wait"), 37);
    assert_sound(&backend).await;
}

#[tokio::test]
async fn a_key_without_room_for_an_hour_is_not_asked_for_again_and_again() {
    let directory = tempfile::tempdir().unwrap();
    let backend = fast(&directory.path().join("queue.db"));
    set_clock(backend.path(), START);
    let hour = Duration::from_secs(3600);
    limit(
        &backend,
        "provider:x",
        LimitSettings { rate: Some(Rate::new(1, hour)), ..LimitSettings::default() },
    )
    .await;
    let of = |n: usize| job("x").limit("provider:x").limit(format!("tenant:{n}"));
    enqueue(&backend, &(0..1200).map(of).collect::<Vec<_>>()).await;
    assert_eq!(drain(&backend).await.len(), 1);
    let claim = backend.claim(&request(1)).await.unwrap();
    assert_eq!((claim.leases.len(), claim.next_due, claim.maintain), (0, Some(hour), false));
    set_clock(backend.path(), START.after(hour));
    let claim = backend.claim(&request(1)).await.unwrap();
    assert_eq!((claim.leases.len(), claim.next_due), (1, Some(hour)));
}

/// A change of settings reaches those who wait, whatever is noted of how far it has come.
#[tokio::test]
async fn damage_to_what_is_looked_at_again_stops_nobody() {
    const TENANTS: usize = 510; // more than one call looks at
    let damages = [
        "INSERT INTO limit_recheck VALUES ('', 'x')",
        "INSERT INTO limit_recheck VALUES (CAST(x'00ff' AS TEXT), CAST(x'ff' AS TEXT))",
        "UPDATE limit_recheck SET after = 'zzz'",
        "UPDATE limit_recheck SET after = CAST(x'ff' AS TEXT)",
    ];
    for damage in damages {
        let directory = tempfile::tempdir().unwrap();
        let backend = fast(&directory.path().join("queue.db"));
        limit(&backend, "tenant:*", concurrency(1)).await;
        let of = |n: usize| job("x").limit(format!("tenant:{n:03}"));
        let jobs: Vec<NewJob> = (0..TENANTS).flat_map(|n| [of(n), of(n)]).collect();
        enqueue(&backend, &jobs).await;
        assert_eq!(drain(&backend).await.len(), TENANTS);
        limit(&backend, "tenant:*", concurrency(2)).await;
        assert_eq!(rows(&backend, "limit_recheck"), 1);
        beside(backend.path()).execute_batch(damage).unwrap();
        let mut passes = 0;
        while backend.maintain(500).await.unwrap().more {
            passes += 1;
            assert!(passes < 10, "{damage}: there is more to do without end");
        }
        assert_eq!(rows(&backend, "limit_recheck"), 0, "{damage}");
        assert_sound(&backend).await;
        assert_eq!(drain(&backend).await.len(), TENANTS, "{damage}");
    }
}
