//! The page's files, embedded in the binary. The page loads nothing from other hosts.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use axum::response::{Html, IntoResponse};
use axum::routing::get;

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";

/// Files that `index.html` loads: path, content type, content.
const FILES: [(&str, &str, &str); 5] = [
    ("/viewer.js", JAVASCRIPT, include_str!("../page/viewer.js")),
    ("/connection.js", JAVASCRIPT, include_str!("../page/connection.js")),
    ("/player.js", JAVASCRIPT, include_str!("../page/player.js")),
    ("/stats.js", JAVASCRIPT, include_str!("../page/stats.js")),
    ("/viewer.css", CSS, include_str!("../page/viewer.css")),
];

/// Makes browsers revalidate on each load: another version of the sidecar has another page.
const NO_CACHE: (HeaderName, &str) = (CACHE_CONTROL, "no-cache");

/// Routes of the page and its files.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let page = Router::new().route("/", get(async || ([NO_CACHE], Html(include_str!("../page/index.html")))));
    FILES.into_iter().fold(page, |router, (path, content_type, content)| {
        router.route(path, get(async move || ([(CONTENT_TYPE, content_type), NO_CACHE], content)))
    })
}

/// Form for the token.
pub(super) fn login() -> impl IntoResponse {
    ([NO_CACHE], Html(include_str!("../page/login.html")))
}

/// Style of the form; served without a token, so it must not depend on the stream.
pub(super) async fn login_style() -> impl IntoResponse {
    ([(CONTENT_TYPE, CSS), NO_CACHE], include_str!("../page/login.css"))
}
