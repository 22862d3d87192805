use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePublicKey;
use jsonwebtoken::{EncodingKey, Header};
use proptest::prelude::*;

use super::*;
use crate::token;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// Claims that expire `exp` seconds from now.
fn claims(exp: i64) -> Claims {
    let now = jsonwebtoken::get_current_timestamp();
    Claims {
        sub: "team/desk".to_owned(),
        aud: "mac".to_owned(),
        exp: now.saturating_add_signed(exp),
        iat: now,
        jti: None,
    }
}

fn sign(key: &SigningKey, claims: &Claims) -> String {
    token::sign(key, claims).expect("signed")
}

fn verifier() -> Verifier {
    Verifier::new(&[key(1).verifying_key(), key(2).verifying_key()], "mac")
}

#[test]
fn token_of_any_trusted_key_is_accepted() {
    for seed in [1, 2] {
        let verified = verifier().verify(&sign(&key(seed), &claims(60)));
        assert_eq!(verified.expect("valid").sub, "team/desk");
    }
}

#[test]
fn expired_token_is_accepted_within_the_leeway_only() {
    assert!(verifier().verify(&sign(&key(1), &claims(-20))).is_ok());
    assert_eq!(verifier().verify(&sign(&key(1), &claims(-40))), Err(AuthError::Expired));
    assert_eq!(AuthError::Expired.code(), ErrorCode::ExpiredToken);
}

#[test]
fn token_of_an_untrusted_key_is_refused() {
    assert_eq!(verifier().verify(&sign(&key(3), &claims(60))), Err(AuthError::Signature));
}

#[test]
fn token_for_another_host_agent_is_refused() {
    let other = Claims { aud: "other".to_owned(), ..claims(60) };
    assert_eq!(verifier().verify(&sign(&key(1), &other)), Err(AuthError::Audience("mac".to_owned())));
}

/// Algorithm confusion: HMAC with the public key as its secret, and no signature at all.
#[test]
fn token_with_another_algorithm_is_refused() {
    let secret = EncodingKey::from_secret(key(1).verifying_key().as_bytes());
    let hmac = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(60), &secret).expect("encoded");
    assert!(matches!(verifier().verify(&hmac), Err(AuthError::Malformed(_))));
    let payload = sign(&key(1), &claims(60)).split('.').nth(1).expect("a payload").to_owned();
    let none = format!("{}.{payload}.", BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#));
    assert!(matches!(verifier().verify(&none), Err(AuthError::Malformed(_))));
}

#[test]
fn token_with_a_changed_payload_is_refused() {
    let good = sign(&key(1), &claims(60));
    let other = sign(&key(1), &Claims { sub: "team/other".to_owned(), ..claims(60) });
    let (parts, others): (Vec<_>, Vec<_>) = (good.split('.').collect(), other.split('.').collect());
    let mixed = format!("{}.{}.{}", parts[0], others[1], parts[2]);
    assert_eq!(verifier().verify(&mixed), Err(AuthError::Signature));
}

#[test]
fn subject_that_is_not_a_stream_name_is_refused() {
    for sub in ["", "desk", "a/b/c", "/desk", "team/", "Team/desk", "team/de sk", "team/../x\n"] {
        let token = sign(&key(1), &Claims { sub: sub.to_owned(), ..claims(60) });
        assert!(matches!(verifier().verify(&token), Err(AuthError::Malformed(_))), "{sub:?}");
    }
    assert_eq!(verifier().verify(""), Err(AuthError::Missing));
}

#[test]
fn every_error_has_a_remedy_and_fits_into_a_message() {
    for error in [
        AuthError::Expired,
        AuthError::Audience("mac".to_owned()),
        AuthError::Signature,
        AuthError::Missing,
        AuthError::Malformed("x".to_owned()),
    ] {
        let text = error.to_string();
        assert!(text.len() <= protocol::stream::MAX_TEXT, "{text}");
        let remedies = ["read the token file", "--name", "--public-key", "host-agent token", "request a new one"];
        assert!(remedies.iter().any(|remedy| text.contains(remedy)), "{text}");
    }
}

#[test]
fn public_key_is_parsed_from_pem_and_base64() {
    let key = key(9).verifying_key();
    let pem = key.to_public_key_pem(ed25519_dalek::pkcs8::spki::der::pem::LineEnding::LF).expect("PEM");
    for text in [pem, format_public_key(&key), BASE64_URL_SAFE_NO_PAD.encode(key.as_bytes()) + "\n"] {
        assert_eq!(parse_public_key(&text), Some(key), "{text}");
    }
    for text in ["", "AAAA", "not base64!", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"] {
        assert_eq!(parse_public_key(text), None, "{text}");
    }
}

#[test]
fn insecure_connection_is_named_by_its_token() {
    let authenticate = |token: &str| Authenticator::Insecure.authenticate(token);
    assert_eq!(authenticate(""), Ok(None));
    assert_eq!(authenticate("team/desk"), Ok(Some("team/desk".to_owned())));
    assert_eq!(authenticate(&sign(&key(7), &claims(-1000))), Ok(Some("team/desk".to_owned())));
    assert_eq!(authenticate("not a name"), Ok(None));
}

proptest! {
    #[test]
    fn arbitrary_text_is_refused_without_a_panic(
        token in ".{0,200}",
        parts in proptest::collection::vec("[A-Za-z0-9_-]{0,60}", 1..5),
    ) {
        prop_assert!(verifier().verify(&token).is_err());
        prop_assert!(verifier().verify(&parts.join(".")).is_err());
    }
}
