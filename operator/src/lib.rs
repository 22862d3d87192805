//! Runs DesktopStreams: turns what users write into pods, tokens and Services, and says what became of it.
//!
//! ```text
//! api ◀── plan
//! ```
//! `api` is what users write, `plan` decides and does no IO. Neither knows our other crates.

pub mod api;
pub mod cli;
pub mod plan;
