//! `durability = "fsync"`: an acknowledged write is on the disk.

use queue_core::Error;
use redis::Value;

use super::RedisBackend;
use crate::reply;
use crate::store::{self, Call, Repeat};

impl RedisBackend {
    /// Makes sure that the server flushes every write to its disk before it answers: the
    /// append-only file is on and `appendfsync` is `always`.
    ///
    /// # Errors
    /// [`Error::Refused`] if it does not, or does not tell (managed services forbid `CONFIG`).
    pub async fn require_fsync(&self) -> Result<(), Error> {
        for (name, wanted) in [("appendonly", "yes"), ("appendfsync", "always")] {
            let found = self.setting(name).await?;
            if found != wanted {
                return Err(Error::Refused(format!(
                    "durability \"fsync\" needs {name} {wanted} on the Redis server and it is \
                     {found:?}: change it there, or ask for durability \"memory\""
                )));
            }
        }
        Ok(())
    }

    async fn setting(&self, name: &str) -> Result<String, Error> {
        let mut cmd = redis::cmd("CONFIG");
        cmd.arg("GET").arg(name);
        let untold = |error| match error {
            Error::Refused(why) => Error::Refused(format!(
                "durability \"fsync\" cannot be verified, CONFIG GET is not allowed: {why}"
            )),
            other => other,
        };
        let answer = store::one(&self.link, Call::plain(cmd), Repeat::Freely).await;
        let pair = reply::array(answer.map_err(untold)?)?;
        let value = reply::bytes(pair.into_iter().nth(1).unwrap_or(Value::Nil))?;
        Ok(String::from_utf8_lossy(&value).into_owned())
    }
}
