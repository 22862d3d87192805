//! wlr-screencopy: a wlroots compositor (sway, labwc, cage, …) copies its output into buffers that we bring.
//!
//! ```text
//! capture_output ─▶ buffer(shm offer) linux_dmabuf(offer) buffer_done ─▶ buffers of that kind and size
//!      ▲                                                                       │
//!      └── frame published, buffer out on loan ◀── damage… flags ready ◀── copy_with_damage
//! ```
//!
//! What holds on virgl: the buffer must have exactly the fourcc of the offer (others kill the connection), and
//! modifier INVALID; no `linux_dmabuf` offer means that there is no GPU path. On a static
//! screen `copy_with_damage` simply waits. The first copy is a plain one, so that a static desktop has a
//! picture at once.
//!
//! This module finds a compositor and runs the cycle; [`globals`] knows the protocol objects, [`buffers`] the
//! buffers. It does not know PipeWire.

mod buffers;
mod globals;
mod session;

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::CaptureOptions;
use super::error::CaptureError;
use super::outlet::Outlet;

pub use session::Session;

/// Connects to the first compositor that can be captured.
pub fn find(options: &CaptureOptions, outlet: &Outlet) -> Result<Session, CaptureError> {
    let sockets = match &options.wayland_display {
        // `join` takes an absolute path as it is.
        Some(name) => vec![options.runtime_dir.join(name)],
        None => sockets_in(&options.runtime_dir),
    };
    let mut first_error = None;
    for socket in sockets {
        match Session::connect(&socket, options, outlet) {
            Ok(session) => return Ok(session),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| CaptureError::NoWaylandSocket(options.runtime_dir.clone())))
}

/// The sockets `wayland-*` of a runtime folder, in order.
fn sockets_in(folder: &Path) -> Vec<PathBuf> {
    let mut sockets: Vec<PathBuf> = std::fs::read_dir(folder)
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
    fn sockets_are_found_and_other_files_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(sockets_in(folder.path()).is_empty());
        assert!(sockets_in(&folder.path().join("absent")).is_empty());
        let _one = UnixListener::bind(folder.path().join("wayland-1")).expect("bound");
        let _zero = UnixListener::bind(folder.path().join("wayland-0")).expect("bound");
        let _bus = UnixListener::bind(folder.path().join("bus")).expect("bound");
        std::fs::write(folder.path().join("wayland-1.lock"), "").expect("written");
        let found = sockets_in(folder.path());
        assert_eq!(found, [folder.path().join("wayland-0"), folder.path().join("wayland-1")]);
    }
}
