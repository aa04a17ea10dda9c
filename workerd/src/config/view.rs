//! The effective configuration as a file that would say the same, with secrets hidden.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Config, LogFormat, Queues};
use crate::executor::command::{Command, Stdout};

/// The tables of the file, in its order.
#[derive(Debug, Serialize)]
pub(crate) struct View {
    namespace: String,
    store: Store,
    worker: Worker,
    http: Http,
    log: Log,
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
struct Executor {
    r#type: &'static str,
    argv: Vec<String>,
    concurrency: Option<usize>,
    timeout: Option<String>,
    kill_grace: String,
    env: Vec<String>,
    working_dir: Option<String>,
    output_max_bytes: usize,
    stdout: &'static str,
}

impl View {
    pub(crate) fn of(config: &Config) -> Self {
        let Config { store, worker, executors, listen, log } = config;
        Self {
            namespace: store.namespace.to_string(),
            store: Store {
                url: store.url.as_ref().map(ToString::to_string),
                durability: store.durability.map(|durability| durability.to_string()),
            },
            worker: Worker {
                concurrency: worker.concurrency,
                lease: text(worker.lease),
                shutdown_grace: text(worker.shutdown_grace),
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
            executors: executors.iter().map(|(k, c)| (k.to_string(), executor(c))).collect(),
        }
    }
}

fn text(duration: std::time::Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn queues(queues: &Queues) -> Vec<Queue> {
    match queues {
        Queues::Strict(names) => names.iter().map(|name| Queue::Name(name.to_string())).collect(),
        Queues::Weighted(queues) => queues
            .iter()
            .map(|(name, weight)| Queue::Weighted { name: name.to_string(), weight: *weight })
            .collect(),
    }
}

fn executor(command: &Command) -> Executor {
    let program = command.program.display().to_string();
    let program = program.replace('{', "{{").replace('}', "}}");
    let arguments = command.arguments.iter().map(ToString::to_string);
    Executor {
        r#type: "command",
        argv: std::iter::once(program).chain(arguments).collect(),
        concurrency: command.concurrency,
        timeout: command.timeout.map(text),
        kill_grace: text(command.kill_grace),
        env: command.environment.clone(),
        working_dir: command.working_dir.as_ref().map(|path| path.display().to_string()),
        output_max_bytes: command.output_max_bytes,
        stdout: match command.stdout {
            Stdout::Result => "result",
            Stdout::Discard => "discard",
        },
    }
}
