//! What a limit key allows.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FORGOTTEN_AFTER, LimitTarget, QUEUE_CLASS, Rate};
use crate::duration::{millis, whole_millis};

/// The longest period, window or cool-down: 366 days.
pub const LIMIT_TIME_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// The most failures that a breaker can be told to count.
pub const LIMIT_FAILURES_MAX: u32 = 100;

/// The greatest weight of a key.
pub const WEIGHT_MAX: u32 = 100;

/// What a limit key allows. What is `None` is not limited.
///
/// ```
/// use std::time::Duration;
/// use queue_core::{Breaker, LimitSettings, LimitTarget, Rate};
///
/// let settings = LimitSettings {
///     concurrency: Some(8),
///     rate: Some("500/1m".parse::<Rate>()?.with_burst(50)),
///     breaker: Some(Breaker {
///         failures: 10,
///         window: Duration::from_secs(30),
///         cooldown: Duration::from_secs(20),
///     }),
///     ..LimitSettings::default()
/// };
/// settings.validate(&LimitTarget::new("provider:openai")?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitSettings {
    /// The most jobs with this key that run at once; at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// How often jobs with this key start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Stops starting jobs for a while when too many of them fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Breaker>,
    /// Lets the concurrency follow what the provider can take; needs `concurrency`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<Adaptive>,
    /// How many turns a lane with this key gets where another gets one: 1 (the default) to
    /// [`WEIGHT_MAX`]. Of several keys of a lane the greatest weight counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// The most live jobs (scheduled, ready, running, retrying) with this key, or of this queue;
    /// at least 1. An enqueue above it is refused with
    /// [`Error::QueueFull`](crate::Error::QueueFull). Jobs that somebody runs again
    /// ([`Queue::retry`](crate::Queue::retry), [`Queue::redrive`](crate::Queue::redrive)) are
    /// counted and not refused: who does so has seen them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_live: Option<u64>,
}

/// A circuit breaker: after `failures` failures within `window` no job starts for `cooldown`; then
/// one does, as a probe, over all workers. If it completes, the breaker closes; if it fails, the
/// next cool-down is twice as long, up to 16 times the configured one.
///
/// A failure counts if the job is to be retried because its handler failed or timed out
/// ([`Outcome::is_blamed`](crate::Outcome::is_blamed)). Failures are counted, not compared with
/// completions: for a busy provider that fails now and then, `failures` is to be more than that
/// comes to within `window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// How many failures open it; 1 to [`LIMIT_FAILURES_MAX`].
    pub failures: u32,
    /// How close together they are; whole milliseconds, at most
    /// [`FORGOTTEN_AFTER`](crate::FORGOTTEN_AFTER).
    #[serde(rename = "window_ms", with = "millis")]
    pub window: Duration,
    /// How long it stays open at first; whole milliseconds.
    #[serde(rename = "cooldown_ms", with = "millis")]
    pub cooldown: Duration,
}

/// Additive increase, multiplicative decrease (as in TCP congestion control): the concurrency
/// starts at the configured maximum, is halved when a job is throttled or times out (once for all
/// jobs that were running then), and grows by one after as many completions as it allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adaptive {
    /// It is never less than this; at least 1, at most the configured concurrency.
    pub floor: u32,
}

/// Why settings cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct InvalidLimit {
    field: &'static str,
    reason: String,
}

impl InvalidLimit {
    pub(super) fn new(field: &'static str, reason: impl fmt::Display) -> Self {
        Self { field, reason: reason.to_string() }
    }

    /// The setting that breaks its rule.
    #[must_use]
    pub fn field(&self) -> &'static str {
        self.field
    }
}

impl LimitSettings {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`InvalidLimit`] with the first value that breaks its rule.
    pub fn validate(&self, target: &LimitTarget) -> Result<(), InvalidLimit> {
        let refuse = |field, reason: &str| Err(InvalidLimit::new(field, reason));
        if self.is_empty() {
            return refuse(
                "settings",
                "nothing is limited; to remove a limit, remove its settings",
            );
        }
        let only_admission = Self { max_live: self.max_live, ..Self::default() };
        if target.class() == QUEUE_CLASS && *self != only_admission {
            let reason = "a queue has max_live only; limit what runs by a key on its jobs";
            return refuse("queue", reason);
        }
        if self.concurrency == Some(0) {
            return refuse("concurrency", "it is at least 1; to stop jobs, pause their queue");
        }
        if self.max_live == Some(0) {
            return refuse("max_live", "it is at least 1");
        }
        if self.weight.is_some_and(|weight| !(1..=WEIGHT_MAX).contains(&weight)) {
            return refuse("weight", "it is 1 to 100");
        }
        if let Some(rate) = &self.rate {
            rate.validate()?;
        }
        if let Some(Adaptive { floor }) = self.adaptive {
            match self.concurrency {
                None => return refuse("adaptive", "it needs a concurrency to stay below"),
                Some(most) if floor == 0 || floor > most => {
                    let reason = format!(
                        "its floor of {floor} is not 1 to the concurrency, which is {most}"
                    );
                    return refuse("adaptive", &reason);
                }
                Some(_) => {}
            }
        }
        self.breaker.map_or(Ok(()), |breaker| breaker.validate())
    }

    /// The weight of a lane with this key.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight.unwrap_or(1)
    }
}

