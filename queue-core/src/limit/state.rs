//! What a store remembers of a limit key beside who holds it, and the rules that follow from it.
//!
//! Written as pure functions of the settings, the state and the store's time, so that every store
//! decides alike: those in Rust call them, the scripts of Redis follow them line by line.

use std::time::Duration;

use super::{Adaptive, Blocked, BreakerPhase, BreakerState, LimitSettings, OpenState, Room};
use crate::{JobId, Timestamp};

/// A failure that is so long ago counts for no breaker; a breaker whose probe nobody has made for so
/// long after its cool-down is closed again; and an adaptive concurrency that was not reduced for so
/// long is the configured one again.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// What a store remembers of a limit key. The default is a key that nothing has happened to, and
/// need not be stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitState {
    /// The rate's schedule: microseconds since 1970 at which the next start would be due if
    /// starts were evenly spaced ([`Rate`](super::Rate)); 0 if none is ahead.
    pub scheduled_us: u64,
    /// Nothing starts before this time, because the provider said so.
    pub closed_until: Timestamp,
    /// The breaker.
    pub breaker: BreakerState,
    /// The adaptive concurrency, while it is less than the configured one.
    pub adaptive: Option<AdaptiveState>,
}

/// A concurrency that has been reduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdaptiveState {
    /// How many jobs may run.
    pub allowed: u32,
    /// Completions since the last change.
    pub completions: u32,
    /// When it was last reduced: jobs that were claimed before do not reduce it again.
    pub reduced_at: Timestamp,
}

/// How a job let go of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It completed.
    Completed,
    /// Its handler failed, and it is to be retried.
    Failed,
    /// It took too long, and is to be retried.
    TimedOut,
    /// Anything else, which says nothing about the provider.
    Neutral,
}

impl LimitState {
    /// The rate's schedule as long as it is ahead of `now`, else 0: stores forget what is over at different times.
    #[must_use]
    pub const fn ahead_us(&self, now: Timestamp) -> u64 {
        if self.scheduled_us > now.as_ms() * 1000 { self.scheduled_us } else { 0 }
    }

    /// How many more jobs may start at `now`, while `running` hold the key.
    #[must_use]
    pub fn room(&self, settings: &LimitSettings, running: u32, now: Timestamp) -> Room {
        let mut room = Room::default();
        if self.closed_until > now {
            room.limit(0, Some(Blocked::Closed { until: self.closed_until }));
        }
        match self.breaker_phase(settings, now) {
            BreakerPhase::Closed => {}
            BreakerPhase::Open { until } => room.limit(0, Some(Blocked::Open { until })),
            BreakerPhase::HalfOpen { probe } => {
                let blocked = probe.map(|probe| Blocked::Probing { probe });
                room.limit(u32::from(probe.is_none()), blocked);
            }
        }
        if let Some(allowed) = self.allowed(settings, now) {
            room.limit(allowed.saturating_sub(running), Some(Blocked::Full { allowed }));
        }
        if let Some(rate) = &settings.rate {
            let jobs = rate.room(self.scheduled_us, now);
            let next_at = rate.reopens_at(self.scheduled_us, now);
            room.limit(jobs, Some(Blocked::Rate { next_at }));
        }
        room
    }

    /// How many jobs may run at once at `now`: the configured concurrency, or what adapting has
    /// made of it.
    #[must_use]
    pub fn allowed(&self, settings: &LimitSettings, now: Timestamp) -> Option<u32> {
        let most = settings.concurrency?;
        let reduced = self.reduced(settings, now).map_or(most, |adaptive| adaptive.allowed);
        let floor = settings.adaptive.map_or(most, |adaptive| adaptive.floor);
        Some(reduced.max(floor).min(most))
    }

    /// The breaker, unless it is closed; with the end of its cool-down by these settings.
    fn open(&self, settings: &LimitSettings, now: Timestamp) -> Option<OpenState> {
        let breaker = settings.breaker?;
        let open = self.breaker.open.filter(|open| open.is_remembered(now))?;
        Some(OpenState { until: open.ends_at(&breaker), ..open })
    }

