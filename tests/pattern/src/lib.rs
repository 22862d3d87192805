//! The picture that tests know.
//!
//! The program `pattern` shows it, tests read it back: see [`layout`], which is its definition. This
//! library draws on the CPU only and knows neither GL nor Wayland; those are the program's.

#![forbid(unsafe_code)]

/// The definition: a crate of its own, as host-agent's selftest draws and reads the picture, too.
pub use numbered as layout;
