//! Authentication of sidecars: a token for one stream and this host-agent, signed by a trusted key.

use protocol::stream::ErrorCode;
use stream_token::{LEEWAY_SECONDS, TokenError, Verifier, is_stream_name, unverified_claims};

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
    /// Last second in which the token is accepted, Unix time: its expiry and the leeway; `None` without authentication.
    pub until: Option<u64>,
}

impl Authenticator {
    /// Authenticates a connection.
    ///
    /// # Errors
    /// The token is refused.
    pub fn authenticate(&self, token: &str) -> Result<Grant, TokenError> {
        match self {
            Self::Tokens(verifier) => verifier.verify(token).map(|claims| Grant {
                until: Some(claims.exp.saturating_add(LEEWAY_SECONDS)),
                stream: Some(claims.sub),
            }),
            Self::Insecure => Ok(Grant { stream: unverified_stream(token), until: None }),
        }
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
