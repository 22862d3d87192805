//! Authentication of sidecars: a token for one stream and this host-agent, signed by a trusted key.

use contract::Claims;
use protocol::stream::ErrorCode;
use stream_token::{LEEWAY_SECONDS, TokenError, Verifier, is_stream_name, thumbprint, unverified_claims};

use crate::listen::Channel;

/// Decides which stream a connection may serve.
#[derive(Debug)]
pub enum Authenticator {
    /// Accepts tokens of trusted keys.
    Tokens(Box<Verifier>),
    /// Accepts every connection: for development on one machine.
    Insecure,
}

/// Permission for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The stream; `None` for an insecure connection that names none.
    pub stream: Option<String>,
    /// Thumbprint of the key that the token is bound to, and that the peer has proved to have or need not prove.
    pub key: Option<String>,
    /// Last second in which the token is accepted, Unix time: its expiry and the leeway; `None` without authentication.
    pub until: Option<u64>,
}

impl Authenticator {
    /// Authenticates a connection with this protection.
    ///
    /// # Errors
    /// The token is refused.
    pub fn authenticate(&self, token: &str, channel: Channel) -> Result<Grant, TokenError> {
        match self {
            Self::Tokens(verifier) => {
                let Claims { sub, exp, cnf, .. } = verifier.verify(token)?;
                let key = cnf.map(|confirmation| confirmation.jkt);
                if key.as_ref().is_some_and(|key| !proves(channel, key)) {
                    return Err(TokenError::Unconfirmed);
                }
                Ok(Grant { stream: Some(sub), key, until: Some(exp.saturating_add(LEEWAY_SECONDS)) })
            }
            Self::Insecure => Ok(Grant { stream: unverified_stream(token), key: None, until: None }),
        }
    }
}

/// True if the peer has proved to have the key with this thumbprint, or need not: no network carries a local connection, on
/// which others could learn a token.
fn proves(channel: Channel, key: &str) -> bool {
    match channel {
        Channel::Local => true,
        Channel::Plaintext | Channel::Tls(None) => false,
        Channel::Tls(Some(public_key)) => thumbprint(&public_key) == *key,
    }
}

/// The error code of the stream protocol for a refused token.
pub const fn error_code(error: &TokenError) -> ErrorCode {
    match error {
        TokenError::Expired => ErrorCode::ExpiredToken,
        _ => ErrorCode::BadToken,
    }
}

/// The stream that an unverified token names: a JWT of any key, or a plain stream name.
fn unverified_stream(token: &str) -> Option<String> {
    let name = unverified_claims(token).map_or_else(|| token.to_owned(), |claims| claims.sub);
    Some(name).filter(|name| is_stream_name(name))
}

#[cfg(test)]
mod tests;
