//! Authentication before each handler, and security headers on each response.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, REFRESH,
    SET_COOKIE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::auth::{self, Authenticator, Credential};
use super::{Shared, page};
use crate::hub::Rejection;

const TOKEN_REQUIRED: &str = "401: this stream requires a token.\n\
    In a browser, open /?token=TOKEN once; a cookie keeps the token.\n\
    In a program, send the header 'Authorization: Bearer TOKEN', or append ?token=TOKEN to the URL.\n";
const LOOPBACK_REQUIRED: &str = "401: this stream has no token and is served under loopback names only.\n\
    Open it as http://localhost:PORT/ or http://127.0.0.1:PORT/, or start the sidecar with a viewer token.\n";

/// Rejects requests without a valid credential. A page request with the token in its URL is answered with a cookie and
/// a redirect to the URL without the token, which keeps the token out of histories, bookmarks and screenshots.
pub(super) async fn authenticate(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(credential) = shared.authenticator.authenticate(request.uri(), request.headers()) else {
        shared.hub.metrics().rejected(Rejection::Auth).inc();
        return unauthorized(&shared.authenticator, &request);
    };
    if credential == Credential::Query
        && request.uri().path() == "/"
        && request.method() == Method::GET
        && let Some(token) = shared.authenticator.token()
    {
        return move_token_to_cookie(&request, token);
    }
    next.run(request).await
}

fn unauthorized(authenticator: &Authenticator, request: &Request) -> Response {
    let challenge = [(WWW_AUTHENTICATE, "Bearer realm=\"desktopstream\"")];
    let accepts_html =
        request.headers().get(ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(b"text/html"));
    match authenticator {
        Authenticator::Token(_) if accepts_html && request.uri().path() == "/" => {
            (StatusCode::UNAUTHORIZED, challenge, page::login()).into_response()
        }
        Authenticator::Loopback => (StatusCode::UNAUTHORIZED, LOOPBACK_REQUIRED).into_response(),
        _ => (StatusCode::UNAUTHORIZED, challenge, TOKEN_REQUIRED).into_response(),
    }
}

fn move_token_to_cookie(request: &Request, token: &str) -> Response {
    let query = auth::query_without_token(request.uri());
    let target = HeaderValue::try_from(format!("./{query}")).unwrap_or(HeaderValue::from_static("./"));
    let Ok(cookie) = HeaderValue::try_from(auth::token_cookie(request.headers(), token)) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let mut headers = HeaderMap::new();
    headers.insert(SET_COOKIE, cookie);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Browsers do not send a SameSite=Strict cookie on a redirect that started at another site's link. A refresh by the
    // page is a navigation of this site, so the cookie is sent.
    let cross_site = request.headers().get("sec-fetch-site").is_some_and(|site| site == "cross-site");
    if cross_site {
        let mut refresh = b"0; url=".to_vec();
        refresh.extend_from_slice(target.as_bytes());
        headers.insert(
            REFRESH,
            HeaderValue::from_bytes(&refresh).unwrap_or(HeaderValue::from_static("0; url=./")),
        );
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        return (StatusCode::OK, headers, "<!doctype html><title>desktopstream</title>").into_response();
    }
    headers.insert(LOCATION, target);
    (StatusCode::SEE_OTHER, headers).into_response()
}

/// Adds security headers to every response.
pub(super) async fn add_security_headers(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let policy = format!(
        "default-src 'self'; media-src 'self' blob:; img-src 'self' data:; base-uri 'none'; form-action 'self'; \
         frame-ancestors 'self' {}",
        shared.allowed_origins.source_list()
    );
    if let Ok(policy) = HeaderValue::try_from(policy.trim_end()) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    );
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
