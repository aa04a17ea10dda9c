//! Tests against a real `redis-server`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]
#![allow(unreachable_pub, missing_docs, reason = "one binary: nothing is reached from outside")]

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod backlog;
mod blocked;
mod bounds;
mod check;
mod connections;
mod damage;
mod durability;
mod engine;
mod fail_over;
mod faults;
mod format;
mod fuzz;
mod large;
mod limit_audit;
mod limit_damage;
mod limit_waking;
mod limits;
mod moving_slot;
mod permissions;
mod plain;
mod plain_damage;
mod quarantine;
mod repair;
mod reset;
mod shelves;
mod standing;
mod store;
mod turns;
mod waiting;

mod contract {
    use crate::support::harness::RedisHarness;

    queue_core::conformance!(RedisHarness::new());
    queue_core::model_test!(RedisHarness::new());
}
