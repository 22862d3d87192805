//! The viewers' server over HTTP: authentication, security headers, status, metrics and probes.

mod support;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use support::{Served, TOKEN, fake};
use tokio::net::TcpListener;
use viewers::hub::Rejection;
use viewers::server::{Server, ServerError, ServerOptions};
use viewers::{Hub, HubOptions};

const AUTHENTICATED: [&str; 12] = [
    "/",
    "/viewer.js",
    "/connection.js",
    "/player.js",
    "/stats.js",
    "/viewer.css",
    "/ws",
    "/stream.h264",
    "/stream.mp4",
    "/snapshot.png",
    "/status",
    "/metrics",
];

fn with_token() -> ServerOptions {
    ServerOptions { viewer_token: Some(TOKEN.into()), ..ServerOptions::default() }
}

#[tokio::test]
async fn request_without_the_token_is_refused_except_for_probes() {
    let served = Served::start(with_token()).await;
    for path in AUTHENTICATED {
        let (head, body) = served.request(path, &[]).await;
        assert!(head.starts_with("http/1.1 401 "), "{path}: {head}");
        let body = String::from_utf8(body).expect("text");
        assert!(
            body.contains("?token=") && body.contains("Authorization: Bearer"),
            "{path} has no remedy: {body}"
        );
        assert_eq!(
            served.status(path, &["Authorization: Bearer 0123456789abcdef0123456789abcdeX"]).await,
            401
        );
    }
    assert_eq!(served.status("/healthz", &[]).await, 200);
    assert_eq!(served.status("/readyz", &[]).await, 503);
    assert_eq!(served.status("/nothing", &[]).await, 404);
    assert_eq!(served.hub.metrics().rejected(Rejection::Auth).get(), 2 * AUTHENTICATED.len() as u64);
}

#[tokio::test]
async fn request_with_the_token_in_header_or_query_is_served() {
    let served = Served::start(with_token()).await;
    let bearer = format!("Authorization: Bearer {TOKEN}");
    for path in ["/", "/viewer.js", "/viewer.css", "/status", "/metrics"] {
        assert_eq!(served.status(path, &[&bearer]).await, 200, "{path}");
    }
    assert_eq!(served.status(&format!("/status?token={TOKEN}"), &[]).await, 200);
    assert_eq!(served.status("/ws", &[&bearer]).await, 400, "authenticated, but not a WebSocket handshake");
    assert_eq!(served.status("/snapshot.png", &[&bearer]).await, 503, "no picture yet");
}

