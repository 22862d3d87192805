//! macOS: no vsock; a user's own folder.

use std::io;
use std::path::PathBuf;

use crate::listen::Connection;
use host_agent_setup::service::Manager;
use crate::sys::System;

/// The variable that has the dynamic linker insert libraries.
pub const INSERT: &str = "DYLD_INSERT_LIBRARIES";
/// What the tap is called.
pub const TAP_FILE: &str = "libtap.dylib";

/// What this system is called.
pub const SYSTEM: &str = "macOS";
/// What starts a user's services.
pub const MANAGER: Manager = Manager::Launchd;
/// The variable by which a user adds folders of libraries.
pub const LIBRARIES_VARIABLE: &str = "DYLD_LIBRARY_PATH";

/// Where Homebrew has libraries, on Apple silicon and before.
pub fn libraries() -> Vec<PathBuf> {
    ["/opt/homebrew/lib", "/usr/local/lib"].map(PathBuf::from).to_vec()
}

/// The folder of the link's socket without XDG_RUNTIME_DIR: the one that the tap has by default.
pub fn default_folder() -> PathBuf {
    let standard = "Library/Application Support/desktopstream";
    std::env::home_dir().map_or_else(std::env::temp_dir, |home| home.join(standard))
}

/// What the system's own programs say.
pub fn describe() -> System {
    let said = |program: &str, words: &[&str]| {
        let out = std::process::Command::new(program).args(words).output();
        out.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default()
    };
    System {
        os: format!("macOS {}", said("/usr/bin/sw_vers", &["-productVersion"])),
        model: said("/usr/sbin/sysctl", &["-n", "hw.model"]),
        processor: said("/usr/sbin/sysctl", &["-n", "machdep.cpu.brand_string"]),
    }
}

/// Never exists.
#[derive(Debug)]
pub enum VsockListener {}

impl VsockListener {
    /// Always fails and says what to do instead.
    pub fn bind(_cid: u32, _port: u32) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no vsock; listen on unix: or tcp:"))
    }

    /// Can't be called.
    #[expect(clippy::unused_async, reason = "the same signature as on Linux")]
    pub async fn accept(&self) -> io::Result<Connection> {
        match *self {}
    }
}
