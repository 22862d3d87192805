//! The controllers: watch, ask `plan`, apply, say what became of it. All IO with the apiserver is here.
//!
//! ```text
//!  watches ─▶ stores ─▶ reconcile: gather ─ plan ─ apply ─ status ─▶ apiserver
//!     └─ which stream does it concern? ─▶ queue ──┘
//! ```
//! No finalizers: all that a stream has is in its namespace and owned by it, and a host-agent's session ends
//! with its sidecar. Nothing of ours is left to clean up when the operator isn't there to do it.

mod anchor;
pub mod apply;
pub mod calls;
mod context;
mod error;
mod events;
mod host_agents;
pub mod keys;
pub mod lease;
mod memory;
mod metrics;
mod reconcile;
mod run;
mod secrets;

mod stores;

pub use context::Settings;
pub use run::{Options, run};
