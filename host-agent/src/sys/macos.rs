//! macOS: no vsock; a user's own folder.

use std::io;
use std::path::PathBuf;

use crate::listen::Connection;

/// The variable that has the dynamic linker insert libraries.
pub const INSERT: &str = "DYLD_INSERT_LIBRARIES";
/// What the tap is called.
pub const TAP_FILE: &str = "libtap.dylib";

/// The folder of the link's socket without XDG_RUNTIME_DIR: the one that the tap has by default.
pub fn default_folder() -> PathBuf {
    let standard = "Library/Application Support/desktopstream";
    std::env::home_dir().map_or_else(std::env::temp_dir, |home| home.join(standard))
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
