//! Who may have a session: a token signed by a key that we trust, for one stream and for this host-agent.
//!
//! Tokens are JWTs with Ed25519 signatures (RFC 7519, RFC 8037). Algorithms are not negotiated: a token
//! that names another one is bad. This file verifies; [`crate::token`] mints.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::VerifyingKey;
use ed25519_dalek::pkcs8::DecodePublicKey;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use protocol::stream::ErrorCode;
use serde::{Deserialize, Serialize};

/// Clocks of host and cluster may differ by this many seconds.
pub const LEEWAY_S: u64 = 30;
/// Longest stream name: two Kubernetes names (RFC 1123 subdomains, 253 each) and a slash.
const MAX_STREAM: usize = 2 * 253 + 1;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The stream: `namespace/name`.
    pub sub: String,
    /// The host-agent that it is for.
    pub aud: String,
    /// Good until then, Unix seconds.
    pub exp: u64,
    /// Made then, Unix seconds.
    pub iat: u64,
    /// Its own name, for logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
}

/// Why a token is no good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// It was good once.
    #[error(
        "the token has expired; the sidecar must read its token file again, and the operator renew it; if it is new, set the cluster's clock: it may differ by {LEEWAY_S} s, and a VM's stands still while its host sleeps"
    )]
    Expired,
    /// It is for another host-agent.
    #[error(
        "the token is for another host-agent; this one is `{0}`: set the HostAgent's name or --name alike"
    )]
    Audience(String),
    /// The signature is of no key here.
    #[error("no public key here verifies the token; give host-agent the operator's key with --public-key")]
    Signature,
    /// There is none.
    #[error(
        "the token is missing; mount the Secret that the operator made, or mint one with `host-agent token`"
    )]
    Missing,
    /// Anything else.
    #[error("the token is malformed: {0}; mint a new one")]
    Malformed(String),
}

impl AuthError {
    /// The code on the wire.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Expired => ErrorCode::ExpiredToken,
            _ => ErrorCode::BadToken,
        }
    }
}

/// Why a key file is no good.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It can't be read.
    #[error("can't read the key {}: {cause}; make a pair with `host-agent keygen`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// It is no key.
    #[error("{} is no Ed25519 public key: neither PEM (`BEGIN PUBLIC KEY`) nor 32 bytes in base64", .0.display())]
    NotAKey(PathBuf),
}

/// Reads a public key: SPKI in PEM, or its 32 bytes in base64.
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

/// A public key as [`read_public_key`] takes it, on one line.
pub fn print_public_key(key: &VerifyingKey) -> String {
    BASE64_STANDARD.encode(key.as_bytes())
}

/// Decides who may have a session.
pub enum Gate {
    /// Tokens of these keys.
    Keys(Box<Verifier>),
    /// Anyone: for development on one machine.
    Open,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Keys(_) => "Keys",
            Self::Open => "Open",
        })
    }
}

impl Gate {
    /// The stream that the token stands for; `None` if the gate is open and the token names none.
    pub fn admit(&self, token: &str) -> Result<Option<String>, AuthError> {
        match self {
            Self::Keys(verifier) => verifier.verify(token).map(|claims| Some(claims.sub)),
            Self::Open => Ok(unverified_stream(token)),
        }
    }
}

/// With an open gate a token may be a JWT of any key, or just a stream's name.
fn unverified_stream(token: &str) -> Option<String> {
    let claimed = jsonwebtoken::dangerous::insecure_decode_claims::<Claims>(token).map(|claims| claims.sub);
    Some(claimed.unwrap_or_else(|_| token.to_owned())).filter(|name| is_stream_name(name))
}

/// Checks tokens.
pub struct Verifier {
    keys: Vec<DecodingKey>,
    validation: Validation,
    audience: String,
}

impl Verifier {
    /// Trusts these keys for tokens to `audience`.
    pub fn new(keys: &[VerifyingKey], audience: &str) -> Self {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = LEEWAY_S;
        validation.validate_nbf = true;
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        let keys = keys.iter().map(|key| DecodingKey::from_ed_der(key.as_bytes())).collect();
        Self { keys, validation, audience: audience.to_owned() }
    }

    /// What a good token says.
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

/// `namespace/name`, of what Kubernetes allows in names.
fn is_stream_name(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
    };
    name.len() <= MAX_STREAM
        && name.split_once('/').is_some_and(|(namespace, name)| part(namespace) && part(name))
}

#[cfg(test)]
mod tests;
