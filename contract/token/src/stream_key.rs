//! The key that a stream's tokens are bound to.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use contract::Endpoint;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use hkdf::Hkdf;
use sha2::{Digest as _, Sha256};

use crate::key::crypto;
use crate::{KeyError, Signer};

/// Label of the keys that are derived from the signing key (`info` of RFC 5869).
const LABEL: &str = "desktopstream.dev/stream-key/1";

/// Private key that a sidecar proves to have when it presents its token.
pub struct StreamKey(SigningKey);

impl std::fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StreamKey").field(&self.thumbprint()).finish()
    }
}

impl StreamKey {
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

/// Token of a stream for a host-agent, and the private key that it is bound to.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Signed token.
    pub token: String,
    /// Private key in PEM; `None` for a plaintext TCP endpoint, on which no key can be proved.
    pub key: Option<String>,
}

impl Signer {
    /// Key that the tokens of a stream are bound to, derived from the signing key (HKDF-SHA256, RFC 5869): the operator neither
    /// stores nor reads it. A stream that is created again has another UID, and another key.
    ///
    /// # Errors
    /// None in practice: 32 bytes are less than HKDF's limit.
    pub fn stream_key(&self, stream: &str, uid: &str) -> Result<StreamKey, KeyError> {
        let mut seed = [0; 32];
        Hkdf::<Sha256>::new(None, self.seed())
            .expand_multi_info(
                &[LABEL.as_bytes(), b"\0", stream.as_bytes(), b"\0", uid.as_bytes()],
                &mut seed,
            )
            .map_err(crypto("derive the stream's key"))?;
        Ok(StreamKey(SigningKey::from_bytes(&seed)))
    }

    /// Signs a token for `stream` (`namespace/name`) with this UID on `host_agent`, valid from `now` (Unix seconds) for
    /// `lifetime_seconds`. It is bound to the stream's key, if a connection to `endpoint` can prove a key.
    ///
    /// # Errors
    /// Fails if no random numbers are available for the token ID.
    pub fn credentials(
        &self,
        (stream, uid): (&str, &str),
        (host_agent, endpoint): (&str, &Endpoint),
        now: u64,
        lifetime_seconds: i64,
    ) -> Result<Credentials, KeyError> {
        if !can_prove_key(endpoint) {
            let token = self.token(stream, host_agent, now, lifetime_seconds)?;
            return Ok(Credentials { token, key: None });
        }
        let key = self.stream_key(stream, uid)?;
        let token = self.bound_token(stream, host_agent, now, lifetime_seconds, &key.thumbprint())?;
        Ok(Credentials { token, key: Some(key.pem()?) })
    }
}

/// True if tokens for an endpoint are bound to a key: by TLS it is proved, and by vsock and Unix sockets no network carries
/// the token. A plaintext TCP connection cannot prove one.
const fn can_prove_key(endpoint: &Endpoint) -> bool {
    !matches!(endpoint, Endpoint::Tcp { .. })
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
    fn derived_key_is_that_of_its_stream_and_signer() {
        let (signer, other) = (Signer::generate().expect("a key"), Signer::generate().expect("a key"));
        let again = Signer::from_pem(&signer.private_pem().expect("PEM")).expect("read");
        let thumbprint =
            |signer: &Signer, stream, uid| signer.stream_key(stream, uid).expect("a key").thumbprint();
        let first = thumbprint(&signer, "team/desk", "u-1");
        assert_eq!(thumbprint(&again, "team/desk", "u-1"), first);
        let others =
            [(&signer, "team/desk", "u-2"), (&signer, "team/des", "k\0u-1"), (&other, "team/desk", "u-1")];
        for (signer, stream, uid) in others {
            assert_ne!(thumbprint(signer, stream, uid), first, "{stream} {uid}");
        }
    }

    #[test]
    fn stored_key_keeps_its_thumbprint_and_is_not_shown() {
        let key = Signer::generate().and_then(|signer| signer.stream_key("team/desk", "u-1")).expect("a key");
        let pem = key.pem().expect("PEM");
        assert_eq!(StreamKey::from_pem(&pem).expect("read").thumbprint(), key.thumbprint());
        assert!(matches!(StreamKey::from_pem("no"), Err(KeyError::NotAKey)));
        assert_eq!(format!("{key:?}"), format!("StreamKey({:?})", key.thumbprint()));
    }

    #[test]
    fn token_is_bound_to_the_key_beside_it_unless_the_endpoint_is_plaintext() {
        let signer = Signer::generate().expect("a key");
        let pinned = format!("tls://10.0.0.1:1#sha256={}", "ab".repeat(32));
        for (endpoint, is_bound) in
            [(pinned.as_str(), true), ("vsock://2:1", true), ("unix:/a", true), ("tcp://10.0.0.1:1", false)]
        {
            let endpoint: Endpoint = endpoint.parse().expect("an endpoint");
            let made =
                signer.credentials(("team/desk", "u-1"), ("mac", &endpoint), 1000, 60).expect("signed");
            let claims = crate::unverified_claims(&made.token).expect("claims");
            let key = made.key.map(|pem| StreamKey::from_pem(&pem).expect("a key").thumbprint());
            assert_eq!(key.is_some(), is_bound, "{endpoint}");
            assert_eq!(claims.cnf.map(|confirmation| confirmation.jkt), key, "{endpoint}");
        }
    }
}
