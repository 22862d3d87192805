//! Authentication of sidecars: a token signed by a trusted key, for one stream and this host-agent.
//!
//! Tokens are JWTs with Ed25519 signatures (RFC 7519, RFC 8037). The algorithm is fixed: a token that names another one
//! is refused.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::VerifyingKey;
use ed25519_dalek::pkcs8::DecodePublicKey;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use protocol::stream::ErrorCode;
use serde::{Deserialize, Serialize};

/// Tolerated difference between the clocks of host and cluster, seconds.
pub const LEEWAY_S: u64 = 30;
/// Maximum length of a stream name: two Kubernetes names (RFC 1123 subdomains of 253 bytes) and a slash.
const MAX_STREAM_BYTES: usize = 2 * 253 + 1;

/// Claims of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Stream: `namespace/name`.
    pub sub: String,
    /// Name of the host-agent.
    pub aud: String,
    /// Expiry, Unix time in seconds.
    pub exp: u64,
    /// Time of issue, Unix time in seconds.
    pub iat: u64,
    /// Token ID, for logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
}

/// Reason why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The token has expired.
    #[error(
        "the token has expired; read the token file again, and check that the operator renews it. If the token is new, \
         set the cluster's clock: it may differ by {LEEWAY_S} s, and a VM's clock stops while its host sleeps"
    )]
    Expired,
    /// The token is for another host-agent; this one's name is given.
    #[error(
        "the token is for another host-agent, this one is `{0}`; set the HostAgent's name and --name to the same value"
    )]
    Audience(String),
    /// No trusted key verifies the signature.
    #[error("no public key verifies the token; give host-agent the operator's key with --public-key")]
    Signature,
    /// The token is empty.
    #[error(
        "the token is missing; mount the Secret that the operator creates, or make a token with `host-agent token`"
    )]
    Missing,
    /// The token is malformed.
    #[error("the token is malformed: {0}; request a new one")]
    Malformed(String),
}

impl AuthError {
    /// The error code of the stream protocol.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Expired => ErrorCode::ExpiredToken,
            _ => ErrorCode::BadToken,
        }
    }
}

/// Reason why a public key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the key {}: {cause}; make a key pair with `host-agent keygen`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        cause: std::io::Error,
    },
    /// The file is not a key.
    #[error("{} is not an Ed25519 public key: neither PEM (`BEGIN PUBLIC KEY`) nor 32 bytes in base64", .0.display())]
    NotAKey(PathBuf),
}

/// Reads a public key: SPKI in PEM, or its 32 bytes in base64.
///
/// # Errors
/// The file cannot be read, or is not a key.
pub fn read_public_key(path: &Path) -> Result<VerifyingKey, KeyError> {
    let text =
        std::fs::read_to_string(path).map_err(|cause| KeyError::Read { path: path.to_owned(), cause })?;
    parse_public_key(&text).ok_or_else(|| KeyError::NotAKey(path.to_owned()))
}

fn parse_public_key(text: &str) -> Option<VerifyingKey> {
    if text.contains("BEGIN") {
        return VerifyingKey::from_public_key_pem(text.trim()).ok();
    }
    let text = text.trim().trim_end_matches('=');
    let url_safe = text.replace('+', "-").replace('/', "_");
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(url_safe).ok()?;
    VerifyingKey::from_bytes(bytes.as_slice().try_into().ok()?).ok()
}

/// Formats a public key in base64, as [`read_public_key`] accepts it.
pub fn format_public_key(key: &VerifyingKey) -> String {
    BASE64_STANDARD.encode(key.as_bytes())
}

/// Decides which streams a connection may serve.
pub enum Authenticator {
    /// Accepts tokens of trusted keys.
    Tokens(Box<Verifier>),
    /// Accepts every connection: for development on one machine.
    Insecure,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tokens(_) => "Tokens",
            Self::Insecure => "Insecure",
        })
    }
}

impl Authenticator {
    /// Authenticates a connection and returns its stream; `None` for an insecure connection that names no stream.
    ///
    /// # Errors
    /// The token is refused.
    pub fn authenticate(&self, token: &str) -> Result<Option<String>, AuthError> {
        match self {
            Self::Tokens(verifier) => verifier.verify(token).map(|claims| Some(claims.sub)),
            Self::Insecure => Ok(unverified_stream(token)),
        }
    }
}

/// The stream in an unverified token: a JWT of any key, or a plain stream name.
fn unverified_stream(token: &str) -> Option<String> {
    let claimed = jsonwebtoken::dangerous::insecure_decode_claims::<Claims>(token).map(|claims| claims.sub);
    Some(claimed.unwrap_or_else(|_| token.to_owned())).filter(|name| is_stream_name(name))
}

/// Verifies tokens.
pub struct Verifier {
    keys: Vec<DecodingKey>,
    validation: Validation,
    audience: String,
}

impl Verifier {
    /// Trusts `keys` for tokens with this audience.
    pub fn new(keys: &[VerifyingKey], audience: &str) -> Self {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = LEEWAY_S;
        validation.validate_nbf = true;
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        let keys = keys.iter().map(|key| DecodingKey::from_ed_der(key.as_bytes())).collect();
        Self { keys, validation, audience: audience.to_owned() }
    }

    /// Verifies a token and returns its claims.
    ///
    /// # Errors
    /// The token is refused.
    pub fn verify(&self, token: &str) -> Result<Claims, AuthError> {
        if token.is_empty() {
            return Err(AuthError::Missing);
        }
        for key in &self.keys {
            match jsonwebtoken::decode::<Claims>(token, key, &self.validation) {
                Ok(data) if is_stream_name(&data.claims.sub) => return Ok(data.claims),
                Ok(_) => return Err(AuthError::Malformed("its subject is not namespace/name".to_owned())),
                Err(error) => match error.kind() {
                    ErrorKind::InvalidSignature => {}
                    ErrorKind::ExpiredSignature => return Err(AuthError::Expired),
                    ErrorKind::InvalidAudience => return Err(AuthError::Audience(self.audience.clone())),
                    _ => return Err(AuthError::Malformed(error.to_string())),
                },
            }
        }
        Err(AuthError::Signature)
    }
}

/// Whether a text is `namespace/name`, both of characters that Kubernetes allows.
fn is_stream_name(name: &str) -> bool {
    let is_valid = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
    };
    name.len() <= MAX_STREAM_BYTES
        && name.split_once('/').is_some_and(|(namespace, name)| is_valid(namespace) && is_valid(name))
}

#[cfg(test)]
mod tests;
