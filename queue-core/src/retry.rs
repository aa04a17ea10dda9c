//! When a failed attempt runs again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::duration::{millis, millis_list, whole_millis};

/// How long a job waits after its n-th failed attempt. Stores keep whole milliseconds, rounded up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Backoff {
    /// `first × factor^(n−1)`, at most `cap`, spread by ± `jitter`.
    Exponential {
        /// The wait after the first failure.
        #[serde(with = "millis")]
        first: Duration,
        /// What each further failure multiplies the wait by.
        factor: f64,
        /// The longest wait before jitter.
        #[serde(with = "millis")]
        cap: Duration,
        /// The share, 0 to 1, by which a wait may be shorter or longer, so that jobs that failed
        /// together do not come back together.
        jitter: f64,
    },
    /// The same wait after every failure.
    Fixed(#[serde(with = "millis")] Duration),
    /// The n-th wait of the list after the n-th failure, the last one from then on. An empty list
    /// retries at once.
    List(#[serde(with = "millis_list")] Vec<Duration>),
}

/// The longest wait between two attempts.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

impl Default for Backoff {
    /// 1 s, doubling, at most 1 h, ± 20 %.
    fn default() -> Self {
        Self::Exponential {
            first: Duration::from_secs(1),
            factor: 2.0,
            cap: Duration::from_secs(3600),
            jitter: 0.2,
        }
    }
}

impl Backoff {
    /// The same as stores keep it: parts of a millisecond count as one.
    pub(crate) fn whole_millis(mut self) -> Self {
        match &mut self {
            Self::Exponential { first, cap, .. } => {
                (*first, *cap) = (whole_millis(*first), whole_millis(*cap));
            }
            Self::Fixed(wait) => *wait = whole_millis(*wait),
            Self::List(waits) => waits.iter_mut().for_each(|wait| *wait = whole_millis(*wait)),
        }
        self
    }

    /// The wait after the `failures`-th failed attempt (from 1), never longer than a year.
    /// `random` is a number from 0 to 1 that places the wait within the jitter.
    #[must_use]
    pub fn wait(&self, failures: u16, random: f64) -> Duration {
        let wait = match self {
            Self::Fixed(wait) => *wait,
            Self::List(waits) => {
                let index = usize::from(failures.max(1) - 1).min(waits.len().saturating_sub(1));
                waits.get(index).copied().unwrap_or_default()
            }
            Self::Exponential { first, factor, cap, jitter } => {
                let exponent = i32::from(failures.max(1)) - 1;
                let plain =
                    (first.as_secs_f64() * factor.max(1.0).powi(exponent)).min(cap.as_secs_f64());
                let spread = 1.0 + jitter.clamp(0.0, 1.0) * (2.0 * random.clamp(0.0, 1.0) - 1.0);
                // Not finite only for parameters that are not: then wait as long as allowed.
                Duration::try_from_secs_f64(plain * spread).unwrap_or(WAIT_MAX)
            }
        };
        wait.min(WAIT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn exponential_stays_within_its_jitter_and_cap(failures in 0u16.., random in 0.0..=1.0) {
            let wait = Backoff::default().wait(failures, random).as_secs_f64();
            let plain = 2f64.powi(i32::from(failures.clamp(1, 13)) - 1).min(3600.0);
            prop_assert!(wait >= plain * 0.8 - 1e-6 && wait <= plain * 1.2 + 1e-6);
        }

        #[test]
        fn no_parameters_make_it_panic(
            first in 0u64.., factor in any::<f64>(), cap in 0u64.., jitter in any::<f64>(),
            failures in any::<u16>(), random in any::<f64>(),
        ) {
            let backoff = Backoff::Exponential {
                first: Duration::from_millis(first),
                factor,
                cap: Duration::from_millis(cap),
                jitter,
            };
            prop_assert!(backoff.wait(failures, random) <= WAIT_MAX);
        }
    }

    /// So that jobs which failed together come back spread over all of it.
    #[test]
    fn the_jitter_reaches_from_its_shortest_to_its_longest_wait() {
        let waits = |failures| {
            [0.0, 0.25, 0.5, 1.0]
                .map(|random| Backoff::default().wait(failures, random).as_millis())
        };
        assert_eq!(waits(1), [800, 900, 1000, 1200]);
        assert_eq!(waits(4), [6400, 7200, 8000, 9600]);
        assert_eq!(waits(u16::MAX), [2_880_000, 3_240_000, 3_600_000, 4_320_000]);
    }

    #[test]
    fn a_list_repeats_its_last_wait() {
        let list = Backoff::List(vec![Duration::from_secs(1), Duration::from_secs(5)]);
        let waits: Vec<u64> = (1..=4).map(|n| list.wait(n, 0.5).as_secs()).collect();
        assert_eq!(waits, [1, 5, 5, 5]);
        assert_eq!(Backoff::List(Vec::new()).wait(1, 0.5), Duration::ZERO);
    }

    #[test]
    fn it_survives_its_stored_form() {
        for backoff in [
            Backoff::default(),
            Backoff::Fixed(Duration::from_secs(3)),
            Backoff::List(vec![Duration::from_millis(5)]),
        ] {
            let bytes = rmp_serde::to_vec_named(&backoff).unwrap();
            assert_eq!(rmp_serde::from_slice::<Backoff>(&bytes).unwrap(), backoff);
        }
    }
}
