//! Settings of limits (`limits`), and what is remembered of limit keys (`limited`), as laid out in
//! `lua/lib/limits.lua`.

use std::time::Duration;

use queue_core::{
    Adaptive, AdaptiveState, Breaker, BreakerState, JobId, LimitSettings, LimitState, LimitTarget,
    OpenState, Rate, Timestamp,
};

use super::{millis, ms6, unsigned};

const SETTINGS_VERSION: u8 = 1;
const SETTINGS_BYTES: usize = 46;
const STATE_VERSION: u8 = 1;

/// Settings in their stored form.
pub(crate) fn pack_settings(settings: &LimitSettings) -> Vec<u8> {
    let LimitSettings { concurrency, rate, breaker, adaptive, weight, max_live } = settings;
    let set = [
        concurrency.is_some(),
        rate.is_some(),
        breaker.is_some(),
        adaptive.is_some(),
        weight.is_some(),
        max_live.is_some(),
    ];
    let flags = (0..).zip(set).fold(0, |flags, (bit, is_set)| flags | u8::from(is_set) << bit);
    let mut out = vec![SETTINGS_VERSION, flags];
    out.extend(concurrency.unwrap_or(0).to_be_bytes());
    out.extend(rate.map_or(0, |rate| rate.count).to_be_bytes());
    out.extend(ms6(rate.map_or(0, |rate| millis(rate.period))));
    out.extend(rate.map_or(0, |rate| rate.burst).to_be_bytes());
    out.push(breaker.map_or(0, |breaker| u8::try_from(breaker.failures).unwrap_or(u8::MAX)));
    out.extend(ms6(breaker.map_or(0, |breaker| millis(breaker.window))));
    out.extend(ms6(breaker.map_or(0, |breaker| millis(breaker.cooldown))));
    out.extend(adaptive.map_or(0, |adaptive| adaptive.floor).to_be_bytes());
    out.push(weight.map_or(0, |weight| u8::try_from(weight).unwrap_or(u8::MAX)));
    out.extend(max_live.unwrap_or(0).to_be_bytes());
    out
}

/// Reads settings back; `None` for bytes that are not legal settings of this target. The scripts
/// take such bytes for none, too.
pub(crate) fn unpack_settings(target: &LimitTarget, bytes: &[u8]) -> Option<LimitSettings> {
    let fixed = bytes.get(..SETTINGS_BYTES).filter(|fixed| fixed[0] == SETTINGS_VERSION)?;
    let mut rest = &fixed[2..];
    let mut number = |bytes: usize| {
        let (number, tail) = rest.split_at(bytes.min(rest.len()));
        rest = tail;
        unsigned(number)
    };
    let mut small = |bytes| u32::try_from(number(bytes)).unwrap_or(u32::MAX);
    let concurrency = small(4);
    let count = small(4);
    let period = Duration::from_millis(number(6));
    let mut small = |bytes| u32::try_from(number(bytes)).unwrap_or(u32::MAX);
    let (burst, failures) = (small(4), small(1));
    let (window, cooldown) = (Duration::from_millis(number(6)), Duration::from_millis(number(6)));
    let mut small = |bytes| u32::try_from(number(bytes)).unwrap_or(u32::MAX);
    let (floor, weight) = (small(4), small(1));
    let max_live = number(8);
    let has = |bit: u8| fixed[1] >> bit & 1 == 1;
    let settings = LimitSettings {
        concurrency: has(0).then_some(concurrency),
        rate: has(1).then_some(Rate { count, period, burst }),
        breaker: has(2).then_some(Breaker { failures, window, cooldown }),
        adaptive: has(3).then_some(Adaptive { floor }),
        weight: has(4).then_some(weight),
        max_live: has(5).then_some(max_live),
    };
    settings.validate(target).is_ok().then_some(settings)
}

/// Takes numbers off the front of bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn number(&mut self, length: usize) -> Option<u64> {
        self.bytes(length).map(unsigned)
    }

    fn time(&mut self) -> Option<Timestamp> {
        self.number(6).map(Timestamp::from_ms)
    }

    fn small(&mut self) -> Option<u32> {
        self.number(4).and_then(|number| u32::try_from(number).ok())
    }
}

