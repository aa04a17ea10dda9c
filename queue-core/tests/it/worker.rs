//! The worker engine.

mod ahead;
mod outcomes;
mod stopping;
mod stores;
mod waiting;
