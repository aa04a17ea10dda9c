//! The Redis backend of a distributed job queue.
//!
//! [`RedisBackend`] implements [`Backend`](queue_core::Backend): each of its calls is one Lua
//! script (`lua/`), so each is one atomic step. The keys are described in the crate's README.

mod audit;
mod backend;
mod check;
mod connect;
mod errors;
mod keys;
mod record;
mod reply;
mod scripts;
mod store;
mod wait;

pub use backend::RedisBackend;
