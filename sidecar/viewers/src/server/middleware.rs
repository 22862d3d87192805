//! Authentication before each handler, and security headers on each response.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, SET_COOKIE, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::auth::{self, Authenticator};
use super::connections::Connection;
use super::{Shared, page};
use crate::hub::Rejection;

const TOKEN_REQUIRED: &str = "401: this stream requires a token.\n\
    In a browser, open /#token=TOKEN once; a cookie keeps the session.\n\
    In a program, send the header 'Authorization: Bearer TOKEN'.\n";
const LOOPBACK_REQUIRED: &str = "401: this stream has no token and is served under loopback names only.\n\
    Open it as http://localhost:PORT/ or http://127.0.0.1:PORT/, or start the sidecar with a viewer token.\n";

/// Rejects requests without a valid credential, and renews the sessions of others.
pub(super) async fn authenticate(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response {
    let now = auth::unix_time();
    let Some(admission) = shared.authenticator.authenticate(request.headers(), now) else {
        shared.hub.metrics().rejected(Rejection::Auth).inc();
        return unauthorized(&shared.authenticator, &request);
    };
    if let Some(connection) = request.extensions().get::<Arc<Connection>>() {
        connection.authenticated();
    }
    let renewal = shared.authenticator.renewal(&admission, request.headers(), now);
    request.extensions_mut().insert(admission);
    let mut response = next.run(request).await;
    if let Some(cookie) = renewal.and_then(|cookie| HeaderValue::try_from(cookie).ok()) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}

/// True if the client is a browser that navigates.
fn accepts_html(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(b"text/html"))
}

fn unauthorized(authenticator: &Authenticator, request: &Request) -> Response {
    match authenticator {
        Authenticator::Loopback => (StatusCode::UNAUTHORIZED, LOOPBACK_REQUIRED).into_response(),
        _ if accepts_html(request.headers()) && request.uri().path() == "/" => {
            (StatusCode::UNAUTHORIZED, challenge(), page::login()).into_response()
        }
        _ => token_required(),
    }
}

/// Response to a request without a valid token.
pub(super) fn token_required() -> Response {
    (StatusCode::UNAUTHORIZED, challenge(), TOKEN_REQUIRED).into_response()
}

fn challenge() -> [(HeaderName, &'static str); 1] {
    [(WWW_AUTHENTICATE, "Bearer realm=\"desktopstream\"")]
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
