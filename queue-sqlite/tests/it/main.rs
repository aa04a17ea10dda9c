//! The suite that every backend must pass, and what is special about this one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests and their helpers")]

mod damage;
mod files;
mod full;
mod lifecycle;
mod load;
mod processes;
mod support;
mod waking;

queue_core::conformance!(crate::support::SqliteHarness::new());
queue_core::model_test!(crate::support::SqliteHarness::new());
