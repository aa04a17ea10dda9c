//! Breakers: a provider that fails too often is left alone for a while, then tried with one job.

use std::time::Duration;

use super::{Breaker, Ending, FORGOTTEN_AFTER, LIMIT_FAILURES_MAX};
use crate::{JobId, Timestamp};

/// The longest cool-down of a breaker, in configured ones.
pub const COOLDOWN_GROWTH_MAX: u32 = 16;

/// A breaker's memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BreakerState {
    /// The last failures since it was closed, oldest first, at most
    /// [`LIMIT_FAILURES_MAX`](crate::LIMIT_FAILURES_MAX).
    pub failures: Vec<Timestamp>,
    /// `Some` while it is open, or half open once its time has come.
    pub open: Option<OpenState>,
}

/// A breaker that has opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenState {
    /// The end of the cool-down, as it was when it began.
    pub until: Timestamp,
    /// How long the cool-down is; whole milliseconds.
    pub cooldown: Duration,
    /// How many configured cool-downs that was: 1, and twice as many after each probe that failed,
    /// up to [`COOLDOWN_GROWTH_MAX`].
    pub growth: u32,
    /// The job that runs as a probe.
    pub probe: Option<JobId>,
}

/// Whether a breaker lets jobs start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BreakerPhase {
    /// It does, or there is none.
    #[default]
    Closed,
    /// It does not.
    Open {
        /// The end of the cool-down.
        until: Timestamp,
    },
    /// It lets one job start, as a probe.
    HalfOpen {
        /// The probe, once it runs.
        probe: Option<JobId>,
    },
}

impl OpenState {
    /// The end of the cool-down, as if it had begun with these settings if they make it shorter:
    /// nobody has to wait for what an operator has taken back.
    pub(super) fn ends_at(&self, settings: &Breaker) -> Timestamp {
        let taken_back =
            self.cooldown.saturating_sub(settings.cooldown.saturating_mul(self.growth));
        let ms = u64::try_from(taken_back.as_millis()).unwrap_or(u64::MAX);
        Timestamp::from_ms(self.until.as_ms().saturating_sub(ms))
    }

    pub(super) fn is_remembered(&self, now: Timestamp) -> bool {
        self.probe.is_some() || self.until.after(FORGOTTEN_AFTER) > now
    }
}

impl BreakerState {
    pub(super) fn end(
        &mut self,
        settings: Option<&Breaker>,
        job: JobId,
        ending: Ending,
        now: Timestamp,
    ) {
        let has_failed = matches!(ending, Ending::Failed | Ending::TimedOut);
        let Some(open) = &mut self.open else {
            if let Some(settings) = settings.filter(|_| has_failed) {
                self.fail(settings, now);
            }
            return;
        };
        // What was started before it opened says nothing new.
        if open.probe != Some(job) {
            return;
        }
        open.probe = None;
        let Some(settings) = settings else { return };
        if has_failed {
            let growth = open.growth.saturating_mul(2).min(COOLDOWN_GROWTH_MAX);
            let cooldown = settings.cooldown.saturating_mul(growth);
            *open = OpenState { until: now.after(cooldown), cooldown, growth, probe: None };
        } else if ending == Ending::Completed {
            self.open = None;
        }
    }

