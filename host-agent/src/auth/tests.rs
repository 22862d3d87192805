use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use contract::Claims;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proptest::prelude::*;
use stream_token::{Confirmation, Signer};

use super::*;

static TRUSTED: LazyLock<[Signer; 2]> = LazyLock::new(|| std::array::from_fn(|_| generate()));
static UNTRUSTED: LazyLock<Signer> = LazyLock::new(generate);

fn generate() -> Signer {
    Signer::generate().expect("generated")
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
        cnf: None,
    }
}

fn sign(claims: &Claims) -> String {
    TRUSTED[0].sign(claims).expect("signed")
}

fn authenticate(token: &str) -> Result<Option<String>, TokenError> {
    let keys = TRUSTED.each_ref().map(Signer::verifying_key);
    let granted =
        Authenticator::Tokens(Box::new(Verifier::new(&keys, "mac"))).authenticate(token, Channel::Plaintext);
    granted.map(|grant| grant.stream)
}

#[test]
fn token_of_any_trusted_key_is_accepted() {
    for signer in &*TRUSTED {
        let token = signer.sign(&claims(60)).expect("signed");
        assert_eq!(authenticate(&token), Ok(Some("team/desk".to_owned())));
    }
}

#[test]
fn expired_token_is_accepted_within_the_leeway_only() {
    assert!(authenticate(&sign(&claims(-20))).is_ok());
    assert_eq!(authenticate(&sign(&claims(-40))), Err(TokenError::Expired));
}

#[test]
fn token_of_an_untrusted_key_is_refused() {
    let token = UNTRUSTED.sign(&claims(60)).expect("signed");
    assert_eq!(authenticate(&token), Err(TokenError::Signature));
}

#[test]
fn token_for_another_host_agent_is_refused() {
    let other = Claims { aud: "other".to_owned(), ..claims(60) };
    assert_eq!(authenticate(&sign(&other)), Err(TokenError::Audience("mac".to_owned())));
}

/// Algorithm confusion: HMAC with the public key as its secret, and no signature at all.
#[test]
fn token_with_another_algorithm_is_refused() {
    let secret = EncodingKey::from_secret(TRUSTED[0].verifying_key().as_bytes());
    let hmac = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(60), &secret).expect("encoded");
    assert!(matches!(authenticate(&hmac), Err(TokenError::Malformed(_))));
    let payload = sign(&claims(60)).split('.').nth(1).expect("a payload").to_owned();
    let none = format!("{}.{payload}.", BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#));
    assert!(matches!(authenticate(&none), Err(TokenError::Malformed(_))));
}

#[test]
fn token_with_a_changed_payload_is_refused() {
    let good = sign(&claims(60));
    let other = sign(&Claims { sub: "team/other".to_owned(), ..claims(60) });
    let (parts, others): (Vec<_>, Vec<_>) = (good.split('.').collect(), other.split('.').collect());
    let mixed = format!("{}.{}.{}", parts[0], others[1], parts[2]);
    assert_eq!(authenticate(&mixed), Err(TokenError::Signature));
}

#[test]
fn subject_that_is_not_a_stream_name_is_refused() {
    for sub in ["", "desk", "a/b/c", "/desk", "team/", "Team/desk", "team/de sk", "team/../x\n"] {
        let token = sign(&Claims { sub: sub.to_owned(), ..claims(60) });
        assert!(matches!(authenticate(&token), Err(TokenError::Malformed(_))), "{sub:?}");
    }
    assert_eq!(authenticate(""), Err(TokenError::Missing));
}

/// Decides about a token that is bound to the key `[7; 32]`.
#[test]
fn bound_token_needs_its_key_except_on_local_connections() {
    let confirmation = Confirmation { jkt: thumbprint(&[7; 32]) };
    let token = sign(&Claims { cnf: Some(confirmation.clone()), ..claims(60) });
    let keys = TRUSTED.each_ref().map(Signer::verifying_key);
    let authenticator = Authenticator::Tokens(Box::new(Verifier::new(&keys, "mac")));
    for channel in [Channel::Plaintext, Channel::Tls(None), Channel::Tls(Some([8; 32]))] {
        assert_eq!(authenticator.authenticate(&token, channel), Err(TokenError::Unconfirmed), "{channel:?}");
    }
    for channel in [Channel::Local, Channel::Tls(Some([7; 32]))] {
        let grant = authenticator.authenticate(&token, channel).expect("accepted");
        assert_eq!(grant.key.as_ref(), Some(&confirmation.jkt), "{channel:?}");
    }
}

/// A confirmation by other means than a thumbprint must not count as none.
#[test]
fn token_with_another_kind_of_confirmation_is_refused() {
    let mut value = serde_json::to_value(claims(60)).expect("JSON");
    value["cnf"] = serde_json::json!({"x5t#S256": "AAAA"});
    let key = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let der = ed25519_dalek::pkcs8::EncodePrivateKey::to_pkcs8_der(&key).expect("DER");
    let encoding = EncodingKey::from_ed_der(der.as_bytes());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &value, &encoding).expect("signed");
    let verifier = Verifier::new(&[key.verifying_key()], "mac");
    assert!(matches!(verifier.verify(&token), Err(TokenError::Malformed(_))));
}

fn all_errors() -> [TokenError; 6] {
    [
        TokenError::Expired,
        TokenError::Audience("mac".to_owned()),
        TokenError::Signature,
        TokenError::Missing,
        TokenError::Unconfirmed,
        TokenError::Malformed("x".to_owned()),
    ]
}

#[test]
fn only_an_expired_token_has_a_code_of_its_own() {
    for error in all_errors() {
        let expired = error == TokenError::Expired;
        let code = if expired { ErrorCode::ExpiredToken } else { ErrorCode::BadToken };
        assert_eq!(error_code(&error), code, "{error}");
    }
}

#[test]
fn every_error_has_a_remedy_and_fits_into_a_message() {
    for error in all_errors() {
        let text = error.to_string();
        assert!(text.len() <= protocol::stream::MAX_TEXT, "{text}");
        assert!(text.contains("; "), "no remedy: {text}");
    }
}

#[test]
fn insecure_connection_is_named_by_its_token() {
    let authenticate =
        |token: &str| Authenticator::Insecure.authenticate(token, Channel::Local).map(|grant| grant.stream);
    assert_eq!(authenticate(""), Ok(None));
    assert_eq!(authenticate("team/desk"), Ok(Some("team/desk".to_owned())));
    let expired = UNTRUSTED.sign(&claims(-1000)).expect("signed");
    assert_eq!(authenticate(&expired), Ok(Some("team/desk".to_owned())));
    assert_eq!(authenticate("not a name"), Ok(None));
}

proptest! {
    #[test]
    fn arbitrary_text_is_refused_without_a_panic(
        token in ".{0,200}",
        parts in proptest::collection::vec("[A-Za-z0-9_-]{0,60}", 1..5),
    ) {
        prop_assert!(authenticate(&token).is_err());
        prop_assert!(authenticate(&parts.join(".")).is_err());
    }
}
