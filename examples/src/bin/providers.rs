//! Two workers call a provider that has limits of its own and misbehaves: it turns away what comes
//! too fast, and now and then a call that did not (429 with Retry-After), and breaks down for a
//! while (500). Three tenants share it, one of which floods the queue. The limits of the queue keep
//! the provider from being called too much, whoever calls it, and the tenants from waiting for each
//! other.
//!
//! ```text
//! cargo run -p queue-examples --bin providers
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::extract::State as Extension;
use axum::http::{HeaderName, StatusCode, header};
use axum::routing::post;
use axum::{Router, body::Body};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use queue::{
    Breaker, Connect, Context, Fail, Job, JobId, JobRecord, JobState, LimitSettings, LimitTarget,
    NewJob, Queue, RunningWorker, State, Worker,
};
use serde::{Deserialize, Serialize};

/// What the provider's contract says. It does not wait for those who break it.
const CALLS_AT_ONCE: usize = 4;
const CALLS_A_SECOND: u32 = 60;
/// One call in so many is turned away whatever the rate: others call the provider, too.
const TURNED_AWAY: usize = 25;
/// The calls, counted from the first, for which it is broken down.
const BREAKDOWN: std::ops::Range<usize> = 30..36;

#[derive(Serialize, Deserialize)]
struct Summarise {
    tenant: String,
    text: String,
}

impl Job for Summarise {
    const KIND: &'static str = "llm.summarise";
}

