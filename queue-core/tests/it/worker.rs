//! The worker engine.

mod ahead;
mod blocked;
mod flights;
mod outcomes;
mod stopping;
mod stores;
mod waiting;
