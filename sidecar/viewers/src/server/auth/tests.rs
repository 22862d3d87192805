//! Authentication by headers and URI.

use super::*;

const TOKEN: &str = "0123456789abcdef+/=";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, value.parse().expect("a header value"));
    }
    headers
}

fn check(authenticator: &Authenticator, uri: &str, pairs: &[(&'static str, &str)]) -> Option<Credential> {
    authenticator.authenticate(&uri.parse().expect("a URI"), &headers(pairs))
}

fn listen(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

#[test]
fn missing_token_is_refused_except_on_loopback_or_with_the_insecure_flag() {
    let open = |insecure, address| Authenticator::new(None, insecure, listen(address));
    assert!(open(false, "127.0.0.1:1").is_ok());
    assert!(open(false, "[::1]:1").is_ok());
    assert!(open(true, "0.0.0.0:1").is_ok());
    let error = open(false, "0.0.0.0:1").expect_err("refused");
    assert_eq!(error, AuthError::TokenRequired(listen("0.0.0.0:1")));
    assert!(error.to_string().contains("--insecure-no-viewer-auth"));
    for bad in ["short", "with a space in it", &"x".repeat(513), "quote\"and;semicolon"] {
        assert_eq!(
            Authenticator::new(Some(bad.into()), true, listen("[::]:1")).err(),
            Some(AuthError::InvalidToken),
            "{bad}"
        );
    }
}

#[test]
fn token_is_accepted_in_header_query_and_cookie() {
    let authenticator = Authenticator::new(Some(TOKEN.into()), false, listen("0.0.0.0:1")).expect("a token");
    let bearer = format!("bearer {TOKEN}");
    assert_eq!(check(&authenticator, "/", &[("authorization", &bearer)]), Some(Credential::Bearer));
    assert_eq!(check(&authenticator, "/ws?x=1&token=0123456789abcdef+/=", &[]), Some(Credential::Query));
    assert_eq!(check(&authenticator, "/ws?token=0123456789abcdef%2b%2F%3D", &[]), Some(Credential::Query));
    let cookie = format!("a=b; desktopstream-8080={TOKEN}");
    assert_eq!(
        check(&authenticator, "/", &[("host", "x:8080"), ("cookie", &cookie)]),
        Some(Credential::Cookie)
    );
    assert_eq!(
        check(&authenticator, "/", &[("host", "x:8081"), ("cookie", &cookie)]),
        None,
        "the cookie of another port"
    );
    let basic = format!("Basic {TOKEN}");
    for pairs in [vec![], vec![("authorization", "Bearer wrong")], vec![("authorization", basic.as_str())]] {
        assert_eq!(check(&authenticator, "/", &pairs), None);
    }
    for uri in
        ["/?token=", "/?token=0123456789abcdef", "/?token=%", "/?token=%zz", "/?nottoken=0123456789abcdef+/="]
    {
        assert_eq!(check(&authenticator, uri, &[]), None, "{uri}");
    }
}

#[test]
fn loopback_server_without_token_accepts_loopback_names_only() {
    let authenticator = Authenticator::new(None, false, listen("127.0.0.1:1")).expect("loopback");
    for host in ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "[::1]:8080", "desk.localhost:1"] {
        assert_eq!(check(&authenticator, "/", &[("host", host)]), Some(Credential::NotRequired), "{host}");
    }
    for host in ["rebound.example.com:8080", "10.0.0.1", "localhost.example.com", ""] {
        assert_eq!(check(&authenticator, "/", &[("host", host)]), None, "{host}");
    }
    assert_eq!(check(&authenticator, "/", &[]), None);
}

#[test]
fn websocket_from_another_origin_is_refused_unless_allowed() {
    let origins = AllowedOrigins::new(vec!["https://portal.example.com".into()]).expect("an origin");
    let allow = |pairs: &[(&'static str, &str)]| origins.allows(&headers(pairs));
    assert!(allow(&[("host", "desk:8080")]), "clients other than browsers send no Origin");
    assert!(allow(&[("host", "desk:8080"), ("origin", "http://desk:8080")]));
    assert!(allow(&[("host", "desk:8080"), ("origin", "https://Portal.example.com")]));
    for origin in ["http://desk:8081", "https://evil.example.com", "null", "http://desk:8080.evil.com"] {
        assert!(!allow(&[("host", "desk:8080"), ("origin", origin)]), "{origin}");
    }
    for bad in ["portal.example.com", "https://", "https://a/b", "https://a b", "ftp://a"] {
        assert!(AllowedOrigins::new(vec![bad.into()]).is_err(), "{bad}");
    }
}

#[test]
fn query_without_token_keeps_the_other_parameters() {
    let rest = |uri: &str| query_without_token(&uri.parse().expect("a URI"));
    assert_eq!(rest("/"), "");
    assert_eq!(rest("/?token=x"), "");
    assert_eq!(rest("/?a=1&token=x&b=2&token=y"), "?a=1&b=2");
    assert_eq!(rest("/?%74oken=x"), "", "an encoded parameter name is recognized as well");
    assert_eq!(rest("/?a=%0d%0aSet-Cookie:x"), "?a=%0D%0ASet-Cookie%3Ax");
}

#[test]
fn token_cookie_is_strict_and_inaccessible_to_scripts() {
    let parse = |pairs: &[(&'static str, &str)]| {
        Cookie::parse(token_cookie(&headers(pairs), TOKEN)).expect("a cookie").into_owned()
    };
    let cookie = parse(&[("host", "h:1"), ("x-forwarded-proto", "https")]);
    assert_eq!((cookie.name(), cookie.value(), cookie.path()), ("desktopstream-1", TOKEN, Some("/")));
    assert_eq!((cookie.http_only(), cookie.same_site()), (Some(true), Some(SameSite::Strict)));
    assert_eq!(cookie.secure(), Some(true));
    assert_ne!(parse(&[("host", "h:1")]).secure(), Some(true), "plain HTTP would not send a Secure cookie");
}

#[test]
fn cookie_header_with_several_cookies_of_the_name_is_searched_completely() {
    let authenticator = Authenticator::new(Some(TOKEN.into()), false, listen("0.0.0.0:1")).expect("a token");
    for cookies in [
        format!("desktopstream-80=stale; desktopstream-80={TOKEN}"),
        format!("desktopstream-80={TOKEN}; desktopstream-80=stale"),
    ] {
        let pairs = [("host", "x:80"), ("cookie", cookies.as_str())];
        assert_eq!(check(&authenticator, "/", &pairs), Some(Credential::Cookie), "{cookies}");
    }
}
