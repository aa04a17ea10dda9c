//! The worker engine.

mod flights;
mod outcomes;
mod stopping;
mod stores;
mod waiting;
