//! The gauges of limits.

use std::fmt::{Display, Write};

use queue::{BreakerPhase, Error, LimitKey, LimitStatus, LimitTarget, QUEUE_CLASS, Queue};

/// The most keys that have gauges. A class can have any number of keys, most of them with its
/// default; only those with settings of their own are shown.
const KEYS_MAX: usize = 200;

/// Looks at the keys that have settings of their own: `first` those, then others by name.
///
/// # Errors
/// Why the store could not be asked.
pub(super) async fn look(queue: &Queue, first: &[LimitKey]) -> Result<Vec<LimitStatus>, Error> {
    let mut keys: Vec<LimitKey> = Vec::new();
    for (target, _) in queue.limits().await? {
        match target {
            // What a queue has is counted by queue_jobs.
            LimitTarget::Key(key) if key.class() != QUEUE_CLASS => keys.push(key),
            _ => {}
        }
    }
    keys.sort_by_key(|key| !first.contains(key));
    keys.truncate(KEYS_MAX);
    queue.limit_status(&keys).await
}

/// The states of a breaker, as `queue_breaker_state` names them.
const BREAKER_STATES: [&str; 3] = ["closed", "open", "half_open"];

fn breaker_state(status: &LimitStatus) -> &'static str {
    match status.breaker {
        BreakerPhase::Closed => "closed",
        BreakerPhase::Open { .. } => "open",
        BreakerPhase::HalfOpen { .. } => "half_open",
    }
}

pub(super) fn render(statuses: &[LimitStatus]) -> String {
    let mut text = String::new();
    let in_use = |status: &LimitStatus| Some(status.running);
    gauge(&mut text, "queue_limit_in_use", "Running jobs that hold a limit key.", statuses, in_use);
    let drift = |status: &LimitStatus| Some(status.drift);
    let help = "Places of a limit key that are taken wrongly; 0 unless the store was damaged.";
    gauge(&mut text, "queue_limit_drift", help, statuses, drift);
    let most = |status: &LimitStatus| status.allowed;
    let help =
        "How many jobs with a limit key may run at once; less than configured while it adapts.";
    gauge(&mut text, "queue_limit_max", help, statuses, most);
    let waiting = |status: &LimitStatus| Some(status.live.saturating_sub(status.running));
    let help = "Jobs that carry a limit key and do not run yet.";
    gauge(&mut text, "queue_limit_waiting_jobs", help, statuses, waiting);
    let has_breaker = |status: &&LimitStatus| {
        status.settings.as_ref().is_some_and(|(_, settings)| settings.breaker.is_some())
    };
    let breakers: Vec<&LimitStatus> = statuses.iter().filter(has_breaker).collect();
    if !breakers.is_empty() {
        header(&mut text, "queue_breaker_state", "1 for the state that a breaker is in.");
    }
    for status in breakers {
        for state in BREAKER_STATES {
            let is = u8::from(state == breaker_state(status));
            let key = &status.key;
            let _ = writeln!(text, "queue_breaker_state{{key=\"{key}\",state=\"{state}\"}} {is}");
        }
    }
    text
}

/// A line for each key that has a value; nothing if none has.
fn gauge<T: Display>(
    text: &mut String,
    name: &str,
    help: &str,
    statuses: &[LimitStatus],
    value: impl Fn(&LimitStatus) -> Option<T>,
) {
    let mut lines = statuses.iter().filter_map(|s| Some((&s.key, value(s)?))).peekable();
    if lines.peek().is_some() {
        header(text, name, help);
    }
    for (key, value) in lines {
        // Keys have no character that would need an escape.
        let _ = writeln!(text, "{name}{{key=\"{key}\"}} {value}");
    }
}

fn header(text: &mut String, name: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use queue::{Breaker, LimitSettings, Timestamp};

    use super::*;

    fn key(text: &str) -> LimitKey {
        LimitKey::new(text).unwrap()
    }

    fn limited(concurrency: u32) -> LimitSettings {
        LimitSettings { concurrency: Some(concurrency), ..LimitSettings::default() }
    }

    #[test]
    fn a_key_has_what_its_settings_give_a_meaning() {
        let second = Duration::from_secs(1);
        let breaker = Breaker { failures: 1, window: second, cooldown: second };
        let mut full = LimitStatus::new(key("provider:a"));
        let settings = LimitSettings { breaker: Some(breaker), ..limited(8) };
        full.settings = Some((LimitTarget::Key(key("provider:a")), settings));
        (full.running, full.allowed, full.live, full.drift) = (4, Some(4), 10, 1);
        full.breaker = BreakerPhase::Open { until: Timestamp::from_ms(1) };
        let text = render(&[full, LimitStatus::new(key("provider:b"))]);
        for line in [
            "queue_limit_in_use{key=\"provider:a\"} 4",
            "queue_limit_in_use{key=\"provider:b\"} 0",
            "queue_limit_drift{key=\"provider:a\"} 1",
            "queue_limit_drift{key=\"provider:b\"} 0",
            "queue_limit_max{key=\"provider:a\"} 4",
            "queue_limit_waiting_jobs{key=\"provider:a\"} 6",
            "queue_breaker_state{key=\"provider:a\",state=\"closed\"} 0",
            "queue_breaker_state{key=\"provider:a\",state=\"open\"} 1",
            "queue_breaker_state{key=\"provider:a\",state=\"half_open\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("queue_limit_max{key=\"provider:b\"}"), "{text}");
        assert!(!text.contains("queue_breaker_state{key=\"provider:b\""), "{text}");
        assert_eq!(render(&[]), "");
    }

    #[tokio::test]
    async fn the_configured_keys_come_before_others_and_there_is_a_bound() {
        let queue = Queue::memory();
        let set = |name: String| {
            let (queue, target) = (queue.clone(), LimitTarget::new(name).unwrap());
            async move { queue.set_limit(&target, &limited(1)).await.unwrap() }
        };
        for n in 0..KEYS_MAX {
            set(format!("tenant:{n:03}")).await;
        }
        set("tenant:zzz".to_owned()).await;
        set("tenant:*".to_owned()).await;
        let statuses = look(&queue, &[key("tenant:zzz"), key("not:there")]).await.unwrap();
        assert_eq!((statuses.len(), &statuses[0].key), (KEYS_MAX, &key("tenant:zzz")));
    }
}
