//! How a command ends: the exit codes that scripts can use, and failures that carry one.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use queue::{Error, JobId, LimitKey};
use serde_json::{Map, Value};

use crate::config::Problems;
use crate::display::{escape_json, escape_lines};

/// The exit codes, the same for every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done; the answer is yes.
    Done = 0,
    /// Not done, or the answer is no.
    Failed = 1,
    /// The command line, the configuration or the data given is wrong.
    Usage = 2,
    /// The store cannot be reached, has no room or refuses this client; or a queue or a limit has
    /// as many live jobs as it may.
    Unavailable = 3,
    /// There is no such job, limit or database.
    NotFound = 4,
    /// The job's id or idempotency key belongs to another job.
    Conflict = 5,
    /// It did not happen in time.
    TimedOut = 6,
    /// A second signal ended `workerd run`: what ran was stopped and given back.
    Forced = 7,
    /// `workerd run` ended without the store knowing what became of all of its jobs.
    Untold = 8,
}

/// The table of the exit codes, for the help.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done; the answer is yes
  1  not done, or the answer is no
  2  the command line, the configuration or the data given is wrong
  3  the store cannot be reached, has no room or refuses this client; or a queue or
     a limit key has as many live jobs as it may: try again later
  4  there is no such job, limit or database
  5  the job's id or idempotency key belongs to another job
  6  it did not happen in time
  7  a second signal ended `workerd run`: what ran was stopped and given back
  8  `workerd run` could not tell the store how some of its jobs ended: these run
     again when their leases end";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    message: String,
    /// What programs may want to know besides; only shown as JSON.
    details: Map<String, Value>,
}

/// What a command answers.
pub(crate) type Outcome = Result<Exit, Failure>;

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string(), details: Map::new() }
    }

    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Adds what programs may want to know.
    pub(crate) fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// Says that trying again later may help.
    fn busy(self, limit: &LimitKey, retry_after: Duration) -> Self {
        self.detail("code", "busy")
            .detail("limit", limit.as_str())
            .detail("retry_after_sec", whole_seconds(retry_after))
    }

    /// Says what was being done.
    pub(crate) fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// Says what to do about it.
    pub(crate) fn advice(mut self, advice: impl fmt::Display) -> Self {
        self.message = format!("{}; {advice}", self.message);
        self
    }

    pub(crate) fn no_such_job(id: JobId) -> Self {
        Self::new(Exit::NotFound, format!("there is no job {id}")).detail("id", id.to_string())
    }

    pub(crate) fn no_such_jobs(ids: &[JobId]) -> Self {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let message = format!("there are no jobs {}", ids.join(", "));
        Self::new(Exit::NotFound, message).detail("ids", ids)
    }

    /// Tells on standard error, to programs or to people.
    pub(crate) fn report(&self, json: bool) {
        let text = if json {
            escape_json(&self.to_json().to_string()).into_owned()
        } else {
            format!("workerd: {}", escape_lines(&self.message, "  "))
        };
        // Nobody may be there to read it.
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// The failure as a document for programs.
    pub(crate) fn to_json(&self) -> Value {
        let code = match self.exit {
            Exit::Done | Exit::Failed | Exit::Forced | Exit::Untold => "failed",
            Exit::Usage => "usage",
            Exit::Unavailable => "unavailable",
            Exit::NotFound => "not_found",
            Exit::Conflict => "conflict",
            Exit::TimedOut => "timed_out",
        };
        let mut error = self.details.clone();
        error.entry("code").or_insert_with(|| code.into());
        error.insert("message".to_owned(), self.message.clone().into());
        serde_json::json!({ "error": error })
    }
}

/// As HTTP's `Retry-After` counts.
pub(crate) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match &error {
            Error::Invalid(_) | Error::BadRequest(_) | Error::Unsupported(_) => Exit::Usage,
            Error::Conflict { .. } => Exit::Conflict,
            Error::QueueFull { .. }
            | Error::StoreFull(_)
            | Error::Unavailable(_)
            | Error::Refused(_)
            | Error::NeedsRestart(_) => Exit::Unavailable,
            _ => Exit::Failed,
        };
        let failure = Self::new(exit, &error);
        match error {
            Error::Conflict { existing, .. } => failure.detail("existing", existing.to_string()),
            Error::QueueFull { limit, retry_after } => failure.busy(&limit, retry_after),
            _ => failure,
        }
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::usage(problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_lists_every_code() {
        for exit in [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::Unavailable,
            Exit::NotFound,
            Exit::Conflict,
            Exit::TimedOut,
            Exit::Forced,
            Exit::Untold,
        ] {
            assert!(EXIT_CODES.contains(&format!("\n  {}  ", exit as u8)), "{exit:?}");
        }
    }

    #[test]
    fn a_conflict_tells_programs_the_existing_job() {
        let existing = JobId::from_bytes([1; 16]);
        let reason = queue::ConflictReason::Id;
        let json = Failure::from(Error::Conflict { existing, reason }).to_json();
        assert_eq!(json["error"]["code"], "conflict");
        assert_eq!(json["error"]["existing"], existing.to_string());
    }

    #[test]
    fn a_full_queue_tells_programs_when_to_try_again() {
        let limit = LimitKey::new("queue:default").unwrap();
        let error = Error::QueueFull { limit, retry_after: Duration::from_millis(1500) };
        let failure = Failure::from(error);
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.to_string().contains("try again in 1.5s"), "{failure}");
        let error = &failure.to_json()["error"];
        assert_eq!((&error["code"], &error["retry_after_sec"]), (&"busy".into(), &2.into()));
        assert_eq!(error["limit"], "queue:default");
    }
}
