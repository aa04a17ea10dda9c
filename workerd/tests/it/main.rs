//! The real thing: the built program, real stores, real signals.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

mod cli;
mod crash;
mod damage;
mod demo;
mod enqueue;
mod limits;
mod operate;
mod run;
mod startup;
mod support;
mod watch;