impl Breaker {
    fn validate(&self) -> Result<(), InvalidLimit> {
        let legal = Duration::from_millis(1)..=LIMIT_TIME_MAX;
        if !(1..=LIMIT_FAILURES_MAX).contains(&self.failures) {
            return Err(InvalidLimit::new("breaker", "its failures are 1 to 100"));
        }
        if !legal.contains(&self.window) || self.window > FORGOTTEN_AFTER {
            return Err(InvalidLimit::new("breaker", "its window is 1 ms to 1 hour"));
        }
        if !legal.contains(&self.cooldown) {
            return Err(InvalidLimit::new("breaker", "its cooldown is 1 ms to 366 days"));
        }
        if [self.window, self.cooldown].iter().any(|time| whole_millis(*time) != *time) {
            return Err(InvalidLimit::new("breaker", "its times are whole milliseconds"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(target: &str, settings: &LimitSettings) -> &'static str {
        let target = LimitTarget::new(target).unwrap();
        settings.validate(&target).map_or_else(|error| error.field(), |()| "nothing")
    }

    #[test]
    fn each_rule_names_its_setting() {
        let none = LimitSettings::default();
        let breaker =
            Breaker { failures: 1, window: FORGOTTEN_AFTER, cooldown: Duration::from_millis(1) };
        let cases = [
            (none.clone(), "settings"),
            (LimitSettings { concurrency: Some(0), ..none.clone() }, "concurrency"),
            (LimitSettings { concurrency: Some(1), ..none.clone() }, "nothing"),
            (LimitSettings { max_live: Some(0), ..none.clone() }, "max_live"),
            (LimitSettings { weight: Some(0), ..none.clone() }, "weight"),
            (LimitSettings { weight: Some(101), ..none.clone() }, "weight"),
            (LimitSettings { weight: Some(100), ..none.clone() }, "nothing"),
            (LimitSettings { adaptive: Some(Adaptive { floor: 1 }), ..none.clone() }, "adaptive"),
            (LimitSettings { breaker: Some(breaker), ..none.clone() }, "nothing"),
            (
                LimitSettings {
                    breaker: Some(Breaker { failures: 101, ..breaker }),
                    ..none.clone()
                },
                "breaker",
            ),
            (
                LimitSettings {
                    breaker: Some(Breaker { cooldown: Duration::ZERO, ..breaker }),
                    ..none.clone()
                },
                "breaker",
            ),
            (
                LimitSettings {
                    rate: Some(Rate::new(1, Duration::from_secs(1)).with_burst(0)),
                    ..none.clone()
                },
                "burst",
            ),
            // Stores keep whole milliseconds: 1500 in 1 ms would be no rate at all.
            (
                LimitSettings {
                    rate: Some(Rate::new(1500, Duration::from_micros(1500)).with_burst(1)),
                    concurrency: Some(1),
                    ..none.clone()
                },
                "rate",
            ),
            (
                LimitSettings {
                    breaker: Some(Breaker { window: Duration::from_micros(1900), ..breaker }),
                    ..none.clone()
                },
                "breaker",
            ),
            (
                LimitSettings {
                    breaker: Some(Breaker { cooldown: Duration::from_micros(1900), ..breaker }),
                    ..none
                },
                "breaker",
            ),
        ];
        for (settings, field) in cases {
            assert_eq!(refused("tenant:*", &settings), field, "{settings:?}");
        }
    }

    #[test]
    fn a_queue_has_an_admission_limit_only() {
        let live = LimitSettings { max_live: Some(5), ..LimitSettings::default() };
        assert_eq!(refused("queue:default", &live), "nothing");
        let more = LimitSettings { concurrency: Some(5), ..live };
        assert_eq!(refused("queue:*", &more), "queue");
    }

    /// Stores hold this text: what changes it must still read the old one.
    #[test]
    fn the_stored_form_is_this_one() {
        let settings = LimitSettings {
            concurrency: Some(8),
            rate: Some("500/1m".parse::<Rate>().unwrap().with_burst(50)),
            breaker: Some(Breaker {
                failures: 10,
                window: Duration::from_secs(30),
                cooldown: Duration::from_secs(20),
            }),
            adaptive: Some(Adaptive { floor: 2 }),
            weight: Some(3),
            max_live: Some(1000),
        };
        let golden = concat!(
            r#"{"concurrency":8,"rate":{"count":500,"period_ms":60000,"burst":50},"#,
            r#""breaker":{"failures":10,"window_ms":30000,"cooldown_ms":20000},"#,
            r#""adaptive":{"floor":2},"weight":3,"max_live":1000}"#
        );
        assert_eq!(serde_json::to_string(&settings).unwrap(), golden);
        assert_eq!(serde_json::from_str::<LimitSettings>(golden).unwrap(), settings);
        let later = serde_json::from_str::<LimitSettings>(r#"{"concurrency":8,"new":1}"#);
        assert_eq!(later.unwrap().concurrency, Some(8));
    }
}
