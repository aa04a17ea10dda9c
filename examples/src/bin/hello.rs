//! Enqueues jobs and runs them in the same process.
//!
//! ```text
//! cargo run -p queue-examples --bin hello                              # in memory
//! cargo run -p queue-examples --bin hello sqlite:hello.db              # in a file
//! cargo run -p queue-examples --bin hello redis://127.0.0.1:6379       # in Redis
//! ```

use std::time::Duration;

use anyhow::Context as _;
use queue::{Connect, Context, Fail, Job, NewJob, Queue, Worker};
use serde::{Deserialize, Serialize};

/// A piece of work: what it is called and what it needs to know.
#[derive(Serialize, Deserialize)]
struct Greet {
    name: String,
}

impl Job for Greet {
    const KIND: &'static str = "greet";
}

/// Runs one. Any error is retried with a growing pause; `Fail` can say something else.
async fn greet(context: Context, job: Greet) -> Result<String, Fail> {
    if job.name.is_empty() {
        return Err(Fail::dead("nobody to greet"));
    }
    if job.name == "Grace" && context.attempt() == 1 {
        return Err(Fail::retry_in(Duration::from_millis(50), "lost my voice"));
    }
    Ok(format!("Hello, {}! (attempt {})", job.name, context.attempt()))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let queue = Queue::connect(&url).await?;

    let mut ids = Vec::new();
    for name in ["Ada", "Grace", ""] {
        let job = NewJob::of(&Greet { name: name.to_owned() })?;
        ids.push(queue.enqueue(job).await?.id);
    }

    let worker = Worker::new(&queue).concurrency(8).handle::<Greet, _>(greet).start()?;
    for id in ids {
        let record =
            queue.wait_finished(id, Duration::from_secs(30)).await?.context("no such job")?;
        match (record.result, record.last_error) {
            (Some(answer), _) => println!("{}: {}", record.state, answer.decode::<String>()?),
            (None, Some(error)) => println!("{}: {error}", record.state),
            (None, None) => println!("{}", record.state),
        }
    }
    worker.drain(Duration::from_secs(5)).await;
    Ok(())
}
