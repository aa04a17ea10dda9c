//! Texts of the command line and of batch lines as what they stand for.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use queue::{ConflictReason, Hold, JobState, OnConflict};

use crate::config::duration;
use crate::display::exact;

/// `existing`, `reject` or `replace`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Conflicting {
    /// The job that was there is the answer
    Existing,
    /// It is refused
    Reject,
    /// A job with the same key that still waits is cancelled, whatever it carries
    Replace,
}

impl From<Conflicting> for OnConflict {
    fn from(conflicting: Conflicting) -> Self {
        match conflicting {
            Conflicting::Existing => Self::Existing,
            Conflicting::Reject => Self::Reject,
            Conflicting::Replace => Self::Replace,
        }
    }
}

/// Why a job was not taken in, with what to do.
pub(super) fn conflict_text(reason: ConflictReason) -> String {
    match reason {
        ConflictReason::NotReplaceable => {
            "it holds the idempotency key and does not wait any more, so it cannot be replaced; \
             enqueue again when it has given the key back (see --hold), or use another key"
                .to_owned()
        }
        _ => reason.to_string(),
    }
}

/// `live`, `kept` or a duration.
///
/// # Errors
/// What to write.
pub(super) fn hold(text: &str) -> Result<Hold, String> {
    match text {
        "live" => Ok(Hold::Live),
        "kept" => Ok(Hold::Kept),
        _ => duration(text).map(Hold::AtLeast).map_err(|_| {
            format!("{text:?} is not a hold; write \"live\", \"kept\" or a time such as \"10m\"")
        }),
    }
}

/// The text that [`hold`] reads.
pub(super) fn hold_text(hold: Hold) -> String {
    match hold {
        Hold::Live => "live".to_owned(),
        Hold::Kept => "kept".to_owned(),
        Hold::AtLeast(time) => exact(time),
    }
}

/// The name of one of these states.
pub(super) fn state_of(states: &[JobState]) -> impl TypedValueParser<Value = JobState> + use<> {
    let names = PossibleValuesParser::new(states.iter().map(|state| state.as_str()));
    names.try_map(|name| JobState::from_name(&name).ok_or("there is no such state"))
}

/// `20/s` or `20`: so many a second.
///
/// # Errors
/// What to write.
pub(super) fn rate(text: &str) -> Result<u32, String> {
    match text.strip_suffix("/s").unwrap_or(text).parse() {
        Ok(rate @ 1..) => Ok(rate),
        _ => Err(format!("{text:?} is not a rate; write jobs per second such as \"20/s\"")),
    }
}

/// `20%` or `0.2`.
///
/// # Errors
/// What to write.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.parse().map(|percent: f64| percent / 100.0),
        None => text.parse(),
    };
    match share {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("{text:?} is not a share; write \"20%\" or \"0.2\"")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn holds_read_back() {
        for held in [Hold::Live, Hold::Kept, Hold::AtLeast(Duration::from_millis(90_500))] {
            assert_eq!(hold(&hold_text(held)), Ok(held));
        }
        assert!(hold("ever").unwrap_err().contains("10m"));
    }

    #[test]
    fn rates_and_shares_have_two_forms() {
        assert_eq!((rate("20/s"), rate("7")), (Ok(20), Ok(7)));
        assert_eq!((share("20%"), share("0.2"), share("1")), (Ok(0.2), Ok(0.2), Ok(1.0)));
        for wrong in ["0", "-1/s", "20/m", "1.5", ""] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        for wrong in ["101%", "1.1", "-0.1", "NaN", "%", ""] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
