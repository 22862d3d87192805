//! The private key of TLS listeners: made at the first start, read afterwards. Sidecars pin its fingerprint, so it outlives
//! restarts and upgrades.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use stream_tls::{Identity, KeyError, generate_key};

use crate::keys;
use crate::listen::{FolderError, folder};

/// Permissions of group and others.
const SHARED: u32 = 0o077;

/// Reason why there is no key for TLS listeners.
#[derive(Debug, thiserror::Error)]
pub enum TlsKeyError {
    /// The file cannot be read.
    #[error("cannot read the TLS key {}: {cause}; correct its permissions, or choose another with --tls-key", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        cause: io::Error,
    },
    /// Other users may read or replace the file.
    #[error(
        "other users can access the TLS key {path}, which has mode {mode:04o}; run `chmod 0600 {path}`",
        path = path.display()
    )]
    Shared {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Another user made the file, and knows the key.
    #[error("the TLS key {} belongs to the user with ID {owner}; choose another path with --tls-key", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The file is not a key.
    #[error(
        "{}: {cause}; restore the key, or remove the file to make another one, whose fingerprint all endpoints then need",
        path.display()
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The reason.
        cause: KeyError,
    },
    /// Other users can put a key of their own in its place.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The file cannot be created.
    #[error("cannot create the TLS key: {0}; choose another path with --tls-key")]
    Create(#[from] keys::KeyFileError),
    /// A key cannot be made.
    #[error(transparent)]
    Generate(#[from] KeyError),
}

/// Reads the key; `None` if there is none.
///
/// # Errors
/// The file cannot be read, is not private, or is not a key.
pub fn load(path: &Path) -> Result<Option<Identity>, TlsKeyError> {
    let read = || {
        let mut file = fs::File::open(path)?;
        let (metadata, mut pem) = (file.metadata()?, String::new());
        file.read_to_string(&mut pem)?;
        io::Result::Ok((metadata, pem))
    };
    let (metadata, pem) = match read() {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(TlsKeyError::Read { path: path.to_owned(), cause }),
    };
    let (mode, owner) = (metadata.mode(), metadata.uid());
    if ![0, rustix::process::geteuid().as_raw()].contains(&owner) {
        return Err(TlsKeyError::Owner { path: path.to_owned(), owner });
    }
    if mode & SHARED != 0 {
        return Err(TlsKeyError::Shared { path: path.to_owned(), mode: mode & 0o7777 });
    }
    folder::check(folder::of(path))?;
    let identity = Identity::from_pem(&pem);
    identity.map(Some).map_err(|cause| TlsKeyError::Invalid { path: path.to_owned(), cause })
}

/// Reads the key, or makes one with mode 0600 if there is none.
///
/// # Errors
/// As [`load`], or the file cannot be created.
pub fn load_or_create(path: &Path) -> Result<Identity, TlsKeyError> {
    if let Some(identity) = load(path)? {
        return Ok(identity);
    }
    folder::prepare(folder::of(path))?;
    let pem = generate_key()?;
    match keys::create(path, 0o600, &pem) {
        Ok(()) => Ok(Identity::from_pem(&pem)?),
        // Another process made one meanwhile.
        Err(error) => load(path)?.ok_or(TlsKeyError::Create(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn key_is_made_once_and_is_private() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("new/tls.key");
        assert!(load(&path).expect("no error").is_none());
        let made = load_or_create(&path).expect("made");
        assert_eq!(fs::metadata(&path).expect("metadata read").mode() & 0o7777, 0o600);
        assert_eq!(load_or_create(&path).expect("read").fingerprint(), made.fingerprint());
        assert_eq!(load(&path).expect("read").map(|it| it.fingerprint()), Some(made.fingerprint()));
    }

    #[test]
    fn key_that_others_can_read_or_replace_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("tls.key");
        load_or_create(&path).expect("made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("mode set");
        let error = load_or_create(&path).expect_err("readable by the group");
        assert!(error.to_string().contains("chmod 0600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode set");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("mode set");
        assert!(matches!(load_or_create(&path), Err(TlsKeyError::Folder(_))));
    }

    #[test]
    fn file_that_is_not_a_key_is_refused_and_kept() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("tls.key");
        keys::create(&path, 0o600, "").expect("file written");
        let error = load_or_create(&path).expect_err("not a key");
        assert!(error.to_string().contains("remove the file"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("file read"), "");
    }
}
