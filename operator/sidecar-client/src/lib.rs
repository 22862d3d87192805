//! HTTP client for the `/status` of sidecars and host-agents, and what its users share: the viewer URL, the browser, the
//! doctor's options.
//!
//! Both are untrusted: a request is bounded in time and size, and error texts of a peer are bounded before they are
//! passed on.

mod doctor;
mod viewer;

use std::time::Duration;

use contract::{HostAgentStatus, SidecarStatus, sidecar_status};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::AUTHORIZATION;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

pub use doctor::doctor_options;
pub use hyper::StatusCode;
pub use viewer::{open_browser, viewer_url};

/// Bounds of a request.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum duration of the whole request.
    pub timeout: Duration,
    /// Maximum size of the body, bytes.
    pub max_bytes: usize,
}

/// Bounds of a status request.
const STATUS: Limits = Limits { timeout: Duration::from_secs(2), max_bytes: sidecar_status::MAX_BYTES };

/// Maximum length of an error text of a peer, bytes.
const MAX_REASON: usize = 160;

/// Error of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The URL or the token cannot be sent.
    #[error("invalid request: {0}")]
    Request(String),
    /// The peer cannot be reached, or the connection broke.
    #[error("{0}")]
    Connection(String),
    /// The peer did not answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The peer answered with an HTTP error.
    #[error("HTTP {}{}{reason}", status.as_u16(), if reason.is_empty() { "" } else { ": " })]
    Status {
        /// HTTP status.
        status: StatusCode,
        /// First line of the body, if it is short plain text; otherwise empty.
        reason: String,
    },
    /// The body is not the JSON of a status.
    #[error("the status is not readable: {0}")]
    Json(String),
}

impl RequestError {
    /// True if the peer refused the token.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status == StatusCode::UNAUTHORIZED)
    }
}

/// Client that keeps one connection to each sidecar alive. Clones share the connections.
#[derive(Debug, Clone)]
pub struct SidecarClient(Connections);

type Connections = Client<HttpConnector, Empty<Bytes>>;

/// Time for which an unused connection is kept, longer than the usual interval between requests.
const KEPT: Duration = Duration::from_secs(60);
/// Size of a connection's read buffer, bytes; a usual status fits.
const READ_BUFFER: usize = 4096;

impl SidecarClient {
    /// A client without connections.
    pub fn new() -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_max_idle_per_host(1).pool_idle_timeout(KEPT).pool_timer(TokioTimer::new());
        builder.http1_read_buf_exact_size(READ_BUFFER);
        Self(builder.build(connector(STATUS)))
    }

    /// Reads the status of the sidecar at `address` (`IP:PORT`).
    ///
    /// # Errors
    /// If the sidecar does not answer with a status within 2 s.
    pub async fn sidecar_status(
        &self,
        address: &str,
        token: Option<&str>,
    ) -> Result<SidecarStatus, RequestError> {
        let body = request(&self.0, &format!("http://{address}/status"), token, STATUS).await?;
        serde_json::from_slice(&body).map_err(|error| RequestError::Json(error.to_string()))
    }
}

impl Default for SidecarClient {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads the status of the sidecar at `address` (`IP:PORT`).
///
/// # Errors
/// If the sidecar does not answer with a status within 2 s.
pub async fn sidecar_status(address: &str, token: Option<&str>) -> Result<SidecarStatus, RequestError> {
    SidecarClient::new().sidecar_status(address, token).await
}

/// Reads the status of the host-agent whose admin listener has the URL `base`.
///
/// # Errors
/// If the host-agent does not answer with a status within 2 s.
pub async fn host_agent_status(base: &str) -> Result<HostAgentStatus, RequestError> {
    let body = get(&format!("{}/status", base.trim_end_matches('/')), None, STATUS).await?;
    serde_json::from_slice(&body).map_err(|error| RequestError::Json(error.to_string()))
}

/// Reads the body at `url` with an optional bearer token.
///
/// # Errors
/// If the answer is not a success within `limits`.
pub async fn get(url: &str, token: Option<&str>, limits: Limits) -> Result<Bytes, RequestError> {
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector(limits));
    request(&client, url, token, limits).await
}

fn connector(limits: Limits) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(limits.timeout));
    connector
}

