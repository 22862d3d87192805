//! The viewers' server over HTTP: authentication, security headers, status, metrics and probes.

mod support;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use support::{Served, TOKEN, changing_token, fake, status, with_token};
use tokio::net::TcpListener;
use viewers::hub::Rejection;
use viewers::server::{Server, ServerError, ServerOptions};
use viewers::{Hub, HubOptions};

const AUTHENTICATED: [&str; 11] = [
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
];

#[tokio::test]
async fn request_without_the_token_is_refused_except_for_probes() {
    let served = Served::start(with_token()).await;
    for path in AUTHENTICATED {
        let (head, body) = served.request(path, &[]).await;
        assert!(head.starts_with("http/1.1 401 "), "{path}: {head}");
        let body = String::from_utf8(body).expect("text");
        assert!(
            body.contains("#token=") && body.contains("Authorization: Bearer"),
            "{path} has no remedy: {body}"
        );
        let query = format!("{path}?token={TOKEN}");
        assert_eq!(served.status(&query, &[]).await, 401, "proxies log the query");
        assert_eq!(
            served.status(path, &["Authorization: Bearer 0123456789abcdef0123456789abcdeX"]).await,
            401
        );
    }
    assert_eq!(served.status("/nothing", &[]).await, 404);
    assert_eq!(served.hub.metrics().rejected(Rejection::Auth).get(), 3 * AUTHENTICATED.len() as u64);
}

#[tokio::test]
async fn admin_listener_has_probes_for_all_and_status_and_metrics_with_the_token() {
    let served = Served::start(with_token()).await;
    let bearer = format!("Authorization: Bearer {TOKEN}");
    for (path, without, with) in [
        ("/healthz", 200, 200),
        ("/readyz", 503, 503),
        ("/status", 401, 200),
        ("/metrics", 401, 200),
        ("/", 404, 404),
    ] {
        assert_eq!(status(&served.admin(path, &[]).await.0), without, "{path}");
        assert_eq!(status(&served.admin(path, &[&bearer]).await.0), with, "{path}");
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(served.status(path, &[&bearer]).await, 404, "{path} is not on the viewers' listener");
    }
}

#[tokio::test]
async fn observer_reads_status_and_metrics_of_the_admin_listener_only() {
    let served =
        Served::with(HubOptions::default(), with_token(), |it| it.with_observer(|token| token == "observer"))
            .await;
    let bearer = "Authorization: Bearer observer";
    for (path, expected) in [("/status", 200), ("/metrics", 200), ("/", 404), ("/snapshot.png", 404)] {
        let (head, _) = served.admin(path, &[bearer]).await;
        assert_eq!(status(&head), expected, "{path}");
        assert!(!head.contains("set-cookie"), "{head}");
        assert_eq!(
            served.status(path, &[bearer]).await,
            if path == "/metrics" { 404 } else { 401 },
            "{path}"
        );
    }
    let other = served.admin("/status", &["Authorization: Bearer observers"]).await.0;
    assert_eq!(status(&other), 401);
    assert!(!served.exchange("observer", &[]).await.contains("set-cookie"), "no session for an observer");
    let viewer = format!("Authorization: Bearer {TOKEN}");
    assert_eq!(status(&served.admin("/status", &[&viewer]).await.0), 200);
}

#[tokio::test]
async fn request_with_the_token_in_its_header_is_served() {
    let served = Served::start(with_token()).await;
    let bearer = format!("Authorization: Bearer {TOKEN}");
    for path in ["/", "/viewer.js", "/viewer.css", "/status"] {
        assert_eq!(served.status(path, &[&bearer]).await, 200, "{path}");
    }
    assert_eq!(served.status("/ws", &[&bearer]).await, 400, "authenticated, but not a WebSocket handshake");
    assert_eq!(served.status("/snapshot.png", &[&bearer]).await, 503, "no picture yet");
}

