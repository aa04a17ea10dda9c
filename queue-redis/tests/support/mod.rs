//! What the tests share.

pub mod harness;
pub mod jobs;
pub mod log;
pub mod proxy;
pub mod server;
pub mod twin;
