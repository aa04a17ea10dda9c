//! Who holds a limit's places while processes are killed, as the store has it, beside what the
//! processes wrote down.
//!
//! A place is empty while nobody holds it, and as good as empty while its holder's job does not run
//! in a live process: it has just been given out, or its end is on its way. One that is held for long
//! although nothing runs belongs to a process that was killed, until its lease is over.

use std::collections::HashMap;
use std::time::Duration;

use queue::{LimitKey, Queue};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::history::Run;
use super::worker::now_us;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);
/// From when on a place that is held while nothing runs must be that of a killed process.
const LONG_US: u64 = 250_000;
/// How long before a process is known to be dead its last job may have been seen not to run.
const DYING_US: u64 = 20_000;

/// At which times which jobs held the key.
pub(crate) type Looks = Vec<(u64, Vec<String>)>;

/// Looks at the holders of a key until it is asked for them.
pub(crate) struct Watch {
    end: oneshot::Sender<()>,
    looking: JoinHandle<anyhow::Result<Looks>>,
}

impl Watch {
    pub(crate) fn start(queue: Queue, key: LimitKey) -> Self {
        let (end, mut ended) = oneshot::channel();
        let looking = tokio::spawn(async move {
            let mut looks = Looks::new();
            while ended.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
                let status = queue.limit_status(std::slice::from_ref(&key)).await?;
                let holders = status.first().map(|status| status.holders.as_slice());
                let holders = holders.unwrap_or_default().iter().map(ToString::to_string);
                looks.push((now_us(), holders.collect()));
                tokio::time::sleep(PAUSE).await;
            }
            Ok(looks)
        });
        Self { end, looking }
    }

    pub(crate) async fn end(self) -> anyhow::Result<Looks> {
        // It has ended if it failed, which the next line says.
        let _ = self.end.send(());
        self.looking.await?
    }
}

/// How much time of places was spent how, in microseconds.
#[derive(Debug, Default)]
pub(crate) struct Spent {
    /// All time of all places.
    pub(crate) all_us: u64,
    /// Nobody held them.
    pub(crate) empty_us: u64,
    /// Their jobs were on the way to or from a live process.
    pub(crate) under_way_us: u64,
    /// Killed processes held them.
    pub(crate) dead_us: u64,
    /// For how long the one of these that did so longest.
    pub(crate) longest_dead_us: u64,
    /// Places that were held for long, but by no killed process.
    pub(crate) stuck: Vec<String>,
}

/// What became of `places` places between two times; `killed` are the times at which processes were.
pub(crate) fn spent(
    looks: &Looks,
    runs: &[Run],
    killed: &[u64],
    places: u64,
    (from_us, to_us): (u64, u64),
) -> Spent {
    let mut spans: HashMap<&str, Vec<(u64, u64)>> = HashMap::new();
    for run in runs {
        spans.entry(&run.id).or_default().push((run.start_us, run.end_us));
    }
    let runs_at = |id: &str, at: u64| {
        spans.get(id).is_some_and(|of| of.iter().any(|(start, end)| (*start..*end).contains(&at)))
    };
    let mut spent = Spent::default();
    let (mut idle_since, mut last): (HashMap<&str, u64>, u64) = (HashMap::new(), from_us);
    for pair in looks.windows(2) {
        let ((at, holders), (next, _)) = (&pair[0], &pair[1]);
        if *at < from_us || *next > to_us {
            continue;
        }
        spent.all_us += places * (next - at);
        spent.empty_us += places.saturating_sub(holders.len() as u64) * (next - at);
        let idle = |id: &str| holders.iter().any(|held| held == id) && !runs_at(id, *at);
        let over: Vec<&str> = idle_since.keys().copied().filter(|id| !idle(id)).collect();
        for id in over {
            let since = idle_since.remove(id).unwrap_or(*at);
            spent.was_idle(id, since, *at, killed);
        }
        for id in holders.iter().filter(|id| idle(id)) {
            idle_since.entry(id).or_insert(*at);
        }
        last = *next;
    }
    // Or a place that is never given back would not be seen.
    for (id, since) in idle_since {
        spent.was_idle(id, since, last, killed);
    }
    spent
}

impl Spent {
    /// A place was held between these times while its job did not run.
    fn was_idle(&mut self, id: &str, since: u64, until: u64, killed: &[u64]) {
        let idle_us = until - since;
        if idle_us <= LONG_US {
            self.under_way_us += idle_us;
        } else if killed.iter().any(|at| (since..since + LONG_US).contains(&(at + DYING_US))) {
            self.dead_us += idle_us;
            self.longest_dead_us = self.longest_dead_us.max(idle_us);
        } else {
            self.stuck.push(format!("{id} for {} ms", idle_us / 1000));
        }
    }
}
