//! TLS configuration of the server, which is replaced when the certificate is renewed.

use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// The current configuration. Clones share it.
#[derive(Clone)]
pub struct Tls {
    current: Arc<RwLock<Arc<ServerConfig>>>,
    /// Authorities that clients need a certificate of; all clients are accepted if `None`.
    client_ca: Option<Arc<RootCertStore>>,
}

impl Tls {
    /// Makes a configuration from PEM. With `client_ca`, also PEM, clients must have a certificate of one of its authorities.
    ///
    /// # Errors
    /// If a certificate or the key cannot be used.
    pub fn new(chain: &[u8], key: &[u8], client_ca: Option<&[u8]>) -> anyhow::Result<Self> {
        let client_ca = client_ca.map(authorities).transpose()?.map(Arc::new);
        let config = config(chain, key, client_ca.as_ref())?;
        Ok(Self { current: Arc::new(RwLock::new(config)), client_ca })
    }

    /// Uses another certificate for connections from now on.
    ///
    /// # Errors
    /// If the certificate or the key cannot be used. The previous one stays.
    pub fn replace(&self, chain: &[u8], key: &[u8]) -> anyhow::Result<()> {
        let config = config(chain, key, self.client_ca.as_ref())?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Acceptor with the current certificate.
    pub fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

fn authorities(pem: &[u8]) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.context("the client CA is not PEM")?).context("the client CA is not usable")?;
    }
    anyhow::ensure!(!roots.is_empty(), "the client CA has no certificate: write one in PEM");
    Ok(roots)
}

fn config(
    chain: &[u8],
    key: &[u8],
    client_ca: Option<&Arc<RootCertStore>>,
) -> anyhow::Result<Arc<ServerConfig>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .context("the webhook's certificate is not PEM")?;
    let key = PrivateKeyDer::from_pem_slice(key).context("the webhook's key is not PEM")?;
    let builder = ServerConfig::builder();
    let builder = match client_ca {
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder(Arc::clone(roots)).build();
            builder.with_client_cert_verifier(verifier.context("the client CA is not usable")?)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config =
        builder.with_single_cert(chain, key).context("the webhook's certificate is not usable")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
