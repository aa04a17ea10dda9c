//! `[limits."provider:openai"]`, `[queues.default] max_live`, and what an executor adds to the
//! keys of its jobs.

use std::collections::BTreeMap;
use std::time::Duration;

use queue::{
    Adaptive, Breaker, InvalidLimit, LIMIT_FAILURES_MAX, LimitKey, LimitKeys, LimitSettings,
    LimitTarget, QUEUE_CLASS, QueueName, Rate, WEIGHT_MAX,
};

use super::raw::{Found, Item, Place, Source, Table, setting};
use super::value;

/// What keys, classes of keys and queues allow.
pub(crate) type Limits = BTreeMap<LimitTarget, LimitSettings>;

/// The most that can be written as a number of jobs: more than any store has.
const JOBS_MAX: usize = 1_000_000_000_000;

/// Reads `[limits]` and `[queues]`.
pub(super) fn read(limits: Table<'_, '_>, queues: Table<'_, '_>) -> Limits {
    let source = limits.source();
    let mut all = Limits::new();
    for (key, place, table) in limits.tables() {
        let target = target(&key).map_err(|e| source.wrong(&place, e)).ok();
        let settings = target.as_ref().and_then(|target| settings(table, &place, target));
        all.extend(target.zip(settings));
    }
    for (key, place, table) in queues.tables() {
        let name = QueueName::new(&key).map_err(|e| source.wrong(&place, e.to_string())).ok();
        let Some((target, settings)) = name.and_then(|name| of_queue(table, &name)) else {
            continue;
        };
        if all.insert(target.clone(), settings).is_some() {
            let message =
                format!("[limits.{:?}] limits this queue as well; keep one", target.to_string());
            source.wrong(&place, message);
        }
    }
    all
}

/// What a text stands for that names a limit.
///
/// # Errors
/// What to write.
pub(crate) fn target(text: &str) -> Result<LimitTarget, String> {
    let target = LimitTarget::new(text)
        .map_err(|e| format!("{e}; write a key such as \"provider:openai\", or \"tenant:*\""))?;
    match &target {
        LimitTarget::Key(key) if key.class() == QUEUE_CLASS => {
            QueueName::new(key.name()).map(|_| target).map_err(|e| e.to_string())
        }
        _ => Ok(target),
    }
}

/// Why settings cannot be used, without the name of the setting.
pub(crate) fn reason(invalid: &InvalidLimit) -> String {
    let text = invalid.to_string();
    let reason = text.strip_prefix(invalid.field()).and_then(|text| text.strip_prefix(": "));
    reason.map(str::to_owned).unwrap_or(text)
}

/// What a text says of how often jobs start.
///
/// # Errors
/// What to write.
pub(crate) fn rate(text: &str) -> Result<Rate, String> {
    text.parse().map_err(|e| reason(&e))
}

/// What a queue allows; `None` if it says nothing, or nothing that can be used.
fn of_queue(mut table: Table<'_, '_>, name: &QueueName) -> Option<(LimitTarget, LimitSettings)> {
    let source = table.source();
    let max_live = setting(table.integer("max_live", "a whole number"), source, jobs);
    table.unsupported("retention");
    table.finish();
    let key = LimitKey::new(format!("{QUEUE_CLASS}:{name}")).ok()?;
    let settings = LimitSettings { max_live: Some(max_live?), ..LimitSettings::default() };
    Some((LimitTarget::Key(key), settings))
}

fn jobs(text: &str) -> Result<u64, String> {
    value::count::<JOBS_MAX>(text).map(|jobs| jobs as u64)
}

/// A whole number from 1 to `MAX`.
///
/// # Errors
/// What to write.
pub(crate) fn count<const MAX: u32>(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number @ 1..) if number <= MAX => Ok(number),
        _ => Err(format!("{text:?} is not possible; write a whole number from 1 to {MAX}")),
    }
}

/// Reads what one key or class allows; `None` if any of it is wrong.
fn settings(
    mut table: Table<'_, '_>,
    place: &Place,
    target: &LimitTarget,
) -> Option<LimitSettings> {
    let source = table.source();
    let before = source.problems();
    let mut places = Vec::new();
    let number = "a whole number";
    let concurrency = noted(table.integer("concurrency", number), "concurrency", &mut places);
    let rate_text = table.string("rate", "a rate such as \"500/1m\"");
    let rate_text = noted(rate_text, "rate", &mut places);
    let burst_text = noted(table.integer("burst", number), "burst", &mut places);
    let adaptive = adaptive(&mut table, &mut places);
    let breaker = breaker(&mut table, &mut places);
    let weight = noted(table.integer("weight", number), "weight", &mut places);
    let max_live = noted(table.integer("max_live", number), "max_live", &mut places);
    table.finish();
    let settings = LimitSettings {
        concurrency: setting(concurrency, source, count::<{ u32::MAX }>),
        rate: rate_of(source, rate_text, burst_text),
        breaker,
        adaptive,
        weight: setting(weight, source, count::<WEIGHT_MAX>),
        max_live: setting(max_live, source, jobs),
    };
    if source.problems() > before {
        return None;
    }
    let refused = |invalid: InvalidLimit| {
        let field = invalid.field();
        let found = places.iter().find(|(name, _)| *name == field).map(|(_, place)| place);
        source.wrong(found.unwrap_or(place), explain(&invalid));
    };
    settings.validate(target).map_err(refused).ok().map(|()| settings)
}

