//! GET requests with bounded time and size. The sidecar runs beside a user's desktop, so its answers are untrusted.

use std::time::Duration;

use contract::SidecarStatus;
use contract::sidecar_status::MAX_BYTES;
use http_body_util::{BodyExt, Collected, Empty, LengthLimitError, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::AUTHORIZATION;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// Limits of a request.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest time until the body is complete.
    pub timeout: Duration,
    /// Largest body, bytes.
    pub max_bytes: usize,
}

/// Limits for a status.
const STATUS_LIMITS: Limits = Limits { timeout: Duration::from_secs(2), max_bytes: MAX_BYTES };
/// Longest error text that is quoted from a response, bytes.
const MAX_ERROR_TEXT: usize = 160;

/// A failed request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The server answered with an error status.
    #[error("HTTP {code}{}{message}", if .message.is_empty() { "" } else { ": " })]
    Status {
        /// HTTP status code.
        code: u16,
        /// First line of the body if it is short plain text, else empty.
        message: String,
    },
    /// The answer was not complete in time.
    #[error("no answer in {seconds} s")]
    Timeout {
        /// Limit in seconds.
        seconds: u64,
    },
    /// The body is larger than the limit.
    #[error("the answer has more than {max_bytes} bytes")]
    TooLarge {
        /// Limit in bytes.
        max_bytes: usize,
    },
    /// The URL is invalid, or the connection failed.
    #[error("{cause}")]
    Unreachable {
        /// Innermost cause, such as `Connection refused`.
        cause: String,
    },
    /// The body is not a sidecar status.
    #[error("the answer is not a sidecar status: {cause}")]
    Malformed {
        /// Error of the JSON parser.
        cause: String,
    },
}

/// Reads `http://ADDRESS/status`.
///
/// # Errors
///
/// If the sidecar does not answer with a status within 2 s.
pub async fn status(address: &str, token: Option<&str>) -> Result<SidecarStatus, FetchError> {
    let body = get(&format!("http://{address}/status"), token).await?;
    serde_json::from_slice(&body).map_err(|error| FetchError::Malformed { cause: error.to_string() })
}

/// Reads the body at a URL, with the limits of a status.
///
/// # Errors
///
/// As [`fetch`].
pub async fn get(url: &str, token: Option<&str>) -> Result<Bytes, FetchError> {
    fetch(url, token, STATUS_LIMITS).await
}

/// Reads the body at a URL. The token becomes a bearer token.
///
/// # Errors
///
/// If the server cannot be reached, answers with an error, or exceeds a limit.
pub async fn fetch(url: &str, token: Option<&str>, limits: Limits) -> Result<Bytes, FetchError> {
    let Limits { timeout, max_bytes } = limits;
    let mut request = Request::get(url);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| unreachable(&error))?;
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(timeout));
    let client: Client<_, Empty<Bytes>> =
        Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
    let answer = async {
        let response = client.request(request).await.map_err(|error| unreachable(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), max_bytes).collect().await.map(Collected::to_bytes);
        if !status.is_success() {
            let message = body.map(|body| error_text(&body)).unwrap_or_default();
            return Err(FetchError::Status { code: status.as_u16(), message });
        }
        body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                FetchError::TooLarge { max_bytes }
            } else {
                unreachable(error.as_ref())
            }
        })
    };
    tokio::time::timeout(timeout, answer)
        .await
        .unwrap_or(Err(FetchError::Timeout { seconds: timeout.as_secs() }))
}

/// First line of an error body if it is short plain text, else empty.
fn error_text(body: &[u8]) -> String {
    let line = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let text = String::from_utf8_lossy(line);
    let is_plain = text.len() <= MAX_ERROR_TEXT && !text.contains(|c: char| c.is_control() || c == '<');
    if is_plain { text.into_owned() } else { String::new() }
}

/// The innermost cause; hyper's outer errors only say "client error".
fn unreachable(error: &dyn std::error::Error) -> FetchError {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    FetchError::Unreachable { cause: inner.to_string() }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::{HeaderMap, HeaderValue, StatusCode};
    use axum::routing::get;

    use super::*;

    async fn serve(router: Router) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    #[tokio::test]
    async fn status_is_read_with_the_bearer_token_only() {
        let authenticated = |headers: HeaderMap| async move {
            match headers.get("authorization").map(HeaderValue::as_bytes) {
                Some(b"Bearer secret") => {
                    (StatusCode::OK, r#"{"frame_path":"Local","frames":{"encoded":3}}"#.to_owned())
                }
                _ => (StatusCode::UNAUTHORIZED, String::new()),
            }
        };
        let address = serve(Router::new().route("/status", get(authenticated))).await;
        assert_eq!(status(&address, Some("secret")).await.expect("answers").frames.encoded, 3);
        let refused = FetchError::Status { code: 401, message: String::new() };
        assert_eq!(status(&address, None).await, Err(refused));
    }

    #[tokio::test]
    async fn large_answer_is_refused() {
        let large = || async { " ".repeat(STATUS_LIMITS.max_bytes + 1) };
        let address = serve(Router::new().route("/status", get(large))).await;
        let refused = FetchError::TooLarge { max_bytes: STATUS_LIMITS.max_bytes };
        assert_eq!(status(&address, None).await, Err(refused));
    }

    #[tokio::test]
    async fn error_status_quotes_the_first_line() {
        let error = || async { (StatusCode::SERVICE_UNAVAILABLE, "no picture yet\nand more") };
        let address = serve(Router::new().route("/status", get(error))).await;
        let error = status(&address, None).await.expect_err("503");
        assert_eq!(error, FetchError::Status { code: 503, message: "no picture yet".to_owned() });
        assert_eq!(error.to_string(), "HTTP 503: no picture yet");
    }

    #[tokio::test]
    async fn slow_answer_times_out() {
        let slow = || tokio::time::sleep(Duration::from_secs(60));
        let address = serve(Router::new().route("/status", get(slow))).await;
        let timeout = FetchError::Timeout { seconds: STATUS_LIMITS.timeout.as_secs() };
        assert_eq!(status(&address, None).await, Err(timeout));
    }

    #[tokio::test]
    async fn refused_connection_names_its_cause() {
        let error = status("127.0.0.1:1", None).await.expect_err("no server");
        assert!(matches!(&error, FetchError::Unreachable { cause } if cause.contains("refused")), "{error}");
    }
}
