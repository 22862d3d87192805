//! Key pairs and signing.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use contract::Claims;
use contract::claims::Confirmation;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use ed25519_dalek::{SigningKey, VerifyingKey};
use jsonwebtoken::{Algorithm, EncodingKey, Header};

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The text is not an Ed25519 private key in PEM.
    #[error("not an Ed25519 private key in PEM (PKCS #8)")]
    NotAKey,
    /// A cryptographic library failed. The message contains no secret.
    #[error("cannot {action}: {message}")]
    Crypto {
        /// Operation that failed.
        action: &'static str,
        /// Error of the library.
        message: String,
    },
}

pub(crate) fn crypto<E: std::fmt::Display>(action: &'static str) -> impl FnOnce(E) -> KeyError {
    move |error| KeyError::Crypto { action, message: error.to_string() }
}

/// Private key that signs stream tokens.
pub struct Signer {
    key: SigningKey,
    encoding: EncodingKey,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("public", &self.public_base64()).finish_non_exhaustive()
    }
}

impl Signer {
    /// Generates a key from the operating system's random numbers.
    ///
    /// # Errors
    /// Fails if no random numbers are available.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(crypto("get random bytes"))?;
        Self::new(SigningKey::from_bytes(&seed))
    }

    /// Parses a private key in PEM (PKCS #8).
    ///
    /// # Errors
    /// [`KeyError::NotAKey`] for any other text.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        Self::new(SigningKey::from_pkcs8_pem(pem.trim()).map_err(|_| KeyError::NotAKey)?)
    }

    fn new(key: SigningKey) -> Result<Self, KeyError> {
        let der = key.to_pkcs8_der().map_err(crypto("encode the key"))?;
        Ok(Self { encoding: EncodingKey::from_ed_der(der.as_bytes()), key })
    }

    /// Private key in PEM (PKCS #8).
    ///
    /// # Errors
    /// Fails if the key cannot be encoded.
    pub fn private_pem(&self) -> Result<String, KeyError> {
        let pem = self.key.to_pkcs8_pem(LineEnding::LF).map_err(crypto("encode the key as PEM"))?;
        Ok((*pem).clone())
    }

    /// Public key in PEM (SPKI).
    ///
    /// # Errors
    /// Fails if the key cannot be encoded.
    pub fn public_pem(&self) -> Result<String, KeyError> {
        self.key.verifying_key().to_public_key_pem(LineEnding::LF).map_err(crypto("encode the key as PEM"))
    }

    /// Public key as base64 of its 32 bytes.
    pub fn public_base64(&self) -> String {
        print_public_key(&self.key.verifying_key())
    }

    /// Public key.
    pub fn verifying_key(&self) -> VerifyingKey {
        self.key.verifying_key()
    }

    /// The 32 bytes of the private key.
    pub(crate) fn seed(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Signs `claims`. The header names the key: [`key_id`].
    ///
    /// # Errors
    /// Fails if the claims cannot be encoded.
    pub fn sign(&self, claims: &Claims) -> Result<String, KeyError> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(key_id(&self.key.verifying_key()));
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(crypto("sign the token"))
    }

    /// Signs a token for `stream` (`namespace/name`) on `host_agent`, valid from `now` (Unix seconds) for
    /// `lifetime_seconds`, that is bound to no key. A negative lifetime gives an expired token, for tests.
    ///
    /// # Errors
    /// Fails if no random numbers are available for the token ID.
    pub fn token(
        &self,
        stream: &str,
        host_agent: &str,
        now: u64,
        lifetime_seconds: i64,
    ) -> Result<String, KeyError> {
        self.token_with(stream, host_agent, now, lifetime_seconds, None)
    }

    /// The same, bound to the key with this [thumbprint](crate::thumbprint).
    ///
    /// # Errors
    /// As [`Self::token`].
    pub fn bound_token(
        &self,
        stream: &str,
        host_agent: &str,
        now: u64,
        lifetime_seconds: i64,
        thumbprint: &str,
    ) -> Result<String, KeyError> {
        let confirmation = Confirmation { jkt: thumbprint.to_owned() };
        self.token_with(stream, host_agent, now, lifetime_seconds, Some(confirmation))
    }

    fn token_with(
        &self,
        stream: &str,
        host_agent: &str,
        now: u64,
        lifetime_seconds: i64,
        cnf: Option<Confirmation>,
    ) -> Result<String, KeyError> {
        let mut id = [0; 8];
        getrandom::fill(&mut id).map_err(crypto("get random bytes"))?;
        self.sign(&Claims {
            sub: stream.to_owned(),
            aud: host_agent.to_owned(),
            exp: now.saturating_add_signed(lifetime_seconds),
            iat: now,
            jti: Some(format!("{:016x}", u64::from_be_bytes(id))),
            cnf,
        })
    }
}

