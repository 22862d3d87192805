//! macOS: dyld, launchd.

use std::path::PathBuf;

use crate::service::Manager;

/// Environment variable that makes dyld load additional libraries first (`dyld(1)`).
pub const PRELOAD_VARIABLE: &str = "DYLD_INSERT_LIBRARIES";
/// File name of the tap.
pub const TAP_FILE: &str = "libtap.dylib";
/// Operating system, as [`Binary::target`](crate::binary::Binary::target) spells it.
pub const SYSTEM: &str = "macOS";
/// Service manager of user services.
pub const MANAGER: Manager = Manager::Launchd;
/// Environment variable that adds folders to dyld's search path.
pub const LIBRARY_PATH_VARIABLE: &str = "DYLD_LIBRARY_PATH";

/// Homebrew's library folders: Apple silicon, then Intel.
pub fn library_folders() -> Vec<PathBuf> {
    ["/opt/homebrew/lib", "/usr/local/lib"].map(PathBuf::from).to_vec()
}
