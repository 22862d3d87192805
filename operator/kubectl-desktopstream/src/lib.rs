//! `kubectl desktopstream`: what a person does with streams, said short.
//!
//! It asks kubectl for all that the apiserver knows, so that credentials, contexts and proxies are kubectl's business, and
//! the stream's sidecar, by a port that kubectl forwards, for pictures.

mod cli;
pub mod find;
mod kubectl;
pub mod list;
pub mod open;
mod reach;
mod snapshot;

pub use cli::Plugin;
