//! The sidecar program: command line, wiring of capture, frame path and viewers, and `sidecar doctor`.

pub mod cli;
mod cursor;
pub mod doctor;
pub mod metrics;
mod observer;
pub mod run;
mod size;
mod sound;
mod viewer_token;
