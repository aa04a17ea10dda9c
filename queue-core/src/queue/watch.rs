//! Following one job from outside.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream;

use super::Queue;
use crate::{Error, JobId, JobState, LogLine, Progress, WatchRequest, Watched};

/// The pauses between two looks grow from the first to the second while nothing happens.
const PAUSE_MIN: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Something that became known about a watched job.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobEvent {
    /// It is in this state: what was found at first, then one event for each change that was seen;
    /// a state that was left again between two looks is not. What the job said before it left
    /// `running` comes before the state that followed. The last event of the stream.
    State {
        /// The state.
        state: JobState,
        /// Attempts that ended in failure so far.
        failures: u16,
    },
    /// It reported its progress.
    Progress(Progress),
    /// It wrote a line to its log.
    Line(LogLine),
}

/// What has been told already.
#[derive(Debug)]
struct Watch {
    queue: Queue,
    id: JobId,
    after_line: u64,
    told: Option<(JobState, u16)>,
    progress: Option<Progress>,
    events: VecDeque<JobEvent>,
    pause: Duration,
    ended: bool,
}

impl Queue {
    /// Follows a job: its state, its progress, and the lines of its log with a
    /// [`number`](LogLine::number) above `after_line` (0 for all that are kept). The stream ends
    /// once the job is finished or unknown; it is empty for a job that the store does not know.
    ///
    /// It looks at the store every 25 to 500 ms, the less often the less happens. After an error
    /// it goes on with the next look.
    ///
    /// # Errors
    /// Its items are those of every [`Backend`](crate::Backend) call.
    pub fn watch(
        &self,
        id: JobId,
        after_line: u64,
    ) -> impl Stream<Item = Result<JobEvent, Error>> + Send + use<> {
        let watch = Watch {
            queue: self.clone(),
            id,
            after_line,
            told: None,
            progress: None,
            events: VecDeque::new(),
            pause: Duration::ZERO,
            ended: false,
        };
        Box::pin(stream::unfold(watch, |mut watch| async move {
            let item = watch.next().await?;
            Some((item, watch))
        }))
    }
}

impl Watch {
    async fn next(&mut self) -> Option<Result<JobEvent, Error>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(Ok(event));
            }
            if self.ended {
                return None;
            }
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
            let request = [WatchRequest { id: self.id, after_line: self.after_line }];
            match self.queue.backend.watch_boxed(&request).await {
                Ok(answer) => match answer.into_iter().next().flatten() {
                    Some(watched) => self.seen(watched),
                    None => self.ended = true,
                },
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// What a job says while it runs comes after the state `running` and before what follows it.
    fn seen(&mut self, watched: Watched) {
        let Watched { state, failures, progress, lines, .. } = watched;
        self.ended = state.is_finished() || state == JobState::Quarantined;
        if state == JobState::Running {
            self.tell_state(state, failures);
        }
        if let Some(last) = lines.last() {
            self.after_line = last.number;
        }
        self.events.extend(lines.into_iter().map(JobEvent::Line));
        if progress != self.progress {
            self.events.extend(progress.clone().map(JobEvent::Progress));
            self.progress = progress;
        }
        self.tell_state(state, failures);
        if !self.events.is_empty() {
            self.pause = PAUSE_MIN;
        }
    }

    fn tell_state(&mut self, state: JobState, failures: u16) {
        if self.told != Some((state, failures)) {
            self.told = Some((state, failures));
            self.events.push_back(JobEvent::State { state, failures });
        }
    }
}
