//! The worker engine.

mod ahead;
mod flights;
mod outcomes;
mod stopping;
mod stores;
mod waiting;
