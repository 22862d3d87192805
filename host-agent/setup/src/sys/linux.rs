//! Linux: `ld.so`, systemd.

use std::path::PathBuf;

use crate::service::Manager;

/// Environment variable that makes the dynamic linker load additional libraries first (`ld.so(8)`).
pub const PRELOAD_VARIABLE: &str = "LD_PRELOAD";
/// File name of the tap.
pub const TAP_FILE: &str = "libtap.so";
/// Operating system, as [`Binary::target`](crate::binary::Binary::target) spells it.
pub const SYSTEM: &str = "Linux";
/// Service manager of user services.
pub const MANAGER: Manager = Manager::Systemd;
/// Environment variable that adds folders to the dynamic linker's search path.
pub const LIBRARY_PATH_VARIABLE: &str = "LD_LIBRARY_PATH";

/// The dynamic linker's default folders on common distributions.
pub fn library_folders() -> Vec<PathBuf> {
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    [multiarch.as_str(), "/usr/local/lib", "/usr/lib64", "/usr/lib"].map(PathBuf::from).to_vec()
}
