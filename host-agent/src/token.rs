//! Keys and tokens for development, and for installations without an operator.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey};
use jsonwebtoken::{Algorithm, EncodingKey, Header};

use crate::auth::Claims;

/// Reason why a key or a token cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A file cannot be read or written.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        cause: io::Error,
    },
    /// A file is not a private key.
    #[error("{} is not an Ed25519 private key in PEM; make one with `host-agent keygen`", .0.display())]
    NotAKey(PathBuf),
    /// A cryptographic operation failed. The message has no secrets.
    #[error("cannot {operation}: {cause}")]
    Crypto {
        /// The operation.
        operation: &'static str,
        /// The reason.
        cause: String,
    },
}

fn crypto<E: std::fmt::Display>(operation: &'static str) -> impl FnOnce(E) -> TokenError {
    move |error| TokenError::Crypto { operation, cause: error.to_string() }
}

/// Generates a key pair and returns the path of the public key. The private key goes to `path` with mode 0600, the public
/// key to `path` with `.pub` appended. Existing files are not overwritten.
///
/// # Errors
/// A file exists or cannot be written, or the system has no random numbers.
pub fn generate_key_pair(path: &Path) -> Result<PathBuf, TokenError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(crypto("get random bytes"))?;
    let key = SigningKey::from_bytes(&seed);
    let private = key.to_pkcs8_pem(LineEnding::LF).map_err(crypto("encode the private key"))?;
    let public =
        key.verifying_key().to_public_key_pem(LineEnding::LF).map_err(crypto("encode the public key"))?;
    let public_path = PathBuf::from(format!("{}.pub", path.display()));
    create(path, 0o600, &private)?;
    create(&public_path, 0o644, &public)?;
    Ok(public_path)
}

fn create(path: &Path, mode: u32, text: &str) -> Result<(), TokenError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let write = |mut file: std::fs::File| io::Write::write_all(&mut file, text.as_bytes());
    options.open(path).and_then(write).map_err(|cause| TokenError::File { path: path.to_owned(), cause })
}

/// Reads a private key in PEM (PKCS #8).
///
/// # Errors
/// The file cannot be read, or is not a key.
pub fn read_private_key(path: &Path) -> Result<SigningKey, TokenError> {
    let text =
        std::fs::read_to_string(path).map_err(|cause| TokenError::File { path: path.to_owned(), cause })?;
    SigningKey::from_pkcs8_pem(text.trim()).map_err(|_| TokenError::NotAKey(path.to_owned()))
}

/// Signs claims.
///
/// # Errors
/// The claims cannot be encoded.
pub fn sign(key: &SigningKey, claims: &Claims) -> Result<String, TokenError> {
    let der = key.to_pkcs8_der().map_err(crypto("encode the key"))?;
    let key = EncodingKey::from_ed_der(der.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), claims, &key).map_err(crypto("sign the token"))
}

/// Claims of a token for `stream` on `host_agent`, valid for `seconds` from now.
///
/// # Errors
/// The system has no random numbers for the token's ID.
pub fn claims(stream: &str, host_agent: &str, seconds: i64) -> Result<Claims, TokenError> {
    let mut id = [0; 8];
    getrandom::fill(&mut id).map_err(crypto("get random bytes"))?;
    let now = jsonwebtoken::get_current_timestamp();
    Ok(Claims {
        sub: stream.to_owned(),
        aud: host_agent.to_owned(),
        exp: now.saturating_add_signed(seconds),
        iat: now,
        jti: Some(format!("{:016x}", u64::from_le_bytes(id))),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::auth::{Verifier, read_public_key};

    #[test]
    fn generated_pair_signs_and_verifies() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let private = folder.path().join("key");
        let public = generate_key_pair(&private).expect("generated");
        let key = read_private_key(&private).expect("read");
        let token = sign(&key, &claims("a/b", "here", 60).expect("claims made")).expect("signed");
        let verifier = Verifier::new(&[read_public_key(&public).expect("read")], "here");
        assert_eq!(verifier.verify(&token).expect("valid").sub, "a/b");
        assert!(matches!(read_private_key(&public), Err(TokenError::NotAKey(_))));
    }

    #[test]
    fn private_key_is_readable_by_its_owner_only_and_never_overwritten() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let private = folder.path().join("key");
        generate_key_pair(&private).expect("generated");
        let mode = std::fs::metadata(&private).expect("metadata read").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(generate_key_pair(&private), Err(TokenError::File { .. })));
    }
}
