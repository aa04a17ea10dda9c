//! What the programs of this crate share.

pub mod redis_server;
