//! Docker mode: the same streams on one machine with a Docker Engine, no cluster.
//!
//! ```text
//!  files ─▶ refuse, plan ─▶ render ─▶ reconcile ─▶ engine
//!  engine's events, lists ─▶ observe ─▶ plan::status ─▶ state folder ─▶ show
//! ```
//! The plan is the cluster's: `validate`, `pair`, `lifecycle`, `workload`, `status`. Only the last step differs,
//! and what Docker can't do is refused by name.

pub mod archive;
pub mod attach;
pub mod cli;
pub mod engine;
pub mod files;
pub mod machine;
pub mod names;
pub mod observe;
mod pulls;
pub mod reconcile;
mod recreate;
pub mod refuse;
pub mod render;
pub mod run;
pub mod show;
pub mod state;
mod teardown;
pub mod words;
