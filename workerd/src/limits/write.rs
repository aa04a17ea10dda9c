//! The limits of the configuration, written to the store.

use std::collections::BTreeMap;

use queue::{Error, LimitTarget, Queue};

use super::{hint, settings};
use crate::config::Limits;
use crate::waits::Waits;

/// Writes the limits that the store does not have like this, and goes on trying while that can
/// help. Limits that are not named stay as they are. Answers how many have changed.
///
/// # Errors
/// Why the store does not take them.
///
/// # Cancel safety
/// Some may be written. Writing them again is safe.
pub(crate) async fn write(queue: &Queue, limits: &Limits) -> Result<usize, Error> {
    if limits.is_empty() {
        return Ok(0);
    }
    let mut waits = Waits::default();
    loop {
        let error = match try_to_write(queue, limits).await {
            Err(error @ (Error::Unavailable(_) | Error::StoreFull(_))) => error,
            answer => return answer,
        };
        tracing::warn!(event = "limits_not_written", %error);
        waits.next().await;
    }
}

async fn try_to_write(queue: &Queue, limits: &Limits) -> Result<usize, Error> {
    let before: BTreeMap<LimitTarget, _> = queue.limits().await?.into_iter().collect();
    let mut changed = 0;
    for (target, wanted) in
        limits.iter().filter(|(target, wanted)| before.get(target) != Some(wanted))
    {
        queue.set_limit(target, wanted).await?;
        changed += 1;
        let (allows, hint) = (settings(wanted), hint(wanted));
        match before.get(target).map(settings) {
            None => tracing::info!(event = "limit_set", limit = %target, allows),
            Some(before) => tracing::info!(event = "limit_set", limit = %target, allows, before),
        }
        if let Some(hint) = hint {
            tracing::warn!(event = "limit_out_of_reach", limit = %target, hint);
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use queue::LimitSettings;

    use super::*;

    fn limits(of: &[(&str, u32)]) -> Limits {
        let limit = |(target, most): &(&str, u32)| {
            let settings = LimitSettings { concurrency: Some(*most), ..LimitSettings::default() };
            (LimitTarget::new(target).unwrap(), settings)
        };
        of.iter().map(limit).collect()
    }

    #[tokio::test]
    async fn what_differs_is_written_and_what_is_not_named_stays() {
        let queue = Queue::memory();
        assert_eq!(write(&queue, &limits(&[("a:b", 1), ("a:*", 2)])).await.unwrap(), 2);
        assert_eq!(write(&queue, &limits(&[("a:b", 1), ("a:*", 2)])).await.unwrap(), 0);
        // Set by hand: the configuration wins where it says something.
        for by_hand in limits(&[("a:b", 7), ("by:hand", 8)]) {
            queue.set_limit(&by_hand.0, &by_hand.1).await.unwrap();
        }
        assert_eq!(write(&queue, &limits(&[("a:b", 1)])).await.unwrap(), 1);
        let now: Limits = queue.limits().await.unwrap().into_iter().collect();
        assert_eq!(now, limits(&[("a:b", 1), ("a:*", 2), ("by:hand", 8)]));
    }
}