    /// Whether the breaker lets jobs start at `now`.
    #[must_use]
    pub fn breaker_phase(&self, settings: &LimitSettings, now: Timestamp) -> BreakerPhase {
        match self.open(settings, now) {
            None => BreakerPhase::Closed,
            Some(OpenState { until, .. }) if until > now => BreakerPhase::Open { until },
            Some(OpenState { probe, .. }) => BreakerPhase::HalfOpen { probe },
        }
    }

    fn reduced(&self, settings: &LimitSettings, now: Timestamp) -> Option<AdaptiveState> {
        settings.adaptive.and(self.adaptive).filter(|adaptive| adaptive.is_remembered(now))
    }

    /// Drops what cannot count any more from `now` on, whatever the settings are or become. A
    /// store may do so at any time, and forget a state that is then the default: nobody can tell.
    pub fn tidy(&mut self, now: Timestamp) {
        if self.scheduled_us <= now.as_ms() * 1000 {
            self.scheduled_us = 0;
        }
        if self.closed_until <= now {
            self.closed_until = Timestamp::default();
        }
        self.breaker.open.take_if(|open| !open.is_remembered(now));
        self.breaker.failures.retain(|at| at.after(FORGOTTEN_AFTER) > now);
        self.adaptive.take_if(|adaptive| !adaptive.is_remembered(now));
    }

    /// These settings come into force at `now`, after others or none.
    pub fn adopt(&mut self, settings: &LimitSettings, now: Timestamp) {
        if let Some(rate) = &settings.rate {
            self.scheduled_us = rate.adopt(self.scheduled_us, now);
        }
    }

    /// From when on [`LimitState::tidy`] leaves nothing of this state, if nothing happens to it;
    /// `None` while a probe runs.
    #[must_use]
    pub fn forgotten_at(&self) -> Option<Timestamp> {
        if self.breaker.open.is_some_and(|open| open.probe.is_some()) {
            return None;
        }
        let open = self.breaker.open.map(|open| open.until);
        let reduced = self.adaptive.map(|adaptive| adaptive.reduced_at);
        let lasting = [open, self.breaker.failures.last().copied(), reduced];
        let lasting = lasting.into_iter().flatten().max().map(|at| at.after(FORGOTTEN_AFTER));
        let schedule = Timestamp::from_ms(self.scheduled_us.div_ceil(1000));
        Some(schedule.max(self.closed_until).max(lasting.unwrap_or_default()))
    }

    /// Jobs start at `now`: each takes its place in the rate's schedule, and the first is the probe
    /// of a half-open breaker (which has room for one).
    pub fn start(&mut self, settings: &LimitSettings, jobs: &[JobId], now: Timestamp) {
        self.tidy(now);
        if let Some(rate) = &settings.rate {
            let started = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
            self.scheduled_us = rate.start(self.scheduled_us, now, started);
        }
        let is_half_open = self.open(settings, now).is_some_and(|open| open.until <= now);
        if let Some(open) = self.breaker.open.as_mut().filter(|_| is_half_open) {
            open.probe = jobs.first().copied();
        }
    }

    /// A job that was claimed at `claimed_at` let go of the key.
    pub fn end(
        &mut self,
        settings: &LimitSettings,
        job: JobId,
        ending: Ending,
        claimed_at: Timestamp,
        now: Timestamp,
    ) {
        self.tidy(now);
        self.breaker.end(settings.breaker.as_ref(), job, ending, now);
        match ending {
            Ending::TimedOut => self.reduce(settings, claimed_at, now),
            Ending::Completed => self.grow(settings),
            Ending::Failed | Ending::Neutral => {}
        }
    }

    /// The provider turned away a job that was claimed at `claimed_at`: nothing starts before
    /// `until`.
    pub fn throttle(
        &mut self,
        settings: &LimitSettings,
        until: Timestamp,
        claimed_at: Timestamp,
        now: Timestamp,
    ) {
        self.tidy(now);
        self.closed_until = self.closed_until.max(until);
        self.reduce(settings, claimed_at, now);
    }

