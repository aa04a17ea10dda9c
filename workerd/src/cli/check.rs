//! `workerd check`: is everything as it should be?

use queue::backend::{CheckFinding, Verdict};
use queue::{Error, LimitKey, LimitTarget};
use serde::Serialize;

use super::Common;
use super::store::WHO_MAKES_IT;
use crate::config::{Config, Limits, View};
use crate::daemon::NOTHING_TO_RUN;
use crate::display::{escape, table};
use crate::executor::command::CLOSES_NOTHING;
use crate::exit::{Exit, Outcome};
use crate::limits;

#[derive(Serialize)]
struct Checked {
    /// The effective configuration; null if no file was named.
    config: Option<View>,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Finding {
    name: &'static str,
    verdict: &'static str,
    found: String,
    remedy: String,
}

/// # Errors
/// What is wrong with the configuration, or why the store could not be looked at.
pub(super) async fn check(common: &Common) -> Outcome {
    let config = Config::load(common.config.as_deref(), &common.layers())?;
    let (mut findings, mut is_available) = (Vec::new(), true);
    if common.config.is_some() && config.executors.is_empty() {
        let name = "executors";
        findings.push(warning(name, "none", NOTHING_TO_RUN));
    }
    let mut limits = config.limits.clone();
    for (target, settings) in &limits {
        let allows = format!("{target} allows {}", limits::settings(settings));
        let hint = limits::hint(settings);
        findings.extend(hint.map(|hint| warning("limits", &allows, &hint)));
    }
    for (kind, _) in config.executors.iter().filter(|(_, command)| command.closes_nothing()) {
        let found = format!("{kind} has throttled, and neither a provider nor limits");
        findings.push(warning("executors", &found, CLOSES_NOTHING));
    }
    if let Some(file) = config.store.missing_file()? {
        let found = format!("{} is not there yet", file.display());
        findings.push(warning("database", &found, WHO_MAKES_IT));
    } else {
        match config.store.open().await? {
            Ok(queue) => {
                limits.extend(queue.limits().await?);
                findings.extend(queue.check().await?.into_iter().map(finding));
            }
            // No worker starts on it, and the rest cannot be looked at.
            Err(Error::Refused(why)) => {
                findings.push(unfit(why, "no worker can use this store as it is"));
            }
            // Such as a replica, while a fail-over is under way.
            Err(Error::Unavailable(why)) => {
                findings.push(unfit(why, "workers wait until it serves them"));
                is_available = false;
            }
            Err(error) => return Err(config.store.failure(error)),
        }
    }
    findings.extend(unlimited(&config, &limits));
    let has_bad = findings.iter().any(|finding| finding.verdict == "bad");
    let config = common.config.is_some().then_some(config);
    let checked = Checked { config: config.as_ref().map(View::of), findings };
    common.answer(&checked, || report(common, config.as_ref(), &checked.findings))?;
    Ok(match has_bad {
        _ if !is_available => Exit::Unavailable,
        true => Exit::Failed,
        false => Exit::Done,
    })
}

/// Keys of executors that nothing limits: a misspelt name limits nothing, either.
fn unlimited<'a>(config: &'a Config, limits: &'a Limits) -> impl Iterator<Item = Finding> + 'a {
    config.executors.iter().flat_map(move |(kind, command)| {
        let is_limited = |key: &&LimitKey| {
            let targets = [LimitTarget::Key((*key).clone()), LimitTarget::class_of(key)];
            targets.iter().any(|target| limits.contains_key(target))
        };
        let keys = command.limits.iter().filter(move |key| !is_limited(key));
        keys.map(move |key| {
            let found = format!("{kind} needs {key}, which nothing limits");
            let remedy = format!("add [limits.\"{key}\"], or set it: workerd limit set {key}");
            warning("limits", &found, &remedy)
        })
    })
}

/// What a store that no worker can use is found to be.
fn unfit(why: String, remedy: &str) -> Finding {
    Finding { name: "store", verdict: "bad", found: why, remedy: remedy.to_owned() }
}

fn warning(name: &'static str, found: &str, remedy: &str) -> Finding {
    Finding { name, verdict: "warning", found: found.to_owned(), remedy: remedy.to_owned() }
}

fn finding(finding: CheckFinding) -> Finding {
    let verdict = match finding.verdict {
        Verdict::Good => "good",
        Verdict::Warning => "warning",
        Verdict::Bad => "bad",
    };
    Finding { name: finding.name, verdict, found: finding.found, remedy: finding.remedy }
}

fn report(common: &Common, config: Option<&Config>, findings: &[Finding]) -> String {
    let mut text = String::new();
    if let (Some(path), Some(config)) = (&common.config, config) {
        let kinds: Vec<&str> = config.executors.keys().map(|kind| kind.as_str()).collect();
        let path = path.display().to_string();
        text += &format!("{}: good; runs {}\n\n", escape(&path), kinds.join(", "));
    }
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|f| vec![f.verdict.to_owned(), f.name.to_owned(), f.found.clone(), f.remedy.clone()])
        .collect();
    text + &table(&["verdict", "what", "found", "what to do"], &rows)
}
