//! How fast connections may be made: a server that is away or has just come back must not be
//! flooded by clients that all try at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::RedisError;
use tokio::time::{Instant, sleep_until};

/// After the first failure the next connection is made within this time, after each further one
/// in a row within twice the time, at most [`PAUSE_MAX_MS`].
const FIRST_PAUSE_MS: u64 = 50;
const PAUSE_MAX_MS: u64 = 5000;

/// Full jitter: clients that failed together do not come back together.
pub(crate) fn reconnect_pause(failures: u64) -> Duration {
    let doubled = FIRST_PAUSE_MS.saturating_mul(1 << failures.saturating_sub(1).min(16));
    Duration::from_millis(fastrand::u64(0..=doubled.min(PAUSE_MAX_MS)))
}

/// The failures in a row of all connections to one server. A connection that was made and broke
/// before it answered a call is one of them.
#[derive(Default)]
pub(super) struct Pace {
    /// Beside the lock, for the look that each successful call takes.
    in_a_row: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    not_before: Option<Instant>,
    /// Connections that could not be made, ever.
    refusals: u64,
    /// Why the last one could not; nothing if it could.
    why: Option<RedisError>,
    /// Why the last shared connection was given up, unless a call was answered since.
    broken: Option<RedisError>,
}

impl Pace {
    /// A call was answered.
    pub(super) fn succeeded(&self) {
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
            self.lock().broken = None;
        }
    }

    /// A connection was given up for this.
    pub(super) fn broke(&self, why: &RedisError) {
        self.failed(None);
        self.lock().broken = Some(why.clone());
    }

    /// A connection broke, or could not be made (`why`).
    pub(super) fn failed(&self, why: Option<&RedisError>) {
        let mut state = self.lock();
        let failures = self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        state.not_before = Some(Instant::now() + reconnect_pause(failures));
        if let Some(why) = why {
            state.refusals += 1;
            state.why = Some(why.clone());
        }
    }

    /// Why there is no connection: the last could not be made, or was given up.
    pub(super) fn last_refusal(&self) -> Option<RedisError> {
        let state = self.lock();
        state.why.as_ref().or(state.broken.as_ref()).cloned()
    }

    /// Waits until the next connection may be made.
    async fn ready(&self) {
        let not_before = self.lock().not_before;
        if let Some(not_before) = not_before {
            sleep_until(not_before).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The fields are counts and a message: whole between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the tasks of one runtime make one connection at a time. Each runtime has its own: one
/// that is blocked must not keep another from its server.
#[derive(Default)]
pub(super) struct Turn(tokio::sync::Mutex<()>);

impl Turn {
    /// Makes a connection when it is its turn and time. Whoever waited behind one that could not
    /// be made is told so at once, and does not try the same again.
    pub(super) async fn take<T>(
        &self,
        pace: &Pace,
        dial: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, RedisError> {
        let refusals = pace.lock().refusals;
        let _turn = self.0.lock().await;
        {
            let state = pace.lock();
            if let Some(why) = state.why.as_ref().filter(|_| state.refusals != refusals) {
                return Err(why.clone());
            }
        }
        pace.ready().await;
        let dialed = dial.await;
        match &dialed {
            Ok(_) => pace.lock().why = None,
            Err(why) => pace.failed(Some(why)),
        }
        dialed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> RedisError {
        std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into()
    }

    #[test]
    fn pauses_grow_to_five_seconds_and_are_drawn_from_all_of_it() {
        for (failures, most_ms) in [(1, 50), (2, 100), (3, 200), (7, 3200), (8, 5000), (99, 5000)] {
            let pauses: Vec<_> = (0..500).map(|_| reconnect_pause(failures)).collect();
            let most = Duration::from_millis(most_ms);
            assert!(pauses.iter().all(|pause| *pause <= most), "{failures}");
            assert!(pauses.iter().any(|pause| *pause < most / 4), "{failures}");
            assert!(pauses.iter().any(|pause| *pause > most / 4 * 3), "{failures}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_one_at_a_time_and_get_rare() {
        let (pace, turn) = (Pace::default(), Turn::default());
        let attempts = AtomicU64::new(0);
        let begun = Instant::now();
        // Ten tasks that try again and again without a pause of their own.
        let insist = async || {
            while begun.elapsed() < Duration::from_secs(60) {
                let dial = async {
                    attempts.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    Err::<(), _>(away())
                };
                turn.take(&pace, dial).await.unwrap_err();
            }
        };
        tokio::join!(insist(), insist(), insist(), insist(), insist());
        tokio::join!(insist(), insist(), insist(), insist(), insist());
        // About one in 2.5 s on the average, once the pauses have grown.
        let attempts = attempts.load(Ordering::Relaxed);
        assert!((12..60).contains(&attempts), "{attempts} attempts in 60 s");
    }

    #[test]
    fn who_waits_in_vain_is_told_why_until_a_call_is_answered() {
        let pace = Pace::default();
        let told = || pace.last_refusal().map(|why| why.to_string());
        pace.broke(&away());
        assert_eq!(told(), Some(away().to_string()));
        pace.succeeded();
        assert_eq!(told(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answered_call_ends_the_pauses() {
        let pace = Pace::default();
        (0..20).for_each(|_| pace.failed(None));
        pace.succeeded();
        pace.failed(None);
        let begun = Instant::now();
        pace.ready().await;
        assert!(begun.elapsed() <= Duration::from_millis(51));
    }
}
