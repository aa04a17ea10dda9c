//! What limits allow, in the words of the configuration.

use queue::{Blocked, LimitSettings, Rate};

use crate::display::{exact, time};

/// All that settings allow, in one line: `concurrency 8, rate 500/1m (burst 50)`.
pub(crate) fn settings(settings: &LimitSettings) -> String {
    let LimitSettings { concurrency, rate, breaker, adaptive, weight, max_live } = settings;
    let parts = [
        concurrency.map(|most| match adaptive {
            Some(adaptive) => format!("concurrency {} to {most}", adaptive.floor),
            None => format!("concurrency {most}"),
        }),
        rate.map(|rate| format!("rate {rate} (burst {})", rate.burst)),
        breaker.map(|breaker| {
            let (window, cooldown) = (exact(breaker.window), exact(breaker.cooldown));
            format!("breaker {} in {window} (open {cooldown})", breaker.failures)
        }),
        weight.map(|weight| format!("weight {weight}")),
        max_live.map(|most| format!("max_live {most}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// How many of how many.
pub(crate) fn of(count: u64, most: Option<u64>) -> String {
    most.map_or_else(|| count.to_string(), |most| format!("{count} of {most}"))
}

/// Why nothing starts, in a word for programs and columns: the names of [`queue::Reason`].
pub(crate) fn name_of(blocked: &Blocked) -> &'static str {
    match blocked {
        Blocked::Closed { .. } => "throttled",
        Blocked::Open { .. } | Blocked::Probing { .. } => "breaker",
        Blocked::Full { .. } => "limit",
        Blocked::Rate { .. } => "rate",
        _ => "other",
    }
}

/// Why nothing starts, and until when.
pub(crate) fn blocked(blocked: &Blocked) -> String {
    match blocked {
        Blocked::Closed { until } => {
            format!("throttled until {}: its provider turned a job away", time(*until))
        }
        Blocked::Open { until } => {
            format!("the breaker is open until {}: too many jobs failed", time(*until))
        }
        Blocked::Probing { probe } => format!("the breaker waits for its probe, job {probe}"),
        Blocked::Full { allowed } => format!("the limit of {allowed} is reached"),
        Blocked::Rate { next_at } => {
            format!("the rate is used up: the next job may start at {}", time(*next_at))
        }
        // A newer library has more reasons.
        other => format!("{other:?}"),
    }
}

/// How late a worker may be to start a job on time, at most: 20 jobs a second, one at a time.
const LATE_MS: u128 = 50;

/// What whoever made the settings may not have meant.
pub(crate) fn hint(settings: &LimitSettings) -> Option<String> {
    let rate = settings.rate.filter(out_of_reach)?;
    let better = Rate::new(rate.count, rate.period).burst;
    Some(format!(
        "a rate of {rate} will not be reached with a burst of {}: workers start jobs up to 50 ms \
         late, and what was missed in that time is lost; give it a burst of {better}",
        rate.burst
    ))
}

fn out_of_reach(rate: &Rate) -> bool {
    u128::from(rate.count) * LATE_MS > u128::from(rate.burst) * rate.period.as_millis()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use queue::{Adaptive, Breaker};

    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    #[test]
    fn settings_are_one_line() {
        let all = LimitSettings {
            concurrency: Some(8),
            rate: Some(rate("500/1m").with_burst(50)),
            breaker: Some(Breaker {
                failures: 10,
                window: Duration::from_secs(30),
                cooldown: Duration::from_secs(90),
            }),
            adaptive: Some(Adaptive { floor: 2 }),
            weight: Some(3),
            max_live: Some(1000),
        };
        assert_eq!(
            settings(&all),
            "concurrency 2 to 8, rate 500/1m (burst 50), breaker 10 in 30s (open 1m 30s), \
             weight 3, max_live 1000"
        );
    }

    #[test]
    fn a_rate_above_20_a_second_needs_a_burst() {
        let of = |rate: Rate| hint(&LimitSettings { rate: Some(rate), ..Default::default() });
        assert_eq!(of(rate("20/s").with_burst(1)), None);
        assert!(of(rate("21/s").with_burst(1)).unwrap().contains("a burst of 3"));
        assert!(of(rate("2000/1m").with_burst(1)).is_some());
        assert!(of(rate("100/s").with_burst(4)).is_some());
        assert!(of(rate("1/10ms").with_burst(1)).unwrap().contains("a burst of 10"));
        for fine in ["21/s", "1/10ms", "1/1ms", "2000/1m", "100/s", "5000/s", "1/1d"] {
            assert_eq!(of(rate(fine)), None, "{fine}");
        }
        assert_eq!(hint(&LimitSettings::default()), None);
    }
}
