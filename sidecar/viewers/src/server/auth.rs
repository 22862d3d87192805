//! Authentication of viewers.
//!
//! A stream has one token, sent as `Authorization: Bearer`, as `?token=` or in the cookie that the page's first visit
//! sets. Without a token only loopback clients are served, and their `Host` must be a loopback name, so that a web page
//! cannot reach the server under its own name (DNS rebinding). Browsers send cookies with WebSockets opened by any site,
//! so the `Origin` of a WebSocket must be the server's own or an allowed one.
//!
//! All functions are pure functions of a request's headers and URI; [`middleware`](super::middleware) applies them.

use std::net::SocketAddr;

use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, Uri};
use cookie::{Cookie, SameSite};
use subtle::ConstantTimeEq;

/// Minimum length of a token: 64 bits in hexadecimal.
const MIN_TOKEN: usize = 16;
/// Maximum length of a token.
const MAX_TOKEN: usize = 512;
/// Name of the query parameter with the token.
const TOKEN_PARAMETER: &str = "token";

/// Error of a viewer authentication setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The server would be reachable from the network without a token.
    #[error(
        "refusing to serve viewers on {0} without a token; set one (e.g. `openssl rand -hex 32`), listen on \
         127.0.0.1, or pass --insecure-no-viewer-auth"
    )]
    TokenRequired(SocketAddr),
    /// The token's length or characters are invalid.
    #[error(
        "the viewer token must have between {MIN_TOKEN} and {MAX_TOKEN} characters of A-Z a-z 0-9 - . _ ~ + / =; \
         generate one with `openssl rand -hex 32`"
    )]
    InvalidToken,
    /// The origin is not of the form that browsers send.
    #[error(
        "allowed origin {0:?} must be scheme://host[:port] without a path, e.g. https://desktops.example.com"
    )]
    InvalidOrigin(String),
}

/// The credential that authenticated a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Credential {
    /// The server requires none.
    NotRequired,
    /// `Authorization` header.
    Bearer,
    /// `token` parameter of the URL.
    Query,
    /// Cookie set by the page's first visit.
    Cookie,
}

/// Decides whether a request may view the stream.
#[derive(Debug)]
pub(super) enum Authenticator {
    /// Requests with this token.
    Token(String),
    /// Requests to a loopback name; the server listens on loopback only.
    Loopback,
    /// All requests.
    Open,
}

impl Authenticator {
    pub(super) fn new(token: Option<String>, insecure: bool, listen: SocketAddr) -> Result<Self, AuthError> {
        let safe = |c: u8| c.is_ascii_alphanumeric() || b"-._~+/=".contains(&c);
        match token {
            Some(token) if !(MIN_TOKEN..=MAX_TOKEN).contains(&token.len()) || !token.bytes().all(safe) => {
                Err(AuthError::InvalidToken)
            }
            Some(token) => Ok(Self::Token(token)),
            None if insecure => Ok(Self::Open),
            None if listen.ip().is_loopback() => Ok(Self::Loopback),
            None => Err(AuthError::TokenRequired(listen)),
        }
    }

    /// The token, for the cookie.
    pub(super) fn token(&self) -> Option<&str> {
        if let Self::Token(token) = self { Some(token) } else { None }
    }

    /// The request's credential; `None` if the request must be rejected.
    pub(super) fn authenticate(&self, uri: &Uri, headers: &HeaderMap) -> Option<Credential> {
        let token = match self {
            Self::Open => return Some(Credential::NotRequired),
            Self::Loopback => {
                return host(headers).is_some_and(is_loopback_name).then_some(Credential::NotRequired);
            }
            Self::Token(token) => token.as_bytes(),
        };
        let matches = |presented: &str| bool::from(presented.as_bytes().ct_eq(token));
        if bearer(headers).is_some_and(matches) {
            return Some(Credential::Bearer);
        }
        if query_token(uri).is_some_and(|presented| matches(&presented)) {
            return Some(Credential::Query);
        }
        let name = cookie_name(headers);
        cookies(headers)
            .any(|cookie| cookie.name() == name && matches(cookie.value()))
            .then_some(Credential::Cookie)
    }
}

/// Origins that may open the WebSocket and embed the page, besides the server's own.
#[derive(Debug)]
pub(super) struct AllowedOrigins(Vec<String>);

impl AllowedOrigins {
    pub(super) fn new(allowed: Vec<String>) -> Result<Self, AuthError> {
        let mut origins = Vec::with_capacity(allowed.len());
        for origin in allowed {
            let origin = origin.to_ascii_lowercase();
            let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            let valid = |c: char| c.is_ascii_alphanumeric() || "-.:[]_".contains(c);
            if !authority.is_some_and(|host| !host.is_empty() && host.chars().all(valid)) {
                return Err(AuthError::InvalidOrigin(origin));
            }
            origins.push(origin);
        }
        Ok(Self(origins))
    }

    /// True if a WebSocket request has no `Origin` (its client is not a browser), the server's own or an allowed one.
    pub(super) fn allows(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(ORIGIN) else { return true };
        let Ok(origin) = origin.to_str() else { return false };
        let origin = origin.to_ascii_lowercase();
        if self.0.contains(&origin) {
            return true;
        }
        let Some((_, authority)) = origin.split_once("://") else { return false };
        host(headers).is_some_and(|host| host.eq_ignore_ascii_case(authority))
    }

    /// The allowed origins as a Content-Security-Policy source list.
    pub(super) fn source_list(&self) -> String {
        self.0.join(" ")
    }
}

fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(HOST)?.to_str().ok()
}

/// Splits a `Host` into name and port.
fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit()) => {
            (name, Some(port))
        }
        _ => (host, None),
    }
}

fn is_loopback_name(host: &str) -> bool {
    let (name, _) = split_port(host);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn query_token(uri: &Uri) -> Option<String> {
    let (_, value) =
        form_urlencoded::parse(uri.query()?.as_bytes()).find(|(key, _)| key == TOKEN_PARAMETER)?;
    // Form decoding turns `+` into a space. Tokens may contain `+`, people paste them unencoded, and no token
    // contains a space.
    Some(value.replace(' ', "+"))
}

/// Name of the cookie. It contains the port because browsers share cookies between the ports of a host, and two
/// forwarded desktops need two cookies.
fn cookie_name(headers: &HeaderMap) -> String {
    let port = host(headers).and_then(|host| split_port(host).1).unwrap_or("web");
    format!("desktopstream-{port}")
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = Cookie<'_>> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(Cookie::split_parse)
        .filter_map(Result::ok)
}

/// `Set-Cookie` with the token, inaccessible to scripts and not sent with requests from other sites.
pub(super) fn token_cookie(headers: &HeaderMap, token: &str) -> String {
    let https =
        headers.get("x-forwarded-proto").is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"));
    Cookie::build((cookie_name(headers), token))
        .path("/")
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(https)
        .build()
        .to_string()
}

/// The query of `uri` without the token, with a leading `?` unless empty.
pub(super) fn query_without_token(uri: &Uri) -> String {
    let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let rest: String = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(pairs.filter(|(key, _)| key != TOKEN_PARAMETER))
        .finish();
    if rest.is_empty() { rest } else { format!("?{rest}") }
}

#[cfg(test)]
mod tests;
