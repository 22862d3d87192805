use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use contract::Claims;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proptest::prelude::*;
use stream_token::Signer;

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
    }
}

fn sign(claims: &Claims) -> String {
    TRUSTED[0].sign(claims).expect("signed")
}

fn authenticate(token: &str) -> Result<Option<String>, TokenError> {
    let keys = TRUSTED.each_ref().map(Signer::verifying_key);
    let granted = Authenticator::Tokens(Box::new(Verifier::new(&keys, "mac"))).authenticate(token);
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

fn all_errors() -> [TokenError; 5] {
    [
        TokenError::Expired,
        TokenError::Audience("mac".to_owned()),
        TokenError::Signature,
        TokenError::Missing,
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
    let authenticate = |token: &str| Authenticator::Insecure.authenticate(token).map(|grant| grant.stream);
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
