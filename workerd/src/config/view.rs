//! The effective configuration as a file that would say the same, with secrets hidden.

use std::collections::BTreeMap;

use queue::{Adaptive, LimitSettings, LimitTarget, QUEUE_CLASS, QueueName};
use serde::Serialize;

use super::{Config, LogFormat, Queues};
use crate::display::exact;
use crate::executor::command::{Command, Stdout};

/// The tables of the file, in its order.
#[derive(Debug, Serialize)]
pub(crate) struct View {
    namespace: String,
    store: Store,
    worker: Worker,
    http: Http,
    log: Log,
    queues: BTreeMap<String, Admission>,
    limits: BTreeMap<String, Limit>,
    executors: BTreeMap<String, Executor>,
}

#[derive(Debug, Serialize)]
struct Store {
    url: Option<String>,
    durability: Option<String>,
}

#[derive(Debug, Serialize)]
struct Worker {
    concurrency: usize,
    lease: String,
    shutdown_grace: String,
    queues: Vec<Queue>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Queue {
    Name(String),
    Weighted { name: String, weight: u32 },
}

#[derive(Debug, Serialize)]
struct Http {
    listen: String,
}

#[derive(Debug, Serialize)]
struct Log {
    format: &'static str,
    level: String,
}

#[derive(Debug, Serialize)]
struct Admission {
    max_live: u64,
}

#[derive(Debug, Serialize)]
struct Limit {
    concurrency: Option<u32>,
    rate: Option<String>,
    burst: Option<u32>,
    weight: Option<u32>,
    max_live: Option<u64>,
    breaker: Option<Breaker>,
    adaptive: Option<Adaptive>,
}

#[derive(Debug, Serialize)]
struct Breaker {
    failures: u32,
    window: String,
    cooldown: String,
}

#[derive(Debug, Serialize)]
struct Executor {
    r#type: &'static str,
    argv: Vec<String>,
    provider: Option<String>,
    /// Without that of its provider.
    limits: Vec<String>,
    concurrency: Option<usize>,
    timeout: Option<String>,
    kill_grace: String,
    env: Vec<String>,
    working_dir: Option<String>,
    output_max_bytes: usize,
    stdout: &'static str,
    throttled: Option<Throttled>,
}

#[derive(Debug, Serialize)]
struct Throttled {
    exit_code: i32,
    delay: String,
}

impl View {
    pub(crate) fn of(config: &Config) -> Self {
        let Config { store, worker, limits, executors, listen, log } = config;
        let (of_queues, of_keys): (Vec<_>, Vec<_>) =
            limits.iter().partition(|(target, _)| queue_name(target).is_some());
        Self {
            namespace: store.namespace.to_string(),
            store: Store {
                url: store.url.as_ref().map(ToString::to_string),
                durability: store.durability.map(|durability| durability.to_string()),
            },
            worker: Worker {
                concurrency: worker.concurrency,
                lease: exact(worker.lease),
                shutdown_grace: exact(worker.shutdown_grace),
                queues: queues(&worker.queues),
            },
            http: Http { listen: listen.map_or("off".to_owned(), |address| address.to_string()) },
            log: Log {
                format: match log.format {
                    LogFormat::Text => "text",
                    LogFormat::Json => "json",
                },
                level: log.level.clone(),
            },
            queues: of_queues.into_iter().filter_map(|(t, s)| admission(t, s)).collect(),
            limits: of_keys.into_iter().map(|(t, s)| (t.to_string(), limit(s))).collect(),
            executors: executors.iter().map(|(k, c)| (k.to_string(), executor(c))).collect(),
        }
    }
}

fn queues(queues: &Queues) -> Vec<Queue> {
    let queue = |(name, weight): &(QueueName, Option<u32>)| match weight {
        None => Queue::Name(name.to_string()),
        Some(weight) => Queue::Weighted { name: name.to_string(), weight: *weight },
    };
    queues.0.iter().map(queue).collect()
}

/// The queue whose own limit this is.
fn queue_name(target: &LimitTarget) -> Option<&str> {
    match target {
        LimitTarget::Key(key) => Some(key.name()).filter(|_| key.class() == QUEUE_CLASS),
        LimitTarget::Class(_) => None,
    }
}

fn admission(target: &LimitTarget, settings: &LimitSettings) -> Option<(String, Admission)> {
    Some((queue_name(target)?.to_owned(), Admission { max_live: settings.max_live? }))
}

fn limit(settings: &LimitSettings) -> Limit {
    let LimitSettings { concurrency, rate, breaker, adaptive, weight, max_live } = *settings;
    Limit {
        concurrency,
        rate: rate.map(|rate| rate.to_string()),
        burst: rate.map(|rate| rate.burst),
        weight,
        max_live,
        breaker: breaker.map(|queue::Breaker { failures, window, cooldown }| Breaker {
            failures,
            window: exact(window),
            cooldown: exact(cooldown),
        }),
        adaptive,
    }
}

fn executor(command: &Command) -> Executor {
    let program = command.program.display().to_string();
    let program = program.replace('{', "{{").replace('}', "}}");
    let arguments = command.arguments.iter().map(ToString::to_string);
    let limits = command.limits.iter().filter(|key| command.provider.as_ref() != Some(key));
    Executor {
        r#type: "command",
        argv: std::iter::once(program).chain(arguments).collect(),
        provider: command.provider.as_ref().map(|key| key.name().to_owned()),
        limits: limits.map(ToString::to_string).collect(),
        concurrency: command.concurrency,
        timeout: command.timeout.map(exact),
        kill_grace: exact(command.kill_grace),
        env: command.environment.clone(),
        working_dir: command.working_dir.as_ref().map(|path| path.display().to_string()),
        output_max_bytes: command.output_max_bytes,
        stdout: match command.stdout {
            Stdout::Result => "result",
            Stdout::Discard => "discard",
        },
        throttled: command.throttled.map(|throttled| Throttled {
            exit_code: throttled.exit_code,
            delay: exact(throttled.delay),
        }),
    }
}
