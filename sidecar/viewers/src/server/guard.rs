//! What happens before and after every handler: who may not is sent away with a word on how to come in,
//! and every answer carries the headers that keep browsers from doing more than they should.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, REFRESH,
    SET_COOKIE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::auth::{self, Access, Shown};
use super::{Shared, page};
use crate::hub::Refusal;

const REMEDY: &str = "401: this stream needs its token.\n\
    Browser: open /?token=TOKEN once; it is kept in a cookie.\n\
    Programs: send 'Authorization: Bearer TOKEN', or append ?token=TOKEN.\n";
const REMEDY_LOOPBACK: &str = "401: without a token this stream is only served under a loopback name.\n\
    Open it as http://localhost:PORT/ or http://127.0.0.1:PORT/, or start it with a viewer token.\n";

/// Lets through who may watch. A browser that shows the token in the URL of a page gets a cookie and the
/// same page without it, so that the token is in no history, bookmark or screenshot.
pub(super) async fn check(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let Some(shown) = shared.access.check(request.uri(), request.headers()) else {
        shared.hub.counters().refuse(Refusal::Auth);
        return refuse(&shared.access, &request);
    };
    if shown == Shown::Query
        && request.uri().path() == "/"
        && request.method() == Method::GET
        && let Some(token) = shared.access.token()
    {
        return keep_in_cookie(&request, token);
    }
    next.run(request).await
}

fn refuse(access: &Access, request: &Request) -> Response {
    let challenge = [(WWW_AUTHENTICATE, "Bearer realm=\"desktopstream\"")];
    let wants_page =
        request.headers().get(ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(b"text/html"));
    match access {
        Access::Token(_) if wants_page && request.uri().path() == "/" => {
            (StatusCode::UNAUTHORIZED, challenge, page::login()).into_response()
        }
        Access::Loopback => (StatusCode::UNAUTHORIZED, REMEDY_LOOPBACK).into_response(),
        _ => (StatusCode::UNAUTHORIZED, challenge, REMEDY).into_response(),
    }
}

fn keep_in_cookie(request: &Request, token: &str) -> Response {
    let query = auth::query_without_token(request.uri());
    let target = HeaderValue::try_from(format!("./{query}")).unwrap_or(HeaderValue::from_static("./"));
    let Ok(cookie) = HeaderValue::try_from(auth::cookie(request.headers(), token)) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let mut headers = HeaderMap::new();
    headers.insert(SET_COOKIE, cookie);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A strict cookie isn't sent on a redirect that another site's link began. There the page itself has
    // to go on: that navigation is our own.
    let from_elsewhere = request.headers().get("sec-fetch-site").is_some_and(|site| site == "cross-site");
    if from_elsewhere {
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

/// Adds the headers that every answer has.
pub(super) async fn harden(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let policy = format!(
        "default-src 'self'; media-src 'self' blob:; img-src 'self' data:; base-uri 'none'; form-action 'self'; \
         frame-ancestors 'self' {}",
        shared.origins.sources()
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
