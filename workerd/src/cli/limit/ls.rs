//! `workerd limit ls`.

use queue::{LimitKey, LimitSettings, LimitTarget, Queue};
use serde::Serialize;

use super::view::{BlockedView, LimitView};
use crate::cli::Common;
use crate::display::table;
use crate::exit::{Exit, Outcome};
use crate::limits;

#[derive(Serialize)]
struct Listed {
    limits: Vec<LimitView>,
}

/// # Errors
/// Why the store could not be looked at.
pub(super) async fn execute(common: &Common, queue: &Queue) -> Outcome {
    let (mut keys, mut classes): (Vec<LimitKey>, Vec<(LimitTarget, LimitSettings)>) =
        Default::default();
    for (target, settings) in queue.limits().await? {
        match target {
            LimitTarget::Key(key) => keys.push(key),
            LimitTarget::Class(_) => classes.push((target, settings)),
        }
    }
    let statuses = queue.limit_status(&keys).await?.into_iter().map(LimitView::of_key);
    let classes =
        classes.into_iter().map(|(t, settings)| LimitView::of_settings(&t, Some(settings)));
    let listed = Listed { limits: statuses.chain(classes).collect() };
    common.answer(&listed, || text(&listed.limits))?;
    Ok(Exit::Done)
}

fn text(listed: &[LimitView]) -> String {
    if listed.is_empty() {
        return "no limits\n".to_owned();
    }
    let row = |limit: &LimitView| {
        let blocked = limit.used.iter().flat_map(|used| &used.blocked);
        let blocked: Vec<String> = blocked.map(BlockedView::short).collect();
        vec![
            limit.limit.clone(),
            limit.running_text().unwrap_or_default(),
            limit.live_text().unwrap_or_default(),
            blocked.join(", "),
            limit.settings.as_ref().map(limits::settings).unwrap_or_default(),
        ]
    };
    let rows: Vec<Vec<String>> = listed.iter().map(row).collect();
    table(&["limit", "running", "live", "blocked", "allows"], &rows)
}