#[tokio::test]
async fn posted_token_is_answered_with_the_cookie_of_a_session() {
    let served = Served::start(with_token()).await;
    let origin = format!("Origin: http://{}", served.address);
    let head = served.exchange(TOKEN, &[&origin]).await;
    assert!(head.starts_with("http/1.1 204 "), "{head}");
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    assert!(
        cookie.contains("httponly") && cookie.contains("samesite=strict") && !cookie.contains(TOKEN),
        "{cookie}"
    );
    let pair = format!("Cookie: {}", cookie.split(';').next().expect("a pair"));
    assert_eq!(served.status("/", &[&pair]).await, 200);
    assert_eq!(served.status("/viewer.js", &[&pair]).await, 200);
    for other in ["", "wrong", &TOKEN[1..]] {
        let head = served.exchange(other, &[&origin]).await;
        assert!(head.starts_with("http/1.1 401 ") && !head.contains("set-cookie"), "{head}");
    }
    assert_eq!(status(&served.exchange(&"x".repeat(10_000), &[&origin]).await), 413);
    let head = served.exchange(TOKEN, &["Origin: https://evil.example.com"]).await;
    assert!(head.starts_with("http/1.1 403 ") && !head.contains("set-cookie"), "{head}");
    let secure = format!("Origin: https://{}", served.address);
    let head = served.exchange(TOKEN, &[&secure]).await;
    assert!(head.contains("set-cookie: __host-desktopstream-") && head.contains("; secure"), "{head}");
}

#[tokio::test]
async fn replaced_token_ends_sessions_and_streams_of_the_former_one() {
    let (sender, current) = changing_token();
    let options = ServerOptions { viewer_token: Some(current), ..ServerOptions::default() };
    let served = Served::start(options).await;
    let origin = format!("Origin: http://{}", served.address);
    let head = served.exchange(TOKEN, &[&origin]).await;
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    let pair = cookie.split(';').next().expect("a pair").to_owned();
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let mut viewer = served.open(&[("cookie", pair.clone())]).await.expect("a session");
    let headers = [bearer.as_str()];
    let stream = served.request("/stream.h264", &headers);
    let replace = async {
        support::until("both view", || served.hub.viewers() == 2).await;
        sender.send_replace("fedcba9876543210fedcba9876543210".parse().expect("a token"));
    };
    let ((head, _), ()) = tokio::join!(stream, replace);
    assert!(head.starts_with("http/1.1 200 "), "the body ended: {head}");
    while viewer.message().await.is_some() {}
    assert_eq!(served.status("/", &[&format!("Cookie: {pair}")]).await, 401);
    assert_eq!(served.status("/", &headers).await, 401);
    let bearer = "Authorization: Bearer fedcba9876543210fedcba9876543210";
    assert_eq!(served.status("/", &[bearer]).await, 200);
}

#[tokio::test]
async fn browser_without_the_token_receives_a_form() {
    let served = Served::start(with_token()).await;
    let (head, body) = served.request("/", &["Accept: text/html,*/*"]).await;
    assert!(head.starts_with("http/1.1 401 ") && head.contains("content-type: text/html"), "{head}");
    assert!(String::from_utf8_lossy(&body).contains("<form"));
    for file in ["/login.css", "/login.js", "/token.js"] {
        assert_eq!(served.status(file, &[]).await, 200, "{file}");
    }
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
        ("/login.js", "text/javascript"),
        ("/token.js", "text/javascript"),
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
    let (_, body) = served.admin("/readyz", &[]).await;
    assert_eq!(String::from_utf8_lossy(&body), "not ready: no access unit yet\n");
    served.hub.publish(fake(1, true, 20));
    assert_eq!(status(&served.admin("/readyz", &[]).await.0), 200);
}

#[tokio::test]
async fn status_and_readiness_hooks_replace_the_servers_own() {
    let served = Served::with(HubOptions::default(), ServerOptions::default(), |server| {
        server
            .with_ready(|| Err("not zero-copy".into()))
            .with_status(|| serde_json::json!({"phase": "Streaming"}))
    })
    .await;
    let (head, body) = served.admin("/readyz", &[]).await;
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
    let (head, body) = served.admin("/metrics", &[]).await;
    assert!(head.contains("\r\ncontent-type: text/plain; version=0.0.4"), "{head}");
    let metrics = String::from_utf8(body).expect("UTF-8");
    for line in ["desktopstream_test_total 0", "desktopstream_viewers{protocol=\"websocket\"} 0"] {
        assert!(metrics.lines().any(|found| found == line), "{line} is missing: {metrics}");
    }
}
