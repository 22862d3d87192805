//! Errors of the stream connection, and the connection state that they mean.

use std::io;
use std::path::PathBuf;

use contract::sidecar_status::RefusalCode;
use contract::{Endpoint, HostAgentConnection};
use protocol::DecodeError;
use protocol::stream::ErrorCode;

use super::socket::SocketError;

/// Reason for the absence or the end of a session.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The token file cannot be read.
    #[error("cannot read the token file {path}: {source}; mount the token or set --token-file")]
    Token {
        /// Token file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The file of the key that the token is bound to cannot be read or is not a key.
    #[error("cannot use the TLS key {path}: {reason}; mount the key or correct --tls-key-file")]
    TlsKey {
        /// Key file.
        path: PathBuf,
        /// Reason, without secrets.
        reason: String,
    },
    /// The endpoint file is missing or empty.
    #[error("no host-agent yet: waiting for an endpoint in {path}")]
    NotPaired {
        /// Endpoint file.
        path: PathBuf,
    },
    /// The endpoint file cannot be read or does not contain an endpoint.
    #[error("cannot read an endpoint from {path}: {reason}")]
    EndpointFile {
        /// Endpoint file.
        path: PathBuf,
        /// I/O or parse error.
        reason: String,
    },
    /// The endpoint file names another host-agent.
    #[error("the stream moves from the host-agent at {from} to another")]
    Moved {
        /// Endpoint of the session that was closed.
        from: Endpoint,
    },
    /// The key that tokens are bound to was replaced, as after a rotation of the operator's key.
    #[error("the stream's TLS key has changed: connecting again with the present one")]
    KeyChanged,
    /// The connection could not be established.
    #[error("cannot reach the host-agent at {endpoint}: {source}; start it, or correct the endpoint")]
    Connect {
        /// Endpoint of the host-agent.
        endpoint: Endpoint,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Another program answers at the host-agent's address, or the host-agent has another key.
    #[error(
        "the key of the host-agent at {endpoint} has another fingerprint; correct spec.fingerprint of the HostAgent, or the \
         endpoint, to the output of `host-agent fingerprint`"
    )]
    OtherKey {
        /// Endpoint of the host-agent.
        endpoint: Endpoint,
    },
    /// The host-agent did not answer in time.
    #[error("the host-agent at {endpoint} does not answer ({step})")]
    Timeout {
        /// Endpoint of the host-agent.
        endpoint: Endpoint,
        /// Step that timed out: `connect`, `HELLO` or `PING`.
        step: &'static str,
    },
    /// The host-agent sent an error that ends the session.
    #[error("refused by the host-agent: {message}")]
    Refused {
        /// Kind of error.
        code: ErrorCode,
        /// Message with the remedy.
        message: String,
    },
    /// The socket failed, or a message could not be decoded.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The host-agent closed the connection.
    #[error("the host-agent closed the connection")]
    Closed,
}

impl UpstreamError {
    /// Connection state to report.
    pub fn connection(&self) -> HostAgentConnection {
        let message = self.to_string();
        match self {
            Self::NotPaired { .. } | Self::Moved { .. } | Self::KeyChanged => HostAgentConnection::Connecting,
            Self::OtherKey { .. } => HostAgentConnection::Untrusted { message },
            Self::Refused { code: ErrorCode::ExpiredToken, .. } => {
                HostAgentConnection::TokenExpired { message }
            }
            Self::Refused { code, .. } => HostAgentConnection::Refused { code: refusal(*code), message },
            Self::Socket(SocketError::Decode(DecodeError::Version { .. })) => {
                HostAgentConnection::Refused { code: RefusalCode::Version, message }
            }
            Self::Token { .. }
            | Self::TlsKey { .. }
            | Self::EndpointFile { .. }
            | Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Socket(_)
            | Self::Closed => HostAgentConnection::Unreachable { message },
        }
    }
}

fn refusal(code: ErrorCode) -> RefusalCode {
    match code {
        ErrorCode::Protocol => RefusalCode::Protocol,
        ErrorCode::Version => RefusalCode::Version,
        ErrorCode::BadToken => RefusalCode::BadToken,
        ErrorCode::Capacity => RefusalCode::Capacity,
        ErrorCode::Encoder => RefusalCode::Encoder,
        ErrorCode::Replaced => RefusalCode::Replaced,
        ErrorCode::ShuttingDown => RefusalCode::ShuttingDown,
        ErrorCode::RateLimited => RefusalCode::RateLimited,
        // Has a connection state of its own.
        ErrorCode::ExpiredToken => RefusalCode::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: ErrorCode, message: &str) -> HostAgentConnection {
        UpstreamError::Refused { code, message: message.into() }.connection()
    }

    #[test]
    fn connection_state_depends_on_the_code_and_not_on_the_message() {
        for message in ["the token has expired", "no room", "???"] {
            assert!(matches!(
                refused(ErrorCode::ExpiredToken, message),
                HostAgentConnection::TokenExpired { .. }
            ));
            assert!(matches!(
                refused(ErrorCode::BadToken, message),
                HostAgentConnection::Refused { code: RefusalCode::BadToken, .. }
            ));
            assert!(matches!(
                refused(ErrorCode::Capacity, message),
                HostAgentConnection::Refused { code: RefusalCode::Capacity, .. }
            ));
        }
    }

    #[test]
    fn unpaired_stream_is_connecting_and_broken_connection_is_unreachable() {
        let not_paired = UpstreamError::NotPaired { path: "/endpoint".into() };
        assert_eq!(not_paired.connection(), HostAgentConnection::Connecting);
        assert!(matches!(UpstreamError::Closed.connection(), HostAgentConnection::Unreachable { .. }));
        let version = DecodeError::Version { min: 2, max: 3, ours: 1 };
        assert!(matches!(
            UpstreamError::from(SocketError::from(version)).connection(),
            HostAgentConnection::Refused { code: RefusalCode::Version, .. }
        ));
    }
}
