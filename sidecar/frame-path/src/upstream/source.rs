//! Sources of endpoint, token and key, read for each connection attempt.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use contract::Endpoint;
use stream_tls::Identity;

use super::error::UpstreamError;

/// Source of the host-agent's endpoint.
#[derive(Debug, Clone)]
pub enum EndpointSource {
    /// Fixed endpoint.
    Fixed(Endpoint),
    /// File that contains the endpoint. The connection moves when the file names another one.
    File(PathBuf),
}

impl EndpointSource {
    /// Reads the current endpoint.
    ///
    /// # Errors
    ///
    /// [`UpstreamError::NotPaired`] if the file is missing or empty, [`UpstreamError::EndpointFile`] if it cannot be
    /// read or does not contain an endpoint.
    pub fn read(&self) -> Result<Endpoint, UpstreamError> {
        let path = match self {
            Self::Fixed(endpoint) => return Ok(endpoint.clone()),
            Self::File(path) => path,
        };
        let invalid = |reason: String| UpstreamError::EndpointFile { path: path.clone(), reason };
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            text => text.map_err(|error| invalid(error.to_string()))?,
        };
        match text.trim() {
            "" => Err(UpstreamError::NotPaired { path: path.clone() }),
            text => text.parse().map_err(|error| invalid(format!("{error}"))),
        }
    }
}

/// Source of the token for the host-agent.
#[derive(Debug, Clone)]
pub enum TokenSource {
    /// No token; the host-agent must run without authentication.
    None,
    /// Fixed token.
    Text(String),
    /// File that contains the token and may be rotated.
    File(PathBuf),
}

impl TokenSource {
    /// Prefers `file` over `text`.
    pub fn new(file: Option<PathBuf>, text: Option<String>) -> Self {
        match (file, text) {
            (Some(path), _) => Self::File(path),
            (None, Some(text)) => Self::Text(text),
            (None, None) => Self::None,
        }
    }

    /// Reads the current token; empty without one.
    pub(super) fn read(&self) -> Result<String, UpstreamError> {
        match self {
            Self::None => Ok(String::new()),
            Self::Text(text) => Ok(text.clone()),
            Self::File(path) => fs::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .map_err(|source| UpstreamError::Token { path: path.clone(), source }),
        }
    }
}

/// The key that the token is bound to.
#[derive(PartialEq, Eq)]
pub(super) struct Key {
    path: PathBuf,
    pem: String,
}

impl Key {
    /// Reads the key in PEM; `None` if the file is missing or empty: tokens need not be bound.
    pub(super) fn read(path: Option<&Path>) -> Result<Option<Self>, UpstreamError> {
        let Some(path) = path else { return Ok(None) };
        match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(invalid(path, error)),
            Ok(pem) if pem.trim().is_empty() => Ok(None),
            Ok(pem) => Ok(Some(Self { path: path.to_owned(), pem })),
        }
    }

    /// Identity of a TLS client with this key.
    pub(super) fn identity(&self) -> Result<Identity, UpstreamError> {
        Identity::from_pem(&self.pem).map_err(|error| invalid(&self.path, error))
    }
}

fn invalid(path: &Path, reason: impl std::fmt::Display) -> UpstreamError {
    UpstreamError::TlsKey { path: path.to_owned(), reason: reason.to_string() }
}
