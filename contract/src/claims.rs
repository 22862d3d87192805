//! Claims of a stream token: a JWT (RFC 7519) signed with Ed25519 (RFC 8037).

use serde::{Deserialize, Serialize};

/// Permission for one stream to open a session on one host-agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Stream as `namespace/name`.
    pub sub: String,
    /// Name of the host-agent (`HostAgent` object, `host-agent serve --name`).
    pub aud: String,
    /// Expiry, Unix seconds.
    pub exp: u64,
    /// Issue time, Unix seconds.
    pub iat: u64,
    /// Token ID, for logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Key that the sidecar must prove to have; `None` for a token that everyone who knows it can use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
}

/// Confirmation of a token by a key (RFC 7800). A token with any other kind of confirmation cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// Thumbprint of the key (RFC 7638; RFC 9449, section 6.1).
    pub jkt: String,
}
