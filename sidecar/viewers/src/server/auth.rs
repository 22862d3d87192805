//! Who may watch.
//!
//! One token per stream, shown as `Authorization: Bearer`, as `?token=`, or in the cookie that the page's
//! first visit sets. Without a token only loopback is served, and there the `Host` must be a loopback
//! name too, so that a web page can't reach us under a name of its own (DNS rebinding). A browser sends
//! cookies with WebSockets that any site opens: those must come from our own origin or a configured one.
//!
//! Everything here is a pure function of headers; see `guard` for where it is applied.

use std::net::SocketAddr;

use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, Uri};
use subtle::ConstantTimeEq;

/// Shortest token: 64 bits in hexadecimal.
const MIN_TOKEN: usize = 16;
/// Longest token.
const MAX_TOKEN: usize = 512;

/// Why the configuration can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Anyone on the network could watch.
    #[error(
        "refusing to serve viewers on {0} without a token: set one (e.g. `openssl rand -hex 32`), listen on \
         127.0.0.1, or pass --insecure-no-viewer-auth"
    )]
    TokenRequired(SocketAddr),
    /// The token is too short, too long or not of URL-safe characters.
    #[error(
        "the viewer token must have {MIN_TOKEN} to {MAX_TOKEN} characters of A-Z a-z 0-9 - . _ ~ + / =; `openssl rand -hex 32` makes one"
    )]
    BadToken,
    /// An origin that no browser would send.
    #[error(
        "allowed origin {0:?} must be scheme://host[:port] without a path, e.g. https://desktops.example.com"
    )]
    BadOrigin(String),
}

/// How a request showed that it may watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// No token is needed here.
    Open,
    /// In a header.
    Bearer,
    /// In the URL.
    Query,
    /// In the cookie.
    Cookie,
}

/// What a request must show.
#[derive(Debug)]
pub(super) enum Access {
    Token(String),
    /// Whoever connects over loopback under a loopback name.
    Loopback,
    Anyone,
}

impl Access {
    pub(super) fn new(token: Option<String>, insecure: bool, listen: SocketAddr) -> Result<Self, AuthError> {
        let safe = |c: u8| c.is_ascii_alphanumeric() || b"-._~+/=".contains(&c);
        match token {
            Some(token) if !(MIN_TOKEN..=MAX_TOKEN).contains(&token.len()) || !token.bytes().all(safe) => {
                Err(AuthError::BadToken)
            }
            Some(token) => Ok(Self::Token(token)),
            None if insecure => Ok(Self::Anyone),
            None if listen.ip().is_loopback() => Ok(Self::Loopback),
            None => Err(AuthError::TokenRequired(listen)),
        }
    }

    /// The token that a cookie should carry.
    pub(super) fn token(&self) -> Option<&str> {
        if let Self::Token(token) = self { Some(token) } else { None }
    }

    /// `None` when the request may not.
    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Option<Shown> {
        let token = match self {
            Self::Anyone => return Some(Shown::Open),
            Self::Loopback => return host(headers).is_some_and(is_loopback_name).then_some(Shown::Open),
            Self::Token(token) => token.as_bytes(),
        };
        let same = |shown: &[u8]| bool::from(shown.ct_eq(token));
        if bearer(headers).is_some_and(|shown| same(shown.as_bytes())) {
            return Some(Shown::Bearer);
        }
        if query_token(uri).is_some_and(|shown| same(&shown)) {
            return Some(Shown::Query);
        }
        let name = cookie_name(headers);
        cookies(headers).any(|(n, shown)| n == name && same(shown.as_bytes())).then_some(Shown::Cookie)
    }
}

/// Origins that may open the WebSocket besides the server's own.
#[derive(Debug)]
pub(super) struct Origins(Vec<String>);

impl Origins {
    pub(super) fn new(allowed: Vec<String>) -> Result<Self, AuthError> {
        let mut origins = Vec::with_capacity(allowed.len());
        for origin in allowed {
            let origin = origin.to_ascii_lowercase();
            let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            let plain = |c: char| c.is_ascii_alphanumeric() || "-.:[]_".contains(c);
            if !rest.is_some_and(|host| !host.is_empty() && host.chars().all(plain)) {
                return Err(AuthError::BadOrigin(origin));
            }
            origins.push(origin);
        }
        Ok(Self(origins))
    }

    /// Whether a WebSocket with these headers may be opened: no browser, the server's own page, or a
    /// configured origin.
    pub(super) fn allow(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(ORIGIN) else { return true };
        let Ok(origin) = origin.to_str() else { return false };
        let origin = origin.to_ascii_lowercase();
        if self.0.contains(&origin) {
            return true;
        }
        let Some((_, authority)) = origin.split_once("://") else { return false };
        host(headers).is_some_and(|host| host.eq_ignore_ascii_case(authority))
    }

    /// The configured ones, as a Content-Security-Policy source list.
    pub(super) fn sources(&self) -> String {
        self.0.join(" ")
    }
}

fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(HOST)?.to_str().ok()
}

/// Host without port, and the port.
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

fn query_token(uri: &Uri) -> Option<Vec<u8>> {
    let encoded = uri.query()?.split('&').find_map(|pair| pair.strip_prefix("token="))?;
    let mut bytes = encoded.bytes();
    let mut token = Vec::with_capacity(encoded.len());
    while let Some(byte) = bytes.next() {
        token.push(match byte {
            b'%' => {
                let digit = |c: u8| char::from(c).to_digit(16);
                (digit(bytes.next()?)? * 16 + digit(bytes.next()?)?) as u8
            }
            other => other,
        });
    }
    Some(token)
}

/// Browsers share cookies between ports: two desktops forwarded to one machine need two names.
fn cookie_name(headers: &HeaderMap) -> String {
    let port = host(headers).and_then(|host| split_port(host).1).unwrap_or("web");
    format!("desktopstream-{port}")
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
}

/// The `Set-Cookie` that keeps `token` in the browser, out of reach of scripts and other sites.
pub(super) fn cookie(headers: &HeaderMap, token: &str) -> String {
    let secure =
        headers.get("x-forwarded-proto").is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"));
    let name = cookie_name(headers);
    format!("{name}={token}; Path=/; HttpOnly; SameSite=Strict{}", if secure { "; Secure" } else { "" })
}

/// The query of `uri` without the token, with its question mark if anything is left.
pub(super) fn query_without_token(uri: &Uri) -> String {
    let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let rest: Vec<&str> = pairs.filter(|pair| !pair.starts_with("token=")).collect();
    if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) }
}

#[cfg(test)]
mod tests;
