//! The key that a stream's tokens are bound to.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use sha2::{Digest as _, Sha256};

use crate::KeyError;
use crate::key::crypto;

/// Private key that a sidecar proves to have when it presents its token.
pub struct StreamKey(SigningKey);

impl std::fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StreamKey").field(&self.thumbprint()).finish()
    }
}

impl StreamKey {
    /// Generates a key from the operating system's random numbers.
    ///
    /// # Errors
    /// Fails if no random numbers are available.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(crypto("get random bytes"))?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// Parses a private key in PEM (PKCS #8).
    ///
    /// # Errors
    /// [`KeyError::NotAKey`] for any other text.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        SigningKey::from_pkcs8_pem(pem.trim()).map(Self).map_err(|_| KeyError::NotAKey)
    }

    /// Private key in PEM (PKCS #8).
    ///
    /// # Errors
    /// Fails if the key cannot be encoded.
    pub fn pem(&self) -> Result<String, KeyError> {
        let pem = self.0.to_pkcs8_pem(LineEnding::LF).map_err(crypto("encode the key as PEM"))?;
        Ok((*pem).clone())
    }

    /// Thumbprint of the public key, for [`contract::claims::Confirmation`].
    pub fn thumbprint(&self) -> String {
        thumbprint(self.0.verifying_key().as_bytes())
    }
}

/// Thumbprint (RFC 7638) of an Ed25519 public key: SHA-256 of its JWK (RFC 8037, section 2) with the required members in
/// lexicographic order, in base64url without padding.
pub fn thumbprint(public_key: &[u8; 32]) -> String {
    let x = BASE64_URL_SAFE_NO_PAD.encode(public_key);
    let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(jwk))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8037, appendix A.3.
    #[test]
    fn thumbprint_is_that_of_the_rfc() {
        let key =
            BASE64_URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").expect("base64");
        let key = key.try_into().expect("32 bytes");
        assert_eq!(thumbprint(&key), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn stored_key_keeps_its_thumbprint_and_is_not_shown() {
        let key = StreamKey::generate().expect("a key");
        let pem = key.pem().expect("PEM");
        assert_eq!(StreamKey::from_pem(&pem).expect("read").thumbprint(), key.thumbprint());
        assert_ne!(StreamKey::generate().expect("a key").thumbprint(), key.thumbprint());
        assert!(matches!(StreamKey::from_pem("no"), Err(KeyError::NotAKey)));
        assert_eq!(format!("{key:?}"), format!("StreamKey({:?})", key.thumbprint()));
    }
}
