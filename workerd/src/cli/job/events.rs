//! What is heard of a job that is being followed.

use std::time::Duration;

use futures_util::{Stream, StreamExt};
use queue::{Error, JobEvent, JobState};

use crate::exit::Failure;

/// Events of a job, through times in which the store does not answer.
#[derive(Debug)]
pub(super) struct Events<S> {
    stream: S,
    is_away: bool,
}

/// Something to tell.
pub(super) enum Heard {
    Event(JobEvent),
    /// The store has ceased to answer. Told once each time.
    Away(Error),
}

/// The pause after an answer that did not come.
const PAUSE: Duration = Duration::from_millis(500);

impl<S: Stream<Item = Result<JobEvent, Error>> + Unpin> Events<S> {
    pub(super) const fn of(stream: S) -> Self {
        Self { stream, is_away: false }
    }

    /// The next event; `None` once the job is finished or unknown.
    ///
    /// # Errors
    /// Those of the store that do not pass.
    ///
    /// # Cancel safety
    /// Safe to drop and call again.
    pub(super) async fn next(&mut self) -> Result<Option<Heard>, Failure> {
        loop {
            match self.stream.next().await {
                None => return Ok(None),
                Some(Ok(event)) => {
                    self.is_away = false;
                    return Ok(Some(Heard::Event(event)));
                }
                Some(Err(error)) if !error.is_retryable() => return Err(error.into()),
                Some(Err(error)) => {
                    if !std::mem::replace(&mut self.is_away, true) {
                        return Ok(Some(Heard::Away(error)));
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// How a state reads after so many failed attempts.
pub(super) fn state_text(state: JobState, failures: u16) -> String {
    match (state, failures) {
        (_, 0) => state.to_string(),
        (_, 1) => format!("{state} (1 attempt has failed)"),
        (_, failures) => format!("{state} ({failures} attempts have failed)"),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn a_store_that_comes_back_is_followed_on_and_one_that_refuses_is_not() {
        let away = || Err(Error::Unavailable("gone".to_owned()));
        let state = || Ok(JobEvent::State { state: JobState::Ready, failures: 0 });
        let refused = Err(Error::Refused("no".to_owned()));
        let answers = [state(), away(), state(), away(), refused];
        let mut events = Events::of(stream::iter(answers));
        let mut heard = String::new();
        let failure = loop {
            match events.next().await {
                Ok(Some(Heard::Event(_))) => heard.push('e'),
                Ok(Some(Heard::Away(_))) => heard.push('a'),
                Ok(None) => panic!("it ended"),
                Err(failure) => break failure,
            }
        };
        assert_eq!(heard, "eaea");
        assert_eq!(failure.exit, crate::exit::Exit::Unavailable);
    }

    #[test]
    fn failed_attempts_are_counted_beside_the_state() {
        let text = |failures| state_text(JobState::Retrying, failures);
        assert_eq!(text(0), "retrying");
        assert_eq!(text(1), "retrying (1 attempt has failed)");
        assert_eq!(text(2), "retrying (2 attempts have failed)");
    }
}
