//! Authentication by headers.

use super::origin::AllowedOrigins;
use super::*;

const TOKEN: &str = "0123456789abcdef+/=";
const NOW: u64 = 1_800_000_000;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, value.parse().expect("a header value"));
    }
    headers
}

fn is_admitted(authenticator: &Authenticator, pairs: &[(&'static str, &str)]) -> bool {
    authenticator.authenticate(&headers(pairs), NOW).is_some()
}

fn listen(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

fn new(token: Option<&str>, insecure: bool, addresses: &[&str]) -> Result<Authenticator, AuthError> {
    let token = token.map(|token| watch::channel(token.parse().expect("a token")).1);
    let addresses: Vec<_> = addresses.iter().map(|address| listen(address)).collect();
    Authenticator::new("team/desk".to_owned(), token, None, insecure, &addresses)
}

/// The pair `NAME=VALUE` of a `Set-Cookie`.
fn pair(cookie: &str) -> &str {
    cookie.split(';').next().expect("a pair")
}

#[test]
fn missing_token_is_refused_except_on_loopback_or_with_the_insecure_flag() {
    assert!(new(None, false, &["127.0.0.1:1"]).is_ok());
    assert!(new(None, false, &["[::1]:1", "127.0.0.1:2"]).is_ok());
    assert!(new(None, true, &["0.0.0.0:1"]).is_ok());
    assert!(new(Some(TOKEN), false, &["0.0.0.0:1"]).is_ok());
    let error = new(None, false, &["127.0.0.1:1", "0.0.0.0:2"]).expect_err("refused");
    assert_eq!(error, AuthError::TokenRequired(listen("0.0.0.0:2")));
    assert!(error.to_string().contains("--insecure-no-viewer-auth"));
}

#[test]
fn token_is_accepted_in_the_authorization_header_only() {
    let authenticator = new(Some(TOKEN), false, &["0.0.0.0:1"]).expect("a token");
    let (bearer, basic) = (format!("bearer {TOKEN}"), format!("Basic {TOKEN}"));
    assert!(is_admitted(&authenticator, &[("authorization", &bearer)]));
    let cookies = [format!("desktopstream-8080={TOKEN}"), format!("token={TOKEN}")];
    for pairs in [
        vec![],
        vec![("authorization", "Bearer wrong")],
        vec![("authorization", basic.as_str())],
        vec![("host", "x:8080"), ("cookie", cookies[0].as_str())],
        vec![("host", "x:8080"), ("cookie", cookies[1].as_str())],
    ] {
        assert!(!is_admitted(&authenticator, &pairs), "{pairs:?}");
    }
}

#[test]
fn exchanged_token_gives_a_session_that_authenticates() {
    let authenticator = new(Some(TOKEN), false, &["0.0.0.0:1"]).expect("a token");
    assert_eq!(authenticator.exchange("wrong", &headers(&[("host", "x:80")]), NOW), None);
    for (origin, secure) in [("http://x:8080", false), ("https://x:8080", true), ("HTTPS://x:8080", true)] {
        let request = [("host", "x:8080"), ("origin", origin)];
        let cookie = authenticator.exchange(TOKEN, &headers(&request), NOW).expect("a cookie");
        assert_eq!(cookie.starts_with("__Host-") && cookie.contains("; Secure"), secure, "{cookie}");
        let cookies = [("host", "x:8080"), ("cookie", "a=b"), ("cookie", pair(&cookie))];
        assert!(is_admitted(&authenticator, &cookies));
        let with_cookie = headers(&[("host", "x:8080"), ("cookie", pair(&cookie))]);
        let renewal = |now| authenticator.authenticate(&with_cookie, now).expect("admitted").renewal;
        assert_eq!(renewal(NOW), None);
        let renewed = renewal(NOW + session::LIFETIME - 1).expect("due");
        assert_eq!(renewed.starts_with("__Host-"), secure, "{renewed}");
    }
    // Without `Origin` the scheme is unknown: a forwarded scheme can be forged by each client and proxy.
    let forged = headers(&[("host", "x"), ("x-forwarded-proto", "https")]);
    assert!(!authenticator.exchange(TOKEN, &forged, NOW).expect("a cookie").contains("Secure"));
}

#[tokio::test]
async fn changed_token_ends_sessions_and_revokes_admissions_of_the_old_one() {
    let (sender, current) = watch::channel(TOKEN.parse::<ViewerToken>().expect("a token"));
    let listen = [listen("0.0.0.0:1")];
    let authenticator =
        Authenticator::new("team/desk".to_owned(), Some(current), None, false, &listen).expect("a token");
    let cookie = authenticator.exchange(TOKEN, &headers(&[("host", "x:80")]), NOW).expect("a cookie");
    let request = headers(&[("host", "x:80"), ("cookie", pair(&cookie))]);
    let later = NOW + session::LIFETIME - 1;
    let admitted = authenticator.authenticate(&request, later).expect("admitted");
    let renewal = admitted.renewal.expect("due");
    let revoked = tokio::spawn(admitted.revocation.wait());
    sender.send_replace("fedcba9876543210".parse().expect("a token"));
    revoked.await.expect("the revocation is seen");
    assert!(authenticator.authenticate(&request, NOW).is_none());
    let renewed = headers(&[("host", "x:80"), ("cookie", pair(&renewal))]);
    assert!(
        authenticator.authenticate(&renewed, later).is_none(),
        "a renewal is bound to the token that admitted"
    );
    let bearer = headers(&[("authorization", "Bearer fedcba9876543210")]);
    assert!(authenticator.authenticate(&bearer, NOW).is_some());
}

#[test]
fn loopback_server_without_token_accepts_loopback_names_only() {
    let authenticator = new(None, false, &["127.0.0.1:1"]).expect("loopback");
    for host in ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "[::1]:8080", "desk.localhost:1"] {
        assert!(is_admitted(&authenticator, &[("host", host)]), "{host}");
    }
    for host in ["rebound.example.com:8080", "10.0.0.1", "localhost.example.com", "", "[::1", "::1]:80"] {
        assert!(!is_admitted(&authenticator, &[("host", host)]), "{host}");
    }
    assert!(!is_admitted(&authenticator, &[]));
    let two = [("host", "localhost"), ("host", "rebound.example.com")];
    assert!(!is_admitted(&authenticator, &two), "an ambiguous Host");
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
    let two = [("host", "desk:8080"), ("origin", "http://desk:8080"), ("origin", "https://evil.example.com")];
    assert!(!allow(&two), "an ambiguous Origin");
    for bad in ["portal.example.com", "https://", "https://a/b", "https://a b", "ftp://a"] {
        assert!(AllowedOrigins::new(vec![bad.into()]).is_err(), "{bad}");
    }
}

#[test]
fn host_is_split_into_name_and_port() {
    let parts = |value| {
        let Host { name, port } = Host::parse(value);
        (name, port)
    };
    assert_eq!(parts("desk:8080"), ("desk", Some(8080)));
    assert_eq!(parts("[::1]:80"), ("[::1]", Some(80)));
    for whole in ["desk", "desk:", "desk:65536", "desk:+1", "[::1]", ""] {
        assert_eq!(parts(whole), (whole, None));
    }
}

/// An authenticator with both tokens, and the sender of the second one.
fn with_view_only(
    token: &str,
    view_only: Option<&str>,
) -> (Authenticator, watch::Sender<Option<ViewerToken>>) {
    let parse = |token: &str| token.parse::<ViewerToken>().expect("a token");
    let controllers = watch::channel(parse(token)).1;
    let (sender, view_only) = watch::channel(view_only.map(parse));
    let listen = [listen("0.0.0.0:1")];
    let stream = "team/desk".to_owned();
    let authenticator =
        Authenticator::new(stream, Some(controllers), Some(view_only), false, &listen).expect("tokens");
    (authenticator, sender)
}

fn role_of(authenticator: &Authenticator, token: &str) -> Option<Role> {
    let bearer = format!("Bearer {token}");
    authenticator.authenticate(&headers(&[("authorization", &bearer)]), NOW).map(|admission| admission.role)
}

#[test]
fn equal_tokens_give_the_weaker_role_also_through_their_session() {
    let (authenticator, sender) = with_view_only(TOKEN, Some(TOKEN));
    assert_eq!(role_of(&authenticator, TOKEN), Some(Role::Viewer));
    let cookie = authenticator.exchange(TOKEN, &headers(&[("host", "x:80")]), NOW).expect("a cookie");
    let request = headers(&[("host", "x:80"), ("cookie", pair(&cookie))]);
    assert_eq!(authenticator.authenticate(&request, NOW).expect("admitted").role, Role::Viewer);
    sender.send_replace(None);
    assert_eq!(role_of(&authenticator, TOKEN), Some(Role::Controller));
}

#[tokio::test]
async fn view_only_token_admits_while_it_exists() {
    let view = "0123456789abcdef-view";
    let (authenticator, sender) = with_view_only(TOKEN, None);
    assert_eq!(role_of(&authenticator, view), None);
    assert_eq!(authenticator.exchange(view, &headers(&[("host", "x:80")]), NOW), None);
    sender.send_replace(Some(view.parse().expect("a token")));
    assert_eq!(role_of(&authenticator, view), Some(Role::Viewer));
    let cookie = authenticator.exchange(view, &headers(&[("host", "x:80")]), NOW).expect("a cookie");
    let request = headers(&[("host", "x:80"), ("cookie", pair(&cookie))]);
    let admitted = authenticator.authenticate(&request, NOW).expect("admitted");
    let revoked = tokio::spawn(admitted.revocation.wait());
    sender.send_replace(None);
    revoked.await.expect("the removal is seen");
    assert!(authenticator.authenticate(&request, NOW).is_none());
    assert_eq!(role_of(&authenticator, TOKEN), Some(Role::Controller));
}

#[test]
fn view_only_token_without_a_viewer_token_is_refused() {
    for insecure in [false, true] {
        let view_only = Some(watch::channel(Some(TOKEN.parse().expect("a token"))).1);
        let listen = [listen("127.0.0.1:1")];
        let error = Authenticator::new("team/desk".to_owned(), None, view_only, insecure, &listen);
        assert_eq!(error.expect_err("refused"), AuthError::ViewOnlyTokenAlone);
    }
}

#[test]
fn token_decides_over_the_role_also_through_its_session() {
    let (control, view) = ("0123456789abcdef-control", "0123456789abcdef-view");
    let (authenticator, _sender) = with_view_only(control, Some(view));
    for (token, role) in [(control, Role::Controller), (view, Role::Viewer)] {
        let bearer = format!("Bearer {token}");
        let admitted = authenticator.authenticate(&headers(&[("authorization", &bearer)]), NOW);
        assert_eq!(admitted.expect("admitted").role, role);
        let cookie = authenticator.exchange(token, &headers(&[("host", "x:80")]), NOW).expect("a cookie");
        let request = headers(&[("host", "x:80"), ("cookie", pair(&cookie))]);
        let admission = authenticator.authenticate(&request, NOW).expect("admitted");
        assert_eq!(admission.role, role);
        let renewed = authenticator
            .authenticate(&request, NOW + session::LIFETIME - 1)
            .and_then(|admission| admission.renewal)
            .expect("due");
        let request = headers(&[("host", "x:80"), ("cookie", pair(&renewed))]);
        assert_eq!(authenticator.authenticate(&request, NOW).expect("admitted").role, role);
    }
}