/// Parses a public key: SPKI in PEM, or its 32 bytes in base64 (standard or URL-safe, padded or not).
pub fn parse_public_key(text: &str) -> Option<VerifyingKey> {
    if text.contains("BEGIN") {
        return VerifyingKey::from_public_key_pem(text.trim()).ok();
    }
    let text = text.trim().trim_end_matches('=');
    let url_safe = text.replace('+', "-").replace('/', "_");
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(url_safe).ok()?;
    VerifyingKey::from_bytes(bytes.as_slice().try_into().ok()?).ok()
}

/// Parses public keys: any number of PEM blocks, or of keys in base64, one per line. `None` if one of them is invalid, or if
/// there is none. A file with two keys verifies tokens of both while a key is rotated.
pub fn parse_public_keys(text: &str) -> Option<Vec<VerifyingKey>> {
    const END: &str = "-----END PUBLIC KEY-----";
    let parts: Vec<&str> = if text.contains("BEGIN") {
        text.split_inclusive(END).filter(|part| !part.trim().is_empty()).collect()
    } else {
        text.split_whitespace().collect()
    };
    let keys = parts.into_iter().map(parse_public_key).collect::<Option<Vec<_>>>()?;
    (!keys.is_empty()).then_some(keys)
}

/// Name of a key in the header of its tokens (`kid`, RFC 7515 section 4.1.4): its first 8 bytes in hexadecimal.
pub fn key_id(key: &VerifyingKey) -> String {
    let first = key.as_bytes().first_chunk().copied().unwrap_or_default();
    format!("{:016x}", u64::from_be_bytes(first))
}

/// Public key as base64 of its 32 bytes, accepted by [`parse_public_key`].
pub fn print_public_key(key: &VerifyingKey) -> String {
    BASE64_STANDARD.encode(key.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_public_key_parses() {
        let signer = Signer::generate().expect("key");
        let key = signer.verifying_key();
        assert_eq!(parse_public_key(&signer.public_pem().expect("PEM")), Some(key));
        assert_eq!(parse_public_key(&signer.public_base64()), Some(key));
        assert_eq!(
            parse_public_key(&format!("{}\n", print_public_key(&key).trim_end_matches('='))),
            Some(key)
        );
        assert_eq!(parse_public_key("no key"), None);
    }

    #[test]
    fn file_with_several_public_keys_parses_whole_or_not_at_all() {
        let signers = [Signer::generate().expect("key"), Signer::generate().expect("key")];
        let keys = signers.each_ref().map(Signer::verifying_key).to_vec();
        let pem = signers.each_ref().map(|signer| signer.public_pem().expect("PEM"));
        let base64 = signers.each_ref().map(Signer::public_base64);
        for text in [pem.concat(), pem.join("\n"), base64.join("\n") + "\n"] {
            assert_eq!(parse_public_keys(&text), Some(keys.clone()), "{text}");
        }
        assert_eq!(parse_public_keys(&pem[0]), Some(keys[..1].to_vec()));
        for bad in [String::new(), format!("{}garbage", pem[0]), format!("{}\nno", base64[0])] {
            assert_eq!(parse_public_keys(&bad), None, "{bad}");
        }
    }

    #[test]
    fn private_key_survives_pem() {
        let signer = Signer::generate().expect("key");
        let again = Signer::from_pem(&signer.private_pem().expect("PEM")).expect("reads");
        assert_eq!(again.verifying_key(), signer.verifying_key());
        assert!(matches!(Signer::from_pem("no"), Err(KeyError::NotAKey)));
        assert!(!format!("{signer:?}").contains("PRIVATE"));
    }
}