async fn request(
    client: &Connections,
    url: &str,
    token: Option<&str>,
    limits: Limits,
) -> Result<Bytes, RequestError> {
    let Limits { timeout, max_bytes } = limits;
    let mut request = Request::get(url);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request =
        request.body(Empty::<Bytes>::new()).map_err(|error| RequestError::Request(error.to_string()))?;
    let answer = async {
        let connection = |error: &dyn std::error::Error| RequestError::Connection(innermost(error));
        let response = client.request(request).await.map_err(|error| connection(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), max_bytes).collect().await;
        if !status.is_success() {
            let reason = body.map(|body| first_line(&body.to_bytes())).unwrap_or_default();
            return Err(RequestError::Status { status, reason });
        }
        body.map(http_body_util::Collected::to_bytes).map_err(|error| connection(&*error))
    };
    tokio::time::timeout(timeout, answer).await.unwrap_or(Err(RequestError::Timeout(timeout)))
}

/// First line of a body, if it is short plain text; otherwise empty.
fn first_line(body: &[u8]) -> String {
    let line = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let text = String::from_utf8_lossy(line);
    let is_plain = text.len() <= MAX_REASON && !text.contains(|c: char| c.is_control() || c == '<');
    if is_plain { text.into_owned() } else { String::new() }
}

/// The innermost cause: the outer ones of hyper say "client error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::{HeaderMap, HeaderValue};
    use axum::routing::get;

    use super::*;

    async fn serve(router: Router) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    #[tokio::test]
    async fn status_request_sends_the_token_and_reads_the_answer() {
        let checked = |headers: HeaderMap| async move {
            match headers.get("authorization").map(HeaderValue::as_bytes) {
                Some(b"Bearer secret") => {
                    (StatusCode::OK, r#"{"frame_path":"Local","frames":{"encoded":3}}"#.to_owned())
                }
                _ => (StatusCode::UNAUTHORIZED, String::new()),
            }
        };
        let address = serve(Router::new().route("/status", get(checked))).await;
        let status = sidecar_status(&address, Some("secret")).await.expect("answers");
        assert_eq!(status.frames.encoded, 3);
        let error = sidecar_status(&address, None).await.expect_err("refused");
        assert_eq!(error.to_string(), "HTTP 401");
    }

    #[tokio::test]
    async fn client_uses_a_connection_to_a_sidecar_again() {
        const REQUESTS: usize = 20;
        use axum::extract::ConnectInfo;
        use std::collections::BTreeSet;
        use std::net::SocketAddr;
        use std::sync::{Arc, Mutex};

        let peers: Arc<Mutex<BTreeSet<SocketAddr>>> = Arc::default();
        let seen = Arc::clone(&peers);
        let handler = move |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move {
            seen.lock().expect("no panic").insert(peer);
            "{}"
        };
        let router = Router::new().route("/status", get(handler));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        let client = SidecarClient::new();
        for _ in 0..REQUESTS {
            client.sidecar_status(&address, None).await.expect("answers");
        }
        // A connection is usable again a moment after its answer was read.
        assert!(peers.lock().expect("no panic").len() < REQUESTS);
    }

    #[tokio::test]
    async fn status_request_is_bounded_in_size_and_time() {
        let huge =
            serve(Router::new().route("/status", get(|| async { " ".repeat(STATUS.max_bytes + 1) }))).await;
        assert!(sidecar_status(&huge, None).await.is_err());
        let slow =
            serve(Router::new().route("/status", get(|| tokio::time::sleep(Duration::from_secs(60))))).await;
        let error = sidecar_status(&slow, None).await.expect_err("too slow");
        assert_eq!(error, RequestError::Timeout(STATUS.timeout));
    }

    #[tokio::test]
    async fn status_request_error_names_the_first_line_of_the_answer() {
        let reason = || async { (StatusCode::SERVICE_UNAVAILABLE, "no video yet\nand more") };
        let address = serve(Router::new().route("/status", get(reason))).await;
        let error = sidecar_status(&address, None).await.expect_err("refused");
        assert_eq!(error.to_string(), "HTTP 503: no video yet");
        let error = sidecar_status("127.0.0.1:1", None).await.expect_err("unreachable");
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