    fn fail(&mut self, settings: &Breaker, now: Timestamp) {
        self.failures.push(now);
        let count = |at: &&Timestamp| at.after(settings.window) > now;
        if self.failures.iter().filter(count).count() >= settings.failures as usize {
            let cooldown = settings.cooldown;
            self.failures.clear();
            let until = now.after(cooldown);
            self.open = Some(OpenState { until, cooldown, growth: 1, probe: None });
        } else if self.failures.len() > LIMIT_FAILURES_MAX as usize {
            self.failures.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Blocked, LimitSettings, LimitState, Room};

    const NOW: Timestamp = Timestamp::from_ms(4_000_000_000_000);

    fn at(ms: u64) -> Timestamp {
        NOW.after(Duration::from_millis(ms))
    }

    fn breaker() -> LimitSettings {
        let breaker = Breaker {
            failures: 2,
            window: Duration::from_millis(100),
            cooldown: Duration::from_millis(50),
        };
        LimitSettings { breaker: Some(breaker), ..LimitSettings::default() }
    }

    fn job(n: u8) -> JobId {
        JobId::from_bytes([n; 16])
    }

    fn fails(state: &mut LimitState, settings: &LimitSettings, n: u8, ms: u64) {
        state.end(settings, job(n), Ending::Failed, at(0), at(ms));
    }

    #[test]
    fn a_breaker_opens_at_its_threshold_and_only_within_its_window() {
        let settings = breaker();
        let mut state = LimitState::default();
        fails(&mut state, &settings, 1, 0);
        fails(&mut state, &settings, 2, 100);
        assert!(state.room(&settings, 0, at(100)).is_open());
        fails(&mut state, &settings, 3, 199);
        let room = state.room(&settings, 0, at(200));
        assert_eq!(room.blocked, [Blocked::Open { until: at(249) }]);
        // What ended late does not count again.
        fails(&mut state, &settings, 4, 200);
        assert_eq!(state.room(&settings, 0, at(249)).jobs, Some(1));
    }

    #[test]
    fn one_probe_decides() {
        let settings = breaker();
        let mut state = LimitState::default();
        fails(&mut state, &settings, 1, 0);
        fails(&mut state, &settings, 2, 0);
        state.start(&settings, &[job(3)], at(50));
        assert_eq!(state.room(&settings, 1, at(50)).blocked, [Blocked::Probing { probe: job(3) }]);
        // Not the probe: no matter how it ended.
        state.end(&settings, job(1), Ending::Completed, at(0), at(51));
        assert!(!state.room(&settings, 1, at(51)).is_open());
        fails(&mut state, &settings, 3, 60);
        assert_eq!(state.room(&settings, 0, at(60)).reopens_at(), Some(at(160)));
        state.start(&settings, &[job(4)], at(160));
        state.end(&settings, job(4), Ending::Neutral, at(160), at(161));
        assert_eq!(state.room(&settings, 0, at(161)).jobs, Some(1), "another probe");
        state.start(&settings, &[job(5)], at(161));
        state.end(&settings, job(5), Ending::Completed, at(161), at(162));
        assert_eq!(state.room(&settings, 0, at(162)), Room::default());
        assert_eq!(state, LimitState::default());
    }

    #[test]
    fn a_cool_down_grows_up_to_its_bound() {
        let settings = breaker();
        let mut state = LimitState::default();
        fails(&mut state, &settings, 1, 0);
        fails(&mut state, &settings, 1, 0);
        let mut cooldowns = Vec::new();
        for _ in 0..6 {
            let open = state.breaker.open.unwrap();
            cooldowns.push(open.cooldown.as_millis());
            state.start(&settings, &[job(2)], open.until);
            state.end(&settings, job(2), Ending::TimedOut, open.until, open.until);
        }
        assert_eq!(cooldowns, [50, 100, 200, 400, 800, 800]);
    }

    #[test]
    fn a_cool_down_that_was_made_shorter_is_over_earlier() {
        let (settings, ms) = (breaker(), Duration::from_millis);
        let of = |cooldown| {
            let breaker = settings.breaker.map(|breaker| Breaker { cooldown, ..breaker });
            LimitSettings { breaker, ..settings.clone() }
        };
        let mut state = LimitState::default();
        fails(&mut state, &settings, 1, 0);
        fails(&mut state, &settings, 1, 0);
        let reopens =
            |state: &LimitState, cooldown, now| state.room(&of(cooldown), 0, at(now)).reopens_at();
        assert_eq!(reopens(&state, ms(20), 10), Some(at(20)));
        assert_eq!(reopens(&state, ms(20), 20), None);
        assert_eq!(reopens(&state, ms(70), 10), Some(at(50)), "never longer");
        // What has grown stays grown.
        state.start(&of(ms(20)), &[job(2)], at(20));
        assert_eq!(state.breaker.open.unwrap().probe, Some(job(2)));
        fails(&mut state, &settings, 2, 30);
        assert_eq!(reopens(&state, ms(50), 30), Some(at(130)));
        assert_eq!(reopens(&state, ms(20), 30), Some(at(70)));
        // The next one is that of the settings of then.
        state.start(&of(ms(20)), &[job(3)], at(70));
        state.end(&of(ms(20)), job(3), Ending::Failed, at(70), at(80));
        assert_eq!(reopens(&state, ms(50), 80), Some(at(160)));
    }

    #[test]
    fn a_breaker_that_nobody_probes_is_forgotten() {
        let settings = breaker();
        let mut state = LimitState::default();
        fails(&mut state, &settings, 1, 0);
        fails(&mut state, &settings, 1, 0);
        let forgotten_at = state.forgotten_at().unwrap();
        assert_eq!(forgotten_at, at(50).after(FORGOTTEN_AFTER));
        assert_eq!(state.room(&settings, 0, forgotten_at), Room::default());
        state.tidy(forgotten_at);
        assert_eq!(state, LimitState::default());
    }
}
