//! `workerd limit ls`.

use std::collections::BTreeSet;

use queue::{Error, LimitKey, LimitSettings, LimitStatus, LimitTarget, Queue};
use serde::Serialize;

use super::view::{BlockedView, LimitView};
use crate::cli::Common;
use crate::display::table;
use crate::exit::{Exit, Outcome};
use crate::limits;

/// How many keys without settings are looked at. Workers may add one for each of thousands of hosts.
const ADDED_MAX: usize = 500;

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
    let mut statuses = queue.limit_status(&keys).await?;
    statuses.extend(closed_without_settings(queue, &keys).await?);
    let statuses = statuses.into_iter().map(LimitView::of_key);
    let classes =
        classes.into_iter().map(|(t, settings)| LimitView::of_settings(&t, Some(settings)));
    let listed = Listed { limits: statuses.chain(classes).collect() };
    common.answer(&listed, || text(&listed.limits))?;
    Ok(Exit::Done)
}

/// The keys that live workers add and that keep jobs from starting, other than `known`: a provider
/// may ask for a pause that has no settings.
async fn closed_without_settings(
    queue: &Queue,
    known: &[LimitKey],
) -> Result<Vec<LimitStatus>, Error> {
    let workers = queue.workers().await?;
    let kinds = workers.iter().flat_map(|worker| &worker.info.kinds);
    let added: BTreeSet<&LimitKey> = kinds.flat_map(|kind| kind.limits.iter()).collect();
    let others: Vec<LimitKey> =
        added.into_iter().filter(|key| !known.contains(key)).take(ADDED_MAX).cloned().collect();
    let mut statuses = queue.limit_status(&others).await?;
    statuses.retain(|status| !status.blocked.is_empty());
    Ok(statuses)
}

fn text(listed: &[LimitView]) -> String {
    if listed.is_empty() {
        return "no limits are set; limit show KEY tells about any key\n".to_owned();
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
