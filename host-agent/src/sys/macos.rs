//! macOS: no vsock; a folder in the user's Library.

use std::io;
use std::path::PathBuf;

use crate::listen::Connection;
use crate::sys::System;

/// Whether the host has `AF_VSOCK`.
pub const HAS_VSOCK: bool = false;

/// Largest limit of open descriptors that setrlimit(2) accepts: OPEN_MAX of <sys/syslimits.h>.
pub const MAX_DESCRIPTORS: u64 = 10_240;

/// Folder of the link's socket if XDG_RUNTIME_DIR is not set. The tap uses the same default.
pub fn default_folder() -> PathBuf {
    let standard = "Library/Application Support/desktopstream";
    std::env::home_dir().map_or_else(std::env::temp_dir, |home| home.join(standard))
}

/// Describes this machine with `sw_vers` and `sysctl`.
pub fn describe() -> System {
    let output = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    System {
        os: format!("macOS {}", output("/usr/bin/sw_vers", &["-productVersion"])),
        model: output("/usr/sbin/sysctl", &["-n", "hw.model"]),
        processor: output("/usr/sbin/sysctl", &["-n", "machdep.cpu.brand_string"]),
    }
}

/// Uninhabited: a vsock cannot be opened on this system.
#[derive(Debug)]
pub enum VsockListener {}

impl VsockListener {
    /// Fails with [`Unsupported`](io::ErrorKind::Unsupported).
    pub fn bind(_cid: u32, _port: u32) -> io::Result<Self> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "vsock is not supported on this system; listen on unix: or tls:",
        ))
    }

    /// Unreachable: no listener exists.
    #[expect(clippy::unused_async, reason = "the same signature as on Linux")]
    pub async fn accept(&self) -> io::Result<Connection> {
        match *self {}
    }
}
