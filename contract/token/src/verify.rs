//! Verification of tokens.

use contract::Claims;
use ed25519_dalek::VerifyingKey;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};

use crate::key_id;

/// Tolerated difference between the clocks of host and cluster, seconds.
pub const LEEWAY_SECONDS: u64 = 30;
/// Maximum length of a stream name, bytes: two RFC 1123 subdomains of 253 bytes and a slash.
const MAX_STREAM: usize = 2 * 253 + 1;

/// A token that does not grant a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token has expired.
    #[error(
        "the token has expired; check that the operator renews it and that the sidecar reads the renewed file; if the token is new, set the clock of the cluster: clocks may differ by {LEEWAY_SECONDS} s, and the clock of a VM stops while its host sleeps"
    )]
    Expired,
    /// The token is for another host-agent.
    #[error(
        "the token is for another host-agent; set the HostAgent's name and --name to the same value: this one is `{0}`"
    )]
    Audience(String),
    /// No configured key verifies the signature, or the token names a key that is not configured.
    #[error(
        "no public key verifies the token; pass the operator's keys to host-agent with --public-key: after a rotation, the new one too"
    )]
    Signature,
    /// The token is bound to a key that the peer has not proved to have.
    #[error(
        "the token is bound to a key that the connection does not prove; give the sidecar the tls.key beside the token, and a tls:// endpoint"
    )]
    Unconfirmed,
    /// There is no token.
    #[error(
        "the token is missing; mount the Secret that the operator created, or mint a token with `host-agent token`"
    )]
    Missing,
    /// The token cannot be parsed, or a claim is invalid.
    #[error("malformed token: {0}; mint a new one")]
    Malformed(String),
}

/// Public keys and the audience that tokens are verified against.
pub struct Verifier {
    /// Keys by [`key_id`].
    keys: Vec<(String, DecodingKey)>,
    validation: Validation,
    audience: String,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("audience", &self.audience)
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

impl Verifier {
    /// Accepts tokens for `audience` that one of `keys` verifies: the one that the token names, or any if it names none.
    pub fn new(keys: &[VerifyingKey], audience: &str) -> Self {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        let keys = keys.iter().map(|key| (key_id(key), DecodingKey::from_ed_der(key.as_bytes()))).collect();
        Self { keys, validation, audience: audience.to_owned() }
    }

    /// Verifies signature, expiry, audience and the form of the subject.
    ///
    /// # Errors
    /// One variant of [`TokenError`] per cause; nothing of the token is trusted then.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        if token.is_empty() {
            return Err(TokenError::Missing);
        }
        let header = jsonwebtoken::decode_header(token);
        let named = header.map_err(|error| TokenError::Malformed(error.to_string()))?.kid;
        let is_candidate = |id: &String| named.as_ref().is_none_or(|named| named == id);
        for (_, key) in self.keys.iter().filter(|(id, _)| is_candidate(id)) {
            match jsonwebtoken::decode::<Claims>(token, key, &self.validation) {
                Ok(data) if is_stream_name(&data.claims.sub) => return Ok(data.claims),
                Ok(_) => return Err(TokenError::Malformed("the subject is not namespace/name".to_owned())),
                Err(error) => match error.kind() {
                    ErrorKind::InvalidSignature => {}
                    ErrorKind::ExpiredSignature => return Err(TokenError::Expired),
                    ErrorKind::InvalidAudience => return Err(TokenError::Audience(self.audience.clone())),
                    _ => return Err(TokenError::Malformed(error.to_string())),
                },
            }
        }
        Err(TokenError::Signature)
    }
}

/// Claims of a JWT without verification. Only for a host-agent that was told to run without authentication.
pub fn unverified_claims(token: &str) -> Option<Claims> {
    jsonwebtoken::dangerous::insecure_decode_claims::<Claims>(token).ok()
}

/// True for `namespace/name` with characters that Kubernetes allows in names.
pub fn is_stream_name(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
    };
    name.len() <= MAX_STREAM
        && name.split_once('/').is_some_and(|(namespace, name)| part(namespace) && part(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Signer;

    #[test]
    fn token_names_its_key_and_is_verified_by_that_key_only() {
        let (old, new) = (Signer::generate().expect("key"), Signer::generate().expect("key"));
        let now = jsonwebtoken::get_current_timestamp();
        let (first, second) =
            (old.token("team/desk", "mac", now, 60), new.token("team/desk", "mac", now, 60));
        let (first, second) = (first.expect("signs"), second.expect("signs"));
        let kid = |token: &str| jsonwebtoken::decode_header(token).expect("a header").kid;
        assert_eq!(kid(&first), Some(key_id(&old.verifying_key())));
        assert_ne!(kid(&first), kid(&second));
        let both = Verifier::new(&[old.verifying_key(), new.verifying_key()], "mac");
        assert!(both.verify(&first).is_ok() && both.verify(&second).is_ok(), "during a rotation");
        let only_old = Verifier::new(&[old.verifying_key()], "mac");
        assert_eq!(only_old.verify(&second), Err(TokenError::Signature));
    }

    #[test]
    fn token_without_a_key_name_is_verified_by_any_key() {
        use ed25519_dalek::pkcs8::EncodePrivateKey as _;
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        let now = jsonwebtoken::get_current_timestamp();
        let claims = Claims {
            sub: "team/desk".into(),
            aud: "mac".into(),
            exp: now + 60,
            iat: now,
            jti: None,
            cnf: None,
        };
        let encoding = jsonwebtoken::EncodingKey::from_ed_der(key.to_pkcs8_der().expect("DER").as_bytes());
        let header = jsonwebtoken::Header::new(Algorithm::EdDSA);
        let token = jsonwebtoken::encode(&header, &claims, &encoding).expect("signs");
        let other = Signer::generate().expect("key").verifying_key();
        assert!(Verifier::new(&[other, key.verifying_key()], "mac").verify(&token).is_ok());
    }

    #[test]
    fn token_is_verified_by_its_key_and_audience_only() {
        let signer = Signer::generate().expect("key");
        let now = jsonwebtoken::get_current_timestamp();
        let token = signer.token("team/desk", "mac", now, 60).expect("signs");
        let keys = [Signer::generate().expect("key").verifying_key(), signer.verifying_key()];
        let claims = Verifier::new(&keys, "mac").verify(&token).expect("valid");
        assert_eq!((claims.sub.as_str(), claims.exp - claims.iat), ("team/desk", 60));
        assert_eq!(Verifier::new(&keys, "other").verify(&token), Err(TokenError::Audience("other".into())));
        assert_eq!(Verifier::new(&keys[..1], "mac").verify(&token), Err(TokenError::Signature));
        assert_eq!(Verifier::new(&keys, "mac").verify(""), Err(TokenError::Missing));
        let old = signer.token("team/desk", "mac", now - 3600, 60).expect("signs");
        assert_eq!(Verifier::new(&keys, "mac").verify(&old), Err(TokenError::Expired));
        let nameless = signer.token("desk", "mac", now, 60).expect("signs");
        assert!(matches!(Verifier::new(&keys, "mac").verify(&nameless), Err(TokenError::Malformed(_))));
    }
}
