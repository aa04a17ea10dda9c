//! What workerd runs for a job of a kind, as its configuration says.

pub(crate) mod command;
