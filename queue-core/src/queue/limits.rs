//! Limits, by the queue's handle.

use super::Queue;
use crate::backend::PASS_MAX;
use crate::{Error, LimitKey, LimitSettings, LimitStatus, LimitTarget};

impl Queue {
    /// Sets what a limit key (`provider:openai`) or a class of them (`tenant:*`) allows, for
    /// everyone and from now on; answers whether that was a change. Running jobs are left alone.
    ///
    /// Settings replace earlier ones of the same target as a whole.
    ///
    /// ```
    /// use queue_core::{LimitSettings, LimitTarget, Queue};
    ///
    /// # async fn example(queue: Queue) -> Result<(), Box<dyn std::error::Error>> {
    /// let two = LimitSettings { concurrency: Some(2), ..LimitSettings::default() };
    /// queue.set_limit(&LimitTarget::new("tenant:*")?, &two).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::BadRequest`] if the settings cannot be used, or too many limits are set; those of
    /// every [`Backend`](crate::Backend) call.
    pub async fn set_limit(
        &self,
        target: &LimitTarget,
        settings: &LimitSettings,
    ) -> Result<bool, Error> {
        let refused = |invalid| Error::BadRequest(format!("the limit {target}: {invalid}"));
        settings.validate(target).map_err(refused)?;
        self.backend.set_limit_boxed(target, Some(settings)).await
    }

    /// Removes the settings of a key or a class; answers whether there were any. Keys fall back to
    /// the default of their class, if it has one.
    ///
    /// # Errors
    /// Those of every [`Backend`](crate::Backend) call.
    pub async fn remove_limit(&self, target: &LimitTarget) -> Result<bool, Error> {
        self.backend.set_limit_boxed(target, None).await
    }

    /// Ends by hand what keeps jobs of a limit key from starting for a time: the pause that its
    /// provider asked for, a breaker that is open, and a concurrency that adapting has reduced.
    /// Answers whether there was any of it. Settings, running jobs and what the rate has counted
    /// stay as they are; a provider that has not recovered closes the key again.
    ///
    /// # Errors
    /// Those of every [`Backend`](crate::Backend) call.
    pub async fn reset_limit(&self, key: &LimitKey) -> Result<bool, Error> {
        self.backend.reset_limit_boxed(key).await
    }

    /// All settings of limits, keys before classes.
    ///
    /// # Errors
    /// Those of every [`Backend`](crate::Backend) call.
    pub async fn limits(&self) -> Result<Vec<(LimitTarget, LimitSettings)>, Error> {
        self.backend.limits_boxed().await
    }

    /// What limit keys have running, allow and wait for, in order.
    ///
    /// # Errors
    /// Those of every [`Backend`](crate::Backend) call.
    pub async fn limit_status(&self, keys: &[LimitKey]) -> Result<Vec<LimitStatus>, Error> {
        let mut statuses = Vec::with_capacity(keys.len());
        for some in keys.chunks(PASS_MAX as usize) {
            statuses.extend(self.backend.limit_status_boxed(some).await?);
        }
        Ok(statuses)
    }
}
