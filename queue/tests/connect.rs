//! From URLs to queues.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use queue::{
    Connect, ConnectOptions, Durability, Error, JobState, Kind, Namespace, NewJob, Payload, Queue,
};

fn job() -> NewJob {
    NewJob::new(Kind::new("a").unwrap(), Payload::raw("12345"))
}

#[tokio::test]
async fn a_file_is_found_again_by_every_form_of_its_url() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let path = path.display();
    let id = {
        let queue = Queue::connect(&format!("sqlite:{path}")).await.unwrap();
        queue.enqueue(job()).await.unwrap().id
    };
    let queue = Queue::connect(&format!("sqlite://{path}")).await.unwrap();
    assert_eq!(queue.get(id).await.unwrap().unwrap().state, JobState::Ready);
}

#[tokio::test]
async fn namespaces_share_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("queue.db").display());
    let other = ConnectOptions::default().namespace(Namespace::new("other").unwrap());
    let queue = Queue::connect(&url).await.unwrap();
    let other = Queue::connect_with(&url, other).await.unwrap();
    let id = queue.enqueue(job().idempotency_key("k")).await.unwrap().id;
    assert!(other.get(id).await.unwrap().is_none());
    assert!(!other.enqueue(job().idempotency_key("k")).await.unwrap().duplicate);
}

#[tokio::test]
async fn a_wrong_url_is_refused_and_not_repeated() {
    for url in [
        "",
        "queue.db",
        "postgres://me:hunter2@host/db",
        "hunter2@host:6379",
        "sqlite:",
        "sqlite::memory:",
        "sqlite:queue.db?mode=rwc",
        "redis://:hunter2@",
    ] {
        let error = Queue::connect(url).await.unwrap_err();
        assert!(matches!(error, Error::Unsupported(_) | Error::Refused(_)), "{url}: {error:?}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn memory_does_not_promise_what_it_cannot_keep() {
    for asked in [Durability::Fsync, Durability::Replicas(1)] {
        let options = ConnectOptions::default().durability(asked);
        let error = Queue::connect_with("memory://", options).await.unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)), "{error:?}");
    }
    let options = ConnectOptions::default().durability(Durability::Memory);
    let queue = Queue::connect_with("memory://", options).await.unwrap();
    assert_eq!(queue.enqueue(job()).await.unwrap().durability, Durability::Memory);
}

#[tokio::test]
async fn a_file_gives_at_least_what_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("queue.db").display());
    let by_default = Queue::connect(&url).await.unwrap();
    assert_eq!(by_default.enqueue(job()).await.unwrap().durability, Durability::Fsync);
    let memory = ConnectOptions::default().durability(Durability::Memory);
    let memory = Queue::connect_with(&url, memory).await.unwrap();
    assert_eq!(memory.enqueue(job()).await.unwrap().durability, Durability::Memory);
    let fsync = memory.durability(Durability::Fsync);
    assert_eq!(fsync.enqueue(job()).await.unwrap().durability, Durability::Fsync);

    let replicas = ConnectOptions::default().durability(Durability::Replicas(1));
    let error = Queue::connect_with(&url, replicas).await.unwrap_err();
    assert!(error.to_string().contains("replicas:1"), "{error}");
}

#[tokio::test]
async fn the_payload_limit_is_that_of_the_options() {
    let small = ConnectOptions::default().payload_max_bytes(4);
    let queue = Queue::connect_with("memory://", small).await.unwrap();
    let error = queue.enqueue(job()).await.unwrap_err();
    assert!(error.to_string().contains("limit of 4"), "{error}");
    let batch = queue.enqueue_all([job(), job()]).await.unwrap_err();
    assert!(batch.to_string().starts_with("job 0 of the batch"), "{batch}");
    assert!(queue.stats().await.unwrap().is_empty());
}
