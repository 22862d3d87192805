//! The fence around libpipewire: what the `pipewire` crate leaves to raw pointers, with a safe face.
//!
//! - [`Lent`]: a stream's buffers, kept for longer than the callback that brought them.
//! - [`context`]: a context that needs no `client.conf`.
//!
//! It does not know formats, frames or desktops.

mod config;
mod lent;

pub use config::{ConfigError, context};
pub use lent::{Added, Filled, Kind, Lent, Watch};
