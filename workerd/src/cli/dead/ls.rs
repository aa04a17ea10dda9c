//! `workerd dead ls`.

use queue::{ErrorGroup, JobState, Queue};
use serde::Serialize;

use crate::cli::Common;
use crate::cli::filter::Filter;
use crate::cli::job::ls::{Window, first_line, list};
use crate::display::table;
use crate::exit::{Exit, Outcome};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    filter: Filter,

    /// Group all of them by their last error, most frequent first; errors that differ only in
    /// numbers, ids and quoted texts are the same
    #[arg(long, conflicts_with_all = ["limit", "cursor"])]
    errors: bool,

    #[command(flatten)]
    window: Window,
}

/// # Errors
/// Why they cannot be listed.
pub(super) async fn execute(common: &Common, queue: &Queue, args: Args) -> Outcome {
    if !args.errors {
        return list(common, queue, &[JobState::Dead], &args.filter, args.window).await;
    }
    let Filter { queue: name, kind } = &args.filter;
    let groups = queue.dead_errors(name.as_ref(), kind.as_ref()).await?;
    let document = Document { errors: groups.iter().map(Group::of).collect() };
    common.answer(&document, || text(&groups))?;
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct Document<'a> {
    errors: Vec<Group<'a>>,
}

#[derive(Serialize)]
struct Group<'a> {
    /// Null for jobs that died without an error: expired, or lost with their workers.
    fingerprint: Option<String>,
    jobs: u64,
    example: &'a str,
    by_kind: Vec<OfKind<'a>>,
}

#[derive(Serialize)]
struct OfKind<'a> {
    queue: &'a str,
    kind: &'a str,
    jobs: u64,
}

impl<'a> Group<'a> {
    fn of(group: &'a ErrorGroup) -> Self {
        let by_kind = group.by_kind.iter();
        Self {
            fingerprint: group.error.map(|error| error.to_string()),
            jobs: group.jobs,
            example: &group.example,
            by_kind: by_kind
                .map(|((queue, kind), &jobs)| OfKind {
                    queue: queue.as_str(),
                    kind: kind.as_str(),
                    jobs,
                })
                .collect(),
        }
    }
}

/// How many queues and kinds are named in a line.
const KINDS_NAMED_MAX: usize = 3;

fn text(groups: &[ErrorGroup]) -> String {
    if groups.is_empty() {
        return "no dead jobs\n".to_owned();
    }
    let row = |group: &ErrorGroup| {
        let kinds = group.by_kind.keys().map(|(queue, kind)| format!("{queue}/{kind}"));
        let mut named: Vec<String> = kinds.take(KINDS_NAMED_MAX).collect();
        let more = group.by_kind.len() - named.len();
        if more > 0 {
            named.push(format!("and {more} more"));
        }
        let fingerprint = group.error.map_or("-".to_owned(), |error| error.to_string());
        let example = match group.error {
            Some(_) => first_line(&group.example),
            None => "(expired, or lost with their workers)".to_owned(),
        };
        vec![group.jobs.to_string(), fingerprint, named.join(", "), example]
    };
    table(&["jobs", "error", "queue/kind", "example"], &groups.iter().map(row).collect::<Vec<_>>())
}
