//! `workerd limit set`.

use std::time::Duration;

use clap::ArgGroup;
use queue::{
    Adaptive, Breaker, LIMIT_FAILURES_MAX, LimitSettings, LimitTarget, Queue, Rate, WEIGHT_MAX,
};
use serde_json::json;

use super::show::settings_of;
use crate::cli::Common;
use crate::config::limits::{count, rate, reason, target, time};
use crate::exit::{Exit, Failure, Outcome};
use crate::limits;

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(
    ["concurrency", "rate", "burst", "breaker", "adaptive_floor", "weight", "max_live"]
))]
#[command(override_usage = "workerd limit set TARGET --SETTING VALUE...")]
#[command(after_help = "The value none takes a setting away, as in --rate none.")]
pub(in crate::cli) struct Args {
    /// A key such as provider:openai, a queue such as queue:default (which has --max-live only),
    /// or a class such as tenant:*, for all keys that have nothing of their own
    #[arg(value_parser = target)]
    target: LimitTarget,

    /// The most jobs that run at once, on all workers together
    #[arg(long, value_name = "JOBS", value_parser = or_none(count::<{ u32::MAX }>))]
    concurrency: Option<Wanted<u32>>,

    /// How often jobs start, such as 500/1m or 10/s. A burst that is what the old rate gives in
    /// 100ms, also if it was asked for, follows the new one unless --burst is given
    #[arg(long, value_parser = or_none(rate))]
    rate: Option<Wanted<Rate>>,

    /// How many of them may start at once after a pause [default: what the rate gives in 100ms]
    #[arg(long, value_name = "JOBS", value_parser = or_none(count::<{ u32::MAX }>))]
    burst: Option<Wanted<u32>>,

    /// After so many failures within a window, start nothing for a while, and then one job to see
    /// how it is: failures=10,window=30s,cooldown=20s, or those of them that change
    #[arg(long, value_name = "WHEN", value_parser = or_none(breaker))]
    breaker: Option<Wanted<BreakerChange>>,

    /// Let the concurrency follow what the provider can take, but not below this
    #[arg(long, value_name = "JOBS", value_parser = or_none(count::<{ u32::MAX }>))]
    adaptive_floor: Option<Wanted<u32>>,

    /// How many turns its jobs get where others get one
    #[arg(long, value_parser = or_none(count::<WEIGHT_MAX>))]
    weight: Option<Wanted<u32>>,

    /// The most jobs that wait and run together; what is more is refused when it is enqueued
    #[arg(long, value_name = "JOBS", value_parser = or_none(whole))]
    max_live: Option<Wanted<u64>>,
}

/// What a setting is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted<T> {
    Is(T),
    None,
}

/// Reads `none`, or what `parse` reads.
fn or_none<T>(
    parse: impl Fn(&str) -> Result<T, String> + Clone,
) -> impl Fn(&str) -> Result<Wanted<T>, String> + Clone {
    move |text| match text {
        "none" => Ok(Wanted::None),
        _ => parse(text).map(Wanted::Is),
    }
}

fn whole(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err(format!("{text:?} is not possible; write a whole number from 1 on")),
    }
}

/// The parts of a breaker that change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct BreakerChange {
    failures: Option<u32>,
    window: Option<Duration>,
    cooldown: Option<Duration>,
}

const BREAKER: &str = "failures=10,window=30s,cooldown=20s";

fn breaker(text: &str) -> Result<BreakerChange, String> {
    let mut change = BreakerChange::default();
    let mut named = Vec::new();
    for part in text.split(',') {
        let name = part.split('=').next().unwrap_or_default().trim();
        if named.contains(&name) {
            return Err(format!("{name:?} is there twice; keep one"));
        }
        named.push(name);
        match part.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
            Some(("failures", value)) => {
                change.failures = Some(count::<LIMIT_FAILURES_MAX>(value)?);
            }
            Some(("window", value)) => change.window = Some(time(value)?),
            Some(("cooldown", value)) => change.cooldown = Some(time(value)?),
            _ => return Err(format!("{part:?} is no part of a breaker; write {BREAKER}")),
        }
    }
    Ok(change)
}

impl<T: Copy> Wanted<T> {
    /// What becomes of `before` if this is asked for.
    fn over(asked: Option<Self>, before: Option<T>) -> Option<T> {
        match asked {
            None => before,
            Some(Self::Is(value)) => Some(value),
            Some(Self::None) => None,
        }
    }
}

