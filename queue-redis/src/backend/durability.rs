//! Whether this server can give a durability at all.

use queue_core::{Durability, Error};

use super::RedisBackend;
use crate::check;
use crate::durability::plan;

impl RedisBackend {
    /// Makes sure, before anything is enqueued, that this server can give a durability: enqueues
    /// that ask for one which it cannot give are refused one by one otherwise.
    ///
    /// # Errors
    /// [`Error::Refused`] if it cannot as it is configured, with what to change; those of every
    /// call.
    pub async fn require(&self, durability: Durability) -> Result<(), Error> {
        if durability == Durability::Memory {
            return Ok(());
        }
        match plan(durability, &check::facts(&self.link).await?) {
            // What it just now does not give, it may give later.
            Ok(_) | Err(Error::Unavailable(_)) => Ok(()),
            Err(Error::Unsupported(why)) => Err(Error::Refused(why)),
            Err(error) => Err(error),
        }
    }
}
