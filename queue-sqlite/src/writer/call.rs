//! One call that waits for the writer, whatever it answers.

use queue_core::Error;
use tokio::sync::oneshot;

use super::Answer;
use crate::errors::Fault;
use crate::session::Session;

/// A call without the type of its answer.
pub(super) trait Pending: Send {
    /// How many jobs it touches, about.
    fn jobs(&self) -> usize;

    /// Runs it as one step of the transaction. What it answers is kept until the commit.
    fn run(&mut self, session: &mut Session<'_>) -> Result<(), Fault>;

    /// Tells the caller, after the commit, what the last run answered.
    fn finish(self: Box<Self>);

    /// Tells the caller that it did not take effect.
    fn fail(self: Box<Self>, error: Error);
}

/// A call of one type.
pub(super) struct Call<T, F> {
    jobs: usize,
    work: F,
    outcome: Option<T>,
    answer: oneshot::Sender<Result<T, Error>>,
}

impl<T: Send + 'static, F> Call<T, F>
where
    F: FnMut(&mut Session<'_>) -> Result<T, Fault> + Send + 'static,
{
    pub(super) fn new(jobs: usize, work: F) -> (Box<Self>, Answer<T>) {
        let (answer, receiver) = oneshot::channel();
        (Box::new(Self { jobs, work, outcome: None, answer }), receiver)
    }
}

impl<T: Send + 'static, F> Pending for Call<T, F>
where
    F: FnMut(&mut Session<'_>) -> Result<T, Fault> + Send + 'static,
{
    fn jobs(&self) -> usize {
        self.jobs
    }

    fn run(&mut self, session: &mut Session<'_>) -> Result<(), Fault> {
        session.start_step();
        self.outcome = Some((self.work)(session)?);
        session.end_step()
    }

    fn finish(self: Box<Self>) {
        let lost = || Err(Error::Unavailable("the call was not run".to_owned()));
        // A caller that is gone does not want to know.
        let _ = self.answer.send(self.outcome.map_or_else(lost, Ok));
    }

    fn fail(self: Box<Self>, error: Error) {
        let _ = self.answer.send(Err(error));
    }
}
