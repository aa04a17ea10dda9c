//! Commands on jobs that are named one by one.

use queue::backend::QuarantinedJob;
use queue::{Error, JobId, JobRecord, Queue};
use serde_json::json;

use super::Common;
use crate::exit::{Exit, Failure, Outcome};

/// What the store has under an id.
pub(super) enum Found {
    Job(Box<JobRecord>),
    Quarantined(QuarantinedJob),
    Nothing,
}

/// # Errors
/// Why the store could not be asked.
pub(super) async fn find(queue: &Queue, id: JobId) -> Result<Found, Failure> {
    match queue.get(id).await {
        Ok(Some(record)) => Ok(Found::Job(Box::new(record))),
        Ok(None) => Ok(Found::Nothing),
        Err(error @ Error::Corrupt(_)) => match queue.quarantined(id).await? {
            Some(quarantined) => Ok(Found::Quarantined(quarantined)),
            None => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// What became of one job.
pub(super) struct Fate {
    /// For programs.
    pub(super) result: &'static str,
    /// For people, after the id.
    pub(super) text: String,
    pub(super) exit: Exit,
}

impl Fate {
    pub(super) fn done(result: &'static str, text: impl Into<String>) -> Self {
        Self { result, text: text.into(), exit: Exit::Done }
    }

    pub(super) fn refused(result: &'static str, text: impl Into<String>) -> Self {
        Self { result, text: text.into(), exit: Exit::Failed }
    }

    /// What a newer library may answer.
    pub(super) fn unknown() -> Self {
        Self::refused("unknown", "the store gave an answer that this program does not know")
    }
}

/// Tells what becomes of each job as soon as it is known: a line, or a document per line.
pub(super) struct Fates<'a> {
    common: &'a Common,
    /// Of the first job that was not done.
    exit: Exit,
    missing: Vec<JobId>,
}

impl<'a> Fates<'a> {
    pub(super) const fn new(common: &'a Common) -> Self {
        Self { common, exit: Exit::Done, missing: Vec::new() }
    }

    /// `None` is for a job that the store does not know.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn tell(&mut self, id: JobId, fate: Option<Fate>) -> Result<(), Failure> {
        let Some(Fate { result, text, exit }) = fate else {
            self.missing.push(id);
            return Ok(());
        };
        if self.exit == Exit::Done {
            self.exit = exit;
        }
        self.common.answer(&json!({ "id": id, "result": result }), || format!("{id} {text}\n"))
    }

    /// # Errors
    /// If the store does not know one of them.
    pub(super) fn end(self) -> Outcome {
        match self.missing.as_slice() {
            [] => Ok(self.exit),
            [id] => Err(Failure::no_such_job(*id)),
            ids => Err(Failure::no_such_jobs(ids)),
        }
    }
}
