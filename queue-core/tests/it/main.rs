//! The queue handle and the worker engine over the memory backend, and over one that loses calls
//! and replies.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod enqueue;
mod explain;
mod limits;
mod operate;
mod support;
mod together;
mod worker;
