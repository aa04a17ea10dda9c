//! `workerd limit show`.

use queue::{LimitSettings, LimitTarget, Queue};

use super::view::{LimitView, Use};
use crate::cli::Common;
use crate::exit::{Exit, Failure, Outcome};
use crate::limits;

/// # Errors
/// Why the store could not be looked at.
pub(super) async fn execute(common: &Common, queue: &Queue, targets: &[LimitTarget]) -> Outcome {
    let mut separator = "";
    for target in targets {
        let view = look(queue, target).await?;
        common.answer(&view, || format!("{separator}{}", text(&view)))?;
        separator = "\n";
    }
    Ok(Exit::Done)
}

async fn look(queue: &Queue, target: &LimitTarget) -> Result<LimitView, Failure> {
    let LimitTarget::Key(key) = target else {
        return Ok(LimitView::of_settings(target, settings_of(queue, target).await?));
    };
    let statuses = queue.limit_status(std::slice::from_ref(key)).await?;
    let status = statuses.into_iter().next();
    let none = || Failure::new(Exit::Failed, format!("the store says nothing about {key}"));
    status.map(LimitView::of_key).ok_or_else(none)
}

/// The settings that were made for exactly this target.
///
/// # Errors
/// Why the store could not be asked.
pub(super) async fn settings_of(
    queue: &Queue,
    target: &LimitTarget,
) -> Result<Option<LimitSettings>, Failure> {
    let all = queue.limits().await?;
    Ok(all.into_iter().find(|(other, _)| other == target).map(|(_, settings)| settings))
}

/// Where values begin.
const WIDTH: usize = 9;

/// Line by line, leaving out what there is nothing to say about.
fn text(view: &LimitView) -> String {
    let allows = match (&view.settings, &view.settings_of) {
        (Some(settings), Some(of)) if *of != view.limit => {
            format!("{} (as all of {of})", limits::settings(settings))
        }
        (Some(settings), _) => limits::settings(settings),
        (None, _) => "all: nothing is set".to_owned(),
    };
    let mut lines = vec![
        ("limit", Some(view.limit.clone())),
        ("allows", Some(allows)),
        ("running", view.running_text()),
        ("live", view.live_text()),
    ];
    if let Some(used) = &view.used {
        lines.push(("blocked", blocked(used)));
        lines.push(("held by", holders(used)));
        lines.push(("drift", drift(used)));
    }
    let said = lines.into_iter().filter_map(|(name, text)| Some((name, text?)));
    said.map(|(name, text)| format!("{name:WIDTH$}{text}\n")).collect()
}

fn blocked(used: &Use) -> Option<String> {
    let reasons: Vec<String> = used.blocked.iter().map(|view| view.to_text()).collect();
    (!reasons.is_empty()).then(|| reasons.join(&new_line()))
}

fn holders(used: &Use) -> Option<String> {
    let mut lines: Vec<String> = used.holders.iter().map(ToString::to_string).collect();
    let more = used.running.unwrap_or(0).saturating_sub(lines.len() as u64);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    (!lines.is_empty()).then(|| lines.join(&new_line()))
}

fn drift(used: &Use) -> Option<String> {
    let drift = used.drift;
    let what =
        "taken wrongly, because the store was damaged; `workerd audit --repair` puts it right";
    (drift > 0).then(|| format!("{drift} {what}"))
}

fn new_line() -> String {
    format!("\n{:WIDTH$}", "")
}
