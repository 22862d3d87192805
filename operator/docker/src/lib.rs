//! `operator docker`: DesktopStreams on one machine with a Docker Engine, without a cluster.
//!
//! ```text
//!  YAML files ─▶ unsupported, plan ─▶ render ─▶ reconcile ─▶ engine
//!  Engine's events and lists ─▶ observation ─▶ plan::status ─▶ state folder ─▶ commands
//! ```
//! Validation, pairing, lifecycle, workload and status are those of a cluster, from `operator-plan`. Only the rendered
//! objects differ, and fields that Docker cannot honour are refused by name.

pub mod archive;
pub mod attach;
pub mod cli;
mod commands;
pub mod container;
pub mod engine;
pub mod machine;
pub mod names;
pub mod observation;
pub mod own_labels;
mod project_lock;
pub mod publish;
mod pulls;
mod reconcile;
pub mod recreate;
pub mod render;
mod run;
pub mod state;
pub mod stream_files;
mod teardown;
pub mod unsupported;
pub mod view;
