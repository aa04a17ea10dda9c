//! An HTTP service that enqueues reports to be rendered. Who renders them is configuration: the
//! service itself (a small deployment), or processes that run nothing else (a large one).
//!
//! ```text
//! QUEUE_URL=sqlite:reports.db cargo run -p queue-examples --bin service       # all in one
//! QUEUE_URL=redis://127.0.0.1 ROLE=api    cargo run -p queue-examples --bin service
//! QUEUE_URL=redis://127.0.0.1 ROLE=worker cargo run -p queue-examples --bin service
//!
//! curl -X POST 127.0.0.1:3000/reports -H 'content-type: application/json' -d '{"customer": 7}'
//! curl 127.0.0.1:3000/reports/0198c2f0-…
//! ```

use std::time::Duration;

use axum::Router;
use axum::extract::{Json, Path, State as Extension};
use axum::http::StatusCode;
use axum::routing::{get, post};
use queue::{
    Connect, Context, Error, Fail, Job, JobId, NewJob, Progress, Queue, RunningWorker, Worker,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Serialize, Deserialize)]
struct RenderReport {
    customer: u32,
}

impl Job for RenderReport {
    const KIND: &'static str = "report.render";
}

async fn render(context: Context, job: RenderReport) -> Result<Value, Fail> {
    let pages = job.customer % 10 + 1;
    for page in 1..=pages {
        // What whoever waits for the report sees meanwhile.
        let percent = u8::try_from(100 * page / pages).unwrap_or(100);
        context.progress(Progress::new(percent, format!("page {page} of {pages}")));
    }
    Ok(json!({ "customer": job.customer, "pages": pages }))
}

/// What the environment says.
struct Settings {
    queue_url: String,
    listen: String,
    serves_http: bool,
    runs_jobs: bool,
}

impl Settings {
    fn from_env() -> anyhow::Result<Self> {
        let text =
            |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        let (serves_http, runs_jobs) = match text("ROLE", "all").as_str() {
            "all" => (true, true),
            "api" => (true, false),
            "worker" => (false, true),
            other => anyhow::bail!("ROLE is {other:?}: it must be all, api or worker"),
        };
        Ok(Self {
            queue_url: text("QUEUE_URL", "memory://"),
            listen: text("LISTEN", "127.0.0.1:3000"),
            serves_http,
            runs_jobs,
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::from_env()?;
    let queue = Queue::connect(&settings.queue_url).await?;
    let worker = if settings.runs_jobs { Some(start_worker(&queue)?) } else { None };
    if settings.serves_http {
        let listener = tokio::net::TcpListener::bind(&settings.listen).await?;
        println!("listening on http://{}", listener.local_addr()?);
        axum::serve(listener, routes(queue)).with_graceful_shutdown(asked_to_stop()).await?;
    } else {
        println!("working");
        asked_to_stop().await;
    }
    if let Some(worker) = worker {
        worker.drain(Duration::from_secs(20)).await;
    }
    Ok(())
}

fn start_worker(queue: &Queue) -> anyhow::Result<RunningWorker> {
    Ok(Worker::new(queue).concurrency(4).handle::<RenderReport, _>(render).start()?)
}

fn routes(queue: Queue) -> Router {
    Router::new()
        .route("/reports", post(order_report))
        .route("/reports/{id}", get(show_report))
        .with_state(queue)
}

type Answer = (StatusCode, Json<Value>);

async fn order_report(
    Extension(queue): Extension<Queue>,
    Json(order): Json<RenderReport>,
) -> Answer {
    // Two clicks on the button are one report.
    let key = format!("report-of-{}", order.customer);
    let enqueued = match NewJob::of(&order) {
        Ok(job) => queue.enqueue(job.idempotency_key(key)).await,
        Err(error) => return internal(&error),
    };
    match enqueued {
        Ok(job) => {
            let body = json!({ "id": job.id, "state": job.state, "duplicate": job.duplicate });
            (StatusCode::ACCEPTED, Json(body))
        }
        Err(Error::Conflict { existing, .. }) => {
            let body = json!({ "error": "another report has this key", "id": existing });
            (StatusCode::CONFLICT, Json(body))
        }
        Err(error) => internal(&error),
    }
}

async fn show_report(Extension(queue): Extension<Queue>, Path(id): Path<JobId>) -> Answer {
    match queue.get(id).await {
        Ok(Some(record)) => {
            let report = record.result.and_then(|result| result.to_json());
            let percent = record.progress.map(|progress| progress.percent);
            let body = json!({ "state": record.state, "percent": percent, "report": report });
            (StatusCode::OK, Json(body))
        }
        Ok(None) => (StatusCode::NOT_FOUND, Json(json!({ "error": "no such report" }))),
        Err(error) => internal(&error),
    }
}

/// What went wrong is for the log; the client learns that it may try again.
fn internal(error: &dyn std::error::Error) -> Answer {
    eprintln!("{error}");
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "error": "try again later" })))
}

/// Ends on Ctrl-C and on SIGTERM, which is how service managers ask.
async fn asked_to_stop() {
    let mut terminate =
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(terminate) => terminate,
            Err(error) => return eprintln!("cannot listen for SIGTERM: {error}"),
        };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
