//! The Redis backend of a distributed job queue.
//!
//! [`RedisBackend`] implements [`Backend`](queue_core::Backend): each of its calls is one Lua
//! script (`lua/`), so each is one atomic step. The keys are described in the crate's README.

mod audit;
mod backend;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod check;
mod clock;
mod connect;
mod durability;
mod epoch;
mod errors;
mod info;
mod keys;
mod options;
mod record;
mod reply;
mod scripts;
mod store;
mod wait;

pub use backend::RedisBackend;
pub use options::RedisOptions;
