//! The page: three files, compiled in, nothing loaded from elsewhere.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use axum::response::IntoResponse;

type Headers = [(HeaderName, &'static str); 2];

/// Checked again on every load: a new sidecar brings a new page.
const fn headers(kind: &'static str) -> Headers {
    [(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")]
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

/// Where a browser without the token can put it in.
pub(super) fn login() -> impl IntoResponse {
    (headers("text/html; charset=utf-8"), include_str!("../page/login.html"))
}

/// Its style: the only file for those who may not see the rest, and it says nothing of the stream.
pub(super) async fn login_style() -> impl IntoResponse {
    (headers("text/css; charset=utf-8"), include_str!("../page/login.css"))
}
