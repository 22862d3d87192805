//! Unix sockets that only this user can open.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use contract::Endpoint;
use tokio::net::{UnixListener, UnixStream};

use super::{ListenError, folder};

/// A listening Unix socket that only this user can open. Its file is removed when it is dropped.
#[derive(Debug)]
pub struct UnixSocket {
    /// The socket.
    pub listener: UnixListener,
    path: PathBuf,
}

impl UnixSocket {
    /// Listens at `path`; creates its folder if necessary. The file of a socket without a listener is
    /// replaced.
    ///
    /// # Errors
    /// A process listens at `path`, other users can change the folder, or a file system error.
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        folder::prepare(folder::of(path))?;
        Self::open(path).map_err(|cause| ListenError::new(&Endpoint::Unix(path.to_owned()), cause))
    }

    fn open(path: &Path) -> io::Result<Self> {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        // Bound under a temporary name and renamed, so that no peer can connect before the mode is set.
        let temporary = path.with_extension(format!("{}.new", std::process::id()));
        remove_if_exists(&temporary)?;
        let listener = UnixListener::bind(&temporary)?;
        std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&temporary, path)?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if let Err(error) = remove_if_exists(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket's file");
        }
    }
}

fn remove_if_exists(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A peer of another user than this one and root.
#[derive(Debug, thiserror::Error)]
#[error("the peer runs as user {0}; run it as the same user as host-agent")]
pub struct ForeignUser(pub u32);

/// Checks the peer's user, which the kernel attests (SO_PEERCRED, getpeereid): this one or root.
///
/// # Errors
/// The peer runs as another user. The outer error: the operating system does not name it.
pub fn check_peer(stream: &UnixStream) -> io::Result<Result<(), ForeignUser>> {
    let user = rustix::process::getuid().as_raw();
    Ok(check_user(stream.peer_cred()?.uid(), user))
}

fn check_user(peer: u32, user: u32) -> Result<(), ForeignUser> {
    if peer == user || peer == 0 { Ok(()) } else { Err(ForeignUser(peer)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn unix_socket_is_private_and_removed_on_drop() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("new/link.sock");
        let socket = UnixSocket::bind(&path).expect("bound");
        let mode = |path: &Path| std::fs::metadata(path).expect("metadata read").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().expect("a folder"))), (0o600, 0o700));
        assert!(matches!(UnixSocket::bind(&path), Err(ListenError::InUse(_))));
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn socket_in_a_folder_of_others_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let open = folder.path().join("open");
        std::fs::create_dir(&open).expect("folder created");
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("mode set");
        let error = UnixSocket::bind(&open.join("link.sock")).expect_err("others can write to the folder");
        assert!(error.to_string().contains("chmod go-w"), "{error}");
    }

    #[test]
    fn only_this_user_and_root_are_accepted() {
        assert!(check_user(1000, 1000).is_ok() && check_user(0, 1000).is_ok());
        assert!(check_user(1001, 1000).is_err() && check_user(1000, 0).is_err());
    }
}