#[tokio::test]
async fn page_request_with_the_token_in_its_url_is_answered_with_a_cookie() {
    let served = Served::start(with_token()).await;
    let (head, _) = served.request(&format!("/?a=1&token={TOKEN}"), &[]).await;
    assert!(head.starts_with("http/1.1 303 "), "{head}");
    assert!(head.contains("\r\nlocation: ./?a=1\r\n"), "{head}");
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    for part in ["httponly", "samesite=strict", "path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let pair = format!("Cookie: {}", cookie.split(';').next().expect("a pair"));
    assert_eq!(served.status("/", &[&pair]).await, 200);
    assert_eq!(served.status("/viewer.js", &[&pair]).await, 200);

    // A strict cookie is not sent on a redirect that started at another site: the page refreshes itself.
    let (head, _) = served.request(&format!("/?token={TOKEN}"), &["Sec-Fetch-Site: cross-site"]).await;
    assert!(head.starts_with("http/1.1 200 ") && head.contains("\r\nrefresh: 0; url=./\r\n"), "{head}");
}

#[tokio::test]
async fn browser_without_the_token_receives_a_form() {
    let served = Served::start(with_token()).await;
    let (head, body) = served.request("/", &["Accept: text/html,*/*"]).await;
    assert!(head.starts_with("http/1.1 401 ") && head.contains("content-type: text/html"), "{head}");
    assert!(String::from_utf8_lossy(&body).contains("<form"));
    assert_eq!(served.status("/login.css", &[]).await, 200);
}

#[tokio::test]
async fn server_without_a_token_serves_loopback_names_only() {
    let served = Served::start(ServerOptions::default()).await;
    assert_eq!(served.status("/", &[]).await, 200);
    assert_eq!(served.status("/", &["Host: localhost:1234"]).await, 200);
    assert_eq!(served.status("/", &["Host: rebound.example.com"]).await, 401);
    let listener = TcpListener::bind("0.0.0.0:0").await.expect("a port");
    let open = Server::new(Hub::new(HubOptions::default()), ServerOptions::default());
    let error = support::within("a refusal", open.serve(listener)).await.expect_err("refused");
    assert!(matches!(error, ServerError::Auth(_)), "{error}");
}

#[tokio::test]
async fn page_has_security_headers_and_loads_nothing_from_other_hosts() {
    let served = Served::start(ServerOptions::default()).await;
    let (head, body) = served.request("/", &[]).await;
    for header in [
        "content-security-policy: default-src 'self';",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cross-origin-resource-policy: same-origin",
    ] {
        assert!(head.contains(header), "{header} is missing: {head}");
    }
    assert!(head.contains("\r\ncontent-type: text/html; charset=utf-8\r\n"), "{head}");
    let page = String::from_utf8(body).expect("UTF-8");
    for part in page.split(['"', '\'']).filter(|part| part.contains("://")) {
        assert!(part.starts_with("http://www.w3.org/"), "the page refers to {part}");
    }
    assert!(
        !page.contains("style=") && !page.contains("<style") && !page.contains("onclick"),
        "the content security policy forbids inline styles and handlers"
    );
}

#[tokio::test]
async fn page_files_have_their_content_type_and_are_revalidated() {
    let served = Served::start(ServerOptions::default()).await;
    for (path, content_type) in [
        ("/", "text/html"),
        ("/viewer.js", "text/javascript"),
        ("/connection.js", "text/javascript"),
        ("/player.js", "text/javascript"),
        ("/stats.js", "text/javascript"),
        ("/viewer.css", "text/css"),
        ("/login.css", "text/css"),
    ] {
        let (head, _) = served.request(path, &[]).await;
        assert!(head.starts_with("http/1.1 200 "), "{path}: {head}");
        assert!(
            head.contains(&format!("\r\ncontent-type: {content_type}; charset=utf-8\r\n")),
            "{path}: {head}"
        );
        assert!(head.contains("\r\ncache-control: no-cache\r\n"), "{path}: {head}");
    }
}

#[tokio::test]
async fn server_is_ready_after_an_access_unit() {
    let served = Served::start(ServerOptions::default()).await;
    let (_, body) = served.request("/readyz", &[]).await;
    assert_eq!(String::from_utf8_lossy(&body), "not ready: no access unit yet\n");
    served.hub.publish(fake(1, true, 20));
    assert_eq!(served.status("/readyz", &[]).await, 200);
}

#[tokio::test]
async fn status_and_readiness_hooks_replace_the_servers_own() {
    let served = Served::with(HubOptions::default(), ServerOptions::default(), |server| {
        server
            .with_ready(|| Err("not zero-copy".into()))
            .with_status(|| serde_json::json!({"phase": "Streaming"}))
    })
    .await;
    let (head, body) = served.request("/readyz", &[]).await;
    assert!(head.starts_with("http/1.1 503 "));
    assert_eq!(String::from_utf8_lossy(&body), "not ready: not zero-copy\n");
    let (_, body) = served.request("/status", &[]).await;
    assert_eq!(String::from_utf8_lossy(&body), r#"{"phase":"Streaming"}"#);
}

#[tokio::test]
async fn metrics_contain_those_of_the_registry_and_of_the_hub() {
    let mut registry = Registry::default();
    registry.register("desktopstream_test", "A counter of the server's user", Counter::<u64>::default());
    let served = Served::with(HubOptions::default(), ServerOptions::default(), |server| {
        server.with_registry(registry)
    })
    .await;
    let (head, body) = served.request("/metrics", &[]).await;
    assert!(head.contains("\r\ncontent-type: text/plain; version=0.0.4"), "{head}");
    let metrics = String::from_utf8(body).expect("UTF-8");
    for line in ["desktopstream_test_total 0", "desktopstream_viewers{protocol=\"websocket\"} 0"] {
        assert!(metrics.lines().any(|found| found == line), "{line} is missing: {metrics}");
    }
}
