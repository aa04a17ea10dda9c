//! `workerd job ls`, and every other list of jobs.

use queue::backend::PASS_MAX;
use queue::{Cursor, Fingerprint, JobError, JobId, JobState, JobSummary, ListRequest, Queue};
use serde::Serialize;

use crate::cli::Common;
use crate::cli::fields::state_of;
use crate::cli::filter::Filter;
use crate::display::{shortened, table, time};
use crate::exit::{Exit, Failure, Outcome};

/// What is listed unless states are named: what lives, then what is over.
const ORDER: [JobState; 8] = [
    JobState::Running,
    JobState::Ready,
    JobState::Retrying,
    JobState::Scheduled,
    JobState::Dead,
    JobState::Completed,
    JobState::Cancelled,
    JobState::Quarantined,
];

/// The most characters of an error in a table.
const ERROR_MAX_CHARS: usize = 60;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Only jobs in this state; can be given several times
    #[arg(long, value_parser = state_of(&ORDER))]
    state: Vec<JobState>,

    #[command(flatten)]
    filter: Filter,

    #[command(flatten)]
    window: Window,
}

/// Which part of a list.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct Window {
    /// The most jobs that are listed
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,

    /// Where to go on in the list of one state, as the list before has said
    #[arg(long, allow_hyphen_values = true)]
    cursor: Option<Cursor>,
}

/// # Errors
/// Why they cannot be listed.
pub(super) async fn execute(common: &Common, queue: &Queue, args: Args) -> Outcome {
    let states = if args.state.is_empty() { ORDER.to_vec() } else { args.state };
    if args.window.cursor.is_some() && states.len() != 1 {
        return Err(Failure::usage("a cursor belongs to the list of one state: name it, --state"));
    }
    list(common, queue, &states, &args.filter, args.window).await
}

/// Lists jobs of these states, in this order.
///
/// # Errors
/// Why they cannot be listed.
pub(in crate::cli) async fn list(
    common: &Common,
    queue: &Queue,
    states: &[JobState],
    filter: &Filter,
    window: Window,
) -> Outcome {
    let listing = Listing::read(queue, states, filter, window).await?;
    common.answer(&listing.document(), || listing.to_text())?;
    Ok(Exit::Done)
}

#[derive(Debug, Default)]
struct Listing {
    jobs: Vec<JobSummary>,
    quarantined: Vec<JobId>,
    /// Where the list of the one state goes on.
    next: Option<Cursor>,
    /// Whether the limit ended it.
    is_cut: bool,
}

impl Listing {
    async fn read(
        queue: &Queue,
        states: &[JobState],
        filter: &Filter,
        window: Window,
    ) -> Result<Self, Failure> {
        let Window { limit, mut cursor } = window;
        let mut listing = Self::default();
        for &state in states {
            let Filter { queue: name, kind } = filter.clone();
            let mut request =
                ListRequest { queue: name, kind, cursor: cursor.take(), ..ListRequest::new(state) };
            loop {
                let left = limit as usize - listing.jobs.len() - listing.quarantined.len();
                if left == 0 {
                    listing.is_cut = true;
                    listing.next = request.cursor.filter(|_| states.len() == 1);
                    return Ok(listing);
                }
                request.limit = PASS_MAX.min(u32::try_from(left).unwrap_or(PASS_MAX));
                let page = queue.list(&request).await?;
                listing.jobs.extend(page.jobs);
                listing.quarantined.extend(page.quarantined);
                request.cursor = page.next;
                if request.cursor.is_none() {
                    break;
                }
            }
        }
        Ok(listing)
    }

    fn document(&self) -> Document<'_> {
        Document {
            jobs: self.jobs.iter().map(Row::of).collect(),
            quarantined: &self.quarantined,
            next: self.next.as_ref().map(Cursor::as_str),
            is_cut: self.is_cut,
        }
    }

    fn to_text(&self) -> String {
        let Self { jobs, quarantined, next, is_cut } = self;
        if jobs.is_empty() && quarantined.is_empty() && !is_cut {
            return "no jobs\n".to_owned();
        }
        let header = ["id", "queue", "kind", "state", "failed", "due or finished", "error"];
        let mut rows: Vec<Vec<String>> = jobs.iter().map(row).collect();
        rows.extend(quarantined.iter().map(|id| {
            let mut row = vec![String::new(); header.len()];
            (row[0], row[3]) = (id.to_string(), JobState::Quarantined.to_string());
            row
        }));
        let mut text = table(&header, &rows);
        if let Some(next) = next {
            text += &format!("there may be more: --cursor {}\n", quoted(next));
        } else if *is_cut {
            text += "there may be more: raise --limit, or name one --state to get a cursor\n";
        }
        text
    }
}

