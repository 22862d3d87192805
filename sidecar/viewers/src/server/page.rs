//! The page's files, embedded in the binary. The page loads nothing from other hosts.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use axum::response::{Html, IntoResponse};
use axum::routing::get;

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";

/// Files that `index.html` loads besides [`LOGIN_FILES`]: path, content type, content.
const FILES: [(&str, &str, &str); 13] = [
    ("/viewer.js", JAVASCRIPT, include_str!("../page/viewer.js")),
    ("/connection.js", JAVASCRIPT, include_str!("../page/connection.js")),
    ("/input.js", JAVASCRIPT, include_str!("../page/input.js")),
    ("/clipboard.js", JAVASCRIPT, include_str!("../page/clipboard.js")),
    ("/control.js", JAVASCRIPT, include_str!("../page/control.js")),
    ("/cursor.js", JAVASCRIPT, include_str!("../page/cursor.js")),
    ("/player.js", JAVASCRIPT, include_str!("../page/player.js")),
    ("/size.js", JAVASCRIPT, include_str!("../page/size.js")),
    ("/sound.js", JAVASCRIPT, include_str!("../page/sound.js")),
    ("/sound-worklet.js", JAVASCRIPT, include_str!("../page/sound-worklet.js")),
    ("/stats.js", JAVASCRIPT, include_str!("../page/stats.js")),
    ("/touch.js", JAVASCRIPT, include_str!("../page/touch.js")),
    ("/viewer.css", CSS, include_str!("../page/viewer.css")),
];

/// Files that `login.html` loads. Served without a token, so they must not depend on the stream.
const LOGIN_FILES: [(&str, &str, &str); 3] = [
    ("/login.js", JAVASCRIPT, include_str!("../page/login.js")),
    ("/token.js", JAVASCRIPT, include_str!("../page/token.js")),
    ("/login.css", CSS, include_str!("../page/login.css")),
];

/// Makes browsers revalidate on each load: another version of the sidecar has another page.
const NO_CACHE: (HeaderName, &str) = (CACHE_CONTROL, "no-cache");

/// Routes of the page and its files.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let page = Router::new().route("/", get(async || ([NO_CACHE], Html(include_str!("../page/index.html")))));
    with_files(page, &FILES)
}

/// Routes of the login form's files.
pub(super) fn login_routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    with_files(Router::new(), &LOGIN_FILES)
}

fn with_files<S: Clone + Send + Sync + 'static>(
    router: Router<S>,
    files: &[(&'static str, &'static str, &'static str)],
) -> Router<S> {
    files.iter().fold(router, |router, &(path, content_type, content)| {
        router.route(path, get(async move || ([(CONTENT_TYPE, content_type), NO_CACHE], content)))
    })
}

/// Form for the token.
pub(super) fn login() -> impl IntoResponse {
    ([NO_CACHE], Html(include_str!("../page/login.html")))
}
