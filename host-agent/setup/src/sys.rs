//! Operating-system differences of an installation. The only `cfg(target_os)` site of this crate.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod macos;

#[cfg(target_os = "linux")]
pub use linux::{LIBRARY_PATH_VARIABLE, MANAGER, PRELOAD_VARIABLE, SYSTEM, TAP_FILE, library_folders};
#[cfg(not(target_os = "linux"))]
pub use macos::{LIBRARY_PATH_VARIABLE, MANAGER, PRELOAD_VARIABLE, SYSTEM, TAP_FILE, library_folders};
