//! Who gets in, header by header.

use super::*;

const TOKEN: &str = "0123456789abcdef+/=";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, value.parse().expect("a header value"));
    }
    headers
}

fn check(access: &Access, uri: &str, pairs: &[(&'static str, &str)]) -> Option<Shown> {
    access.check(&uri.parse().expect("a URI"), &headers(pairs))
}

fn listen(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

#[test]
fn no_token_only_on_loopback_or_when_told_so() {
    let open = |insecure, address| Access::new(None, insecure, listen(address));
    assert!(open(false, "127.0.0.1:1").is_ok());
    assert!(open(false, "[::1]:1").is_ok());
    assert!(open(true, "0.0.0.0:1").is_ok());
    let error = open(false, "0.0.0.0:1").expect_err("refused");
    assert_eq!(error, AuthError::TokenRequired(listen("0.0.0.0:1")));
    assert!(error.to_string().contains("--insecure-no-viewer-auth"));
    for bad in ["short", "with a space in it", &"x".repeat(513), "quote\"and;semicolon"] {
        assert_eq!(
            Access::new(Some(bad.into()), true, listen("[::]:1")).err(),
            Some(AuthError::BadToken),
            "{bad}"
        );
    }
}

#[test]
fn the_token_by_header_query_and_cookie() {
    let access = Access::new(Some(TOKEN.into()), false, listen("0.0.0.0:1")).expect("a token");
    let bearer = format!("bearer {TOKEN}");
    assert_eq!(check(&access, "/", &[("authorization", &bearer)]), Some(Shown::Bearer));
    assert_eq!(check(&access, "/ws?x=1&token=0123456789abcdef+/=", &[]), Some(Shown::Query));
    assert_eq!(check(&access, "/ws?token=0123456789abcdef%2b%2F%3D", &[]), Some(Shown::Query));
    let cookie = format!("a=b; desktopstream-8080={TOKEN}");
    assert_eq!(check(&access, "/", &[("host", "x:8080"), ("cookie", &cookie)]), Some(Shown::Cookie));
    assert_eq!(check(&access, "/", &[("host", "x:8081"), ("cookie", &cookie)]), None, "another desktop's");
    let basic = format!("Basic {TOKEN}");
    for pairs in [vec![], vec![("authorization", "Bearer wrong")], vec![("authorization", basic.as_str())]] {
        assert_eq!(check(&access, "/", &pairs), None);
    }
    for uri in
        ["/?token=", "/?token=0123456789abcdef", "/?token=%", "/?token=%zz", "/?nottoken=0123456789abcdef+/="]
    {
        assert_eq!(check(&access, uri, &[]), None, "{uri}");
    }
}

#[test]
fn loopback_answers_to_loopback_names_only() {
    let access = Access::new(None, false, listen("127.0.0.1:1")).expect("loopback");
    for host in ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "[::1]:8080", "desk.localhost:1"] {
        assert_eq!(check(&access, "/", &[("host", host)]), Some(Shown::Open), "{host}");
    }
    for host in ["rebound.example.com:8080", "10.0.0.1", "localhost.example.com", ""] {
        assert_eq!(check(&access, "/", &[("host", host)]), None, "{host}");
    }
    assert_eq!(check(&access, "/", &[]), None);
}

#[test]
fn websockets_of_other_sites_are_told_apart() {
    let origins = Origins::new(vec!["https://portal.example.com".into()]).expect("an origin");
    let allow = |pairs: &[(&'static str, &str)]| origins.allow(&headers(pairs));
    assert!(allow(&[("host", "desk:8080")]), "no browser");
    assert!(allow(&[("host", "desk:8080"), ("origin", "http://desk:8080")]));
    assert!(allow(&[("host", "desk:8080"), ("origin", "https://Portal.example.com")]));
    for origin in ["http://desk:8081", "https://evil.example.com", "null", "http://desk:8080.evil.com"] {
        assert!(!allow(&[("host", "desk:8080"), ("origin", origin)]), "{origin}");
    }
    for bad in ["portal.example.com", "https://", "https://a/b", "https://a b", "ftp://a"] {
        assert!(Origins::new(vec![bad.into()]).is_err(), "{bad}");
    }
}

#[test]
fn the_token_leaves_the_url_and_only_the_token() {
    let rest = |uri: &str| query_without_token(&uri.parse().expect("a URI"));
    assert_eq!(rest("/?token=x"), "");
    assert_eq!(rest("/?a=1&token=x&b=2"), "?a=1&b=2");
    let cookie = cookie(&headers(&[("host", "h:1"), ("x-forwarded-proto", "https")]), "t");
    assert_eq!(cookie, "desktopstream-1=t; Path=/; HttpOnly; SameSite=Strict; Secure");
}