    /// Somebody knows better: ends the pause that the provider asked for, closes the breaker and
    /// forgets its failures, and has as many jobs run as configured. What the rate has counted
    /// stays. Answers whether there was anything to end.
    pub fn reset(&mut self, now: Timestamp) -> bool {
        self.tidy(now);
        let rest = Self { scheduled_us: self.scheduled_us, ..Self::default() };
        std::mem::replace(self, rest.clone()) != rest
    }

    fn reduce(&mut self, settings: &LimitSettings, claimed_at: Timestamp, now: Timestamp) {
        let (Some(Adaptive { floor }), Some(most)) = (settings.adaptive, settings.concurrency)
        else {
            return;
        };
        if self.adaptive.is_some_and(|adaptive| claimed_at <= adaptive.reduced_at) {
            return;
        }
        let before = self.adaptive.map_or(most, |adaptive| adaptive.allowed.min(most));
        let allowed = (before / 2).max(floor);
        self.adaptive = Some(AdaptiveState { allowed, completions: 0, reduced_at: now });
    }

    fn grow(&mut self, settings: &LimitSettings) {
        let (Some(adaptive), Some(_)) = (&mut self.adaptive, settings.adaptive) else { return };
        adaptive.completions += 1;
        if adaptive.completions >= adaptive.allowed {
            adaptive.allowed += 1;
            adaptive.completions = 0;
        }
        if settings.concurrency.is_none_or(|most| adaptive.allowed >= most) {
            self.adaptive = None;
        }
    }
}