/// What is remembered of a key, and which `<queue>/<kind>` wait for it; `None` for bytes that are
/// not an entry. The scripts take such bytes for none, too.
pub(crate) fn unpack_state(bytes: &[u8]) -> Option<(LimitState, Vec<String>)> {
    let mut from = Reader(bytes);
    if from.number(1)? != u64::from(STATE_VERSION) {
        return None;
    }
    let flags = from.number(1)?;
    let scheduled_us = from.number(8)?;
    let closed_until = from.time()?;
    let mut breaker = BreakerState::default();
    if flags & 1 != 0 {
        let (until, cooldown) = (from.time()?, Duration::from_millis(from.number(6)?));
        let probe = match flags & 2 {
            0 => None,
            _ => from.bytes(16)?.try_into().ok().map(JobId::from_bytes),
        };
        let growth = 1 << (flags >> 3 & 7);
        breaker.open = Some(OpenState { until, cooldown, growth, probe });
    }
    for _ in 0..from.number(1)? {
        breaker.failures.push(from.time()?);
    }
    let mut adaptive = None;
    if flags & 4 != 0 {
        let (allowed, completions) = (from.small()?, from.small()?);
        adaptive = Some(AdaptiveState { allowed, completions, reduced_at: from.time()? });
    }
    let waiting = String::from_utf8_lossy(from.0);
    // With "@" behind it, workers wait for the key, too.
    let pairs = waiting.split(',').map(|pair| pair.strip_suffix('@').unwrap_or(pair));
    let waiting = pairs.filter(|pair| !pair.is_empty()).map(str::to_owned).collect();
    Some((LimitState { scheduled_us, closed_until, breaker, adaptive }, waiting))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> LimitSettings {
        LimitSettings {
            concurrency: Some(8),
            rate: Some(Rate { count: 500, period: Duration::from_secs(60), burst: 50 }),
            breaker: Some(Breaker {
                failures: 10,
                window: Duration::from_secs(30),
                cooldown: Duration::from_secs(20),
            }),
            adaptive: Some(Adaptive { floor: 2 }),
            weight: Some(3),
            max_live: Some(1000),
        }
    }

    fn target() -> LimitTarget {
        LimitTarget::new("provider:x").unwrap()
    }

    /// Stored settings outlive a version of this program: these bytes must not change.
    #[test]
    fn settings_have_these_bytes() {
        let golden: &[&[u8]] = &[
            &[1, 63, 0, 0, 0, 8, 0, 0, 1, 0xf4, 0, 0, 0, 0, 0xea, 0x60, 0, 0, 0, 50],
            &[10, 0, 0, 0, 0, 0x75, 0x30, 0, 0, 0, 0, 0x4e, 0x20],
            &[0, 0, 0, 2, 3, 0, 0, 0, 0, 0, 0, 3, 0xe8],
        ];
        assert_eq!(pack_settings(&settings()), golden.concat());
        assert_eq!(unpack_settings(&target(), &golden.concat()), Some(settings()));
        let newer = [&golden.concat()[..], b"of a newer program"].concat();
        assert_eq!(unpack_settings(&target(), &newer), Some(settings()));
    }

    #[test]
    fn each_setting_is_read_back_alone() {
        let none = LimitSettings::default();
        let LimitSettings { concurrency, rate, breaker, weight, max_live, .. } = settings();
        for settings in [
            LimitSettings { concurrency, ..none.clone() },
            LimitSettings { rate, ..none.clone() },
            LimitSettings { breaker, ..none.clone() },
            LimitSettings { concurrency, adaptive: Some(Adaptive { floor: 8 }), ..none.clone() },
            LimitSettings { weight, ..none.clone() },
            LimitSettings { max_live, ..none },
        ] {
            assert_eq!(unpack_settings(&target(), &pack_settings(&settings)), Some(settings));
        }
    }

    #[test]
    fn damaged_settings_are_none_and_never_a_panic() {
        let whole = pack_settings(&settings());
        for end in 0..whole.len() {
            assert_eq!(unpack_settings(&target(), &whole[..end]), None, "cut at {end}");
            let mut flipped = whole.clone();
            flipped[end] ^= 0xff;
            let _ = unpack_settings(&target(), &flipped);
        }
        assert_eq!(unpack_settings(&target(), &pack_settings(&LimitSettings::default())), None);
    }

    #[test]
    fn a_state_is_read_as_the_scripts_write_it() {
        let open =
            [&[1, 7 + 8 * 2, 0, 0, 0, 0, 0, 0, 0, 9][..], &ms6(5), &ms6(70), &ms6(30), &[7; 16]];
        let failures = [&[2][..], &ms6(3), &ms6(4)];
        let adaptive = [&[0, 0, 0, 4, 0, 0, 0, 1][..], &ms6(60), b"q/a,q/b@"];
        let bytes = [open.concat(), failures.concat(), adaptive.concat()].concat();
        let (state, waiting) = unpack_state(&bytes).unwrap();
        let at = Timestamp::from_ms;
        let expected = LimitState {
            scheduled_us: 9,
            closed_until: at(5),
            breaker: BreakerState {
                failures: vec![at(3), at(4)],
                open: Some(OpenState {
                    until: at(70),
                    cooldown: Duration::from_millis(30),
                    growth: 4,
                    probe: Some(JobId::from_bytes([7; 16])),
                }),
            },
            adaptive: Some(AdaptiveState { allowed: 4, completions: 1, reduced_at: at(60) }),
        };
        assert_eq!((state, waiting), (expected, vec!["q/a".to_owned(), "q/b".to_owned()]));
        let fixed = bytes.len() - b"q/a,q/b@".len();
        (0..fixed).for_each(|end| assert_eq!(unpack_state(&bytes[..end]), None, "cut at {end}"));
        let nobody = unpack_state(&bytes[..fixed]).unwrap();
        assert_eq!(nobody.1, Vec::<String>::new());
    }
}
