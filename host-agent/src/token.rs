//! Keys and tokens for development and small set-ups without an operator.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey};
use jsonwebtoken::{Algorithm, EncodingKey, Header};

use crate::auth::Claims;

/// Why there is no key or token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A file can't be read or written.
    #[error("{}: {cause}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file is no private key.
    #[error("{} is no Ed25519 private key in PEM; make one with `host-agent keygen`", .0.display())]
    NotAKey(PathBuf),
    /// A library refused; names no secret.
    #[error("can't {what}: {why}")]
    Crypto {
        /// What was tried.
        what: &'static str,
        /// What it said.
        why: String,
    },
}

fn crypto<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> TokenError {
    move |error| TokenError::Crypto { what, why: error.to_string() }
}

/// Makes a key pair: `path` gets the private key, readable by its owner only, `path` with `.pub` appended
/// the public one. Never overwrites.
pub fn generate(path: &Path) -> Result<PathBuf, TokenError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(crypto("get random bytes"))?;
    let key = SigningKey::from_bytes(&seed);
    let private = key.to_pkcs8_pem(LineEnding::LF).map_err(crypto("write the key as PEM"))?;
    let public =
        key.verifying_key().to_public_key_pem(LineEnding::LF).map_err(crypto("write the key as PEM"))?;
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
pub fn read_private_key(path: &Path) -> Result<SigningKey, TokenError> {
    let text =
        std::fs::read_to_string(path).map_err(|cause| TokenError::File { path: path.to_owned(), cause })?;
    SigningKey::from_pkcs8_pem(text.trim()).map_err(|_| TokenError::NotAKey(path.to_owned()))
}

/// Signs claims.
pub fn sign(key: &SigningKey, claims: &Claims) -> Result<String, TokenError> {
    let der = key.to_pkcs8_der().map_err(crypto("encode the key"))?;
    let key = EncodingKey::from_ed_der(der.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), claims, &key).map_err(crypto("sign the token"))
}

/// Claims for `stream` on `host_agent`, good for `seconds` from now.
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
    fn a_generated_pair_signs_and_verifies() {
        let folder = tempfile::tempdir().expect("a folder");
        let private = folder.path().join("key");
        let public = generate(&private).expect("generates");
        let mode = std::fs::metadata(&private).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let key = read_private_key(&private).expect("reads");
        let token = sign(&key, &claims("a/b", "here", 60).expect("claims")).expect("signs");
        let verifier = Verifier::new(&[read_public_key(&public).expect("reads")], "here");
        assert_eq!(verifier.verify(&token).expect("good").sub, "a/b");
        assert!(matches!(generate(&private), Err(TokenError::File { .. })), "never overwrites");
        assert!(matches!(read_private_key(&public), Err(TokenError::NotAKey(_))));
    }
}
