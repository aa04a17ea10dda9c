//! `workerd limit rm`.

use queue::{LimitTarget, Queue};
use serde_json::json;

use super::view::LimitView;
use crate::cli::Common;
use crate::exit::{Exit, Failure, Outcome};
use crate::limits;

/// Removes what there is of them.
///
/// # Errors
/// Why one was not removed; if nothing was set for some, that.
pub(super) async fn execute(common: &Common, queue: &Queue, targets: &[LimitTarget]) -> Outcome {
    let mut missing = Vec::new();
    for target in targets {
        if queue.remove_limit(target).await? {
            tell(common, queue, target).await?;
        } else {
            missing.push(target.to_string());
        }
    }
    let nothing = |of: &str| Failure::new(Exit::NotFound, format!("nothing is set for {of}"));
    match missing.as_slice() {
        [] => Ok(Exit::Done),
        [target] => Err(nothing(target).detail("limit", target.clone())),
        targets => Err(nothing(&targets.join(", ")).detail("limits", targets)),
    }
}

/// That it was removed, and what counts now.
async fn tell(common: &Common, queue: &Queue, target: &LimitTarget) -> Result<(), Failure> {
    let now = match target {
        LimitTarget::Key(key) => queue.limit_status(std::slice::from_ref(key)).await?.pop(),
        LimitTarget::Class(_) => None,
    };
    let now = now.map(LimitView::of_key);
    let (settings, of) = now.map_or((None, None), |view| (view.settings, view.settings_of));
    let document =
        json!({ "limit": target, "removed": true, "settings": settings, "settings_of": of });
    common.answer(&document, || {
        let so = settings.as_ref().zip(of).map(|(settings, of)| {
            format!("; what {of} allows counts now: {}", limits::settings(settings))
        });
        format!("removed what was set for {target}{}\n", so.unwrap_or_default())
    })
}
