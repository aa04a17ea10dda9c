//! `workerd check`: is everything as it should be?

use queue::backend::{CheckFinding, Verdict};
use serde::Serialize;

use super::Common;
use crate::config::{Config, View};
use crate::daemon::NOTHING_TO_RUN;
use crate::display::{escape, table};
use crate::exit::{Exit, Outcome};

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
    let mut findings = Vec::new();
    if common.config.is_some() && config.executors.is_empty() {
        let name = "executors";
        findings.push(warning(name, "none", NOTHING_TO_RUN));
    }
    if config.store.url()?.is_missing_file() {
        let found = "there is no such file yet";
        findings.push(warning("database", found, "the first workerd run or enqueue makes it"));
    } else {
        findings.extend(common.connect().await?.check().await?.into_iter().map(finding));
    }
    let has_bad = findings.iter().any(|finding| finding.verdict == "bad");
    let config = common.config.is_some().then_some(config);
    let checked = Checked { config: config.as_ref().map(View::of), findings };
    common.answer(&checked, || report(common, config.as_ref(), &checked.findings))?;
    Ok(if has_bad { Exit::Failed } else { Exit::Done })
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
