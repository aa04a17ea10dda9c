//! The worker engine.

mod outcomes;
mod stopping;
mod stores;
mod waiting;
