//! Exchange of the token for a session cookie: `POST /session` with the form field `token`.
//!
//! The page takes the token from the fragment of its URL, which browsers do not send, or from a form.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::{Shared, auth, middleware};
use crate::hub::Rejection;

/// Maximum size of a request's body, bytes: a token of 512 characters, each percent-encoded.
const MAX_BODY: usize = 2 << 10;
/// Time limit for the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Name of the form field.
const FIELD: &str = "token";
/// Body of the response to a page of another site.
const FOREIGN_ORIGIN: &str = "403: this request was made by a page of another site\n";

/// Answers with a session's cookie if the body has the token. Only a page of this or an allowed site may log a browser in.
pub(super) async fn create_session(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if !shared.allowed_origins.allows(&headers) {
        shared.hub.metrics().rejected(Rejection::Origin).inc();
        return (StatusCode::FORBIDDEN, FOREIGN_ORIGIN).into_response();
    }
    let body = match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_too_long_or_broken)) => return StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Err(_elapsed) => return StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    let token = form_urlencoded::parse(&body).find(|(name, _)| name == FIELD);
    let cookie =
        token.and_then(|(_, token)| shared.authenticator.exchange(&token, &headers, auth::unix_time()));
    match cookie.map(HeaderValue::try_from) {
        Some(Ok(cookie)) => (StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response(),
        Some(Err(_)) => StatusCode::BAD_REQUEST.into_response(),
        None => {
            shared.hub.metrics().rejected(Rejection::Auth).inc();
            middleware::token_required()
        }
    }
}
