//! Limits as workerd writes them to the store and shows them to people.

mod in_force;
mod text;
mod write;

pub(crate) use in_force::InForce;
pub(crate) use text::{blocked, hint, name_of, of, settings};
use write::write;
