//! `kubectl desktopstream`: lists, opens and diagnoses DesktopStreams.
//!
//! Every request to the API server goes through `kubectl`, which supplies credentials, contexts and proxies. Snapshots and
//! the viewer page come from the sidecar, through a port that kubectl forwards.

mod cli;
mod kubectl;
mod list;
mod open;
mod port_forward;
mod snapshot;
mod target;

pub use cli::Plugin;
