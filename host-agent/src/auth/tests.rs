use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePublicKey;
use jsonwebtoken::{EncodingKey, Header};
use proptest::prelude::*;

use super::*;
use crate::token;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

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

fn mint(key: &SigningKey, claims: &Claims) -> String {
    token::sign(key, claims).expect("signs")
}

fn verifier() -> Verifier {
    Verifier::new(&[key(1).verifying_key(), key(2).verifying_key()], "mac")
}

#[test]
fn a_good_token_of_any_trusted_key_is_admitted() {
    for seed in [1, 2] {
        let verified = verifier().verify(&mint(&key(seed), &claims(60)));
        assert_eq!(verified.expect("good").sub, "team/desk");
    }
}

#[test]
fn clocks_may_differ_by_the_leeway() {
    assert!(verifier().verify(&mint(&key(1), &claims(-20))).is_ok());
    assert_eq!(verifier().verify(&mint(&key(1), &claims(-40))), Err(AuthError::Expired));
    assert_eq!(AuthError::Expired.code(), ErrorCode::ExpiredToken);
}

#[test]
fn foreign_keys_audiences_and_algorithms_are_refused() {
    assert_eq!(verifier().verify(&mint(&key(3), &claims(60))), Err(AuthError::Signature));
    let elsewhere = Claims { aud: "other".to_owned(), ..claims(60) };
    assert_eq!(verifier().verify(&mint(&key(1), &elsewhere)), Err(AuthError::Audience("mac".to_owned())));
    // An HMAC whose secret is the public key: the classic confusion.
    let secret = EncodingKey::from_secret(key(1).verifying_key().as_bytes());
    let confused =
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(60), &secret).expect("encodes");
    assert!(matches!(verifier().verify(&confused), Err(AuthError::Malformed(_))));
    // "alg": "none".
    let payload = mint(&key(1), &claims(60)).split('.').nth(1).expect("a payload").to_owned();
    let none = format!("{}.{payload}.", BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#));
    assert!(matches!(verifier().verify(&none), Err(AuthError::Malformed(_))));
}

#[test]
fn a_changed_payload_breaks_the_signature() {
    let good = mint(&key(1), &claims(60));
    let other = mint(&key(1), &Claims { sub: "team/other".to_owned(), ..claims(60) });
    let (parts, others): (Vec<_>, Vec<_>) = (good.split('.').collect(), other.split('.').collect());
    let mixed = format!("{}.{}.{}", parts[0], others[1], parts[2]);
    assert_eq!(verifier().verify(&mixed), Err(AuthError::Signature));
}

#[test]
fn subjects_must_be_stream_names() {
    for sub in ["", "desk", "a/b/c", "/desk", "team/", "Team/desk", "team/de sk", "team/../x\n"] {
        let token = mint(&key(1), &Claims { sub: sub.to_owned(), ..claims(60) });
        assert!(matches!(verifier().verify(&token), Err(AuthError::Malformed(_))), "{sub:?}");
    }
    assert_eq!(verifier().verify(""), Err(AuthError::Missing));
}

#[test]
fn every_refusal_names_a_remedy() {
    for error in [
        AuthError::Expired,
        AuthError::Audience("mac".to_owned()),
        AuthError::Signature,
        AuthError::Missing,
        AuthError::Malformed("x".to_owned()),
    ] {
        let text = error.to_string();
        assert!(text.len() <= protocol::stream::MAX_TEXT, "{text} fits into the message");
        let remedies = ["read its token file again", "--name", "--public-key", "mint"];
        assert!(remedies.iter().any(|remedy| text.contains(remedy)), "{text}");
    }
}

#[test]
fn keys_are_read_as_pem_and_base64() {
    let key = key(9).verifying_key();
    let pem = key.to_public_key_pem(ed25519_dalek::pkcs8::spki::der::pem::LineEnding::LF).expect("PEM");
    for text in [pem, print_public_key(&key), BASE64_URL_SAFE_NO_PAD.encode(key.as_bytes()) + "\n"] {
        assert_eq!(parse_public_key(&text), Some(key), "{text}");
    }
    for text in ["", "AAAA", "not base64!", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"] {
        assert_eq!(parse_public_key(text), None, "{text}");
    }
}

#[test]
fn an_open_gate_takes_names_and_foreign_tokens() {
    assert_eq!(Gate::Open.admit(""), Ok(None));
    assert_eq!(Gate::Open.admit("team/desk"), Ok(Some("team/desk".to_owned())));
    assert_eq!(Gate::Open.admit(&mint(&key(7), &claims(-1000))), Ok(Some("team/desk".to_owned())));
    assert_eq!(Gate::Open.admit("not a name"), Ok(None));
}

proptest! {
    #[test]
    fn any_text_is_survived(token in ".{0,200}", parts in proptest::collection::vec("[A-Za-z0-9_-]{0,60}", 1..5)) {
        prop_assert!(verifier().verify(&token).is_err());
        prop_assert!(verifier().verify(&parts.join(".")).is_err());
    }
}
