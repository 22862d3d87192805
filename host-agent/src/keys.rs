//! Key files: public keys that tokens are verified with, and key pairs for installations without an operator.

use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use ed25519_dalek::VerifyingKey;
use stream_token::Signer;

use crate::listen::folder;

/// Reason why a key file cannot be used or created.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error("cannot read the key {}: {cause}; make a key pair with `host-agent keygen`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        cause: io::Error,
    },
    /// The file cannot be created, or exists.
    #[error("cannot create {}: {cause}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// The reason.
        cause: io::Error,
    },
    /// The file is not a public key.
    #[error("{} is not an Ed25519 public key: neither PEM (`BEGIN PUBLIC KEY`) nor 32 bytes in base64", .0.display())]
    NotAPublicKey(PathBuf),
    /// The file is not a private key.
    #[error("{} is not an Ed25519 private key in PEM; make one with `host-agent keygen`", .0.display())]
    NotAPrivateKey(PathBuf),
    /// A key pair cannot be generated.
    #[error(transparent)]
    Generate(#[from] stream_token::KeyError),
}

fn read(path: &Path) -> Result<String, KeyFileError> {
    std::fs::read_to_string(path).map_err(|cause| KeyFileError::Read { path: path.to_owned(), cause })
}

/// Reads public keys: SPKI in PEM, or their 32 bytes in base64. A file has two while the operator's key is rotated.
///
/// # Errors
/// The file cannot be read, or is not a list of public keys.
pub fn read_public_keys(path: &Path) -> Result<Vec<VerifyingKey>, KeyFileError> {
    let text = read(path)?;
    stream_token::parse_public_keys(&text).ok_or_else(|| KeyFileError::NotAPublicKey(path.to_owned()))
}

/// Reads a private key in PEM (PKCS #8).
///
/// # Errors
/// The file cannot be read, or is not a private key.
pub fn read_private_key(path: &Path) -> Result<Signer, KeyFileError> {
    Signer::from_pem(&read(path)?).map_err(|_| KeyFileError::NotAPrivateKey(path.to_owned()))
}

/// Generates a key pair and returns the path of the public key. The private key goes to `path` with mode
/// 0600, the public key to `path` with `.pub` appended. Existing files are not overwritten.
///
/// # Errors
/// A file exists or cannot be created, or the system has no random numbers.
pub fn generate_key_pair(path: &Path) -> Result<PathBuf, KeyFileError> {
    let signer = Signer::generate()?;
    let (private, public) = (signer.private_pem()?, signer.public_pem()?);
    let public_path = PathBuf::from(format!("{}.pub", path.display()));
    create(path, 0o600, &private)?;
    create(&public_path, 0o644, &public)?;
    Ok(public_path)
}

/// Creates a file with its whole content; an existing one is not changed.
pub(crate) fn create(path: &Path, mode: u32, text: &str) -> Result<(), KeyFileError> {
    let write = || {
        let mut file = tempfile::Builder::new()
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(folder::of(path))?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path).map_err(io::Error::from)
    };
    write().map(drop).map_err(|cause| KeyFileError::Create { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_pair_is_read_back() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let private = folder.path().join("key");
        let public = generate_key_pair(&private).expect("generated");
        let signer = read_private_key(&private).expect("private key read");
        assert_eq!(read_public_keys(&public).expect("public key read"), [signer.verifying_key()]);
    }

    #[test]
    fn public_key_in_base64_is_read() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("key.pub");
        let signer = Signer::generate().expect("generated");
        std::fs::write(&path, signer.public_base64() + "\n").expect("file written");
        assert_eq!(read_public_keys(&path).expect("public key read"), [signer.verifying_key()]);
    }

    #[test]
    fn both_keys_of_a_rotation_are_read() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("key.pub");
        let signers = [Signer::generate().expect("generated"), Signer::generate().expect("generated")];
        std::fs::write(&path, signers.each_ref().map(|signer| signer.public_pem().expect("PEM")).concat())
            .expect("file written");
        let keys = signers.each_ref().map(Signer::verifying_key).to_vec();
        assert_eq!(read_public_keys(&path).expect("public keys read"), keys);
    }

    #[test]
    fn file_of_another_kind_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let private = folder.path().join("key");
        let public = generate_key_pair(&private).expect("generated");
        assert!(matches!(read_private_key(&public), Err(KeyFileError::NotAPrivateKey(_))));
        assert!(matches!(read_public_keys(&private), Err(KeyFileError::NotAPublicKey(_))));
        assert!(matches!(read_public_keys(folder.path()), Err(KeyFileError::Read { .. })));
    }

    #[test]
    fn private_key_is_readable_by_its_owner_only_and_never_overwritten() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let private = folder.path().join("key");
        generate_key_pair(&private).expect("generated");
        let mode = std::fs::metadata(&private).expect("metadata read").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(generate_key_pair(&private), Err(KeyFileError::Create { .. })));
    }
}
