//! Keys and their certificates.

use std::sync::Arc;

use contract::endpoint::Fingerprint;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};

use super::{NAME, PublicKey};

/// Encoding of an Ed25519 key as `SubjectPublicKeyInfo` up to the key itself (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A key that cannot be used. The message contains no secret.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The text is not an Ed25519 private key in PEM.
    #[error("not an Ed25519 private key in PEM (PKCS #8)")]
    NotAKey,
    /// A certificate or a key cannot be made.
    #[error("cannot make a key or its certificate: {0}")]
    Generate(#[from] rcgen::Error),
    /// The TLS library refused the key.
    #[error("cannot use the key for TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Generates a private key in PEM (PKCS #8).
///
/// # Errors
/// No random numbers are available.
pub fn generate_key() -> Result<String, KeyError> {
    Ok(KeyPair::generate_for(&PKCS_ED25519)?.serialize_pem())
}

/// A private key with its self-signed certificate. The certificate is made from the key each time and need not be stored.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl Identity {
    /// Makes a certificate for a private key in PEM (PKCS #8).
    ///
    /// # Errors
    /// The text is not an Ed25519 key, or no certificate can be made.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let key = KeyPair::from_pem(pem).map_err(|_| KeyError::NotAKey)?;
        if key.algorithm() != &PKCS_ED25519 {
            return Err(KeyError::NotAKey);
        }
        let certificate = CertificateParams::new([NAME.to_owned()])?.self_signed(&key)?;
        let signing = any_eddsa_type(&PrivatePkcs8KeyDer::from(key.serialize_der()))?;
        let certificate = certificate.der().clone();
        let fingerprint = fingerprint(&certificate)?;
        Ok(Self { certified: Arc::new(CertifiedKey::new(vec![certificate], signing)), fingerprint })
    }

    /// Fingerprint of the public key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(super) fn certified(&self) -> CertifiedKey {
        (*self.certified).clone()
    }
}

/// SHA-256 of a certificate's `SubjectPublicKeyInfo` in DER.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> Result<Fingerprint, rustls::Error> {
    let spki = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    Ok(Fingerprint(Sha256::digest(&*spki).into()))
}

/// Key of a certificate; `None` if it is not an Ed25519 key.
pub(super) fn public_key(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
    let spki = ParsedCertificate::try_from(certificate).ok()?.subject_public_key_info();
    spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok()
}
