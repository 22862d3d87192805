//! wlr-screencopy source: a wlroots compositor (sway, labwc, cage, …) copies its output into the sidecar's buffers.
//!
//! ```text
//! capture_output ─▶ buffer (shm offer), linux_dmabuf (offer), buffer_done ─▶ buffers of that kind and size
//!      ▲                                                                          │
//!      └── frame delivered, buffer leased ◀── damage…, flags, ready ◀── copy_with_damage
//! ```
//!
//! On virgl a DMA-BUF must have exactly the offered fourcc (another one is a protocol error) and modifier INVALID.
//! A compositor without a `linux_dmabuf` offer renders without the GPU. The first copy uses `copy`, which returns at
//! once; later copies use `copy_with_damage`, which waits for a change of the screen.

mod buffers;
mod cycle;
mod globals;
mod session;

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::CaptureOptions;
use crate::error::CaptureError;
use crate::source_context::SourceContext;

pub use session::Session;

/// Connects to the first compositor that supports screencopy.
pub fn find(options: &CaptureOptions, context: &SourceContext) -> Result<Session, CaptureError> {
    let sockets = match &options.wayland_display {
        // `join` keeps an absolute path.
        Some(name) => vec![options.runtime_dir.join(name)],
        None => sockets_in(&options.runtime_dir),
    };
    let mut first_error = None;
    for socket in sockets {
        match Session::connect(&socket, options, context) {
            Ok(session) => return Ok(session),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| CaptureError::NoWaylandSocket(options.runtime_dir.clone())))
}

/// The sockets named `wayland-*` in a runtime directory, sorted by name.
fn sockets_in(directory: &Path) -> Vec<PathBuf> {
    let mut sockets: Vec<PathBuf> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"wayland-"))
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
        .map(|entry| entry.path())
        .collect();
    sockets.sort();
    sockets
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn runtime_directory_lists_only_wayland_sockets() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(sockets_in(directory.path()).is_empty());
        assert!(sockets_in(&directory.path().join("absent")).is_empty());
        let _one = UnixListener::bind(directory.path().join("wayland-1")).expect("bound");
        let _zero = UnixListener::bind(directory.path().join("wayland-0")).expect("bound");
        let _bus = UnixListener::bind(directory.path().join("bus")).expect("bound");
        std::fs::write(directory.path().join("wayland-1.lock"), "").expect("written");
        let found = sockets_in(directory.path());
        assert_eq!(found, [directory.path().join("wayland-0"), directory.path().join("wayland-1")]);
    }
}