impl AdaptiveState {
    fn is_remembered(&self, now: Timestamp) -> bool {
        self.reduced_at.after(FORGOTTEN_AFTER) > now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rate;
    use crate::limit::{Breaker, LIMIT_FAILURES_MAX};

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
    fn without_settings_only_a_pause_closes_a_key() {
        let none = LimitSettings::default();
        let mut state = LimitState::default();
        assert_eq!(state.room(&none, 1_000_000, NOW), Room::default());
        state.throttle(&none, at(10), NOW, NOW);
        state.throttle(&none, at(5), NOW, NOW);
        let room = state.room(&none, 0, at(9));
        assert_eq!((room.jobs, room.reopens_at()), (Some(0), Some(at(10))));
        assert!(state.room(&none, 0, at(10)).is_open());
    }

    #[test]
    fn a_room_is_the_least_of_all_and_names_every_reason() {
        let settings = LimitSettings {
            concurrency: Some(3),
            rate: Some(Rate::new(1, Duration::from_secs(1)).with_burst(2)),
            ..LimitSettings::default()
        };
        let mut state = LimitState::default();
        assert_eq!(state.room(&settings, 0, NOW).jobs, Some(2));
        assert_eq!(state.room(&settings, 2, NOW).jobs, Some(1));
        state.start(&settings, &[job(1), job(2)], NOW);
        let rate = Blocked::Rate { next_at: at(1000) };
        assert_eq!(state.room(&settings, 2, NOW).blocked, [rate]);
        assert_eq!(state.room(&settings, 2, NOW).reopens_at(), Some(at(1000)));
        let both = state.room(&settings, 4, NOW);
        assert_eq!(both.blocked, [Blocked::Full { allowed: 3 }, rate]);
        assert_eq!(both.reopens_at(), None);
    }

    #[test]
    fn a_reset_ends_all_but_what_the_rate_has_counted() {
        let settings = LimitSettings {
            concurrency: Some(8),
            rate: Some(Rate::new(1, Duration::from_secs(1))),
            adaptive: Some(Adaptive { floor: 1 }),
            ..breaker()
        };
        let mut state = LimitState::default();
        assert!(!state.reset(NOW));
        state.start(&settings, &[job(1)], NOW);
        let counted = state.clone();
        assert!(!state.reset(NOW) && state == counted);
        fails(&mut state, &settings, 1, 0);
        assert!(state.reset(NOW) && state == counted);
        fails(&mut state, &settings, 1, 1);
        fails(&mut state, &settings, 1, 2);
        state.throttle(&settings, at(500), at(3), at(3));
        assert_eq!(state.room(&settings, 0, at(3)).blocked.len(), 3);
        assert!(state.reset(at(3)) && state == counted);
        // What is over by itself is nothing to end.
        state.throttle(&LimitSettings::default(), at(10), at(4), at(4));
        assert!(!state.reset(at(10)));
    }

    #[test]
    fn concurrency_is_halved_once_for_all_that_ran_and_grows_by_completions() {
        let settings = LimitSettings {
            concurrency: Some(8),
            adaptive: Some(Adaptive { floor: 3 }),
            ..LimitSettings::default()
        };
        let mut state = LimitState::default();
        let allowed = |state: &LimitState, ms| state.allowed(&settings, at(ms)).unwrap();
        state.end(&settings, job(1), Ending::TimedOut, at(0), at(10));
        state.throttle(&settings, at(11), at(10), at(10));
        assert_eq!(allowed(&state, 10), 4);
        state.throttle(&settings, at(21), at(11), at(20));
        assert_eq!(allowed(&state, 20), 3);
        for n in 1..=3 + 4 {
            assert_eq!(allowed(&state, 20), if n <= 3 { 3 } else { 4 }, "completion {n}");
            state.end(&settings, job(2), Ending::Completed, at(20), at(30));
        }
        assert_eq!(allowed(&state, 30), 5);
        (0..5 + 6 + 7).for_each(|_| {
            state.end(&settings, job(2), Ending::Completed, at(20), at(30));
        });
        assert_eq!(state.adaptive, None);
        state.throttle(&settings, at(41), at(40), at(40));
        let forgotten_ms = 40 + u64::try_from(FORGOTTEN_AFTER.as_millis()).unwrap();
        assert_eq!((allowed(&state, forgotten_ms - 1), allowed(&state, forgotten_ms)), (4, 8));
    }

    #[test]
    fn a_state_is_forgotten_when_tidying_leaves_nothing() {
        let settings = LimitSettings {
            concurrency: Some(8),
            rate: Some(Rate::new(1, Duration::from_secs(1))),
            adaptive: Some(Adaptive { floor: 1 }),
            ..breaker()
        };
        let mut state = LimitState::default();
        state.start(&settings, &[job(1)], NOW);
        assert_eq!(state.forgotten_at(), Some(at(1000)));
        fails(&mut state, &settings, 1, 950);
        assert_eq!(state.forgotten_at(), Some(at(950).after(FORGOTTEN_AFTER)));
        state.throttle(&settings, at(3000), at(960), at(960));
        let end = state.forgotten_at().unwrap();
        assert_eq!(end, at(960).after(FORGOTTEN_AFTER));
        let mut early = state.clone();
        early.tidy(Timestamp::from_ms(end.as_ms() - 1));
        assert_ne!(early, LimitState::default());
        state.tidy(end);
        assert_eq!(state, LimitState::default());
    }

    #[test]
    fn what_is_not_configured_for_a_while_is_not_lost() {
        let (settings, none) = (breaker(), LimitSettings::default());
        let mut state = LimitState::default();
        fails(&mut state, &settings, 1, 0);
        fails(&mut state, &settings, 2, 0);
        assert!(state.room(&none, 0, at(10)).is_open());
        state.start(&none, &[job(3)], at(60));
        assert_eq!(state.breaker.open.unwrap().probe, None);
        assert_eq!(state.room(&settings, 1, at(61)).jobs, Some(1));
        // A probe that ends without a breaker is none any more.
        state.start(&settings, &[job(4)], at(62));
        fails(&mut state, &none, 4, 63);
        assert_eq!(state.room(&settings, 1, at(63)).jobs, Some(1));
        let mut many = LimitState::default();
        let patient = Breaker { failures: LIMIT_FAILURES_MAX, ..settings.breaker.unwrap() };
        let patient = LimitSettings { breaker: Some(patient), ..none };
        (0..300).for_each(|n| fails(&mut many, &patient, 1, 2 * n));
        assert_eq!(many.breaker.failures.len(), LIMIT_FAILURES_MAX as usize);
        assert!(many.room(&patient, 0, at(600)).is_open());
    }
}