/// Calls the provider, and says what its answer means for the queue.
async fn summarise(
    State(provider): State<Provider>,
    context: Context,
    job: Summarise,
) -> Result<String, Fail> {
    let key = context.job_id().to_string();
    let request = hyper::Request::post(provider.url()).header("idempotency-key", key);
    let answer = provider.client.request(request.body(Body::from(job.text))?).await?;
    let retry_after = answer.headers().get(header::RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
    match answer.status() {
        StatusCode::OK => Ok(format!("a summary for {}", job.tenant)),
        // Closes the provider's key for both workers; costs the job no attempt.
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            Err(Fail::throttled(Duration::from_secs(retry_after.unwrap_or(1))))
        }
        status if status.is_client_error() => Err(Fail::dead(format!("the provider: {status}"))),
        // Counts for the provider's breaker.
        status => {
            Err(Fail::retry_in(Duration::from_millis(200), format!("the provider: {status}")))
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("QUEUE_URL").unwrap_or_else(|_| "memory://".to_owned());
    let queue = Queue::connect(&url).await?;
    let provider = Provider::start().await?;
    let limits = limits()?;
    set_limits(queue.clone(), limits.clone()).await?;
    // A server that has lost its data has lost them, too.
    queue.on_reset(move |queue| set_limits(queue, limits.clone()));

    let jobs = jobs()?;
    let ids: Vec<JobId> = jobs.iter().map(NewJob::job_id).collect();
    queue.enqueue_all(jobs).await?;
    let started_at = Instant::now();
    let workers = [start_worker(&queue, &provider)?, start_worker(&queue, &provider)?];
    both_are_known(&queue).await?;
    let explained = explain_the_last(&queue, &ids).await?;

    let mut records = Vec::new();
    for id in &ids {
        let record = queue.wait_finished(*id, Duration::from_secs(60)).await?;
        records.push(record.context("a job is gone")?);
    }
    let elapsed = started_at.elapsed();
    for worker in &workers {
        worker.drain(Duration::from_secs(5)).await;
    }
    println!("{explained}");
    report(&provider, &records, elapsed);
    Ok(())
}

/// What may be asked of the provider, and how much of it one tenant may use.
fn limits() -> anyhow::Result<[(LimitTarget, LimitSettings); 2]> {
    let provider = LimitSettings {
        concurrency: Some(u32::try_from(CALLS_AT_ONCE)?),
        // A little less than what is allowed: the provider has a clock of its own.
        rate: Some(format!("{}/1s", CALLS_A_SECOND - 10).parse::<queue::Rate>()?.with_burst(1)),
        breaker: Some(Breaker {
            failures: 3,
            window: Duration::from_secs(10),
            cooldown: Duration::from_millis(500),
        }),
        ..LimitSettings::default()
    };
    let tenant = LimitSettings { concurrency: Some(2), ..LimitSettings::default() };
    Ok([(LimitTarget::new("provider:llm")?, provider), (LimitTarget::new("tenant:*")?, tenant)])
}

async fn set_limits(
    queue: Queue,
    limits: [(LimitTarget, LimitSettings); 2],
) -> Result<(), queue::Error> {
    for (target, settings) in &limits {
        queue.set_limit(target, settings).await?;
    }
    Ok(())
}

/// One tenant comes first and with everything; the others with a few jobs each.
fn jobs() -> anyhow::Result<Vec<NewJob>> {
    let mut jobs = Vec::new();
    for (tenant, count) in [("large", 90), ("small", 8), ("tiny", 2)] {
        for n in 0..count {
            let job = Summarise { tenant: tenant.to_owned(), text: format!("text {n}") };
            jobs.push(NewJob::of(&job)?.limit(format!("tenant:{tenant}")));
        }
    }
    Ok(jobs)
}

fn start_worker(queue: &Queue, provider: &Provider) -> anyhow::Result<RunningWorker> {
    let worker = Worker::new(queue)
        .concurrency(16)
        .state(provider.clone())
        .handle::<Summarise, _>(summarise)
        // Producers need not know whom this calls.
        .limits(Summarise::KIND, ["provider:llm"]);
    Ok(worker.start()?)
}

/// Until both workers have told the store which keys they add.
async fn both_are_known(queue: &Queue) -> anyhow::Result<()> {
    while queue.workers().await?.len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Asks the queue why a job of the large tenant does not run yet.
async fn explain_the_last(queue: &Queue, ids: &[JobId]) -> anyhow::Result<String> {
    let explanation = queue.explain(ids[89]).await?.context("the job exists")?;
    let reasons: Vec<&str> = explanation.blockers.iter().map(|b| b.reason().as_str()).collect();
    let ahead = explanation.position.map_or(0, |position| position.jobs_ahead);
    Ok(format!("at first: {ahead} jobs of its tenant were before the 90th, held by {reasons:?}"))
}

fn report(provider: &Provider, records: &[JobRecord], elapsed: Duration) {
    let seen = provider.seen();
    println!("the provider saw {} calls, at most {} at once", seen.calls, seen.most_at_once);
    println!("it turned away {} and failed {}", seen.turned_away, seen.failed);
    let completed = records.iter().filter(|record| record.state == JobState::Completed).count();
    let failures: u32 = records.iter().map(|record| u32::from(record.failures)).sum();
    println!("{completed} of {} jobs completed, {failures} attempts failed", records.len());
    let mut last: BTreeMap<&str, Duration> = BTreeMap::new();
    for record in records {
        let finished_at = record.finished_at.unwrap_or_default();
        let took = finished_at.since(record.enqueued_at);
        let of_tenant = last.entry(record.spec.limits[0].name()).or_default();
        *of_tenant = took.max(*of_tenant);
    }
    for (tenant, took) in last {
        println!("tenant {tenant}: all done after {:.1} s", took.as_secs_f64());
    }
    println!("everything took {:.1} s", elapsed.as_secs_f64());
}

/// The provider's address, and a look behind its counter.
#[derive(Debug, Clone)]
struct Provider {
    address: SocketAddr,
    client: Client<HttpConnector, Body>,
    seen: Arc<Mutex<Seen>>,
}

/// What the provider has seen.
#[derive(Debug, Clone, Default)]
struct Seen {
    calls: usize,
    at_once: usize,
    most_at_once: usize,
    turned_away: usize,
    failed: usize,
    lately: Vec<Instant>,
}

impl Provider {
    async fn start() -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let provider = Self {
            address: listener.local_addr()?,
            client: Client::builder(TokioExecutor::new()).build_http(),
            seen: Arc::default(),
        };
        let routes = Router::new().route("/", post(answer)).with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(provider)
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

type Answer = (StatusCode, [(HeaderName, &'static str); 1]);

async fn answer(Extension(provider): Extension<Provider>) -> Answer {
    let status = provider.change(Seen::arrive);
    tokio::time::sleep(Duration::from_millis(20)).await;
    provider.change(|seen| seen.at_once -= 1);
    (status, [(header::RETRY_AFTER, "1")])
}

impl Seen {
    /// What the provider makes of a call.
    fn arrive(&mut self) -> StatusCode {
        self.calls += 1;
        self.at_once += 1;
        self.most_at_once = self.most_at_once.max(self.at_once);
        self.lately.retain(|at| at.elapsed() < Duration::from_secs(1));
        self.lately.push(Instant::now());
        let too_much = self.at_once > CALLS_AT_ONCE || self.lately.len() > CALLS_A_SECOND as usize;
        if too_much || self.calls.is_multiple_of(TURNED_AWAY) {
            self.turned_away += 1;
            return StatusCode::TOO_MANY_REQUESTS;
        }
        if BREAKDOWN.contains(&self.calls) {
            self.failed += 1;
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        StatusCode::OK
    }
}