/// A refusal in the words of a file.
fn explain(invalid: &InvalidLimit) -> String {
    match invalid.field() {
        "settings" => "nothing is limited; write at least one of concurrency, rate, breaker, \
                       weight and max_live, or remove the table"
            .to_owned(),
        _ => reason(invalid),
    }
}

/// Remembers where a setting stands.
fn noted<T>(
    found: Option<Found<T>>,
    field: &'static str,
    places: &mut Vec<(&'static str, Place)>,
) -> Option<Found<T>> {
    places.extend(found.iter().map(|found| (field, found.place.clone())));
    found
}

fn rate_of(
    source: &Source<'_>,
    rate_text: Option<Found<&str>>,
    burst: Option<Found<String>>,
) -> Option<Rate> {
    let has_rate = rate_text.is_some();
    let found = setting(rate_text, source, rate);
    match burst {
        Some(Found { place, .. }) if !has_rate => {
            source.wrong(&place, "there is no rate that it could belong to; write one as well");
            None
        }
        Some(burst) => {
            let burst = setting(Some(burst), source, count::<{ u32::MAX }>)?;
            found.map(|rate| rate.with_burst(burst))
        }
        None => found,
    }
}

const BREAKER: &str = "breaker = { failures = 10, window = \"30s\", cooldown = \"20s\" }";

fn breaker(table: &mut Table<'_, '_>, places: &mut Vec<(&'static str, Place)>) -> Option<Breaker> {
    let source = table.source();
    let (place, mut table) = table.table_and_place("breaker")?;
    places.push(("breaker", place.clone()));
    let failures = table.integer("failures", "a whole number");
    let window = table.string("window", "a duration such as \"30s\"");
    let cooldown = table.string("cooldown", "a duration such as \"20s\"");
    let missing = [
        ("failures", failures.is_none()),
        ("window", window.is_none()),
        ("cooldown", cooldown.is_none()),
    ];
    for (key, _) in missing.into_iter().filter(|(_, is_missing)| *is_missing) {
        table.missing(key, &place, &format!("is missing; write {BREAKER}"));
    }
    table.finish();
    let failures = setting(failures, source, count::<LIMIT_FAILURES_MAX>);
    let window = setting(window, source, time);
    let cooldown = setting(cooldown, source, time);
    Some(Breaker { failures: failures?, window: window?, cooldown: cooldown? })
}

fn adaptive(
    table: &mut Table<'_, '_>,
    places: &mut Vec<(&'static str, Place)>,
) -> Option<Adaptive> {
    let source = table.source();
    let (place, mut table) = table.table_and_place("adaptive")?;
    places.push(("adaptive", place.clone()));
    let floor = table.integer("floor", "a whole number");
    if floor.is_none() {
        table.missing("floor", &place, "is missing; write adaptive = { floor = 1 }");
    }
    table.finish();
    let floor = setting(floor, source, count::<{ u32::MAX }>)?;
    Some(Adaptive { floor })
}

/// A time as stores keep it: whole milliseconds, at least one.
///
/// # Errors
/// What to write.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let time = value::duration_from::<1>(text)?;
    if time.subsec_nanos() % 1_000_000 == 0 {
        Ok(time)
    } else {
        Err(format!("{text:?} has parts of a millisecond; write whole ones, such as \"1500ms\""))
    }
}

/// `provider = "openai"` and `limits = ["class:name"]` of an executor: the keys that its jobs
/// need here beside their own, with the one of the provider.
pub(super) fn of_executor(table: &mut Table<'_, '_>) -> (LimitKeys, Option<LimitKey>) {
    let source = table.source();
    let provider = table.string("provider", "a name such as \"openai\"");
    let limits = table.list("limits", "a list of keys such as [\"gpu:a100\"]");
    let place = provider.as_ref().map(|found| found.place.clone());
    let place = place.or_else(|| limits.as_ref().map(|found| found.place.clone()));
    let provider = setting(provider, source, |name| match name.strip_prefix("provider:") {
        Some(name) => Err(format!("write only the name, {name:?}; its key begins with provider:")),
        None => LimitKey::new(format!("provider:{name}")).map_err(|e| e.to_string()),
    });
    let limits = limits.map(|list| list.value).unwrap_or_default();
    let limits = limits.iter().filter_map(|item| limit_key(source, item));
    let keys = LimitKeys::new(provider.clone().into_iter().chain(limits));
    let refused = |error: queue::InvalidLimitKey| {
        source.wrong(place.as_ref()?, error.to_string());
        None
    };
    (keys.map_or_else(refused, Some).unwrap_or_default(), provider)
}

fn limit_key(source: &Source<'_>, item: &Item<'_, '_>) -> Option<LimitKey> {
    let text = item.as_str().unwrap_or_default();
    let key = LimitKey::new(text).map_err(|e| e.to_string());
    key.map_err(|e| source.wrong(&item.place, format!("{e}; write one such as \"gpu:a100\""))).ok()
}
