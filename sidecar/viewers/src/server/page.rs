//! The page's files, embedded in the binary. The page loads nothing from other hosts.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use axum::response::IntoResponse;

type Headers = [(HeaderName, &'static str); 2];

/// `no-cache` makes browsers revalidate: another version of the sidecar has another page.
const fn headers(content_type: &'static str) -> Headers {
    [(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-cache")]
}

pub(super) async fn index() -> impl IntoResponse {
    (headers("text/html; charset=utf-8"), include_str!("../page/index.html"))
}

pub(super) async fn script() -> impl IntoResponse {
    (headers("text/javascript; charset=utf-8"), include_str!("../page/viewer.js"))
}

pub(super) async fn style() -> impl IntoResponse {
    (headers("text/css; charset=utf-8"), include_str!("../page/viewer.css"))
}

/// Form for the token.
pub(super) fn login() -> impl IntoResponse {
    (headers("text/html; charset=utf-8"), include_str!("../page/login.html"))
}

/// Style of the form; served without a token, so it must not depend on the stream.
pub(super) async fn login_style() -> impl IntoResponse {
    (headers("text/css; charset=utf-8"), include_str!("../page/login.css"))
}
