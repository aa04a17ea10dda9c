//! What the programs of this crate share.

pub mod delivery;
pub mod own_cpu;
pub mod recorder;
pub mod redis_server;
pub mod results;
pub mod server_figures;