fn row(job: &JobSummary) -> Vec<String> {
    let reason = job.dead_reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    let error = job.last_error.as_ref().map(|error| first_line(&error.message));
    vec![
        job.id.to_string(),
        job.queue.to_string(),
        job.kind.to_string(),
        format!("{}{reason}", job.state),
        job.failures.to_string(),
        time(job.finished_at.unwrap_or(job.due_at)),
        error.unwrap_or_default(),
    ]
}

/// What of an error fits into a table.
pub(in crate::cli) fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    shortened(line, ERROR_MAX_CHARS).into_owned()
}

/// A cursor as a shell takes it for one word.
fn quoted(cursor: &Cursor) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:,/=+@%".contains(c);
    match cursor.as_str() {
        text if text.chars().all(is_plain) => text.to_owned(),
        text => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[derive(Serialize)]
struct Document<'a> {
    jobs: Vec<Row<'a>>,
    /// Jobs that cannot be read.
    quarantined: &'a [JobId],
    next: Option<&'a str>,
    /// Whether there may be more.
    is_cut: bool,
}

/// The fields are those of `job show`. Times are milliseconds since 1970-01-01 UTC.
#[derive(Serialize)]
struct Row<'a> {
    id: JobId,
    kind: &'a str,
    queue: &'a str,
    state: &'static str,
    dead_reason: Option<&'static str>,
    priority: u8,
    failures: u16,
    stalls: u8,
    enqueued_at: u64,
    due_at: u64,
    finished_at: Option<u64>,
    error: Option<&'a JobError>,
    /// What `dead redrive --error` takes.
    fingerprint: Option<String>,
}

impl<'a> Row<'a> {
    fn of(job: &'a JobSummary) -> Self {
        let error = job.last_error.as_ref();
        Self {
            id: job.id,
            kind: job.kind.as_str(),
            queue: job.queue.as_str(),
            state: job.state.as_str(),
            dead_reason: job.dead_reason.map(queue::DeadReason::as_str),
            priority: job.priority.level(),
            failures: job.failures,
            stalls: job.stalls,
            enqueued_at: job.enqueued_at.as_ms(),
            due_at: job.due_at.as_ms(),
            finished_at: job.finished_at.map(queue::Timestamp::as_ms),
            error,
            fingerprint: error.map(|error| Fingerprint::of(error).to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use queue::{Kind, NewJob, Payload};

    use super::*;

    fn window(limit: u32, cursor: Option<Cursor>) -> Window {
        Window { limit, cursor }
    }

    async fn queue() -> Queue {
        let queue = Queue::memory();
        for number in 0..7 {
            let delay = std::time::Duration::from_secs(if number < 4 { 0 } else { 60 });
            let job = NewJob::new(Kind::new("a").unwrap(), Payload::raw("x")).delay(delay);
            queue.enqueue(job).await.unwrap();
        }
        queue
    }

    const ALL: Filter = Filter { queue: None, kind: None };

    #[tokio::test]
    async fn pages_of_one_state_follow_each_other() {
        let (queue, mut cursor, mut seen) = (queue().await, None, Vec::new());
        loop {
            let window = window(3, cursor.take());
            let page = Listing::read(&queue, &[JobState::Ready], &ALL, window).await.unwrap();
            seen.extend(page.jobs.iter().map(|job| job.id));
            assert_eq!(page.is_cut, page.next.is_some());
            match page.next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        let number = seen.len();
        seen.dedup();
        assert_eq!((number, seen.len()), (4, 4));
    }

    #[tokio::test]
    async fn several_states_come_in_order_and_have_no_cursor() {
        let queue = queue().await;
        let listing = Listing::read(&queue, &ORDER, &ALL, window(50, None)).await.unwrap();
        let states: Vec<JobState> = listing.jobs.iter().map(|job| job.state).collect();
        let ready = [JobState::Ready; 4];
        assert_eq!(states, [&ready[..], &[JobState::Scheduled; 3]].concat());
        assert!(!listing.is_cut && listing.next.is_none());
        let cut = Listing::read(&queue, &ORDER, &ALL, window(2, None)).await.unwrap();
        assert!(cut.is_cut && cut.next.is_none() && cut.jobs.len() == 2);
        assert!(cut.to_text().contains("raise --limit"));
    }

    #[test]
    fn a_cursor_is_one_word() {
        let quoted = |text: &str| quoted(&Cursor::new(text).unwrap());
        assert_eq!((quoted("a:1"), quoted("a$b'c")), ("a:1".into(), "'a$b'\\''c'".into()));
    }
}
