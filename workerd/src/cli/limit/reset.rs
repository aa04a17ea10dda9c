//! `workerd limit reset`.

use queue::{LimitKey, Queue};
use serde_json::json;

use super::view::LimitView;
use crate::cli::Common;
use crate::exit::{Exit, Outcome};

/// Ends what there is to end of each key; a key of which nothing is to end is none the worse.
///
/// # Errors
/// Why one was not looked at.
pub(super) async fn execute(common: &Common, queue: &Queue, keys: &[LimitKey]) -> Outcome {
    for key in keys {
        let reset = queue.reset_limit(key).await?;
        let statuses = queue.limit_status(std::slice::from_ref(key)).await?;
        let blocked: Vec<_> = statuses
            .into_iter()
            .flat_map(|status| LimitView::of_key(status).used)
            .flat_map(|used| used.blocked)
            .collect();
        let document = json!({ "limit": key, "reset": reset, "blocked": blocked });
        common.answer(&document, || {
            let what = if reset { "is as if nothing had happened" } else { "had nothing to end" };
            let still: Vec<String> = blocked.iter().map(|view| view.to_text()).collect();
            let but = if still.is_empty() { "" } else { "; blocked: " };
            format!("{key} {what}{but}{}\n", still.join(", "))
        })?;
    }
    Ok(Exit::Done)
}
