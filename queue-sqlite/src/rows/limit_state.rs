//! What is remembered of a limit key, as it stands in a column.
//!
//! Format 1: a byte 1, the rate's schedule (`u64`, microseconds), until when the key is closed
//! (`u64`), the breaker's failures (their number as `u16`, then a `u64` each), whether it is open
//! (a byte; if not 0, it says how many configured cool-downs the end and the length of this one
//! are, a `u64` each, which come next; then whether a probe runs, and if so its id), and whether the concurrency is reduced (a byte; if 1, how many may run and the
//! completions, a `u32` each, and when it was reduced, a `u64`). Numbers are little-endian, times
//! and lengths milliseconds unless said otherwise.

use std::time::Duration;

use queue_core::{
    AdaptiveState, BreakerState, COOLDOWN_GROWTH_MAX, JobId, LIMIT_FAILURES_MAX, LIMIT_TIME_MAX,
    LimitState, OpenState, Timestamp,
};

use super::history::Rest;

const FORMAT: u8 = 1;

/// How a state is stored; `None` for that of a key that nothing has happened to.
pub(crate) fn encode(state: &LimitState) -> Option<Vec<u8>> {
    if *state == LimitState::default() {
        return None;
    }
    let mut bytes = vec![FORMAT];
    bytes.extend(state.scheduled_us.to_le_bytes());
    bytes.extend(state.closed_until.as_ms().to_le_bytes());
    let failures = &state.breaker.failures;
    bytes.extend(u16::try_from(failures.len()).unwrap_or(u16::MAX).to_le_bytes());
    for at in failures {
        bytes.extend(at.as_ms().to_le_bytes());
    }
    let growth = state.breaker.open.map_or(0, |open| open.growth.clamp(1, COOLDOWN_GROWTH_MAX));
    bytes.push(u8::try_from(growth).unwrap_or(u8::MAX));
    if let Some(OpenState { until, cooldown, probe, growth: _ }) = &state.breaker.open {
        bytes.extend(until.as_ms().to_le_bytes());
        bytes.extend(u64::try_from(cooldown.as_millis()).unwrap_or(u64::MAX).to_le_bytes());
        bytes.push(u8::from(probe.is_some()));
        bytes.extend(probe.iter().flat_map(|probe| probe.as_bytes()));
    }
    bytes.push(u8::from(state.adaptive.is_some()));
    if let Some(AdaptiveState { allowed, completions, reduced_at }) = &state.adaptive {
        bytes.extend(allowed.to_le_bytes());
        bytes.extend(completions.to_le_bytes());
        bytes.extend(reduced_at.as_ms().to_le_bytes());
    }
    Some(bytes)
}

/// Reads a stored state; `None` if it is not one.
pub(crate) fn decode(stored: &[u8]) -> Option<LimitState> {
    let mut rest = Rest(stored);
    (rest.array()? == [FORMAT]).then_some(())?;
    let scheduled_us = u64::from_le_bytes(rest.array()?);
    let closed_until = time(&mut rest)?;
    let count = u16::from_le_bytes(rest.array()?);
    (u32::from(count) <= LIMIT_FAILURES_MAX).then_some(())?;
    let failures: Option<Vec<_>> = (0..count).map(|_| time(&mut rest)).collect();
    let open = match rest.array()? {
        [0] => None,
        [growth] => Some(open(&mut rest, u32::from(growth))?),
    };
    let adaptive = match flag(&mut rest)? {
        false => None,
        true => Some(AdaptiveState {
            allowed: small(&mut rest)?,
            completions: small(&mut rest)?,
            reduced_at: time(&mut rest)?,
        }),
    };
    let breaker = BreakerState { failures: failures?, open };
    rest.0.is_empty().then_some(LimitState { scheduled_us, closed_until, breaker, adaptive })
}

fn open(rest: &mut Rest<'_>, growth: u32) -> Option<OpenState> {
    (growth <= COOLDOWN_GROWTH_MAX).then_some(())?;
    let until = time(rest)?;
    let cooldown = Duration::from_millis(u64::from_le_bytes(rest.array()?));
    (cooldown <= LIMIT_TIME_MAX.saturating_mul(32)).then_some(())?;
    let probe = match flag(rest)? {
        false => None,
        true => Some(JobId::from_bytes(rest.array()?)),
    };
    Some(OpenState { until, cooldown, growth, probe })
}

fn flag(rest: &mut Rest<'_>) -> Option<bool> {
    match rest.array()? {
        [0] => Some(false),
        [1] => Some(true),
        _ => None,
    }
}

fn time(rest: &mut Rest<'_>) -> Option<Timestamp> {
    let time = Timestamp::from_ms(u64::from_le_bytes(rest.array()?));
    (time <= Timestamp::MAX).then_some(time)
}

/// A number to which one can be added.
fn small(rest: &mut Rest<'_>) -> Option<u32> {
    Some(u32::from_le_bytes(rest.array()?)).filter(|number| *number < u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states() -> Vec<LimitState> {
        let at = Timestamp::from_ms;
        let cooldown = Duration::from_secs(9);
        let open = OpenState { until: at(5), cooldown, growth: 4, probe: None };
        let probing = OpenState { probe: Some(JobId::from_bytes([7; 16])), ..open };
        let adaptive = AdaptiveState { allowed: 3, completions: 2, reduced_at: at(8) };
        vec![
            LimitState { scheduled_us: u64::MAX, ..LimitState::default() },
            LimitState {
                closed_until: Timestamp::MAX,
                breaker: BreakerState { failures: vec![at(1), at(2)], open: Some(open) },
                ..LimitState::default()
            },
            LimitState {
                breaker: BreakerState { failures: Vec::new(), open: Some(probing) },
                adaptive: Some(adaptive),
                ..LimitState::default()
            },
        ]
    }

    #[test]
    fn a_state_is_read_as_it_was_written() {
        assert_eq!(encode(&LimitState::default()), None);
        for state in states() {
            assert_eq!(decode(&encode(&state).unwrap()), Some(state));
        }
    }

    #[test]
    fn what_is_no_state_is_not_read() {
        assert_eq!(decode(&[]), None);
        for state in states() {
            let stored = encode(&state).unwrap();
            for length in 0..stored.len() {
                assert_eq!(decode(&stored[..length]), None);
            }
            let longer: Vec<u8> = stored.iter().copied().chain([0]).collect();
            assert_eq!(decode(&longer), None);
            let other: Vec<u8> = [2].into_iter().chain(stored[1..].iter().copied()).collect();
            assert_eq!(decode(&other), None);
        }
    }
}
