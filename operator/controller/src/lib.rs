//! Controllers of `DesktopStream` and `HostAgent` in a cluster.
//!
//! ```text
//!  watches ──▶ stores ──▶ reconcile: dereference ─ validate ─ build ─ apply ─ status ──▶ apiserver
//!     └── streams that a change concerns ──▶ queue ──┘
//!                                              ▲
//! sidecars ──▶ poller: streams with news ──────┘
//! ```
//! There are no finalizers: every object of a stream is in its namespace and owned by it, and the host-agent ends a session
//! with its sidecar.

mod apply;
pub mod calls;
mod context;
mod error;
mod events;
mod host_agents;
mod keys;
mod lease;
mod memory;
mod metrics;
mod ownership;
mod poller;
mod reconcile;
mod run;
mod secrets;
mod stores;
#[cfg(test)]
mod testing;

pub use context::Settings;
pub use run::{Options, run};
