//! TLS of stream connections over TCP: TLS 1.3 (RFC 8446) with Ed25519 keys and without certificate authorities.
//!
//! Both ends have self-signed certificates, of which only the keys count. A sidecar accepts the one key whose
//! [fingerprint](contract::endpoint::Fingerprint) is part of the host-agent's endpoint. A host-agent accepts every client
//! key, and connections without one, and compares the key with the one that the client's token is bound to. Names and
//! validity periods of certificates have no meaning here. Sessions are not resumed.
//!
//! No IO except on the streams that callers pass: callers read and store keys.

#![forbid(unsafe_code)]

mod identity;
mod verify;

use std::io;
use std::sync::Arc;

use contract::endpoint::Fingerprint;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub use identity::{Identity, KeyError, generate_key};
pub use tokio_rustls::{client, server};
use verify::{AnyClient, Pinned, provider};

/// Name in the certificates. It is not checked, nor sent.
const NAME: &str = "desktopstream";

/// Public Ed25519 key (RFC 8032, 5.1.5).
pub type PublicKey = [u8; 32];

/// The host-agent's end of connections.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    fingerprint: Fingerprint,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Accepts connections as `identity`.
    ///
    /// # Errors
    /// The cryptographic library does not support TLS 1.3.
    pub fn new(identity: &Identity) -> Result<Self, KeyError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(AnyClient))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified())));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), fingerprint: identity.fingerprint() })
    }

    /// Fingerprint of the own key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Performs the handshake of an accepted connection. Returns the client's key; `None` if it presented none.
    ///
    /// # Errors
    /// The connection failed, or the peer does not speak TLS 1.3 with Ed25519 keys.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<(server::TlsStream<S>, Option<PublicKey>)> {
        let stream = TlsAcceptor::from(Arc::clone(&self.config)).accept(stream).await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let key =
            certificate.map(|it| identity::public_key(it).ok_or(io::ErrorKind::InvalidData)).transpose()?;
        Ok((stream, key))
    }
}

/// Performs the handshake of a connection to the host-agent whose key has `fingerprint`. `identity` is the own key, if the
/// token is bound to one.
///
/// # Errors
/// The connection failed, or the peer has another key: see [`is_other_key`].
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    fingerprint: Fingerprint,
    identity: Option<&Identity>,
) -> io::Result<client::TlsStream<S>> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(fingerprint)));
    let mut config = match identity {
        Some(identity) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified())))
        }
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// True if a handshake failed because the peer's key is not the pinned one.
pub fn is_other_key(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    error.is_some_and(|error| *error == verify::OTHER_KEY)
}
