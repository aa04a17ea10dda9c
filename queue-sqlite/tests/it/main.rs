//! The suite that every backend must pass, and what is special about this one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests and their helpers")]

mod bulk;
mod chunks;
mod corrupt;
mod damage;
mod durability;
mod files;
mod full;
mod golden;
mod lifecycle;
mod limits;
mod listing;
mod load;
mod processes;
mod repair;
mod support;
mod tokens;
mod waking;

queue_core::conformance!(crate::support::SqliteHarness::new());
queue_core::model_test!(crate::support::SqliteHarness::new());
