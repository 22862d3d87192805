//! Asks a sidecar how it does. It runs beside a user's desktop: what it says is bounded in time and size, and
//! is words in a status at most.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::AUTHORIZATION;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use operator_plan::status::report::Report;

/// What an answer may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long it may take.
    pub patience: Duration,
    /// How long it may be.
    pub longest: usize,
}

/// Of a status: ours have 2 KB.
const STATUS: Limits = Limits { patience: Duration::from_secs(2), longest: 64 * 1024 };

/// `http://IP:PORT/status`.
pub async fn ask(address: &str, token: Option<&str>) -> Result<Report, String> {
    let body = get(&format!("http://{address}/status"), token).await?;
    serde_json::from_slice(&body).map_err(|error| format!("its status makes no sense: {error}"))
}

/// The body at a URL, within the limits of a status.
pub async fn get(url: &str, token: Option<&str>) -> Result<Bytes, String> {
    fetch(url, token, STATUS).await
}

/// The body at a URL, if it is there in time.
pub async fn fetch(url: &str, token: Option<&str>, limits: Limits) -> Result<Bytes, String> {
    let Limits { patience, longest } = limits;
    let mut request = Request::get(url);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(patience));
    let client: Client<_, Empty<Bytes>> =
        Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
    let answer = async {
        let response = client.request(request).await.map_err(|error| reason(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), longest).collect().await;
        if !status.is_success() {
            let text = body.map(|body| words(&body.to_bytes())).unwrap_or_default();
            return Err(format!("HTTP {}{text}", status.as_u16()));
        }
        body.map(http_body_util::Collected::to_bytes).map_err(|error| error.to_string())
    };
    tokio::time::timeout(patience, answer)
        .await
        .unwrap_or_else(|_| Err(format!("no answer in {} s", patience.as_secs())))
}

/// Why it says that it refuses: its first line, if that is a short one.
fn words(body: &[u8]) -> String {
    let line = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let text = String::from_utf8_lossy(line);
    let plain = (1..=160).contains(&text.len()) && !text.contains(|c: char| c.is_control() || c == '<');
    if plain { format!(": {text}") } else { String::new() }
}

/// The innermost cause: the outer ones say "client error".
fn reason(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::get;

    use super::*;

    async fn serve(router: Router) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    #[tokio::test]
    async fn answers_are_read_and_bounded() {
        let checked = |headers: HeaderMap| async move {
            match headers.get("authorization").map(axum::http::HeaderValue::as_bytes) {
                Some(b"Bearer secret") => {
                    (StatusCode::OK, r#"{"rung":"Local","frames":{"encoded":3}}"#.to_owned())
                }
                _ => (StatusCode::UNAUTHORIZED, String::new()),
            }
        };
        let good = serve(Router::new().route("/status", get(checked))).await;
        assert_eq!(ask(&good, Some("secret")).await.expect("answers").frames.encoded, 3);
        assert_eq!(ask(&good, None).await, Err("HTTP 401".to_owned()));

        let huge =
            serve(Router::new().route("/status", get(|| async { " ".repeat(STATUS.longest + 1) }))).await;
        assert!(ask(&huge, None).await.is_err());
        let why = || async { (StatusCode::SERVICE_UNAVAILABLE, "no picture yet\nand more") };
        let refuses = serve(Router::new().route("/status", get(why))).await;
        assert_eq!(ask(&refuses, None).await, Err("HTTP 503: no picture yet".to_owned()));
        let slow =
            serve(Router::new().route("/status", get(|| tokio::time::sleep(Duration::from_secs(60))))).await;
        assert!(ask(&slow, None).await.expect_err("in time").contains("no answer"));
        assert!(ask("127.0.0.1:1", None).await.expect_err("nobody").contains("refused"));
    }
}
