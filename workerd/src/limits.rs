//! Limits as workerd writes them to the store and shows them to people.

mod text;
mod write;

pub(crate) use text::{blocked, hint, name_of, of, settings};
pub(crate) use write::write;