impl Args {
    /// # Errors
    /// What cannot be meant, whatever the store has.
    pub(super) fn verify(&self) -> Result<(), Failure> {
        if matches!((self.rate, self.burst), (Some(Wanted::None), Some(Wanted::Is(_)))) {
            return Err(Failure::usage("a burst belongs to a rate; leave one of the two out"));
        }
        Ok(())
    }

    /// What becomes of settings.
    ///
    /// # Errors
    /// What is missing or cannot be.
    fn over(&self, before: &LimitSettings) -> Result<LimitSettings, String> {
        let floor = Wanted::over(self.adaptive_floor, before.adaptive.map(|a| a.floor));
        let settings = LimitSettings {
            concurrency: Wanted::over(self.concurrency, before.concurrency),
            rate: self.rate_over(before.rate)?,
            breaker: self.breaker_over(before.breaker)?,
            adaptive: floor.map(|floor| Adaptive { floor }),
            weight: Wanted::over(self.weight, before.weight),
            max_live: Wanted::over(self.max_live, before.max_live),
        };
        if settings.is_empty() {
            return Err(format!("nothing would be left; workerd limit rm {} says so", self.target));
        }
        settings.validate(&self.target).map_err(|invalid| match invalid.field() {
            "queue" => reason(&invalid),
            "adaptive" => {
                format!("adaptive: {}; say --adaptive-floor N, or none", reason(&invalid))
            }
            field => format!("{field}: {}", reason(&invalid)),
        })?;
        Ok(settings)
    }

    /// A burst that the rate does not give by itself stays; one that it gives, chosen or not, follows
    /// it: it would let too much start at once at a slower rate, and keep a faster one from being reached.
    fn rate_over(&self, before: Option<Rate>) -> Result<Option<Rate>, String> {
        let Some(rate) = Wanted::over(self.rate, before) else {
            return match self.burst {
                Some(Wanted::Is(_)) => Err("there is no rate yet; say --rate as well".to_owned()),
                _ => Ok(None),
            };
        };
        let by_itself = |rate: Rate| Rate::new(rate.count, rate.period);
        let chosen = before.filter(|rate| by_itself(*rate) != *rate).map(|rate| rate.burst);
        let rate = by_itself(rate);
        Ok(Some(Wanted::over(self.burst, chosen).map_or(rate, |burst| rate.with_burst(burst))))
    }

    /// What is told if the burst follows the rate: whoever chose it may not have meant that.
    fn followed(&self, before: Option<Rate>, now: Option<Rate>) -> Option<String> {
        let (before, now) = (before?.burst, now?.burst);
        (self.burst.is_none() && before != now).then(|| {
            format!(
                "the burst is what the rate gives in 100ms, as before, and {now} now; say --burst \
                 {before} to have it stay as it was"
            )
        })
    }

    fn breaker_over(&self, before: Option<Breaker>) -> Result<Option<Breaker>, String> {
        let change = match self.breaker {
            None => return Ok(before),
            Some(Wanted::None) => return Ok(None),
            Some(Wanted::Is(change)) => change,
        };
        let failures = change.failures.or(before.map(|breaker| breaker.failures));
        let window = change.window.or(before.map(|breaker| breaker.window));
        let cooldown = change.cooldown.or(before.map(|breaker| breaker.cooldown));
        match (failures, window, cooldown) {
            (Some(failures), Some(window), Some(cooldown)) => {
                Ok(Some(Breaker { failures, window, cooldown }))
            }
            _ => Err(format!("there is no breaker yet; say all of it: --breaker {BREAKER}")),
        }
    }
}

/// # Errors
/// Why it was not set.
pub(super) async fn execute(common: &Common, queue: &Queue, args: &Args) -> Outcome {
    let target = &args.target;
    let own = settings_of(queue, target).await?;
    let class = match target {
        LimitTarget::Key(key) if own.is_none() => {
            settings_of(queue, &LimitTarget::class_of(key)).await?
        }
        _ => None,
    };
    let refused = |error: String| Failure::usage(error).context(target);
    let before = own.unwrap_or_default();
    let settings = args.over(&before).map_err(refused)?;
    let changed = queue.set_limit(target, &settings).await?;
    let hints: Vec<String> = limits::hint(&settings)
        .into_iter()
        .chain(args.followed(before.rate, settings.rate))
        .chain(class.map(|class| left(target, &class)))
        .collect();
    let document =
        json!({ "limit": target, "changed": changed, "settings": settings, "hints": hints });
    common.answer(&document, || {
        let so = if changed { "" } else { " (as before)" };
        let hints: String = hints.iter().map(|hint| format!("hint: {hint}\n")).collect();
        format!("{target}: {}{so}\n{hints}", limits::settings(&settings))
    })?;
    Ok(Exit::Done)
}

