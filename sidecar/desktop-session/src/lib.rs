//! Finds the Wayland sockets and the session bus of a desktop in its runtime directory.

#![forbid(unsafe_code)]

pub mod bus;

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Wayland sockets to try, in order: `display`, a name in the runtime directory or an absolute path, or all sockets named
/// `wayland-*` in the directory.
pub fn wayland_sockets(runtime_dir: &Path, display: Option<&str>) -> Vec<PathBuf> {
    match display {
        // `join` keeps an absolute path.
        Some(name) => vec![runtime_dir.join(name)],
        None => sockets_in(runtime_dir),
    }
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
