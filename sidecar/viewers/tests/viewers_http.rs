//! The viewers' server over plain HTTP: who gets in, what it says of itself.

mod support;

use viewers::server::{Server, ServerError, ServerOptions};
use viewers::{Hub, HubOptions};
use support::{Served, TOKEN, fake};
use tokio::net::TcpListener;

const GUARDED: [&str; 9] = [
    "/",
    "/viewer.js",
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
async fn nothing_but_health_without_the_token() {
    let served = Served::start(with_token()).await;
    for path in GUARDED {
        let (head, body) = served.request(path, &[]).await;
        assert!(head.starts_with("http/1.1 401 "), "{path}: {head}");
        let body = String::from_utf8(body).expect("text");
        assert!(
            body.contains("?token=") && body.contains("Authorization: Bearer"),
            "{path} names no remedy: {body}"
        );
        assert_eq!(
            served.status(path, &["Authorization: Bearer 0123456789abcdef0123456789abcdeX"]).await,
            401
        );
    }
    assert_eq!(served.status("/healthz", &[]).await, 200);
    assert_eq!(served.status("/readyz", &[]).await, 503);
    assert_eq!(served.status("/nothing", &[]).await, 404);
    assert!(served.hub.metrics().contains("desktopstream_viewers_refused_total{reason=\"auth\"} 18\n"));
}

#[tokio::test]
async fn the_token_opens_by_header_and_by_query() {
    let served = Served::start(with_token()).await;
    let bearer = format!("Authorization: Bearer {TOKEN}");
    for path in ["/", "/viewer.js", "/viewer.css", "/status", "/metrics"] {
        assert_eq!(served.status(path, &[&bearer]).await, 200, "{path}");
    }
    assert_eq!(served.status(&format!("/status?token={TOKEN}"), &[]).await, 200);
    assert_eq!(served.status("/ws", &[&bearer]).await, 400, "no WebSocket handshake, but let in");
    assert_eq!(served.status("/snapshot.png", &[&bearer]).await, 503, "no picture yet");
}

#[tokio::test]
async fn a_browser_trades_the_token_for_a_cookie() {
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

    // After a link on another site a strict cookie isn't sent along a redirect: the page goes on itself.
    let (head, _) = served.request(&format!("/?token={TOKEN}"), &["Sec-Fetch-Site: cross-site"]).await;
    assert!(head.starts_with("http/1.1 200 ") && head.contains("\r\nrefresh: 0; url=./\r\n"), "{head}");
}

#[tokio::test]
async fn a_person_without_the_token_gets_a_form() {
    let served = Served::start(with_token()).await;
    let (head, body) = served.request("/", &["Accept: text/html,*/*"]).await;
    assert!(head.starts_with("http/1.1 401 ") && head.contains("content-type: text/html"), "{head}");
    assert!(String::from_utf8_lossy(&body).contains("<form"));
    assert_eq!(served.status("/login.css", &[]).await, 200);
}

#[tokio::test]
async fn without_a_token_only_loopback_and_only_by_its_name() {
    let served = Served::start(ServerOptions::default()).await;
    assert_eq!(served.status("/", &[]).await, 200);
    assert_eq!(served.status("/", &["Host: localhost:1234"]).await, 200);
    assert_eq!(served.status("/", &["Host: rebound.example.com"]).await, 401);
    let listener = TcpListener::bind("0.0.0.0:0").await.expect("a port");
    let open = Server::new(Hub::new(HubOptions::default()), ServerOptions::default());
    let error = support::within("a refusal", open.serve(listener)).await.expect_err("refuses");
    assert!(matches!(error, ServerError::Auth(_)), "{error}");
}

#[tokio::test]
async fn every_answer_is_hardened_and_the_page_loads_nothing_from_elsewhere() {
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
    let page = String::from_utf8(body).expect("UTF-8");
    for part in page.split(['"', '\'']).filter(|part| part.contains("://")) {
        assert!(part.starts_with("http://www.w3.org/"), "the page names {part}");
    }
    assert!(
        !page.contains("style=") && !page.contains("<style") && !page.contains("onclick"),
        "the policy forbids it"
    );
}

#[tokio::test]
async fn ready_when_there_is_something_to_watch() {
    let served = Served::start(ServerOptions::default()).await;
    let (_, body) = served.request("/readyz", &[]).await;
    assert_eq!(String::from_utf8_lossy(&body), "not ready: no frame yet\n");
    served.hub.publish(fake(1, true, 20));
    assert_eq!(served.status("/readyz", &[]).await, 200);

    let told = Served::with(HubOptions::default(), ServerOptions::default(), |server| {
        server
            .with_ready(|| Err("not zero-copy".into()))
            .with_status(|| serde_json::json!({"phase": "Streaming"}))
            .with_metrics(|| "desktopstream_fps 60".into())
    })
    .await;
    let (head, body) = told.request("/readyz", &[]).await;
    assert!(head.starts_with("http/1.1 503 "));
    assert_eq!(String::from_utf8_lossy(&body), "not ready: not zero-copy\n");
    let (_, body) = told.request("/status", &[]).await;
    assert_eq!(String::from_utf8_lossy(&body), r#"{"phase":"Streaming"}"#);
    let (_, body) = told.request("/metrics", &[]).await;
    let metrics = String::from_utf8_lossy(&body);
    assert!(metrics.starts_with("desktopstream_fps 60\n# HELP desktopstream_viewers "), "{metrics}");
}