/// Told when a key gets its first settings of its own.
fn left(target: &LimitTarget, class: &LimitSettings) -> String {
    format!(
        "{target} has settings of its own now, which stand for themselves: what {}:* allows ({}) \
         does not count for it any more",
        target.class(),
        limits::settings(class)
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &str) -> Args {
        Line::try_parse_from(["set", "a:b"].into_iter().chain(line.split(' '))).unwrap().args
    }

    fn set(before: &LimitSettings, line: &str) -> Result<LimitSettings, String> {
        args(line).over(before)
    }

    #[test]
    fn only_what_is_named_changes() {
        let whole = "--concurrency 8 --rate 500/1m --burst 50 --weight 3 --max-live 1000 \
                     --adaptive-floor 2 --breaker failures=10,window=30s,cooldown=20s";
        let all = set(&LimitSettings::default(), &whole.replace("  ", " ")).unwrap();
        assert_eq!(
            limits::settings(&all),
            "concurrency 2 to 8, rate 500/1m (burst 50), breaker 10 in 30s (open 20s), weight 3, \
             max_live 1000"
        );
        let less = set(&all, "--rate 100/1m --breaker window=1m --weight none").unwrap();
        assert_eq!(
            limits::settings(&less),
            "concurrency 2 to 8, rate 100/1m (burst 50), breaker 10 in 1m (open 20s), max_live 1000"
        );
        let none = "--rate none --breaker none --adaptive-floor none --max-live none";
        assert_eq!(limits::settings(&set(&less, none).unwrap()), "concurrency 8");
        let refused = set(&all, "--concurrency none").unwrap_err();
        assert!(refused.starts_with("adaptive: it needs a concurrency"), "{refused}");
    }

    #[test]
    fn a_burst_that_nobody_chose_follows_the_rate() {
        let fast = set(&LimitSettings::default(), "--rate 1000/s").unwrap();
        assert_eq!(fast.rate.unwrap().burst, 100);
        assert_eq!(set(&fast, "--rate 1/s").unwrap().rate.unwrap().burst, 1);
        let chosen = set(&fast, "--burst 7").unwrap();
        assert_eq!(set(&chosen, "--rate 1/s").unwrap().rate.unwrap().burst, 7);
        assert_eq!(set(&chosen, "--burst none").unwrap(), fast);
    }

    #[test]
    fn a_burst_that_follows_the_rate_is_told() {
        let told = |before: &LimitSettings, line: &str| {
            args(line).followed(before.rate, set(before, line).unwrap().rate)
        };
        let none = LimitSettings::default();
        assert_eq!(told(&none, "--rate 1000/s"), None);
        // Chosen, and what the rate gives by itself: nobody can tell them apart.
        let one = set(&none, "--rate 10/s --burst 1").unwrap();
        assert!(told(&one, "--rate 1000/s").unwrap().contains("100 now; say --burst 1 to"));
        assert_eq!(told(&one, "--rate 1000/s --burst 1"), None);
        assert_eq!(told(&one, "--rate none --concurrency 1"), None);
        let chosen = set(&none, "--rate 10/s --burst 7").unwrap();
        assert_eq!(told(&chosen, "--rate 1000/s"), None);
    }

    #[test]
    fn what_is_missing_is_said() {
        let none = LimitSettings::default();
        for (line, expected) in [
            ("--burst 5", "--rate"),
            ("--breaker failures=5", BREAKER),
            ("--rate none", "limit rm a:b"),
            ("--adaptive-floor 2", "needs a concurrency"),
        ] {
            let error = set(&none, line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
        for line in [
            "--rate 5",
            "--weight 101",
            "--breaker a=b",
            "--breaker failures=1,failures=2",
            "--concurrency 0",
            "--max-live x",
        ] {
            let line = ["set", "a:b"].into_iter().chain(line.split(' '));
            assert!(Line::try_parse_from(line).is_err());
        }
        assert!(Line::try_parse_from(["set", "a:b"]).is_err());
        assert!(args("--rate none --burst 5").verify().is_err());
    }
}
